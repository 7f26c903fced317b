"""Churn: messages come and go while another transaction stays open and keeps vacuum from removing dead rows.

*Calls*: one connection repeats the life of 101 messages as fast as it can, beside an old snapshot. The case compares
the times of the calls in the first and in the last tenth.

*Drains*: a worker drains what a client submits, alone and then beside an open transaction, without and with threads.
The case compares the rates and the CPU of PostgreSQL. Rows `beside nothing` have no such transaction: they show how
much of a difference comes from the age of the database.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator

from bench import fill, meter
from bench.cases.drain import TUNED_SETTINGS
from bench.operations import Round
from bench.report import Figure, Figures
from bench.stage import CaseDatabase, Stage, rate
from service.db.pool import Database

CHORE_INTERVAL_SECONDS = 1.0  # seconds
DEAD_ROWS = "select sum(n_dead_tup) from pg_stat_user_tables where schemaname in ('treadle', 'pgmq')"

OTHERS = {
    "nothing": "select",
    "a snapshot": "begin isolation level repeatable read; select from treadle.messages limit 1",
    "a writer": "begin; create table theirs ()",
    "a submit": "begin; select treadle.submit('x'::text, agent => 'noop', thread_id => 'theirs')",
}
DRAINS = (
    *((0, "nothing"), (0, "a writer"), (0, "a submit")),
    *((20, "nothing"), (20, "a snapshot")),
    *((1_000, "nothing"), (1_000, "a snapshot"), (1_000, "a writer")),
)
TIME_SHARES = 10  # of the time with an open transaction; the last one counts
BACKLOG_MESSAGES = 4_000  # the client keeps so many queued, so that the worker never waits
BATCH_MESSAGES = 200  # that the client submits at once; it holds their threads meanwhile

WARM = "select coalesce(sum(completed), 0) >= $1 from treadle.queue_counts"
WARM_MESSAGES = 2_000
COMPLETED = "select coalesce(sum(completed), 0)::bigint from treadle.queue_counts"
QUEUED = "select coalesce(sum(queued), 0)::bigint from treadle.queue_counts"


LISTS = (
    *("GET /queue", "GET /queues", "GET /stats", "GET /threads"),
    *("GET /messages", "GET /messages?state=failed", "GET /messages?agent=none"),
)


async def run(stage: Stage) -> None:
    await _calls(stage)
    for threads, other in DRAINS:
        await _drain(stage, threads, other)


async def _calls(stage: Stage) -> None:
    seconds = stage.pick(180, 10)
    async with stage.base("churn") as base:
        await fill.queued(base.dsn, 1_000)
        await fill.fold_and_vacuum(base.sql)
        database = Database(base.dsn, name="bench", size=1)
        try:
            round = Round(database, base.sql, only=LISTS)
            for _ in range(6):
                await round.turn()
            async with _held(stage, base, OTHERS["a snapshot"]):
                parts = [await _stretch(stage, round, seconds / 10, f"{n * 10}%") for n in range(10)]
                await base.sql.execute("select pg_stat_clear_snapshot()")
                dead = await base.sql.fetchval(DEAD_ROWS)
        finally:
            await database.close()
    stage.record("the first tenth", parts[0])
    stage.record("the last tenth", parts[-1] | {"dead_rows": Figure(float(dead or 0), "rows")})
    growth = {name: figure.value / parts[0][name].value for name, figure in parts[-1].items() if name != "turns"}
    stage.record(
        "worst growth",
        {"growth": Figure(max(growth.values()), "x")} | {name: Figure(ratio, "x") for name, ratio in growth.items()},
        part=": growth",
    )


async def _stretch(stage: Stage, round: Round, seconds: float, name: str) -> Figures:
    stage.tell(f"a snapshot is held: {name}")
    round.forget()
    now = began = time.monotonic()
    due = now
    while now < began + seconds:
        if now >= due:
            await round.chores()
            due = now + CHORE_INTERVAL_SECONDS
        await round.turn()
        now = time.monotonic()
    figures = {key: Figure(statistics.median(values), "ms") for key, values in round.taken.items()}
    return figures | {"turns": Figure(len(round.taken["claim(100)"]), "")}


async def _drain(stage: Stage, threads: int, other: str) -> None:
    """The rate and the cost beside an open transaction, in the last share of the time, against those without it."""
    name = f"{threads:,} threads, beside {other}" if threads else f"no threads, beside {other}"
    seconds = stage.pick(60, 10)
    async with stage.base(f"churn {threads} {other}") as base:
        await base.worker(**TUNED_SETTINGS)
        async with _feeding(base, threads):
            stage.tell(f"{name}: before it")
            await base.until(WARM, WARM_MESSAGES, seconds=120, what="the first messages")
            alone = await _measured(base, seconds / TIME_SHARES)
            async with _held(stage, base, OTHERS[other]):
                stage.tell(name)
                await asyncio.sleep(seconds * (TIME_SHARES - 1) / TIME_SHARES)
                beside = await _measured(base, seconds / TIME_SHARES)
    share = beside["rate"].value / alone["rate"].value
    growth = beside["cpu_postgres"].value / alone["cpu_postgres"].value
    figures = {"alone": alone["rate"], "share": Figure(share, "x"), "cpu_growth": Figure(growth, "x")}
    stage.record(name, beside | figures, part=": drains")


async def _measured(base: CaseDatabase, seconds: float) -> Figures:
    before, done, began = await base.read(), await base.sql.fetchval(COMPLETED), time.monotonic()
    await asyncio.sleep(seconds)
    base.processes.check()
    after, completed = await base.read(), await base.sql.fetchval(COMPLETED) - done
    return rate(completed, time.monotonic() - began) | meter.cost(before, after, max(1, completed))


@contextlib.asynccontextmanager
async def _feeding(base: CaseDatabase, threads: int) -> AsyncIterator[None]:
    """Keep the queue filled: in batches as clients send them, over all threads in turns."""

    async def feed() -> None:
        sql = await base.connect()
        fed = 0
        try:
            while True:
                missing = BACKLOG_MESSAGES - await sql.fetchval(QUEUED)
                for _ in range(missing // BATCH_MESSAGES):
                    await fill.submit(sql, BATCH_MESSAGES, thread="t", threads=threads, start=fed)
                    fed += BATCH_MESSAGES
                await asyncio.sleep(0.02)
        finally:
            await sql.close()

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _held(stage: Stage, base: CaseDatabase, statements: str) -> AsyncIterator[None]:
    """A connection that has executed the statements and keeps its transaction open."""
    holding = await stage.server.connect(base.name)
    try:
        await holding.execute(statements)
        yield
    finally:
        await holding.close()
