"""JSON from clients, decoded once and strictly, straight into the expected type.

A value that does not fit is refused with the description of its field, which ends the sentence "<field> must be ...".
The description comes from the type; OpenAPI shows it, too.
"""

import re
from itertools import accumulate
from typing import Any

import msgspec

from service.errors import Invalid, Unprocessable
from service.limits import MAX_NESTING_LEVELS

MAX_PARTS = 200_000  # arrays, objects and texts (names of fields included): each costs the event loop some time
MAX_VALUES = 500_000  # most of them numbers: each costs about a fifth of a part
MAX_EXTREME_NUMBERS = 10_000  # with an exponent of three digits or more: each costs as much as 20 parts
MAX_QUOTED_CHARS = 100  # of a name in an error text

_LONG_NUMBER_DIGITS = 310
# Tried once in a row of digits, so linear. A fraction may have more: PostgreSQL writes 5e-324 with 324 of them.
_LONG_NUMBER = re.compile(f"(?<![0-9.])[0-9]{{{_LONG_NUMBER_DIGITS}}}")
_EXTREME_NUMBER = re.compile(rb"[eE][+-]?[0-9]{3}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(code for code in range(256) if code not in _STEPS)


def decode(value: bytes | str, kind: Any, what: str) -> Any:
    """`what` names the value in error texts.

    Raises Invalid for text that is not JSON, Unprocessable for JSON that does not fit the type, is nested too deeply or
    has too many parts.
    """
    _check_shape(value.encode(errors="replace") if isinstance(value, str) else value, what)
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.ValidationError as error:
        raise Unprocessable(_misfit(str(error), kind, what)) from None
    except UnicodeError:
        raise Invalid(f"The {what} is not valid JSON: it is not encoded in UTF-8.") from None
    except msgspec.DecodeError as error:
        raise Invalid(_malformed(str(error), what)) from None


def convert(value: Any, kind: Any, what: str) -> Any:
    """A value of Python, such as the options of a command, as `decode` would take it; raises Unprocessable."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Unprocessable(_misfit(str(error), kind, what)) from None


def _check_shape(text: bytes, what: str) -> None:
    """Raises Unprocessable. The work is linear in the text, and a small part of that of decoding it."""
    opened = text.count(b"{") + text.count(b"[")
    quotes = text.count(b'"')
    has_few_parts = opened <= MAX_NESTING_LEVELS and opened + quotes // 2 <= MAX_PARTS
    if has_few_parts and text.count(b",") <= MAX_VALUES and _count_exponents(text) <= MAX_EXTREME_NUMBERS:
        return
    text = _without_escapes(text)
    quotes = text.count(b'"')
    if quotes // 2 <= MAX_PARTS:
        outside = _outside_of_texts(text)
        brackets = outside.translate(None, _NO_BRACKETS)
        if _depth(brackets[:MAX_PARTS]) > MAX_NESTING_LEVELS:
            raise Unprocessable(f"The {what} is nested too deeply; at most {MAX_NESTING_LEVELS} levels are allowed.")
        if quotes // 2 + brackets.count(b"{") + brackets.count(b"[") <= MAX_PARTS:
            _check_numbers(outside, what)
            return
    raise Unprocessable(
        f"The {what} has too many arrays, objects and texts; at most {MAX_PARTS} of them are allowed in one {what}."
    )


def _check_numbers(outside: bytes, what: str) -> None:
    """Raises Unprocessable. `outside`: what stands outside of texts."""
    if outside.count(b",") > MAX_VALUES:
        raise Unprocessable(f"The {what} has too many values; at most {MAX_VALUES} are allowed in one {what}.")
    if len(_EXTREME_NUMBER.findall(outside)) > MAX_EXTREME_NUMBERS:
        raise Unprocessable(
            f"The {what} has too many numbers with an exponent of three digits; at most {MAX_EXTREME_NUMBERS} are"
            f" allowed in one {what}."
        )


def _count_exponents(text: bytes) -> int:
    return text.count(b"e") + text.count(b"E")


def unreadable(text: str) -> str | None:
    """Why the readers of this JSON (valid, of an agent) could fail, as the end of a sentence; None: they can read it.

    The work is linear in the text.
    """
    may_be_deep = text.count("{") + text.count("[") > MAX_NESTING_LEVELS
    may_be_long = len(text) >= _LONG_NUMBER_DIGITS and _LONG_NUMBER.search(text) is not None
    if not (may_be_deep or may_be_long):
        return None
    outside = _outside_of_texts(_without_escapes(text.encode()))
    if _depth(outside.translate(None, _NO_BRACKETS)) > MAX_NESTING_LEVELS:
        return f"is nested more than {MAX_NESTING_LEVELS} levels deep"
    if _LONG_NUMBER.search(outside.decode()):
        return "holds a number beyond 1.8e308"
    return None


def readable_object(text: str | None) -> dict[str, Any]:
    """The object in this JSON of PostgreSQL; empty for none, for another value, and for one that no reader can read."""
    value = None if text is None or unreadable(text) is not None else msgspec.json.decode(text)
    return value if isinstance(value, dict) else {}


def same_json(one: Any, other: Any) -> bool:
    """Whether two decoded values are the same JSON, also where PostgreSQL has stored one of them: it writes 1e23 with
    all its digits, which Python reads as a whole number, and another one than the float. Values that are nested too
    deeply for that are compared as Python does."""
    try:
        return _is_same(one, other)
    except RecursionError:
        return bool(one == other)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or (type(one) is not type(other) and _as_float(one) == _as_float(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _as_float(number: float) -> float | None:
    try:
        return float(number)
    except OverflowError:  # a whole number beyond 1.8e308
        return None


def _without_escapes(text: bytes) -> bytes:
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _outside_of_texts(text: bytes) -> bytes:
    return b"".join(text.split(b'"')[::2])


def _depth(brackets: bytes) -> int:
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _misfit(error: str, kind: Any, what: str) -> str:
    """msgspec's `<reason> - at `$.<place>`` as a sentence."""
    # Without a regular expression: the text holds what the client has sent.
    reason, mark, place = error.rpartition(" - at `")
    if not mark or not place.endswith("`"):
        reason, place = error, ""
    place = place.removesuffix("`").removeprefix("key in ").removeprefix("$").removeprefix(".")
    place = place[:MAX_QUOTED_CHARS]
    inside = f" of {place}" if place else ""
    if name := re.fullmatch(r"Object missing required field `(.*)`", reason):
        return f"{name[1]}{inside} is missing."
    if name := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        return f"{name[1][:MAX_QUOTED_CHARS]!r}{inside} is not a known field; remove it."
    if name := re.fullmatch(r"Invalid value (.*)", reason):  # of the field that tells one type from another
        return f"{place} {name[1][:MAX_QUOTED_CHARS]} is unknown."
    if "out of range" in reason:
        return f"{place} holds a number that is out of range; send one that fits a 64-bit number."
    field = re.sub(r"\[(?:\d+|\.\.\.)\]", "", place).rpartition(".")[2]
    if place.endswith("]") and not reason.startswith("Expected `object`"):
        place = place.rpartition("[")[0]  # the description of a list says what it may hold
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
