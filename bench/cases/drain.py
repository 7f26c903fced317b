"""Drain: no-op messages that are queued already; from the first claim to the last finish, as the rows tell."""

from bench import fill, meter
from bench.processes import BenchError
from bench.report import Figure, Figures, median
from bench.stage import Base, Stage, rate

LIMIT = 180.0  # seconds for one round
# An agent that does nothing is over before the next claim is back: with twice the places, half run while half come.
TUNED = {"WORKER_CONCURRENCY": "200"}

COMPLETED = "select coalesce(sum(completed), 0) >= $1 from treadle.counters"

SPAN = """
    select count(*) as messages, extract(epoch from max(completed_at) - min(started_at))::float8 as seconds
    from treadle.messages m left join treadle.threads t on t.id = m.thread
    where m.completed_at >= $1 and ($2::text is null or t.thread_id like $2)"""

EVENTS = "select count(*) from treadle.events e join treadle.messages m using (message_id) where m.completed_at >= $1"

# In a thread, who begins before the one before has ended?
DISORDER = """
    select count(*) from (
        select m.started_at < lag(m.completed_at) over (partition by m.thread order by m.ord) as early
        from treadle.messages m where m.thread is not null and m.completed_at is not null) m where m.early"""


async def run(stage: Stage) -> None:
    count, times = stage.pick(20_000, 2_000), stage.pick(3, 1)
    for name, workers, settings in (
        ("1 worker", 1, TUNED),
        ("2 workers", 2, TUNED),
        ("1 worker, default settings", 1, {}),
    ):
        async with stage.base(name) as base:
            for _ in range(workers):
                await base.worker(**settings)
            await stage.repeat(name, times, lambda base=base: drain(base, count))

    sizes = [("1,000 threads, 10k", stage.pick(10_000, 2_000), times)]
    sizes += [] if stage.quick else [("1,000 threads, 100k", 100_000, 1)]
    for name, messages, rounds in sizes:
        async with stage.base(name) as base:
            await base.worker(**TUNED)
            await stage.repeat(name, rounds, lambda base=base, n=messages: drain(base, n, threads=1_000))
    await _beside_hot(stage)


async def drain(base: Base, count: int, *, threads: int = 0) -> Figures:
    """Queue so many messages while the queue is paused, let go, wait for the last; `base` has its workers."""
    await pause(base, True)
    await fill.queued(base.dsn, count, thread="t", threads=threads)
    await fill.tidy(base.sql)
    done = await base.sql.fetchval("select sum(completed) from treadle.counters")
    since = await base.sql.fetchval("select treadle.clock()")
    before = await base.read()
    await pause(base, False)
    await base.until(COMPLETED, done + count, seconds=LIMIT, what=f"{count} messages")
    after = await base.read()
    span = await base.sql.fetchrow(SPAN, since, None)
    assert span is not None
    await _check(base, since, span["messages"], count)
    return rate(count, span["seconds"]) | meter.cost(before, after, count)


async def pause(base: Base, paused: bool) -> None:
    await base.sql.execute("select treadle.pause('default', $1), pg_notify('treadle_work', '*')", paused)


async def _check(base: Base, since: object, messages: int, expected: int) -> None:
    """Nothing lost, nothing doubled, each thread in order: else the figures are worth nothing."""
    events = await base.sql.fetchval(EVENTS, since)
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
        await base.worker(**TUNED)
        rounds = []
        for n in range(stage.pick(3, 1)):
            stage.tell(f"beside a hot thread ({n + 1})")
            alone = await drain(base, others, threads=1_000)
            rounds.append(await _with_hot(base, hot, others) | {"alone": alone["rate"]})
        figures = median(rounds)
        figures["share"] = Figure(figures["rate"].value / figures["alone"].value, "x")
        stage.record("beside a hot thread", figures, rounds)


async def _with_hot(base: Base, hot: int, others: int) -> Figures:
    await pause(base, True)
    await fill.queued(base.dsn, hot, thread="hot", threads=1)
    await fill.queued(base.dsn, others, thread="t", threads=1_000)
    await fill.tidy(base.sql)
    since = await base.sql.fetchval("select treadle.clock()")
    before = await base.read()
    await pause(base, False)
    await base.until(
        "select sum(completed + failed + cancelled) = sum(last_ord) from treadle.threads where thread_id like 't%'",
        seconds=LIMIT,
        what="the threads beside a hot one",
    )
    after = await base.read()
    span = await base.sql.fetchrow(SPAN, since, "t%")
    slow = await base.sql.fetchrow(SPAN, since, "hot%")
    assert span is not None
    assert slow is not None
    await base.sql.execute("select treadle.delete_thread('hot0')")
    return (
        rate(others, span["seconds"])
        | {"hot": Figure(slow["messages"] / span["seconds"], "messages/s")}
        | meter.cost(before, after, others + slow["messages"])
    )
