"""The trace of an attempt, where the program has OpenTelemetry."""


def go_on_with(traceparent: str | None) -> None:
    """Make the span that a W3C trace context names the current one of this task: instrumented libraries, and spans that
    the agent begins, are its children."""
    if traceparent is None:
        return
    try:
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return
    context.attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context.Context()))
