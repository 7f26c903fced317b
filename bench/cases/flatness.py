"""Flatness: the same calls beside few messages and beside many.

Each large case alternates with the smallest one, so that other load on the machine affects both.
"""

import statistics
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from bench import fill
from bench.operations import Round
from bench.report import Figure
from bench.stage import CaseDatabase, Stage
from service.db.pool import Database

WARMUP_TURNS, COUNTED_TURNS = 6, 5  # turns
SMALL_CASE_MESSAGES = 1_000
SLEEPING_THREADS = 2_000  # in each case, with a delayed message each: as many as a list of threads searches


async def run(stage: Stage) -> None:
    large, huge = stage.pick(100_000, 10_000), stage.pick(1_000_000, 0)
    cases: dict[str, dict[str, int]] = {f"{large:,} queued": {"queued": large}}
    if huge:
        cases[f"{huge:,} queued"] = {"queued": huge}
        cases[f"{huge:,} finished"] = {"finished": huge}
        cases[f"{10 * huge:,} events"] = {"events": 10 * huge}
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
                _record(stage, f"1,000 queued, beside {name}", few)
                _record(stage, name, many)
                _record_lists(stage, name, few, many)
                growth = {key: _median(many.taken[key]) / _median(few.taken[key]) for key in many.taken}
                _record_growth(stage, f"{name}: growth", growth, many.lists)
                worst = {key: max(ratio, worst.get(key, 0.0)) for key, ratio in growth.items()}
        _record_growth(stage, "worst growth", worst, few.lists)


def _record_growth(stage: Stage, name: str, growth: Mapping[str, float], lists: Collection[str]) -> None:
    """Of all calls, of the slowest list, and of each other call."""
    of_lists = max(ratio for key, ratio in growth.items() if key in lists)
    each = {key: Figure(ratio, "x") for key, ratio in growth.items() if key not in lists}
    figures = {"growth": Figure(max(growth.values()), "x"), "lists": Figure(of_lists, "x")}
    stage.record(name, figures | each, part=": growth")


@asynccontextmanager
async def _round(stage: Stage, base: CaseDatabase, contents: Mapping[str, int], name: str) -> AsyncIterator[Round]:
    """Fill the database and warm it up."""
    stage.tell(f"filling: {name}")

    def told(count: int) -> None:
        stage.tell(f"filling: {name} ({count:,})")

    await fill.queued_at_once(base.dsn, contents.get("queued", SMALL_CASE_MESSAGES), told)
    await fill.queued(base.dsn, SLEEPING_THREADS, thread="s", threads=SLEEPING_THREADS, delay_seconds=86_400)
    if count := contents.get("finished"):
        await fill.finished(base.dsn, count, told)
    if count := contents.get("events"):
        await fill.events(base.dsn, count, told)
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


def _record(stage: Stage, name: str, round: Round) -> None:
    """The calls of workers and clients."""
    taken = {key: Figure(_median(values), "ms") for key, values in round.taken.items() if key not in round.lists}
    stage.record(name, taken)
    touched = {key: Figure(_median(round.touched[key]), "buffers") for key in taken}
    stage.record(name, touched, part=": buffers touched by a call")


def _record_lists(stage: Stage, name: str, few: Round, many: Round) -> None:
    """The calls of dashboards, a row each."""
    for key in few.lists:
        small, large = _median(few.taken[key]), _median(many.taken[key])
        figures = {
            "few": Figure(small, "ms"),
            "many": Figure(large, "ms"),
            "growth": Figure(large / small, "x"),
            "buffers_few": Figure(_median(few.touched[key]), "buffers"),
            "buffers_many": Figure(_median(many.touched[key]), "buffers"),
        }
        stage.record(key, figures, part=f": lists beside {name}")


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
