"""Tells telemetry of the calls of models that Treadle's own agents make. Frameworks and SDKs have instrumentation of
their own."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service import telemetry


class ModelCall:
    """An answered call of a model: the model that answered, why it stopped, and its token counts by
    their names in Anthropic's API."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.stop_reason: str | None = None
        self.usage: Mapping[str, int] = {}


@contextmanager
def model_call(provider: str, model: str) -> Iterator[ModelCall]:
    """Around one call of the model; `provider` as in OpenTelemetry's conventions, such as `anthropic`."""
    call, began = ModelCall(), time.monotonic()
    error: str | None = None
    try:
        yield call
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        telemetry.model_call(
            provider=provider,
            model=model,
            answered_by=call.model,
            stop_reason=call.stop_reason,
            usage=call.usage,
            error=error,
            seconds=time.monotonic() - began,
        )
