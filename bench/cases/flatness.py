"""Flatness: the same calls beside few messages and beside many.

Each large case alternates with the smallest one, so that other load on the machine affects both.
"""

import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from bench import fill
from bench.operations import Round
from bench.report import Figure
from bench.stage import CaseDatabase, Stage
from service.db.pool import Database

WARMUP_TURNS, COUNTED_TURNS = 6, 5  # turns
SMALL_CASE_MESSAGES = 1_000


async def run(stage: Stage) -> None:
    large, huge = stage.pick(100_000, 10_000), stage.pick(1_000_000, 0)
    cases: dict[str, dict[str, int]] = {f"{large:,} queued": {"queued": large}}
    if huge:
        cases[f"{huge:,} queued"] = {"queued": huge}
        cases[f"{huge:,} finished"] = {"finished": huge}
    cases[f"{large:,} delayed"] = {"delayed": large}
    cases[f"{large:,} behind threads"] = {"threads": large}

    worst: dict[str, float] = {}
    async with stage.base("flat_small") as small, _round(stage, small, {}, "1,000 queued") as few:
        for name, contents in cases.items():
            async with stage.base("flat_large") as base, _round(stage, base, contents, name) as many:
                stage.tell(name)
                await fill.fold_and_vacuum(small.sql)
                few.forget()
                for n in range(stage.pick(40, 6)):
                    if n % 10 == 0:
                        await few.chores()
                        await many.chores()
                    await few.turn()
                    await many.turn()
                for _ in range(COUNTED_TURNS):
                    await few.turn(counting=True)
                    await many.turn(counting=True)
                _record(stage, f"1,000 queued, beside {name}", few.taken, few.touched)
                _record(stage, name, many.taken, many.touched)
                growth = {key: _median(many.taken[key]) / _median(few.taken[key]) for key in many.taken}
                stage.record(
                    f"{name}: growth", {key: Figure(ratio, "x") for key, ratio in growth.items()}, part=": growth"
                )
                worst = {key: max(ratio, worst.get(key, 0.0)) for key, ratio in growth.items()}
    stage.record(
        "worst growth",
        {"growth": Figure(max(worst.values()), "x")} | {key: Figure(ratio, "x") for key, ratio in worst.items()},
        part=": growth",
    )


@asynccontextmanager
async def _round(stage: Stage, base: CaseDatabase, contents: Mapping[str, int], name: str) -> AsyncIterator[Round]:
    """Fill the database and warm it up."""
    stage.tell(f"filling: {name}")

    def told(count: int) -> None:
        stage.tell(f"filling: {name} ({count:,})")

    await fill.queued_at_once(base.dsn, contents.get("queued", SMALL_CASE_MESSAGES), told)
    if count := contents.get("finished"):
        await fill.finished(base.dsn, count, told)
    if count := contents.get("delayed"):
        await fill.queued(base.dsn, count, delay_seconds=86_400, tell=told)
    if count := contents.get("threads"):
        await fill.queued(base.dsn, count, thread="t", threads=100, tell=told)
    await fill.fold_and_vacuum(base.sql)
    database = Database(base.dsn, name="bench", size=1)
    try:
        round = Round(database, base.sql)
        for _ in range(WARMUP_TURNS):
            await round.turn()
        round.forget()
        yield round
    finally:
        await database.close()


def _record(
    stage: Stage, name: str, taken: Mapping[str, Sequence[float]], touched: Mapping[str, Sequence[float]]
) -> None:
    stage.record(name, {key: Figure(_median(values), "ms") for key, values in taken.items()})
    buffers = {key: Figure(_median(values), "buffers") for key, values in touched.items()}
    stage.record(name, buffers, part=": buffers touched by a call")


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
