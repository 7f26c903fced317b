"""The names of what an attempt sends, publishes and asks: the same in every attempt."""

import contextlib
import contextvars
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from service.agents.contract import Rejected, Unacceptable
from service.agents.texts import clean

MAX_NAME_CHARS = 200

# Whether earlier attempts did the same under a name: True, False if they did something else, None if nothing.
Comparison = Callable[[str], bool | None]

_step: contextvars.ContextVar[str] = contextvars.ContextVar("remote_step", default="")


@contextlib.contextmanager
def within_step(name: str) -> Iterator[None]:
    """Unnamed sends and questions in this block are numbered within the step."""
    token = _step.set(prefix_of(name))
    try:
        yield
    finally:
        _step.reset(token)


def prefix_of(name: str) -> str:
    """Of the names of what a step begins."""
    return f"{_step.get()}{name}: "


def running_step() -> str:
    """The prefix of the step that runs here; empty: none."""
    return _step.get()


class Names:
    """Those that one attempt has used."""

    def __init__(self) -> None:
        self._used: defaultdict[str, set[str]] = defaultdict(set)  # by kind

    def claim(self, kind: str, name: str | None, compare: Comparison = lambda _: None) -> str:
        """Raises ValueError if this attempt has used the name, Rejected if an earlier attempt did something else under
        it. Without a name it is the next number under which no earlier attempt did something else."""
        used = self._used[kind]
        if name is None:
            name = self._number(kind, used, compare)
        elif not name or len(name) > MAX_NAME_CHARS:
            raise Unacceptable(f"The name of a {kind} has 1 to {MAX_NAME_CHARS} characters.")
        else:
            name = clean(name)
            if compare(name) is False:
                raise _differs(kind, name)
        if name in used:
            raise ValueError(f"this attempt has already begun the {kind} {name!r}: give each {kind} its own name")
        used.add(name)
        return name

    def unnamed(self, kind: str) -> tuple[str, list[int]]:
        """How a name without one begins here, and the numbers that are in use."""
        prefix = f"{_step.get()}{kind}"
        numbers = (name.removeprefix(f"{prefix} ") for name in self._used[kind] if name.startswith(f"{prefix} "))
        return prefix, [int(number) for number in numbers if re.fullmatch("[1-9][0-9]{0,7}", number)]

    def _number(self, kind: str, used: set[str], compare: Comparison) -> str:
        another: str | None = None  # the first name that an earlier attempt used for something else
        for number in itertools.count(1):
            name = f"{_step.get()}{kind} {number}"
            if name in used:
                continue
            is_same = compare(name)
            if is_same is None and another is not None:
                raise _differs(kind, another)
            if is_same is not False:
                return name
            another = another or name
        raise AssertionError("unreachable")


def _differs(kind: str, name: str) -> Rejected:
    return Rejected(f"This attempt does something else as the {kind} {name!r} than an earlier attempt did.")
