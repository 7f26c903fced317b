"""What the API asks of traces for remote workers: the trace context of an attempt. Without OpenTelemetry it is that of
the submit."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol
from uuid import UUID

from service.leases.model import RemoteClaim

FindParents = Callable[[Sequence[UUID]], Awaitable[dict[UUID, str]]]


class RemoteTraces(Protocol):
    def begin(self, claim: RemoteClaim) -> str | None:
        """The W3C trace context that the attempt goes on with; it starts now."""

    def listening(self) -> AbstractAsyncContextManager[None]:
        """Export spans of attempts that end meanwhile."""


MakeTraces = Callable[[FindParents], RemoteTraces]


class NoRemoteTraces:
    def begin(self, claim: RemoteClaim) -> str | None:
        return claim.traceparent

    def listening(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()
