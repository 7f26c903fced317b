"""What the parts of one attempt's context share: the claim, its backend, names in use, and messages to be sent."""

import asyncio
import contextlib
import contextvars
from collections import Counter
from collections.abc import Iterator
from typing import Any

from service.leases.model import Claim, EarlierResults
from service.limits import MAX_STEP_NAME_CHARS
from service.worker.context.backend import ContextBackend
from service.worker.outcome import clean, encode

# The step that runs here. Unnamed sends and questions are numbered within their step: if the step is not run again, the
# numbers after it stay the same.
_step: contextvars.ContextVar[str] = contextvars.ContextVar("step", default="")


class AttemptScope:
    def __init__(self, claim: Claim, backend: ContextBackend, *, max_event_bytes: int) -> None:
        self.claim = claim
        self.backend = backend
        self.sent: dict[str, str | None] = {}  # ids of this attempt's messages, to the thread whose turn each takes
        self.unsent: dict[str, dict[str, Any]] = {}  # by id: committed with the next step, or with the end
        self._max_event_bytes = max_event_bytes
        self._names: set[str] = set()
        self._unnamed: Counter[str] | None = None
        self._earlier_results: asyncio.Task[EarlierResults] | None = None

    def claim_name(self, kind: str, name: str | None) -> str:
        """The name of a step, a sent message or a question; raises ValueError if this attempt has used it."""
        if name is None:
            name = self._number(f"{_step.get()}{kind}")
        elif not name or len(name) > MAX_STEP_NAME_CHARS:
            raise ValueError(f"the name of a {kind} has 1 to {MAX_STEP_NAME_CHARS} characters")
        name = clean(name)
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

    def take_unsent(self) -> str | None:
        """The messages to be sent, a JSON array, for the transaction that commits them; None if there are none."""
        if not self.unsent:
            return None
        unsent, self.unsent = self.unsent, {}
        return encode(list(unsent.values()))

    def fit(self, data: Any, what: str) -> str:
        """JSON text; raises ValueError if it is larger than MAX_EVENT_BYTES."""
        text = encode(data)
        if (size := len(text.encode())) > self._max_event_bytes:
            raise ValueError(f"{what} has at most {self._max_event_bytes} bytes (MAX_EVENT_BYTES); this one has {size}")
        return text

    def _number(self, name: str) -> str:
        if self._unnamed is None:
            self._unnamed = Counter()
        self._unnamed[name] += 1
        return f"{name} {self._unnamed[name]}"


@contextlib.contextmanager
def within_step(name: str) -> Iterator[None]:
    """Unnamed sends and questions in this block are numbered within the step."""
    token = _step.set(f"{_step.get()}{name}: ")
    try:
        yield
    finally:
        _step.reset(token)
