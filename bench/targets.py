"""The targets, for two cores that load, API, worker and PostgreSQL share."""

from typing import Literal

import msgspec


class Target(msgspec.Struct, frozen=True):
    text: str
    case: str
    row: str
    figure: str
    relation: Literal[">=", "<="]
    bound: float


class TargetResult(msgspec.Struct, frozen=True):
    text: str
    relation: str
    bound: float
    value: float | None  # None: not measured in this run
    met: bool | None  # None: not measured, or too little to tell


CHURN_BOUNDS: tuple[tuple[str, Literal[">=", "<="], float], ...] = (("share", ">=", 0.75), ("cpu_growth", "<=", 1.3))

TARGETS = (
    Target("submit: POST /messages, 64 connections, messages/s", "submit", "POST, 64 connections", "rate", ">=", 3_000),
    Target("submit: POST /messages/batch, messages/s", "submit", "batch of 1,000", "rate", ">=", 30_000),
    Target("submit: POST /messages/batch into threads", "submit", "batch of 1,000 into threads", "rate", ">=", 15_000),
    Target("submit: SQL function, messages/s", "submit", "SQL, batches of 1,000", "rate", ">=", 50_000),
    Target("drain: 1 worker process, messages/s", "drain", "1 worker", "rate", ">=", 10_000),
    Target("drain: 2 worker processes, messages/s", "drain", "2 workers", "rate", ">=", 13_000),
    Target("drain: share of pgqueuer's rate in the same run", "peers: ratios", "treadle / pgqueuer", "rate", ">=", 0.8),
    Target("drain: CPU, all processes, us/message", "drain", "1 worker", "cpu_total", "<=", 200),
    Target("drain: WAL, B/message", "drain", "1 worker", "wal", "<=", 3_072),
    Target("threads: strict order, 10k messages, messages/s", "drain", "1,000 threads, 10k", "rate", ">=", 6_000),
    Target("threads: strict order, 100k messages, messages/s", "drain", "1,000 threads, 100k", "rate", ">=", 6_000),
    Target("threads: WAL, B/message", "drain", "1,000 threads, 10k", "wal", "<=", 4_096),
    Target("threads: others beside a hot one, share of their rate", "drain", "beside a hot thread", "share", ">=", 0.8),
    Target("idle: POST to first chunk, p50, ms", "latency", "first chunk", "p50", "<=", 8),
    Target("idle: POST to first chunk, p99, ms", "latency", "first chunk", "p99", "<=", 25),
    Target(
        "beside 500 agents: POST to first chunk, p99, ms", "latency", "first chunk, beside 500 agents", "p99", "<=", 50
    ),
    Target("fairness: p99 wait beside a flood / alone", "fairness", "beside a flood", "p99_ratio", "<=", 3),
    Target("fairness: the same, the flood was first", "fairness", "beside an earlier flood", "p99_ratio", "<=", 3),
    Target("streaming: 1,000 clients x 10 events/s", "streaming", "1,000 clients", "rate", ">=", 9_800),
    Target("streaming: 1,000 clients, emit to socket, p99, ms", "streaming", "1,000 clients", "p99", "<=", 150),
    Target("streaming: memory of a stream, KiB", "streaming", "1,000 clients", "memory", "<=", 40),
    Target("streaming: events lost or doubled", "streaming", "1,000 clients", "lost", "<=", 0),
    Target("streaming: the same, half reconnecting", "streaming", "1,000 clients, half reconnecting", "lost", "<=", 0),
    Target("tokens: 1,000 agents x 50/s: slip, %", "tokens", "1,000 x 50/s, a reader each", "slip", "<=", 3),
    Target("tokens: the same, emit to socket, p99, ms", "tokens", "1,000 x 50/s, a reader each", "p99", "<=", 60),
    Target("tokens: the same, lost or doubled", "tokens", "1,000 x 50/s, a reader each", "lost", "<=", 0),
    Target("tokens: the same, memory of a reader, KiB", "tokens", "1,000 x 50/s, a reader each", "memory", "<=", 25),
    Target("tokens: 150,000/s offered, tokens/s", "tokens", "1,500 x 100/s, a reader each", "rate", ">=", 100_000),
    Target("tokens: the same, CPU of a token, us", "tokens", "1,500 x 100/s, a reader each", "cpu_total", "<=", 15),
    Target("tokens: the same, WAL of a token, B", "tokens", "1,500 x 100/s, a reader each", "wal", "<=", 100),
    Target("crowds: 10,000 idle streams, memory of each, KiB", "crowds", "idle streams", "memory", "<=", 20),
    Target("crowds: 10,000 idle streams, % of a core", "crowds", "idle streams", "busy", "<=", 3),
    Target("crowds: 5,000 submits at once, seconds", "crowds", "5,000 submits at once", "seconds", "<=", 1.5),
    Target("flat: the worst growth, smallest to largest case", "flatness: growth", "worst growth", "growth", "<=", 1.3),
    Target("flat: the worst growth of a list", "flatness: growth", "worst growth", "lists", "<=", 1.3),
    Target("flat: the worst growth in the churn, start to end", "churn: growth", "worst growth", "growth", "<=", 1.3),
    Target("topics: publish, records/s", "topics", "publish, batches of 1,000", "rate", ">=", 30_000),
    Target("topics: POST, 64 connections, records/s", "topics", "POST, 64 connections", "rate", ">=", 3_000),
    Target("topics: publish beside 1M retained", "topics", "publish beside 1,000,000 retained", "growth", "<=", 1.3),
    Target("topics: one subscription, records/s", "topics", "one subscription", "rate", ">=", 7_000),
    Target("topics: 1,000 keys in order, records/s", "topics", "1,000 keys", "rate", ">=", 5_000),
    Target("topics: three subscriptions, each records/s", "topics", "three subscriptions", "rate", ">=", 2_500),
    Target("topics: from the earliest of 1M / live", "topics", "from the earliest of 1,000,000", "growth", "<=", 1.3),
    Target("topics: idle, publish to handler, p50, ms", "topics", "idle: publish to handler", "p50", "<=", 10),
    *(
        Target(
            f"eyes: a drain beside 20 tabs of the {view}, {what}, %",
            "eyes",
            f"20 tabs of the {view}",
            figure,
            "<=",
            3,
        )
        for view in ("overview", "messages")
        for what, figure in (("slower", "slower"), ("of the machine for the tabs", "watching"))
    ),
    Target("eyes: metrics, CPU of a drain, %", "eyes: drain of a worker", "metrics", "dearer", "<=", 2),
    Target("eyes: metrics, CPU of tokens, %", "eyes: tokens of a worker", "metrics", "dearer", "<=", 2),
    Target(
        "plan: mixed loads, plan against measurement, %",
        "capacity: plan / measurement",
        "the furthest",
        "off_ratio",
        "<=",
        20,
    ),
    *(
        Target(f"churn: {row}, {figure}", "churn: drains", row, figure, relation, bound)
        for row in (
            "no threads, beside a writer",
            "no threads, beside a submit",
            "20 threads, beside a snapshot",
            "1,000 threads, beside a snapshot",
            "1,000 threads, beside a writer",
        )
        for figure, relation, bound in CHURN_BOUNDS
    ),
)


def compare(target: Target, value: float | None, *, is_weak: bool = False) -> TargetResult:
    met = None
    if value is not None and not is_weak:
        met = value >= target.bound if target.relation == ">=" else value <= target.bound
    return TargetResult(target.text, target.relation, target.bound, value, met)
