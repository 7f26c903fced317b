"""OpenTelemetry traces of a worker (the extra `otel`): a span for the wait of a message in its queue, for each attempt
at it, for each step, for each tool whose call and result the agent logs, for each call of a model by an agent of
Treadle's own, for each record that an agent publishes, and for each attempt at the delivery of a webhook.

The span of an attempt is current while its agent runs: instrumented libraries continue the trace, and so do the
messages that the agent sends. The trace is that of the traceparent with which the message was submitted, or one of the
message itself. Span ids are derived from the message and the attempt, so that an attempt links to the one before,
whichever worker ran it.
"""

import contextvars
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from opentelemetry import context as contexts
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from service import telemetry
from service.errors import TreadleError
from service.leases.model import Claim
from service.spans import NANOSECONDS_PER_SECOND, begin_attempt, end_attempt, parent_of, tell_wait, traceparent_of
from service.telemetry import TRACE_PARENT, Work

FindParents = Callable[[Sequence[UUID]], Awaitable[dict[UUID, str]]]


class OtelTraces:
    """Implements service.worker.traces.Traces. `provider` has DerivedIds; `find_parents` looks up the traceparent of
    messages."""

    def __init__(self, provider: TracerProvider, find_parents: FindParents) -> None:
        self._tracer = provider.get_tracer("treadle")
        self._find_parents = find_parents
        self._spans: dict[tuple[UUID, int], Span] = {}  # by message and attempt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """End spans meanwhile."""
        with telemetry.listening(
            telemetry.finish.listen(self._finish),
            telemetry.loss.listen(self._lose),
            telemetry.step.listen(self._step),
            telemetry.tool.listen(self._tool),
            telemetry.model_call.listen(self._model_call),
            telemetry.publish.listen(self._publish),
        ):
            yield

    async def begin(self, claims: Sequence[Claim]) -> None:
        try:
            parents = await self._find_parents([claim.message_id for claim in claims]) if claims else {}
        except TreadleError:
            parents = {}  # a trace is not worth an attempt
        for claim in claims:
            self._spans[claim.message_id, claim.attempt] = self._begin(claim, parents.get(claim.message_id))

    def context_of(self, claim: Claim) -> contextvars.Context | None:
        span = self._spans.get((claim.message_id, claim.attempt))
        if span is None:
            return None
        own = contextvars.copy_context()
        own.run(contexts.attach, set_span_in_context(span))
        own.run(TRACE_PARENT.set, traceparent_of(span))
        return own

    def _begin(self, claim: Claim, traceparent: str | None) -> Span:
        parent = parent_of(traceparent)
        if claim.attempt == 1:
            tell_wait(self._tracer, claim, parent)
        return begin_attempt(self._tracer, claim, parent, time.time_ns())

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        if span := self._spans.pop((work.message_id, work.attempt), None):
            end_attempt(span, outcome, status)

    def _lose(self, *, work: Work) -> None:
        if span := self._spans.pop((work.message_id, work.attempt), None):
            span.set_status(Status(StatusCode.ERROR, "The lease was lost."))
            span.end()

    def _step(self, *, work: Work, name: str, seconds: float) -> None:
        self._tell(work, f"step {name}", seconds, {"treadle.step": name})

    def _tool(self, *, work: Work, name: str, call: str, failed: bool, seconds: float) -> None:
        facts = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.call.id": call}
        self._tell(work, f"execute_tool {name}", seconds, facts, failed=failed)

    def _model_call(
        self,
        *,
        provider: str,
        model: str,
        answered_by: str | None,
        stop_reason: str | None,
        usage: Mapping[str, int],
        error: str | None,
        seconds: float,
    ) -> None:
        """In the context of its attempt, as the spans of instrumented libraries are."""
        now = time.time_ns()
        facts: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            **({"gen_ai.response.model": answered_by} if answered_by else {}),
            **({"gen_ai.response.finish_reasons": [stop_reason]} if stop_reason else {}),
            **{f"gen_ai.usage.{name}": usage[name] for name in ("input_tokens", "output_tokens") if name in usage},
            **({"error.type": error} if error else {}),
        }
        began = now - int(seconds * NANOSECONDS_PER_SECOND)
        span = self._tracer.start_span(f"chat {model}", kind=SpanKind.CLIENT, attributes=facts, start_time=began)
        if error:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    def _publish(self, *, work: Work, topic: str, record_id: str) -> None:
        facts = {
            "messaging.operation.name": "publish",
            "messaging.destination.name": topic,
            "messaging.message.id": record_id,
        }
        self._tell(work, f"publish {topic}", 0.0, facts, kind=SpanKind.PRODUCER)

    def _tell(
        self,
        work: Work,
        name: str,
        seconds: float,
        facts: dict[str, str],
        *,
        failed: bool = False,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        """A span of what an attempt has just done, for so many seconds."""
        if attempt := self._spans.get((work.message_id, work.attempt)):
            now = time.time_ns()
            began = now - int(seconds * NANOSECONDS_PER_SECOND)
            span = self._tracer.start_span(name, set_span_in_context(attempt), kind, attributes=facts, start_time=began)
            if failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end(now)
