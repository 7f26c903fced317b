"""Protobuf: the reader is compatible if it reads every message that the writer encodes.

The rules are those of Confluent's registry (ProtobufSchemaDiff; docs.confluent.io, "Schema evolution: Protobuf"), which
follow protobuf.dev, "Updating a message type": a field is its number, so fields and values of enums come, go and are
renamed; their types stay within a group of equal encodings; the package and the messages stay.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from service.schemas.model import Source

Type = FieldDescriptorProto.Type
Label = FieldDescriptorProto.Label

# Types of one group read each other's encoding.
GROUPS: dict[int, str] = {
    **dict.fromkeys(
        (Type.TYPE_INT32, Type.TYPE_INT64, Type.TYPE_UINT32, Type.TYPE_UINT64, Type.TYPE_BOOL, Type.TYPE_ENUM),
        "a whole number",
    ),
    **dict.fromkeys((Type.TYPE_SINT32, Type.TYPE_SINT64), "a signed number"),
    **dict.fromkeys((Type.TYPE_STRING, Type.TYPE_BYTES), "a text"),
    **dict.fromkeys((Type.TYPE_FIXED32, Type.TYPE_SFIXED32), "32 fixed bits"),
    **dict.fromkeys((Type.TYPE_FIXED64, Type.TYPE_SFIXED64), "64 fixed bits"),
    Type.TYPE_FLOAT: "a float",
    Type.TYPE_DOUBLE: "a double",
    Type.TYPE_MESSAGE: "a message",
    Type.TYPE_GROUP: "a group",
}


class Document:
    """A file, and those that it imports, all of them as descriptors."""

    def __init__(self, file: FileDescriptorProto, others: Sequence[FileDescriptorProto] = ()) -> None:
        self.file = file
        self._messages = {
            name: message
            for each in (file, *others)
            for name, message in _named(each.message_type, f".{each.package}" if each.package else "")
        }

    @classmethod
    def parse(cls, source: Source) -> "Document":
        file, *others = (
            FileDescriptorProto.FromString(content) for content in (source.content, *source.imports.values())
        )
        return cls(file, others)

    def message(self, name: str) -> DescriptorProto | None:
        return self._messages.get(name)


def unreadable(reader: Document, writer: Document) -> list[str]:
    """Why the reader does not read all messages of the writer, each as `<place>: <reason>`; empty: it does."""
    return list(_Comparison(reader, writer).run())


class _Comparison:
    def __init__(self, reader: Document, writer: Document) -> None:
        self._reader = reader
        self._writer = writer
        self._seen: set[tuple[str, str]] = set()

    def run(self) -> Iterator[str]:
        r, w = self._reader.file, self._writer.file
        if r.package != w.package:
            yield f"package: is {r.package or 'none'}, not {w.package or 'none'}"
        yield from self._types(r.message_type, w.message_type, "")

    def _types(self, r: Any, w: Any, place: str) -> Iterator[str]:
        known = {message.name: message for message in r}
        for message in w:
            if message.name in known:
                yield from self._message(known[message.name], message, f"{place}{message.name}")
            elif not message.options.map_entry:
                yield f"{place}{message.name}: the message is missing"

    def _message(self, r: DescriptorProto, w: DescriptorProto, place: str) -> Iterator[str]:
        ours, theirs = ({field.number: field for field in each.field} for each in (r, w))
        for number in sorted(ours.keys() | theirs.keys()):
            here = f"{place}.{number}"
            if number in ours and number in theirs:
                yield from self._field(ours[number], theirs[number], f"{place}.{ours[number].name}")
            elif number in ours and ours[number].label == Label.LABEL_REQUIRED:
                yield f"{here}: the required field {ours[number].name} is missing in the messages"
            elif number in theirs and theirs[number].label == Label.LABEL_REQUIRED:
                yield f"{here}: the required field {theirs[number].name} is missing"
            elif number in theirs and _is_choice(theirs[number]) and _holds_part_of(r, w, theirs[number], ours):
                yield f"{here}: the field {theirs[number].name} is missing in its oneof"
        yield from self._moves(r, theirs, place)
        yield from self._types(r.nested_type, w.nested_type, f"{place}.")

    def _moves(self, r: DescriptorProto, theirs: Any, place: str) -> Iterator[str]:
        """Several fields that may all be set cannot become one oneof: a reader keeps the last one only."""
        for index, oneof in enumerate(r.oneof_decl):
            members = [field.number for field in r.field if _is_choice(field) and field.oneof_index == index]
            former = [theirs[number] for number in members if number in theirs]
            moved = [field for field in former if not _is_choice(field)]
            if len(moved) > 1 or (moved and len(former) > len(moved)):
                names = " and ".join(field.name for field in moved)
                yield f"{place}.{oneof.name}: {names} moved into the oneof, beside another field"

    def _field(self, r: FieldDescriptorProto, w: FieldDescriptorProto, place: str) -> Iterator[str]:
        if GROUPS[r.type] != GROUPS[w.type]:
            yield f"{place}: is {GROUPS[r.type]}, not {GROUPS[w.type]}"
        elif (r.label == Label.LABEL_REPEATED) != (w.label == Label.LABEL_REPEATED) and GROUPS[r.type] not in {
            "a text",
            "a message",
        }:
            yield f"{place}: repeated and single numbers have different encodings"
        elif r.type == Type.TYPE_MESSAGE:
            yield from self._message_field(r.type_name, w.type_name, place)

    def _message_field(self, r_name: str, w_name: str, place: str) -> Iterator[str]:
        r, w = self._reader.message(r_name), self._writer.message(w_name)
        is_map = r is not None and w is not None and r.options.map_entry and w.options.map_entry
        if not is_map and _local(r_name, self._reader.file) != _local(w_name, self._writer.file):
            yield f"{place}: is {_local(r_name, self._reader.file)}, not {_local(w_name, self._writer.file)}"
        elif r is not None and w is not None and (r_name, w_name) not in self._seen:
            self._seen.add((r_name, w_name))
            is_local = r_name.startswith(f".{self._reader.file.package}.")
            if is_map or not is_local:  # the messages of the file itself are compared with it
                yield from self._message(r, w, place)


def _named(messages: Any, prefix: str) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        name = f"{prefix}.{message.name}"
        yield name, message
        yield from _named(message.nested_type, name)


def _local(name: str, file: FileDescriptorProto) -> str:
    """The name of a message without the package, which is compared by itself."""
    return name.removeprefix(f".{file.package}.") if file.package else name.removeprefix(".")


def _is_choice(field: FieldDescriptorProto) -> bool:
    """Whether it is a field of a oneof that the author wrote."""
    return field.HasField("oneof_index") and not field.proto3_optional


def _holds_part_of(r: DescriptorProto, w: DescriptorProto, field: FieldDescriptorProto, ours: Any) -> bool:
    """Whether the reader still has the oneof of the writer's field."""
    name = w.oneof_decl[field.oneof_index].name
    return any(_is_choice(other) and r.oneof_decl[other.oneof_index].name == name for other in ours.values())
