"""Values of Protobuf schemas: reads their binary and their JSON. Needs the extra `protobuf`."""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

FAILURES = (ParseError, TypeError, AttributeError, ValueError, RecursionError)
MAX_STEPS = 20  # to the part of a value that does not fit: each step reads that part once more


def reader(message: type[Message], pool: DescriptorPool) -> Callable[[Any], tuple[Any, tuple[str, str] | None]]:
    """Reads the binary or the JSON of a message as its canonical JSON; or says what does not fit: a JSON pointer to it,
    and why."""

    def read(value: Any) -> tuple[Any, tuple[str, str] | None]:
        if not isinstance(value, bytes | dict):
            return None, ("", "it is not an object")
        try:
            return _canonical(value, message, pool), None
        except DecodeError as error:
            return None, ("", " ".join(str(error).split()).rstrip("."))
        except FAILURES as error:
            if isinstance(value, bytes):
                return None, ("", _reason(error))
            steps, reason = _innermost(value, message, pool, _reason(error))
        pointer = "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)
        return None, (pointer, reason)

    return read


def _canonical(value: bytes | dict[str, Any], message: type[Message], pool: DescriptorPool) -> Any:
    read = message.FromString(value) if isinstance(value, bytes) else ParseDict(value, message(), descriptor_pool=pool)
    return MessageToDict(read, descriptor_pool=pool)


def _reason(error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(".")
    while reason.startswith("Failed to parse ") and " field: " in reason:
        reason = reason.partition(" field: ")[2]
    return reason


def _problem(value: dict[str, Any], message: type[Message], pool: DescriptorPool) -> str | None:
    try:
        ParseDict(value, message(), descriptor_pool=pool)
    except FAILURES as error:
        return _reason(error)
    return None


def _innermost(
    value: dict[str, Any], message: type[Message], pool: DescriptorPool, reason: str, most: int = MAX_STEPS
) -> tuple[list[str], str]:
    """The way to the smallest part of the object that does not fit by itself, and why it does not. (The errors of the
    library name the place of some parts only.)"""
    for name, part in value.items():
        found = _problem({name: part}, message, pool)
        if found is None:
            continue
        field = _field(message, name)
        steps, kind, inner = [name], None if field is None else field.message_type, part
        for step, item, alone in _items(part, field):
            if (of_item := _problem({name: alone}, message, pool)) is not None:
                steps.append(step)
                inner, found = item, of_item
                break
        if kind is not None and kind.GetOptions().map_entry:
            kind = kind.fields_by_name["value"].message_type
        if isinstance(inner, dict) and kind is not None and most > len(steps):
            further, found = _innermost(inner, GetMessageClass(kind), pool, found, most - len(steps))
            steps += further
        return steps, found
    return [], reason


def _field(message: type[Message], name: str) -> Any:
    """The descriptor of the field, or None if the message has no such field."""
    return next((field for field in message.DESCRIPTOR.fields if name in {field.json_name, field.name}), None)


def _items(part: Any, field: Any) -> Iterable[tuple[str, Any, Any]]:
    """The items of a list or map: their steps, the items, and each as the only item of its field."""
    if field is None or field.label != FieldDescriptor.LABEL_REPEATED:
        return ()
    if isinstance(part, dict) and field.message_type is not None and field.message_type.GetOptions().map_entry:
        return ((key, item, {key: item}) for key, item in part.items())
    return ((str(number), item, [item]) for number, item in enumerate(part)) if isinstance(part, list) else ()
