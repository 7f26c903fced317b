"""Churn: messages come and go while a long transaction keeps vacuum from removing dead rows.

One connection repeats the life of 101 messages as fast as it can. The case compares the times of the calls in the first
and in the last tenth.
"""

import statistics
import time

from bench import fill
from bench.operations import Round
from bench.report import Figure, Figures
from bench.stage import Stage
from service.db.pool import Database

CHORE_INTERVAL_SECONDS = 1.0  # seconds
DEAD_ROWS = "select sum(n_dead_tup) from pg_stat_user_tables where schemaname in ('treadle', 'pgmq')"


async def run(stage: Stage) -> None:
    seconds = stage.pick(180, 10)
    async with stage.base("churn") as base:
        await fill.queued(base.dsn, 1_000)
        await fill.fold_and_vacuum(base.sql)
        database = Database(base.dsn, name="bench", size=1)
        holding = await stage.server.connect(base.name)
        try:
            round = Round(database, base.sql)
            for _ in range(6):
                await round.turn()
            await holding.execute("begin isolation level repeatable read; select from treadle.messages limit 1")
            parts = [await _stretch(stage, round, seconds / 10, f"{n * 10}%") for n in range(10)]
            await base.sql.execute("select pg_stat_clear_snapshot()")
            dead = await base.sql.fetchval(DEAD_ROWS)
        finally:
            await holding.close()
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
