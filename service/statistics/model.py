"""The JSON of statistics."""

from datetime import datetime

from msgspec import Struct


class Percentiles(Struct, frozen=True):
    """Of lengths of time, in seconds: about so many percent were shorter. Null where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class Step(Struct, frozen=True):
    """What happened in a step of time that begins `at`. `name` is that of the queue or the agent where `by` asks for
    one. `wait`: from when a message could run to its first start; `run`: of an attempt; `first_chunk`: from the start
    of an attempt to its first chunk. All three are counted when the attempt ends."""

    at: datetime
    name: str | None
    submitted: int
    completed: int
    failed: int
    retried: int
    cancelled: int
    lost: int
    wait: Percentiles
    run: Percentiles
    first_chunk: Percentiles
    input_tokens: float
    output_tokens: float
    cost: float


class Statistics(Struct, frozen=True):
    """Steps without a message are left out."""

    begin: datetime
    end: datetime
    step_seconds: int
    steps: list[Step]
