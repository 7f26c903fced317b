"""Spans of OpenTelemetry (the extra `otel`) that workers and API processes have in common: of the wait of a message in
its queue, and of an attempt at it.

Their ids are derived from the message and the attempt, so that an attempt links to the one before, whichever process
exports it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.limits import WEBHOOK_QUEUE
from service.telemetry import Work
from service.trace_ids import own_trace, span_of

PROPAGATOR = TraceContextTextMapPropagator()
NANOSECONDS_PER_SECOND = 1_000_000_000

_derived: ContextVar[tuple[int, int] | None] = ContextVar("derived", default=None)  # ids of the next trace and span


class DerivedIds(RandomIdGenerator):
    """Random ids, unless a function of this module gives the next ones."""

    def generate_trace_id(self) -> int:
        ids = _derived.get()
        return ids[0] if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        ids = _derived.get()
        return ids[1] if ids else super().generate_span_id()


def new_provider(service: str) -> TracerProvider:
    """Exports to OTEL_EXPORTER_OTLP_ENDPOINT, as the other variables of OpenTelemetry say."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}), id_generator=DerivedIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def parent_of(traceparent: str | None) -> Context:
    return PROPAGATOR.extract({"traceparent": traceparent} if traceparent else {}, Context())


def traceparent_of(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, set_span_in_context(span))
    return carrier.get("traceparent")


def tell_wait(tracer: Tracer, work: Work, parent: Context) -> None:
    """The span of the wait of a message that starts now."""
    now = time.time_ns()
    submitted = min(now, int(work.created_at.timestamp() * NANOSECONDS_PER_SECOND))
    with _next_ids(work, attempt=0):
        tracer.start_span("wait in queue", parent, attributes=_facts(work), start_time=submitted).end(now)


def begin_attempt(tracer: Tracer, work: Work, parent: Context, began: int) -> Span:
    """`began`: in nanoseconds since 1970."""
    name, kind = f"invoke_agent {work.agent}", SpanKind.CONSUMER
    if work.queue == WEBHOOK_QUEUE:
        name, kind = "deliver webhook", SpanKind.CLIENT
    with _next_ids(work, attempt=work.attempt):
        span = tracer.start_span(name, parent, kind, attributes=_facts(work), start_time=began)
    if work.attempt > 1:
        found = span.get_span_context()
        before = SpanContext(found.trace_id, span_of(work.message_id, work.attempt - 1), True, found.trace_flags)
        span.add_link(before, {"treadle.attempt": work.attempt - 1})
    return span


def end_attempt(span: Span, outcome: str, status: str, ended: int | None = None) -> None:
    """`ended`: in nanoseconds since 1970; None: now."""
    span.set_attributes({"treadle.outcome": outcome, "treadle.state": status})
    if status == "failed" or outcome in {"error", "rejected", "lost"}:
        span.set_status(Status(StatusCode.ERROR))
    span.end(ended)


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
    token = _derived.set((own_trace(work.message_id), span_of(work.message_id, attempt)))
    try:
        yield
    finally:
        _derived.reset(token)
