"""Protobuf classes as types of agents: hooks that let msgspec read and write them as their canonical JSON
(protobuf.dev, "ProtoJSON format").

Nothing here imports Protobuf before an agent's module has: a class of a message exists only then.
"""

import sys
from typing import Any

INTEGERS = ("CPPTYPE_INT32", "CPPTYPE_UINT32", "CPPTYPE_INT64", "CPPTYPE_UINT64")
FLOATS = ("CPPTYPE_FLOAT", "CPPTYPE_DOUBLE")
# Messages whose JSON is not an object of their fields.
TEXTS = ("Timestamp", "Duration", "FieldMask")
WRAPPERS = ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")


def is_message(declared: Any) -> bool:
    """Whether it is a class of Protobuf messages."""
    module = sys.modules.get("google.protobuf.message")
    return module is not None and isinstance(declared, type) and issubclass(declared, module.Message)


def to_json(value: Any) -> Any:
    """The hook `enc_hook`: a message as what msgspec writes. Raises TypeError for other values."""
    if not is_message(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(value)


def from_json(declared: Any, value: Any) -> Any:
    """The hook `dec_hook`. Unknown fields are passed over, so that a reader of an old version reads new messages.

    Raises ValueError, of which msgspec makes a ValidationError with the place.
    """
    if not is_message(declared):
        if isinstance(declared, type) and isinstance(value, declared):
            return value
        raise ValueError(f"Expected `{getattr(declared, '__name__', declared)}`, got `{type(value).__name__}`")
    from google.protobuf.json_format import ParseDict, ParseError

    if isinstance(value, declared):
        return value
    try:
        return ParseDict(value, declared(), ignore_unknown_fields=True)
    except (ParseError, TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split()).rstrip(".")) from None


def schema_of(declared: Any) -> dict[str, Any]:
    """The hook `schema_hook`: the JSON Schema of the canonical JSON. Raises NotImplementedError for other types."""
    if not is_message(declared):
        raise NotImplementedError(f"There is no JSON Schema of {declared!r}")
    return _message(declared.DESCRIPTOR, ())


def _message(descriptor: Any, inside: tuple[str, ...]) -> dict[str, Any]:
    """`inside`: the messages of which this one is a part. One that contains itself accepts anything there."""
    if descriptor.full_name.startswith("google.protobuf.") and descriptor.name in TEXTS:
        return {"type": "string", **({"format": "date-time"} if descriptor.name == "Timestamp" else {})}
    if descriptor.full_name.startswith("google.protobuf.") and descriptor.name.removesuffix("Value") in WRAPPERS:
        return _single(descriptor.fields_by_name["value"], inside)
    if descriptor.full_name.startswith("google.protobuf.") or descriptor.full_name in inside:
        return {}
    properties: dict[str, Any] = {}
    for field in descriptor.fields:
        schema = _or_null(_field(field, (*inside, descriptor.full_name)))
        properties |= {field.json_name: schema, field.name: schema}
    return {"type": "object", "title": descriptor.name, "properties": properties}


def _field(field: Any, inside: tuple[str, ...]) -> dict[str, Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _single(value, inside)}
    single = _single(field, inside)
    return {"type": "array", "items": single} if _is_repeated(field) else single


def _single(field: Any, inside: tuple[str, ...]) -> dict[str, Any]:
    kinds = {getattr(field, name): name for name in (*INTEGERS, *FLOATS, "CPPTYPE_BOOL", "CPPTYPE_ENUM")}
    kind = kinds.get(field.cpp_type)
    if field.message_type is not None:
        return _message(field.message_type, inside)
    if kind in INTEGERS:
        return {"type": ["integer", "string"], "pattern": "^-?[0-9]+$"}
    if kind in FLOATS:
        return {"type": ["number", "string"]}
    if kind == "CPPTYPE_BOOL":
        return {"type": "boolean"}
    if kind == "CPPTYPE_ENUM":
        return {
            "type": ["string", "integer"],
            "pattern": f"^({'|'.join(value.name for value in field.enum_type.values)})$",
        }
    return {"type": "string"}


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A field that is null counts as left out. (An `anyOf` would hide the place of a misfit inside.)"""
    if not schema:
        return {}
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}
