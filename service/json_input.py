"""JSON from clients, decoded once and strictly, straight into the expected type.

A value that does not fit is refused with the description of its field, which ends the sentence "<field> must be ...".
The description comes from the type; OpenAPI shows it, too.
"""

import re
from typing import Any

import msgspec

from service.errors import Invalid, Unprocessable

MAX_NESTING_LEVELS = 100  # of arrays and objects: every later reader of the value recurses as deep

_MSGSPEC_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


def decode(value: bytes | str, kind: Any, what: str) -> Any:
    """`what` names the value in error texts.

    Raises Invalid for text that is not JSON, Unprocessable for JSON that does not fit the type.
    """
    too_deep = f"The {what} is nested too deeply; at most {MAX_NESTING_LEVELS} levels are allowed."
    try:
        decoded = msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError as error:
        raise Unprocessable(_misfit(str(error), kind, what)) from None
    except UnicodeDecodeError:
        raise Invalid(f"The {what} is not valid JSON: it is not encoded in UTF-8.") from None
    except msgspec.DecodeError as error:
        raise Invalid(_malformed(str(error), what)) from None
    except RecursionError:
        raise Unprocessable(too_deep) from None
    if _brackets(value) > MAX_NESTING_LEVELS and _is_deeper(decoded, MAX_NESTING_LEVELS):
        raise Unprocessable(too_deep)
    return decoded


def _brackets(value: bytes | str) -> int:
    """How many arrays and objects the text may begin: a cheap bound of its depth."""
    return value.count("{") + value.count("[") if isinstance(value, str) else value.count(b"{") + value.count(b"[")


def _misfit(error: str, kind: Any, what: str) -> str:
    """msgspec's `<reason> - at `$.<place>`` as a sentence."""
    found = _MSGSPEC_PLACE.search(error)
    reason, place = (error[: found.start()], found[1]) if found else (error, "")
    inside = f" of {place}" if place else ""
    if name := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return f"{name[1]}{inside} is missing."
    if name := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        return f"{name[1]!r}{inside} is not a known field; remove it."
    if name := re.fullmatch(r"Invalid value (.*)", reason):  # of the field that tells one type from another
        return f"{place} {name[1][:100]} is unknown."
    if "out of range" in reason:
        return f"{place} holds a number that is out of range; send one that fits a 64-bit number."
    field = re.sub(r"\[\d+\]", "", place).rpartition(".")[2]
    expected = "an object" if place.endswith("]") else _descriptions(kind).get(field, "an object")
    return f"{place or f'The {what}'} must be {expected}."


def _descriptions(kind: Any) -> dict[str, str]:
    """The descriptions of all fields of a type and those inside it, by the field's name."""
    _, components = msgspec.json.schema_components([kind])
    fields = [item for component in components.values() for item in component.get("properties", {}).items()]
    return {name: schema["description"] for name, schema in fields if "description" in schema}


def _malformed(error: str, what: str) -> str:
    if error == "Input data was truncated":
        return f"The {what} is not valid JSON: it ends too early, or a text in it has half a surrogate pair."
    return f"The {what} is not valid JSON: {error.removeprefix('JSON is malformed: ')}."


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether arrays and objects are nested in each other more than `levels` deep."""
    if isinstance(value, msgspec.Struct):
        inside = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list):
        inside = value
    else:
        return False
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inside)
