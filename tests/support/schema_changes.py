"""Changes of schemas, and which of them a reader of the new schema (backward) and of the old one (forward) stand.

The outcomes are those of Confluent's registry: docs.confluent.io, "JSON Schema compatibility rules" and "Protobuf".
"""

import base64
from typing import Any, NamedTuple

import msgspec
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto


class Change(NamedTuple):
    name: str
    kind: str
    old: str
    new: str
    backward: bool
    forward: bool

    def allowed(self, level: str) -> bool:
        return (level.startswith("FORWARD") or self.backward) and (level.startswith("BACKWARD") or self.forward)


def json_change(name: str, old: Any, new: Any, backward: bool, forward: bool) -> Change:
    return Change(name, "JSON", msgspec.json.encode(old).decode(), msgspec.json.encode(new).decode(), backward, forward)


def model(*required: str, closed: bool = False, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {**schema, "additionalProperties": False} if closed else schema


INT, NUMBER, TEXT = {"type": "integer"}, {"type": "number"}, {"type": "string"}

JSON_CHANGES = [
    json_change("same", model("a", a=INT), model("a", a=INT), True, True),
    json_change("description changed", TEXT, {**TEXT, "description": "a text"}, True, True),
    json_change("optional added, open", model(a=INT), model(a=INT, b=TEXT), False, True),
    json_change("optional added, closed", model(a=INT, closed=True), model(a=INT, b=TEXT, closed=True), True, False),
    json_change("required added, open", model(a=INT), model("b", a=INT, b=TEXT), False, True),
    json_change("required added, closed", model(closed=True), model("b", b=TEXT, closed=True), False, False),
    json_change(
        "required with default added, closed",
        model(closed=True),
        model("b", b={**TEXT, "default": ""}, closed=True),
        True,
        False,
    ),
    json_change("optional removed, open", model(a=INT, b=TEXT), model(a=INT), True, False),
    json_change("optional removed, closed", model(a=INT, b=TEXT, closed=True), model(a=INT, closed=True), False, True),
    json_change("required removed, open", model("b", b=TEXT), model(), True, False),
    json_change("became required", model(a=INT), model("a", a=INT), False, True),
    json_change("became optional", model("a", a=INT), model(a=INT), True, False),
    json_change("model opened", model(a=INT, closed=True), model(a=INT), True, False),
    json_change("model closed", model(a=INT), model(a=INT, closed=True), False, True),
    json_change("integer to number", model("a", a=INT), model("a", a=NUMBER), True, False),
    json_change("integer to text", model("a", a=INT), model("a", a=TEXT), False, False),
    json_change("null allowed", TEXT, {"type": ["string", "null"]}, True, False),
    json_change("alternative added", {"anyOf": [TEXT]}, {"anyOf": [TEXT, INT]}, True, False),
    json_change("enum longer", {"enum": ["a"]}, {"enum": ["a", "b"]}, True, False),
    json_change("enum renamed", {"enum": ["a"]}, {"enum": ["b"]}, False, False),
    json_change("maximum raised", {**INT, "maximum": 5}, {**INT, "maximum": 9}, True, False),
    json_change("minimum added", INT, {**INT, "minimum": 0}, False, True),
    json_change("maxLength raised", {**TEXT, "maxLength": 5}, {**TEXT, "maxLength": 9}, True, False),
    json_change("minLength added", TEXT, {**TEXT, "minLength": 1}, False, True),
    json_change("pattern removed", {**TEXT, "pattern": "^a"}, TEXT, True, False),
    json_change("pattern changed", {**TEXT, "pattern": "^a+$"}, {**TEXT, "pattern": "^b+$"}, False, False),
    json_change("format added", TEXT, {**TEXT, "format": "uuid"}, False, True),
    json_change("multipleOf reduced", {**INT, "multipleOf": 4}, {**INT, "multipleOf": 2}, True, False),
    json_change("items widened", {"type": "array", "items": INT}, {"type": "array", "items": NUMBER}, True, False),
    json_change("unique items no longer", {"type": "array", "uniqueItems": True}, {"type": "array"}, True, False),
    json_change("maxItems added", {"type": "array"}, {"type": "array", "maxItems": 3}, False, True),
    json_change(
        "definition renamed and widened",
        {"$ref": "#/$defs/A", "$defs": {"A": model(a=INT)}},
        {"$ref": "#/$defs/B", "$defs": {"B": model(a=NUMBER)}},
        True,
        False,
    ),
]

Type = FieldDescriptorProto.Type
Label = FieldDescriptorProto.Label


def file(*fields: tuple[str, int, int], package: str = "p", **more: Any) -> str:
    """Base64 of a file with a message M of these fields (name, number, type)."""
    descriptor = FileDescriptorProto(name="m.proto", package=package, syntax=more.get("syntax", "proto3"))
    message = descriptor.message_type.add(name="M")
    for name, number, kind in fields:
        field = message.field.add(name=name, number=number, type=kind, label=Label.LABEL_OPTIONAL)
        if kind == Type.TYPE_MESSAGE:
            field.type_name = f".{package}.{more.get('of', 'N')}"
        if name in more.get("oneof", ()):
            field.oneof_index = 0
        if name in more.get("repeated", ()):
            field.label = Label.LABEL_REPEATED
        if name in more.get("required", ()):
            field.label = Label.LABEL_REQUIRED
    if more.get("oneof"):
        message.oneof_decl.add(name="choice")
    for name in more.get("messages", ()):
        descriptor.message_type.add(name=name)
    for name in more.get("enums", ()):
        descriptor.enum_type.add(name="E").value.add(name=name, number=0)
    return base64.b64encode(descriptor.SerializeToString()).decode()


A, B, C = ("a", 1, Type.TYPE_INT32), ("b", 2, Type.TYPE_STRING), ("c", 3, Type.TYPE_INT32)
N = ("n", 4, Type.TYPE_MESSAGE)


def protobuf_change(name: str, old: str, new: str, backward: bool, forward: bool) -> Change:
    return Change(name, "PROTOBUF", old, new, backward, forward)


PROTOBUF_CHANGES = [
    protobuf_change("field added", file(A), file(A, B), True, True),
    protobuf_change("field removed", file(A, B), file(A), True, True),
    protobuf_change("field renamed", file(A), file(("other", 1, Type.TYPE_INT32)), True, True),
    protobuf_change("int32 to int64", file(A), file(("a", 1, Type.TYPE_INT64)), True, True),
    protobuf_change("int32 to sint32", file(A), file(("a", 1, Type.TYPE_SINT32)), False, False),
    protobuf_change("int32 to string", file(A), file(("a", 1, Type.TYPE_STRING)), False, False),
    protobuf_change("string to bytes", file(B), file(("b", 2, Type.TYPE_BYTES)), True, True),
    protobuf_change("string repeated", file(B), file(B, repeated=("b",)), True, True),
    protobuf_change("number repeated", file(A), file(A, repeated=("a",)), False, False),
    protobuf_change("package changed", file(A), file(A, package="q"), False, False),
    protobuf_change("message added", file(A), file(A, messages=("N",)), True, False),
    protobuf_change("message removed", file(A, messages=("N",)), file(A), False, True),
    protobuf_change(
        "another message", file(N, messages=("N", "O")), file(N, of="O", messages=("N", "O")), False, False
    ),
    protobuf_change("value of enum renamed", file(A, enums=("X",)), file(A, enums=("Y",)), True, True),
    protobuf_change("one field into a oneof", file(A, B), file(A, B, oneof=("a",)), True, True),
    protobuf_change("two fields into a oneof", file(A, B), file(A, B, oneof=("a", "b")), False, True),
    protobuf_change("field added to a oneof", file(A, oneof=("a",)), file(A, C, oneof=("a", "c")), True, False),
    protobuf_change(
        "required field added", file(A, syntax="proto2"), file(A, B, syntax="proto2", required=("b",)), False, False
    ),
]

CHANGES = [*JSON_CHANGES, *PROTOBUF_CHANGES]
