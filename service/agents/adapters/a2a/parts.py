"""Between JSON and the parts of the protocol."""

from collections.abc import Iterable
from typing import Any

from a2a.types import Part
from google.protobuf.json_format import MessageToDict, ParseDict

MAX_EXACT = 2**53  # Protobuf keeps the numbers of JSON as floats


def make_parts(value: Any) -> list[Part]:
    return [Part(text=value)] if isinstance(value, str) else [ParseDict({"data": value}, Part())]


def read_part(part: Part) -> Any:
    """A text, data as they are, and a file as an object."""
    if part.HasField("text"):
        return part.text
    given = MessageToDict(part)
    return whole_numbers(given["data"]) if part.HasField("data") else given


def read_parts(parts: Iterable[Part]) -> Any:
    """The only part, all texts as one, or a list."""
    values = [read_part(part) for part in parts]
    if len(values) == 1:
        return values[0]
    return "".join(values) if all(isinstance(value, str) for value in values) else values


def whole_numbers(value: Any) -> Any:
    """With numbers as the sender wrote them."""
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT
    return int(value) if is_whole else value
