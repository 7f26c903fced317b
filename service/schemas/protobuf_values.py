"""Values of Protobuf schemas: reads their binary, and says where a JSON is not canonical JSON of a message. Needs the
extra `protobuf`."""

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

MAX_STEPS = 20  # to the part of a value that does not fit: each step reads that part once more


def parser(message: type[Message], pool: DescriptorPool) -> Callable[[bytes], Any]:
    """Reads the binary of a message as its canonical JSON. Raises ValueError."""

    def parse(binary: bytes) -> Any:
        try:
            return MessageToDict(message.FromString(binary), descriptor_pool=pool)
        except (DecodeError, TypeError, RecursionError) as error:
            raise ValueError(" ".join(str(error).split()).rstrip(".")) from None

    return parse


def checker(message: type[Message], pool: DescriptorPool) -> Callable[[Any], tuple[str, str] | None]:
    """Says of a value where it is no canonical JSON of this message (a JSON pointer) and why."""

    def check(value: Any) -> tuple[str, str] | None:
        if not isinstance(value, dict):
            return "", "it is not an object"
        reason = _problem(value, message, pool)
        if reason is None:
            return None
        steps, reason = _innermost(value, message, pool, reason)
        return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps), reason

    return check


def _problem(value: dict[str, Any], message: type[Message], pool: DescriptorPool) -> str | None:
    try:
        ParseDict(value, message(), descriptor_pool=pool)
    except (ParseError, TypeError, AttributeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        while reason.startswith("Failed to parse ") and " field: " in reason:
            reason = reason.partition(" field: ")[2]
        return reason
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
