"""What a worker asks of traces: a context for each attempt. Without OpenTelemetry an attempt gets no context."""

from collections.abc import Sequence
from contextvars import Context
from typing import Protocol

from service.leases.model import Claim


class Traces(Protocol):
    async def begin(self, claims: Sequence[Claim]) -> None:
        """Begin the spans of these attempts, which start next."""

    def context_of(self, claim: Claim) -> Context | None:
        """The context to run the attempt in; None: that of the caller."""


class NoTraces:
    async def begin(self, claims: Sequence[Claim]) -> None:
        return

    def context_of(self, claim: Claim) -> Context | None:
        return None
