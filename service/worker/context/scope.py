"""What the parts of one attempt's context share: the claim, its backend, names in use, and messages to be sent."""

import asyncio
import contextlib
import contextvars
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from service.agents.contract import Rejected, Unacceptable
from service.agents.texts import clean
from service.agents.thread_bridge import require_loop
from service.agents.usage import Usage
from service.leases.model import Claim, EarlierResults
from service.limits import MAX_STEP_NAME_CHARS
from service.telemetry import TRACE_PARENT
from service.worker.context.backend import ContextBackend
from service.worker.outcome import encode

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


class AttemptScope:
    def __init__(self, claim: Claim, backend: ContextBackend, *, max_event_bytes: int) -> None:
        self.claim = claim
        self.backend = backend
        self.sent: dict[str, str | None] = {}  # ids of this attempt's messages, to the thread whose turn each takes
        self.unsent: dict[str, dict[str, Any]] = {}  # by id: committed with the next step, or with the end
        self.trace_parent = TRACE_PARENT.get()  # read here: a sync agent calls from another thread
        self._loop = asyncio.get_running_loop()
        self._max_event_bytes = max_event_bytes
        self._usage: Usage | None = None
        self._names: set[str] = set()
        self._claimed: defaultdict[str, int] = defaultdict(int)  # by kind: the unnamed numbers from 1 in use
        self._earlier_results: asyncio.Task[EarlierResults] | None = None

    def require_loop(self) -> None:
        """Raises RuntimeError in another event loop than the agent's."""
        require_loop(self._loop)

    async def require_running(self) -> None:
        """Raises CancelledError if the attempt is over or must end: an agent that ignores that begins nothing more.
        Raises RuntimeError in another event loop."""
        self.require_loop()
        if self.backend.stopped:
            await asyncio.sleep(0)  # an agent that tries for ever must not block the loop
            raise asyncio.CancelledError

    def require_commit_with_end(self, what: str) -> None:
        """Raises Rejected within a step of a message that is delivered exactly once: a later attempt does not run the
        step again, and its records and messages may be committed with the completion only."""
        if self.claim.delivery == "exactly_once" and _step.get():
            raise Rejected(f"A message that is delivered exactly once {what} outside of its steps.")

    def claim_name(self, kind: str, name: str | None, compare: Comparison = lambda _: None) -> str:
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
        if (key := f"{kind}/{name}") in self._names:
            raise ValueError(f"this attempt has already begun the {kind} {name!r}: give each {kind} its own name")
        self._names.add(key)
        return name

    async def earlier_results(self) -> EarlierResults:
        """What earlier attempts left in the log; read once."""
        if self.claim.attempt == 1:
            return EarlierResults()
        if self._earlier_results is None:
            self._earlier_results = asyncio.ensure_future(self.backend.queries.earlier_results(self.claim.message_id))
        return await asyncio.shield(self._earlier_results)

    def count(self, usage: str) -> None:
        """Set usage, a JSON object, for the step that runs here."""
        self._usage = self._usage or Usage()
        self._usage.count(usage, _step.get())
        self.backend.count(usage, _step.get())

    def usage_of(self, name: str) -> dict[str, Any] | None:
        """The usage that was counted within this step."""
        return None if self._usage is None else self._usage.of_step(_prefix(name))

    def take_unsent(self) -> str | None:
        """The messages to be sent, a JSON array, for the transaction that commits them; None if there are none."""
        if not self.unsent:
            return None
        unsent, self.unsent = self.unsent, {}
        return encode(list(unsent.values()))

    def fit(self, data: Any, what: str) -> str:
        """JSON text. Raises Unacceptable for a value that is not JSON, or larger than MAX_EVENT_BYTES."""
        try:
            text = encode(data)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise Unacceptable(f"{what} must be JSON: {reason}") from error
        if (size := len(text.encode())) > self._max_event_bytes:
            limit = f"{self._max_event_bytes} bytes (MAX_EVENT_BYTES)"
            raise Unacceptable(f"{what} has at most {limit}; this one has {size}")
        return text

    def _number(self, kind: str, compare: Comparison) -> str:
        """Sends and questions that run concurrently may come in another order than in an earlier attempt."""
        prefix = f"{_step.get()}{kind}"
        another: str | None = None  # the first name that an earlier attempt used for something else
        while f"{kind}/{prefix} {self._claimed[prefix] + 1}" in self._names:
            self._claimed[prefix] += 1
        for number in itertools.count(self._claimed[prefix] + 1):
            name = f"{prefix} {number}"
            if f"{kind}/{name}" in self._names:
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


def _prefix(name: str) -> str:
    """Of the names of what a step begins."""
    return f"{_step.get()}{name}: "


@contextlib.contextmanager
def within_step(name: str) -> Iterator[None]:
    """Unnamed sends and questions in this block are numbered within the step."""
    token = _step.set(_prefix(name))
    try:
        yield
    finally:
        _step.reset(token)
