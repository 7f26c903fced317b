"""OpenTelemetry traces of a worker (the extra `otel`): a span for the wait of a message in its queue, for each attempt
at it, for each step, for each tool whose call and result the agent logs, for each call of a model by an agent of
Treadle's own, for each record that an agent publishes, and for each attempt at the delivery of a webhook.

The span of an attempt is current while its agent runs: instrumented libraries continue the trace, and so do the
messages that the agent sends. The trace is that of the traceparent with which the message was submitted, or one of the
message itself. Span ids are derived from the message and the attempt, so that an attempt links to the one before,
whichever worker ran it.
"""

import contextvars
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from opentelemetry import context as contexts
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import telemetry
from service.errors import TreadleError
from service.leases.model import Claim
from service.limits import WEBHOOK_QUEUE
from service.telemetry import TRACE_PARENT, Work

PROPAGATOR = TraceContextTextMapPropagator()
NANOSECONDS = 1_000_000_000

FindParents = Callable[[Sequence[UUID]], Awaitable[dict[UUID, str]]]
_derived: ContextVar[tuple[int, int] | None] = ContextVar("derived", default=None)  # ids of the next trace and span


class DerivedIds(RandomIdGenerator):
    """Random ids, unless `derived` gives the next ones."""

    def generate_trace_id(self) -> int:
        ids = _derived.get()
        return ids[0] if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        ids = _derived.get()
        return ids[1] if ids else super().generate_span_id()


def new_provider() -> TracerProvider:
    """Exports to OTEL_EXPORTER_OTLP_ENDPOINT, as the other variables of OpenTelemetry say."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "treadle-worker"}), id_generator=DerivedIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


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
        with ExitStack() as stops:
            for stop in (
                telemetry.finish.listen(self._finish),
                telemetry.loss.listen(self._lose),
                telemetry.step.listen(self._step),
                telemetry.tool.listen(self._tool),
                telemetry.model_call.listen(self._model_call),
                telemetry.publish.listen(self._publish),
            ):
                stops.callback(stop)
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
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier, set_span_in_context(span))
        own.run(contexts.attach, set_span_in_context(span))
        own.run(TRACE_PARENT.set, carrier.get("traceparent"))
        return own

    def _begin(self, claim: Claim, parent: str | None) -> Span:
        context = PROPAGATOR.extract({"traceparent": parent} if parent else {}, contexts.Context())
        facts = _facts(claim)
        now = time.time_ns()
        if claim.attempt == 1:
            submitted = min(now, int(claim.created_at.timestamp() * NANOSECONDS))
            with _next_ids(claim, attempt=0):
                self._tracer.start_span("wait in queue", context, attributes=facts, start_time=submitted).end(now)
        name, kind = f"invoke_agent {claim.agent}", SpanKind.CONSUMER
        if claim.queue == WEBHOOK_QUEUE:
            name, kind = "deliver webhook", SpanKind.CLIENT
        with _next_ids(claim, attempt=claim.attempt):
            span = self._tracer.start_span(name, context, kind, attributes=facts, start_time=now)
        if claim.attempt > 1:
            found = span.get_span_context()
            before = SpanContext(found.trace_id, _span_id(claim, claim.attempt - 1), True, found.trace_flags)
            span.add_link(before, {"treadle.attempt": claim.attempt - 1})
        return span

    def _finish(self, *, work: Work, outcome: str, status: str, seconds: float) -> None:
        if span := self._spans.pop((work.message_id, work.attempt), None):
            span.set_attributes({"treadle.outcome": outcome, "treadle.state": status})
            if status == "failed" or outcome in {"error", "rejected", "lost"}:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

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
        began = now - int(seconds * NANOSECONDS)
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
            began = now - int(seconds * NANOSECONDS)
            span = self._tracer.start_span(name, set_span_in_context(attempt), kind, attributes=facts, start_time=began)
            if failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end(now)


def _facts(work: Work) -> dict[str, Any]:
    of_agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": work.agent}
    return {
        **({} if work.queue == WEBHOOK_QUEUE else of_agent),
        "messaging.message.id": str(work.message_id),
        "messaging.destination.name": work.queue,
        "treadle.tenant": work.tenant,
        "treadle.attempt": work.attempt,
    }


@contextmanager
def _next_ids(work: Work, *, attempt: int) -> Iterator[None]:
    token = _derived.set((_digest(work.message_id.bytes, 16), _span_id(work, attempt)))
    try:
        yield
    finally:
        _derived.reset(token)


def _span_id(work: Work, attempt: int) -> int:
    return _digest(work.message_id.bytes + b"%d" % attempt, 8)


def _digest(text: bytes, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:size], "big")
