"""The JSON that a function returns, as its annotation declares it, and whether two values are the same JSON."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Never, NoReturn, get_args, get_origin, get_type_hints

import msgspec
from msgspec.inspect import CustomType, Field, Type, type_info

from service.agents.protobuf_types import from_json, is_message

REMEMBERED_TYPES = 256

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
