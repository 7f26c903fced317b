"""Validators of messages: JSON Schemas that msgspec made from the agents' types, read as msgspec reads the types.

What a schema cannot express is left to the worker; so are schemas that may take long to check, and patterns that do: of
look-ahead, for example.
"""

import datetime
import decimal
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import jsonschema_rs
import msgspec

log = logging.getLogger(__name__)

BASE64 = "base64"  # of a text with this contentEncoding
# Formats as msgspec reads them. A schema's other formats are notes to people.
FORMATS: dict[str, Any] = {
    "date-time": datetime.datetime,  # a schema of ours demands the zone by a pattern
    "date-time-local": Annotated[datetime.datetime, msgspec.Meta(tz=False)],
    "iso-date-time": datetime.datetime,
    "iso-time": datetime.time,
    "partial-time": Annotated[datetime.time, msgspec.Meta(tz=False)],
    BASE64: bytes,
    "date": datetime.date,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
MAPS = {"$defs", "properties", "patternProperties"}  # keywords whose values map names to schemas
VALUES = {"enum", "const", "default", "examples", "required"}  # keywords whose values are no schemas
DEFINITIONS = {"$defs", "definitions"}  # only references lead there
DYNAMIC_REFERENCES = {"$dynamicRef", "$recursiveRef"}
UNEVALUATED = {"unevaluatedProperties", "unevaluatedItems"}
OF_PROPERTIES = ("patternProperties", "additionalProperties", "unevaluatedProperties")
MAX_DEFINITIONS = 500  # to look for recursion takes the square of their number
MAX_PARTS = 10_000
MAX_DEPTH = 100


class Misfit(NamedTuple):
    """`place`: such as `message.items[2]`. `pointer`: the same from the message on, as RFC 6901 writes it."""

    place: str
    reason: str
    pointer: str


class Validator:
    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises ValueError for a schema that cannot be compiled, or that may take long to check."""
        if len(schema.get("$defs", {})) > MAX_DEFINITIONS:
            raise ValueError(f"it has more than {MAX_DEFINITIONS} definitions")
        adapted = _as_msgspec_reads(schema)
        if _Expansion(adapted).size() > MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts, with those that it refers to")
        self._compiled = jsonschema_rs.validator_for(
            adapted,
            offline=True,
            formats={name: _reader(kind) for name, kind in FORMATS.items()},
            validate_formats=True,
            keywords={"whole": _Whole},
            pattern_options=jsonschema_rs.RegexOptions(),  # linear in the length of the text
            mask="the value",
        )

    def misfit(self, message: Any) -> "Misfit | None":
        """What does not fit first; None if all fits."""
        if self._compiled.is_valid(message):
            return None
        error = next(self._compiled.iter_errors(message))
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        pointer = "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in error.instance_path)
        return Misfit(f"message{place}", error.message, pointer)


def compile_schema(agent: str, text: str) -> Validator | None:
    """A validator for an agent's input; None if the schema cannot be compiled: then only the worker checks."""
    try:
        return Validator(msgspec.json.decode(text, type=dict[str, Any]))
    except (ValueError, RecursionError) as error:
        log.warning("an agent's input is not checked at submit", extra={"agent": agent, "error": str(error)})
        return None


class _Whole:
    """The keyword `whole`: JSON Schema takes 1.0 for an integer, msgspec does not."""

    def __init__(self, parent: Any, value: Any, path: Any) -> None:
        """The library's signature."""

    def validate(self, instance: Any) -> None:
        if isinstance(instance, float):
            raise ValueError("the value is not a whole number")


def _reader(kind: Any) -> Callable[[str], bool]:
    def fits(value: str) -> bool:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return False
        return True

    return fits


def _as_msgspec_reads(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with msgspec's rules where they differ from JSON Schema's, and without recursion: to compare a nested
    value with the alternatives of a recursive type takes a time that doubles with each level. A reference that leads
    back to itself accepts anything."""
    direct = {name: _references(definition) for name, definition in schema.get("$defs", {}).items()}
    adapted: dict[str, Any] = _adapt(schema, None, _reachable(direct))
    return adapted


def _adapt(schema: Any, inside: str | None, reachable: dict[str, set[str]]) -> Any:
    """`inside`: the definition that this schema is a part of."""
    if isinstance(schema, list):
        return [_adapt(item, inside, reachable) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if inside is not None and inside in reachable.get(_target(schema), ()):
        return {}
    adapted: dict[str, Any] = {}
    for key, value in schema.items():
        if key in MAPS:
            names = ((name, name if key == "$defs" else inside) for name in value)
            adapted[key] = {name: _adapt(value[name], definition, reachable) for name, definition in names}
        elif key == "pattern" and not _is_linear(value):
            continue
        elif key != "uniqueItems" and (key != "format" or value in FORMATS):  # msgspec's sets take repeated values
            adapted[key] = value if key in VALUES else _adapt(value, inside, reachable)
    if schema.get("format") == "decimal":
        adapted["type"] = ["string", "number"]
    if schema.get("contentEncoding") == BASE64:
        adapted["format"] = BASE64
    if schema.get("type") == "integer" or _has_only_whole_numbers(schema.get("enum")):
        adapted["whole"] = True
    if any(not _is_linear(pattern) for pattern in schema.get("patternProperties", ())):
        for key in OF_PROPERTIES:  # which of them the pattern takes is not known
            adapted.pop(key, None)
    return adapted


def _is_linear(pattern: object) -> bool:
    """Whether the pattern can be compared in a time that is linear in the length of a text."""
    try:
        jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions())
    except ValueError:
        return False
    return True


def _has_only_whole_numbers(values: object) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)] if isinstance(values, list) else []
    return bool(numbers) and all(type(number) is int for number in numbers)


class _Expansion:
    """A schema in which each reference stands for what it names. Its size limits the time that a value takes."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._sizes: dict[int, int] = {}

    def size(self) -> int:
        """The number of its parts. Raises ValueError if a reference leads back to itself or cannot be followed."""
        return self._size(self._root, 0)

    def _size(self, part: Any, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply, or a reference in it leads back to itself")
        if not isinstance(part, dict | list):
            return 1
        if id(part) not in self._sizes:
            size = 1 + sum(self._size(inner, depth + 1) for inner in self._inner(part))
            reads_twice = isinstance(part, dict) and not UNEVALUATED.isdisjoint(part)
            self._sizes[id(part)] = size * (2 if reads_twice else 1)
        return self._sizes[id(part)]

    def _inner(self, part: dict[str, Any] | list[Any]) -> Iterator[Any]:
        if isinstance(part, list):
            yield from part
            return
        for key, value in part.items():
            if key in MAPS - DEFINITIONS and isinstance(value, dict):
                yield from value.values()
            elif key == "$ref":
                yield self._follow(str(value))
            elif key in DYNAMIC_REFERENCES or (key == "$id" and part is not self._root):
                raise ValueError(f"it uses {key}, so its references cannot be followed")
            elif key not in DEFINITIONS | VALUES:
                yield value

    def _follow(self, reference: str) -> Any:
        found: Any = self._root if reference == "#" or reference.startswith("#/") else None
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        if found is None:
            raise ValueError(f"the reference {reference[:100]} cannot be followed")
        return found


def _target(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).removeprefix("#/$defs/")


def _references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {target for item in schema for target in _references(item)}
    if not isinstance(schema, dict):
        return set()
    return {_target(schema)} | {target for value in schema.values() for target in _references(value)}


def _reachable(direct: dict[str, set[str]]) -> dict[str, set[str]]:
    """The definitions that each one leads to."""
    bits = {name: 1 << number for number, name in enumerate(direct)}
    found = {name: sum(bits.get(target, 0) for target in targets) for name, targets in direct.items()}
    for through, bit in bits.items():
        found |= {name: targets | found[through] for name, targets in found.items() if targets & bit}
    return {name: {other for other, bit in bits.items() if found[name] & bit} for name in found}
