"""Eyes: what watching costs. A drain beside tabs of the dashboard against the same drain alone, and drains and tokens
of a worker with metrics and with lines in its log against one without. They take turns, so that other load on the
machine affects all of them.

On two cores rates of the same drain differ by some percent from turn to turn, so what tabs cost is also counted:
`watching`."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import psutil

from bench.cases.drain import TUNED_SETTINGS, drain
from bench.cases.tokens import Load, emit
from bench.clients.tabs import VIEWS
from bench.report import Figure, Figures, median
from bench.stage import CaseDatabase, Stage

OPEN_TABS = 20
ALONE = "alone"
PLAIN = "no listeners"
# `PLAIN` first: the others are compared with it. METRICS_PORT=0: at any free port.
WORKERS: Mapping[str, Mapping[str, str]] = {
    PLAIN: {},
    "metrics": {"METRICS_PORT": "0"},
    "metrics and lines": {"METRICS_PORT": "0", "LOG_LEVEL": "info"},
}

Round = Callable[[], Awaitable[Figures]]

# Of all statements of API processes, with the time that PostgreSQL waited for a core.
ANSWERING = """
    select coalesce(sum(s.total_exec_time + s.total_plan_time), 0)::float8 / 1000
    from pg_stat_statements s join pg_database d on d.oid = s.dbid
    where d.datname = current_database() and s.toplevel and s.userid = 'treadle_app'::regrole"""


async def run(stage: Stage) -> None:
    await _beside_tabs(stage)
    await _with_listeners(stage)


async def _beside_tabs(stage: Stage) -> None:
    """Each drain takes some periods in which the tabs ask."""
    count = stage.pick(100_000, 2_000)
    async with stage.base("eyes") as base:
        await base.worker(**TUNED_SETTINGS)
        _, port = await base.processes.api()

        async def alone() -> Figures:
            return await _with_answering(base, count)

        def beside(view: str) -> Round:
            async def once() -> Figures:
                tabs = await base.client("bench.clients.tabs", {"port": port, "tabs": OPEN_TABS, "view": view})
                try:
                    return await _with_answering(base, count)
                finally:
                    await tabs.stop()

            return once

        rows = {ALONE: alone} | {f"{OPEN_TABS} tabs of the {view}": beside(view) for view in VIEWS}
        found = await _in_turns(stage, rows, stage.pick(6, 1))
        for name in found:
            if name != ALONE:
                _add_watching(found[name], found[ALONE])
                _compare(stage, name, found[name], found[ALONE], part="")


async def _with_answering(base: CaseDatabase, count: int) -> Figures:
    """A drain; `answering`: the CPU that the API used, and the time that PostgreSQL took for its statements, from
    before the messages are queued; `lasted`: so many seconds."""
    before, answered = await base.read(), await base.sql.fetchval(ANSWERING)
    figures = await drain(base, count)
    after = await base.read()
    used = after.cpu["api"] - before.cpu["api"] + await base.sql.fetchval(ANSWERING) - answered
    return figures | {"answering": Figure(used, "s"), "lasted": Figure(after.at - before.at, "s")}


def _add_watching(rounds: list[Figures], alone: list[Figures]) -> None:
    """`watching`: by how much more of the machine the API uses beside the tabs, for the same drain. The statements that
    wait for a core make it too large rather than too small."""
    for figures, other in zip(rounds, alone, strict=True):
        more = figures["answering"].value - other["answering"].value
        lasted = figures["lasted"].value
        figures["watching"] = Figure(100 * more / lasted / (psutil.cpu_count() or 1), "% machine")
        del figures["answering"], figures["lasted"]


async def _with_listeners(stage: Stage) -> None:
    count, load = stage.pick(50_000, 2_000), Load(stage.pick(500, 20), 50, readers=0)
    async with AsyncExitStack() as bases:
        drains: dict[str, Round] = {}
        tokens: dict[str, Round] = {}
        for name, settings in WORKERS.items():
            base = await bases.enter_async_context(stage.base(f"eyes {name}"))
            await base.worker(**{**TUNED_SETTINGS, "WORKER_CONCURRENCY": str(load.agents)}, **settings)
            drains[name] = _drain_of(base, count)
            tokens[name] = _tokens_of(base, load, stage.pick(10, 2))
        for part, rows in ((": drain of a worker", drains), (": tokens of a worker", tokens)):
            found = await _in_turns(stage, rows, stage.pick(4, 1))
            for name in found:
                _compare(stage, name, found[name], found[PLAIN], part=part)


def _drain_of(base: CaseDatabase, count: int) -> Round:
    return lambda: drain(base, count)


def _tokens_of(base: CaseDatabase, load: Load, seconds: int) -> Round:
    return lambda: emit(base, load, seconds, port=None)


async def _in_turns(stage: Stage, rows: Mapping[str, Round], times: int) -> dict[str, list[Figures]]:
    """The figures of each row, one for each turn. One turn more goes first and is not counted. Every other turn takes
    the rows from the last to the first, so that what grows from drain to drain affects all rows alike."""
    found: dict[str, list[Figures]] = {name: [] for name in rows}
    for turn in range(times + 1):
        for name, once in list(rows.items())[:: -1 if turn % 2 else 1]:
            stage.tell(f"{name} ({turn}/{times})" if turn else f"{name} (warming up)")
            figures = await once()
            if turn or stage.quick:
                found[name].append(figures)
    return found


def _compare(stage: Stage, name: str, rounds: list[Figures], others: list[Figures], *, part: str) -> None:
    """`slower` and `dearer`: in percent, against the other row of the same turn."""
    compared = [
        figures
        | {
            "slower": Figure(100 * (1 - figures["rate"].value / other["rate"].value), "%", figures["rate"].weak),
            "dearer": Figure(
                100 * (figures["cpu_total"].value / other["cpu_total"].value - 1), "%", figures["cpu_total"].weak
            ),
        }
        for figures, other in zip(rounds, others, strict=True)
    ]
    stage.record(name, median(compared), compared, part=part)
