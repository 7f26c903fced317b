"""The JSON Schema of an agent's input: msgspec's own, with what msgspec checks and leaves out of it, so that the API
can check it too: times without a zone, and the keys of maps."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from service.agents.protobuf_types import schema_of

# Of service/inputs/validator.py, where JSON Schema has no name for what msgspec reads.
LOCAL_DATE_TIME = "date-time-local"
ANY_DATE_TIME = "iso-date-time"
ANY_TIME = "iso-time"
ZONE_PATTERN = r"([Zz]|[+-][0-9]{2}:?[0-9]{2})$"
INTEGER_PATTERN = "^-?(0|[1-9][0-9]*)$"

Schema = dict[str, Any]

_KEYS_OF_TEXT: dict[type[inspect.Type], Schema] = {
    inspect.BytesType: {"contentEncoding": "base64"},
    inspect.DateTimeType: {"format": "date-time"},
    inspect.TimeType: {"format": "time"},
    inspect.DateType: {"format": "date"},
    inspect.TimeDeltaType: {"format": "duration"},
    inspect.UUIDType: {"format": "uuid"},
    inspect.DecimalType: {"format": "decimal"},
    inspect.FloatType: {"format": "decimal"},
}


def input_schema(declared: Any) -> Schema:
    schema = msgspec.json.schema(declared, schema_hook=schema_of)
    _Refinement(schema).refine(inspect.type_info(declared), schema)
    return schema


class _Refinement:
    def __init__(self, root: Schema) -> None:
        self._definitions: dict[str, Any] = root.get("$defs", {})
        self._seen: set[str] = set()

    def refine(self, kind: inspect.Type, schema: Any) -> None:
        """Add to the schema, and to its parts, what it lacks of the type of which msgspec made it."""
        kind = _bare(kind)
        if not isinstance(schema, dict):
            return
        if reference := schema.get("$ref"):
            name = str(reference).removeprefix("#/$defs/")
            if name in self._seen or name not in self._definitions:
                return
            self._seen.add(name)
            schema = self._definitions[name]
        for key, value in _texts(kind).items():
            schema.setdefault(key, value)
        for part, of_part in self._parts(kind, schema):
            self.refine(part, of_part)

    def _parts(self, kind: Any, schema: Schema) -> Iterator[tuple[inspect.Type, Any]]:
        if isinstance(kind, inspect.CollectionType):
            yield kind.item_type, schema.get("items")
        elif isinstance(kind, inspect.TupleType):
            yield from zip(kind.item_types, schema.get("prefixItems", ()), strict=False)
        elif hasattr(kind, "key_type"):  # the types of maps
            if keys := _keys(kind.key_type):
                schema.setdefault("propertyNames", keys)
            yield kind.value_type, schema.get("additionalProperties")
        elif isinstance(kind, inspect.UnionType):
            yield from _alternatives(kind, schema)
        elif hasattr(kind, "fields"):  # of objects with a class
            properties = schema.get("properties", {})
            items: Sequence[Any] = schema.get("prefixItems", ())
            tags = len(items) - len(kind.fields)  # the tag of a struct that is an array
            for number, field in enumerate(kind.fields):
                yield field.type, items[tags + number] if items else properties.get(field.encode_name)


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _texts(kind: inspect.Type) -> Schema:
    """What msgspec demands of a text, beyond what it writes into the schema."""
    if isinstance(kind, inspect.DateTimeType):
        return (
            {"pattern": ZONE_PATTERN} if kind.tz else {"format": ANY_DATE_TIME if kind.tz is None else LOCAL_DATE_TIME}
        )
    if isinstance(kind, inspect.TimeType) and kind.tz is not False:
        return {"pattern": ZONE_PATTERN} if kind.tz else {"format": ANY_TIME}
    return {}


def _alternatives(kind: inspect.UnionType, schema: Schema) -> Iterator[tuple[inspect.Type, Any]]:
    """In the order of msgspec: structs that are objects come after the others, and last is null."""
    structs, others = [], []
    for member in map(_bare, kind.types):
        if isinstance(member, inspect.StructType) and not member.array_like:
            structs.append(member)
        elif not isinstance(member, inspect.NoneType):
            others.append(member)
    options = schema.get("anyOf", [])
    rest = [part for option in options[len(others) :] for part in option.get("anyOf", [option])]
    yield from zip(others, options, strict=False)
    yield from zip(structs, rest, strict=False)


def _keys(kind: inspect.Type) -> Schema:
    """The schema of the keys of a map: they are texts. Empty: any text, or as msgspec has written."""
    kind = _bare(kind)
    if isinstance(kind, inspect.IntType):
        return {"pattern": INTEGER_PATTERN}
    if isinstance(kind, inspect.EnumType | inspect.LiteralType):
        values = kind.values if isinstance(kind, inspect.LiteralType) else [member.value for member in kind.cls]
        return {"enum": [*map(str, values), *(["-0"] if 0 in values else [])]}
    if isinstance(kind, inspect.UnionType):
        options = [_keys(member) for member in kind.types]
        return {"anyOf": options} if all(options) else {}
    if isinstance(kind, inspect.StrType | inspect.AnyType | inspect.CustomType):
        return {}
    return _KEYS_OF_TEXT.get(type(kind), {}) | _texts(kind)
