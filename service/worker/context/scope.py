"""What the parts of one attempt's context share: the claim, its backend, names in use, and messages to be sent."""

import asyncio
from typing import Any

from service.agents.contract import Rejected, Unacceptable
from service.agents.step_names import Names, prefix_of, running_step
from service.agents.thread_bridge import require_loop
from service.agents.usage import Usage
from service.leases.model import Claim, EarlierResults
from service.telemetry import TRACE_PARENT
from service.worker.context.backend import ContextBackend
from service.worker.outcome import encode


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
        self.names = Names()
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
        if self.claim.delivery == "exactly_once" and running_step():
            raise Rejected(f"A message that is delivered exactly once may {what} outside of its steps only.")

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
        self._usage.count(usage, running_step())
        self.backend.count(usage, running_step())

    def usage_of(self, name: str) -> dict[str, Any] | None:
        """The usage that was counted within this step."""
        return None if self._usage is None else self._usage.of_step(prefix_of(name))

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
