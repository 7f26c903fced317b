"""The JSON that a function returns, as its annotation declares it and as PostgreSQL stores it."""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal
from typing import Any, Never, NoReturn, get_args, get_origin, get_type_hints

import msgspec
from msgspec.inspect import CustomType, Field, Type, type_info

from service import json_input
from service.agents.protobuf_types import from_json, is_message

REMEMBERED_TYPES = 256

FIRST_WITH_EXPONENT = 1e16  # of the floats, as msgspec writes them
_WRITTEN_OTHERWISE = re.compile(r"[0-9][eE]\+?[0-9]|-0\.0")  # by jsonb; also found in texts, where it changes nothing

same_json = json_input.same_json  # for treadle, which imports the agents only

# Annotations that promise nothing which JSON could break.
_ANYTHING = (object, NoReturn, Never)
# Classes whose subclasses msgspec writes as JSON, though it cannot make an instance of the subclass again.
_ENCODABLE = (dict, list, tuple, set, frozenset, str, bytes, int, float)


def return_type(function: Callable[..., Any]) -> Any:
    """The declared result; Any without an annotation, or for one that names nothing at run time."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        declared = get_type_hints(function).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any
    if get_origin(declared) in (Awaitable, Coroutine):  # a sync function that returns what must be awaited
        declared = (get_args(declared) or (Any,))[-1]
    return Any if declared in _ANYTHING else declared


def unreadable(declared: Any) -> str | None:
    """Why a value of this type cannot be read back from JSON; None if it can. Each step asks, so it is remembered."""
    try:
        return _remembered(declared)
    except TypeError:  # the type has no hash
        return _why_unreadable(declared)


def _why_unreadable(declared: Any) -> str | None:
    try:
        found = _custom_types(type_info(declared))
    except TypeError as error:
        return str(error)
    return f"{found[0].__qualname__} has no JSON form" if found else None


_remembered = functools.lru_cache(REMEMBERED_TYPES)(_why_unreadable)


def unwritable(declared: Any) -> str | None:
    """The name of a class in this type whose instances are never JSON; None if there is no such class."""
    try:
        found = _custom_types(type_info(declared))
    except TypeError:
        return None
    never = (cls for cls in found if not issubclass(cls, _ENCODABLE) and not _is_abstract(cls))
    return next((cls.__qualname__ for cls in never), None)


def _is_abstract(cls: type) -> bool:
    """Whether other classes stand for it: an abstract class, or a protocol."""
    return cls is object or inspect.isabstract(cls) or bool(getattr(cls, "_is_protocol", False))


def _custom_types(root: Type) -> list[type]:
    """The classes in a type that msgspec does not know."""
    found, seen, rest = [], set(), [root]
    while rest:
        current: Any = rest.pop()
        if isinstance(current, CustomType):
            found.append(current.cls)
        elif isinstance(current, tuple):
            rest.extend(current)
        elif isinstance(current, Type | Field) and id(current) not in seen:
            seen.add(id(current))
            rest.extend(getattr(current, name) for name in current.__struct_fields__ if name != "default")
    return [cls for cls in found if cls is not object and not is_message(cls)]


def read(text: str, declared: Any) -> Any:
    """The value of this type in a JSON text. Raises TypeError if it does not fit."""
    try:
        return msgspec.json.decode(text, type=declared, dec_hook=from_json)
    except msgspec.ValidationError as error:
        raise TypeError(str(error)) from error


def as_stored(text: str) -> str:
    """The JSON text as jsonb gives it back: a float from 1e16 on with all its digits, which Python reads as a whole
    number, and -0.0 as 0.0."""
    if _WRITTEN_OTHERWISE.search(text) is None:
        return text
    return msgspec.json.encode(_with_stored_numbers(msgspec.json.decode(text))).decode()


def _with_stored_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_stored_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_stored_numbers(part) for part in value]
    if isinstance(value, float):
        return int(Decimal(repr(value))) if abs(value) >= FIRST_WITH_EXPONENT else value + 0.0
    return value
