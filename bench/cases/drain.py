"""Drain: no-op messages that are already queued, from the first claim to the last finish by the times in the rows."""

from functools import partial

from bench import fill, meter
from bench.processes import BenchError
from bench.report import Figure, Figures, median
from bench.stage import CaseDatabase, Stage, rate

ROUND_LIMIT_SECONDS = 180.0
# An agent that does nothing ends before the next claim returns: with twice the slots, half run while half are claimed.
TUNED_SETTINGS = {"WORKER_CONCURRENCY": "400"}

COMPLETED = "select coalesce(sum(completed), 0) >= $1 from treadle.counters"

TIME_SPAN = """
    select count(*) as messages, extract(epoch from max(completed_at) - min(started_at))::float8 as seconds
    from treadle.messages m left join treadle.threads t on t.id = m.thread
    where m.completed_at >= $1 and ($2::text is null or t.thread_id like $2)"""

EVENT_COUNT = (
    "select count(*) from treadle.events e join treadle.messages m using (message_id) where m.completed_at >= $1"
)

# The messages of threads that began before the previous message of their thread had ended.
DISORDER = """
    select count(*) from (
        select m.started_at < lag(m.completed_at) over (partition by m.thread order by m.ord) as early
        from treadle.messages m where m.thread is not null and m.completed_at is not null) m where m.early"""


async def run(stage: Stage) -> None:
    count, times = stage.pick(20_000, 2_000), stage.pick(3, 1)
    for name, workers, settings in (
        ("1 worker", 1, TUNED_SETTINGS),
        ("2 workers", 2, TUNED_SETTINGS),
        ("1 worker, default settings", 1, {}),
    ):
        async with stage.base(name) as base:
            for _ in range(workers):
                await base.worker(**settings)
            await stage.repeat(name, times, partial(drain, base, count))

    sizes = [("1,000 threads, 10k", stage.pick(10_000, 2_000), times)]
    sizes += [] if stage.quick else [("1,000 threads, 100k", 100_000, 1)]
    for name, messages, rounds in sizes:
        async with stage.base(name) as base:
            await base.worker(**TUNED_SETTINGS)
            await stage.repeat(name, rounds, partial(drain, base, messages, threads=1_000))
    await _beside_hot(stage)


async def drain(base: CaseDatabase, count: int, *, threads: int = 0) -> Figures:
    """Queue so many messages while the queue is paused, resume it, wait for the last one; `base` has its workers."""
    await pause(base, True)
    await fill.queued(base.dsn, count, thread="t", threads=threads)
    await fill.fold_and_vacuum(base.sql)
    done = await base.sql.fetchval("select sum(completed) from treadle.counters")
    since = await base.sql.fetchval("select treadle.clock()")
    before = await base.read()
    await pause(base, False)
    await base.until(COMPLETED, done + count, seconds=ROUND_LIMIT_SECONDS, what=f"{count} messages")
    after = await base.read()
    span = await base.sql.fetchrow(TIME_SPAN, since, None)
    assert span is not None
    await _check(base, since, span["messages"], count)
    return rate(count, span["seconds"]) | meter.cost(before, after, count)


async def pause(base: CaseDatabase, paused: bool) -> None:
    await base.sql.execute("select treadle.pause('default', $1), pg_notify('treadle_work', '*')", paused)


async def _check(base: CaseDatabase, since: object, messages: int, expected: int) -> None:
    """No message lost or doubled, each thread in order: otherwise the figures mean nothing."""
    events = await base.sql.fetchval(EVENT_COUNT, since)
    disorder = await base.sql.fetchval(DISORDER)
    if (messages, events, disorder) != (expected, expected * 3, 0):
        raise BenchError(
            f"{messages} of {expected} messages were completed, with {events} of {expected * 3} events,"
            f" {disorder} out of order."
        )


async def _beside_hot(stage: Stage) -> None:
    """A thread with many messages beside 1,000 others, against the same 1,000 alone."""
    hot, others = stage.pick(20_000, 2_000), stage.pick(10_000, 2_000)
    async with stage.base("beside_hot") as base:
        await base.worker(**TUNED_SETTINGS)
        rounds = []
        for n in range(stage.pick(3, 1)):
            stage.tell(f"beside a hot thread ({n + 1})")
            alone = await drain(base, others, threads=1_000)
            rounds.append(await _with_hot(base, hot, others) | {"alone": alone["rate"]})
        figures = median(rounds)
        figures["share"] = Figure(figures["rate"].value / figures["alone"].value, "x")
        stage.record("beside a hot thread", figures, rounds)


async def _with_hot(base: CaseDatabase, hot: int, others: int) -> Figures:
    await pause(base, True)
    await fill.queued(base.dsn, hot, thread="hot", threads=1)
    await fill.queued(base.dsn, others, thread="t", threads=1_000)
    await fill.fold_and_vacuum(base.sql)
    since = await base.sql.fetchval("select treadle.clock()")
    before = await base.read()
    await pause(base, False)
    await base.until(
        "select sum(completed + failed + cancelled) = sum(message_count) from treadle.thread_overview"
        " where thread_id like 't%'",
        seconds=ROUND_LIMIT_SECONDS,
        what="the threads beside a hot one",
    )
    after = await base.read()
    span = await base.sql.fetchrow(TIME_SPAN, since, "t%")
    slow = await base.sql.fetchrow(TIME_SPAN, since, "hot%")
    assert span is not None
    assert slow is not None
    await base.sql.execute("select treadle.delete_thread('hot0')")
    return (
        rate(others, span["seconds"])
        | {"hot": Figure(slow["messages"] / span["seconds"], "messages/s")}
        | meter.cost(before, after, others + slow["messages"])
    )
