"""The names of what an attempt runs, sends, publishes and asks: the same in every attempt of a worker of any kind."""

import contextlib
import contextvars
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator

from service.agents.contract import Rejected, Unacceptable
from service.agents.texts import clean
from service.limits import MAX_STEP_NAME_CHARS

# The step that runs here. Unnamed sends and questions are numbered within their step: if the step is not run again, the
# numbers after it stay the same.
_step: contextvars.ContextVar[str] = contextvars.ContextVar("step", default="")

_DOES_ANOTHER = {
    "send": "sends another message",
    "publish": "publishes another record",
    "input": "asks another question",
}

# Whether earlier attempts did the same under a name: True, False if they did something else, None if nothing.
Comparison = Callable[[str], bool | None]


class Names:
    """Those that one attempt has used."""

    def __init__(self) -> None:
        self._used: defaultdict[str, set[str]] = defaultdict(set)  # by kind
        self._claimed: defaultdict[str, int] = defaultdict(int)  # by prefix: the unnamed numbers from 1 in use

    def claim(self, kind: str, name: str | None, compare: Comparison = lambda _: None) -> str:
        """The name of a step, a sent message or a question. One without a name takes the number under which an earlier
        attempt did the same, else the next one.

        Raises ValueError if this attempt has used the name, Unacceptable if it is empty or too long, Rejected if an
        earlier attempt did something else under it.
        """
        if name is None:
            name = self._number(kind, compare)
        elif not name or len(name) > MAX_STEP_NAME_CHARS:
            raise Unacceptable(f"the name of a {kind} has 1 to {MAX_STEP_NAME_CHARS} characters")
        else:
            name = clean(name)
            if compare(name) is False:
                raise _differs(kind, name)
        if name in self._used[kind]:
            raise ValueError(f"this attempt has already begun the {kind} {name!r}: give each {kind} its own name")
        self._used[kind].add(name)
        return name

    def unnamed(self, kind: str) -> tuple[str, list[int]]:
        """How a name without one begins here, and the numbers that are in use."""
        prefix = f"{_step.get()}{kind}"
        numbers = (name.removeprefix(f"{prefix} ") for name in self._used[kind] if name.startswith(f"{prefix} "))
        return prefix, [int(number) for number in numbers if re.fullmatch("[1-9][0-9]{0,7}", number)]

    def _number(self, kind: str, compare: Comparison) -> str:
        """Sends and questions that run concurrently may come in another order than in an earlier attempt."""
        used, prefix = self._used[kind], f"{_step.get()}{kind}"
        another: str | None = None  # the first name that an earlier attempt used for something else
        while f"{prefix} {self._claimed[prefix] + 1}" in used:
            self._claimed[prefix] += 1
        for number in itertools.count(self._claimed[prefix] + 1):
            name = f"{prefix} {number}"
            if name in used:
                continue
            is_same = compare(name)
            if is_same:
                return name
            if is_same is None:
                if another is not None:
                    raise _differs(kind, another)
                return name
            another = another or name
        raise AssertionError("unreachable")


def _differs(kind: str, name: str) -> Rejected:
    return Rejected(
        f"This attempt {_DOES_ANOTHER[kind]} as {name!r} than an earlier attempt did: make its content in a step, or"
        f" give each {kind} its own name, so that it is the same in every attempt."
    )


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
