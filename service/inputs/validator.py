"""Validators of messages: JSON Schemas that msgspec made from the agents' types, read as msgspec reads the types.

What a schema cannot express (a time without a zone, for example) is left to the worker.
"""

import datetime
import decimal
import logging
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import jsonschema_rs
import msgspec

log = logging.getLogger(__name__)

# Formats as msgspec reads them. A schema's other formats are notes to people.
FORMATS: dict[str, Any] = {
    "date-time": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "duration": datetime.timedelta,
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
}
MAPS = {"$defs", "properties", "patternProperties"}  # keywords whose values map names to schemas
VALUES = {"enum", "const", "default", "examples", "required"}  # keywords whose values are no schemas


class Misfit(NamedTuple):
    """`place`: such as `message.items[2]`. `pointer`: the same from the message on, as RFC 6901 writes it."""

    place: str
    reason: str
    pointer: str


class Validator:
    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises ValueError for a schema that cannot be compiled."""
        self._compiled = jsonschema_rs.validator_for(
            _as_msgspec_reads(schema),
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
    adapted: dict[str, Any] = _adapt(schema, None, {name: _reachable(name, direct) for name in direct})
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
        elif key != "uniqueItems" and (key != "format" or value in FORMATS):  # msgspec's sets take repeated values
            adapted[key] = value if key in VALUES else _adapt(value, inside, reachable)
    if schema.get("format") == "decimal":
        adapted["type"] = ["string", "number"]
    if schema.get("type") == "integer":
        adapted["whole"] = True
    return adapted


def _target(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).removeprefix("#/$defs/")


def _references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return {target for item in schema for target in _references(item)}
    if not isinstance(schema, dict):
        return set()
    return {_target(schema)} | {target for value in schema.values() for target in _references(value)}


def _reachable(name: str, direct: dict[str, set[str]]) -> set[str]:
    """The definitions that this one leads to."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = direct.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
