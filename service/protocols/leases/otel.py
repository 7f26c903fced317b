"""OpenTelemetry traces of an API process (the extra `otel`): for remote workers, a span for the wait of a message in
its queue and for each attempt, as the workers of the installation have them.

The claim tells the id of the attempt's span, which is derived: the API process that takes its end, which may be another
one, exports it. An attempt that is lost has no end and no span. What the worker's program does within the attempt has
its spans there.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from opentelemetry.sdk.trace import TracerProvider

from service import telemetry
from service.batching import Batcher
from service.errors import TreadleError
from service.leases.model import RemoteClaim
from service.protocols.leases.traces import FindParents
from service.spans import NANOSECONDS_PER_SECOND, begin_attempt, end_attempt, parent_of, tell_wait, traceparent_of
from service.telemetry import Work

LOOKUP_MESSAGES = 100  # in one call


class OtelRemoteTraces:
    """Implements RemoteTraces. `provider` has DerivedIds; `find_parents` looks up the traceparent of messages."""

    def __init__(self, provider: TracerProvider, find_parents: FindParents) -> None:
        self._tracer = provider.get_tracer("treadle")
        self._find_parents = find_parents
        self._parents: Batcher[UUID, str | None] = Batcher(self._look_up, limit=LOOKUP_MESSAGES)
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        stop = telemetry.finish.listen(self._finish)
        try:
            yield
        finally:
            stop()
            await asyncio.gather(*self._ending, return_exceptions=True)

    def begin(self, claim: RemoteClaim) -> str | None:
        parent = parent_of(claim.traceparent)
        if claim.attempt == 1:
            tell_wait(self._tracer, claim, parent)
        return traceparent_of(begin_attempt(self._tracer, claim, parent, time.time_ns()))

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        ended = time.time_ns()
        task = asyncio.create_task(
            self._export(work, outcome, status, ended - int(seconds * NANOSECONDS_PER_SECOND), ended)
        )
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _export(self, work: Work, outcome: str, status: str, began: int, ended: int) -> None:
        try:
            parent = parent_of(await self._parents.submit(work.message_id))
        except TreadleError:
            parent = parent_of(None)  # a trace is not worth an error
        end_attempt(begin_attempt(self._tracer, work, parent, began), outcome, status, ended)

    async def _look_up(self, message_ids: Sequence[UUID], _: bool) -> list[str | None]:
        found = await self._find_parents(message_ids)
        return [found.get(message_id) for message_id in message_ids]
