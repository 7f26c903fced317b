"""Capacity: what steady loads cost in a second, for `treadle plan`; and mixed loads, which show how far it is right."""

import asyncio
from typing import Any

import msgspec

from bench.meter import Reading
from bench.report import Figure, Figures
from bench.stage import CaseDatabase, Stage
from service.capacity.costs import parse
from service.capacity.model import Model
from service.errors import ConfigError

TOKEN_RATE = 50  # of an agent
TOKEN_DIGITS = 19
DRAIN_SECONDS = 30.0
WARM_SECONDS = 2.0
CARRIED_SHARE = 0.8  # of a load, at least: else the machine does not carry it

# What the tables grow by; the log of changes (WAL) is counted apart.
STATE = """
    select pg_database_size(current_database()) as size, treadle.clock() as now,
        (select coalesce(sum(completed), 0)::bigint from treadle.queue_counts) as completed"""
TOKENS = """
    select coalesce(sum(length(e.data ->> 'chunk')), 0)::bigint from treadle.events e
    where e.type = 'chunk' and e.created_at > $1 and e.created_at <= $2"""


class Load(msgspec.Struct, frozen=True):
    messages: int  # a second
    tokens: int = 0  # of each
    follow: bool = False  # each is read as a stream
    mixed: bool = False  # not measured for the plan, but to compare the plan with

    @property
    def name(self) -> str:
        if not self.messages:
            return "idle"
        tokens = f" x {self.tokens} tokens" if self.tokens else ""
        return f"{'mixed: ' * self.mixed}{self.messages}/s{tokens}{', followed' * self.follow}"


IDLE = Load(0)
# Mixed loads come between the others, so that other work of the machine affects all.
LOADS = (
    IDLE,
    *(Load(10), Load(50), Load(100, 10, mixed=True), Load(200), Load(800)),
    *(Load(10, 10), Load(10, 10, follow=True), Load(60, 10), Load(60, 10, follow=True)),
    *(Load(150, 10), Load(150, 10, follow=True)),
    *(Load(2, 250), Load(2, 250, follow=True), Load(5, 400, follow=True, mixed=True)),
    *(Load(10, 250), Load(10, 250, follow=True), Load(30, 50, follow=True, mixed=True)),
    *(Load(40, 250), Load(40, 250, follow=True)),
    *(Load(100, 250), Load(100, 250, follow=True)),
)
QUICK_LOADS = (IDLE, Load(50), Load(10, 50), Load(10, 50, follow=True), Load(20, 20, follow=True, mixed=True))


class NotCarried(Exception):
    """The machine does not carry a load: a plan has no use for its cost."""


async def run(stage: Stage) -> None:
    seconds = stage.pick(10, 2)
    for load in QUICK_LOADS if stage.quick else LOADS:
        stage.tell(load.name)
        try:
            async with stage.base("capacity") as base:
                await base.worker(WORKER_CONCURRENCY="1000")
                _, port = await base.processes.api()
                stage.record(load.name, await _measure(base, port, load, seconds))
        except NotCarried as error:
            stage.skip(f"capacity, {load.name}: {error}")
    _compare(stage)


def _compare(stage: Stage) -> None:
    """How the plan, from the other rows, compares with each mixed load: 1 is right."""
    try:
        costs = parse(msgspec.json.encode(stage.report), "this run")
    except ConfigError as error:  # too few loads were carried
        stage.skip(f"capacity, plan / measurement: {error}")
        return
    model, furthest = Model(costs), 0.0
    for sample in costs.mixed:
        said, was = model.predict(sample), sample.cost
        cores = (said.postgres + said.api + said.worker) / (was.postgres + was.api + was.worker)
        furthest = max(furthest, abs(cores - 1), abs(said.wal / was.wal - 1))
        figures = {"cores_ratio": Figure(cores, "x"), "wal_ratio": Figure(said.wal / was.wal, "x")}
        stage.record(sample.name, figures, part=": plan / measurement")
    stage.record("the furthest", {"off_ratio": Figure(100 * furthest, "%")}, part=": plan / measurement")


async def _measure(base: CaseDatabase, port: int, load: Load, seconds: int) -> Figures:
    """What the load costs in a second, once as many messages end as begin."""
    if load is IDLE:
        await asyncio.sleep(WARM_SECONDS)
        return await _window(base, seconds) | {"read_tokens": Figure(0.0, "/s")}
    warm = WARM_SECONDS + load.tokens / TOKEN_RATE
    config = {
        "port": port,
        "per_second": load.messages,
        "tokens": load.tokens,
        "token_rate": TOKEN_RATE,
        "follow": load.follow,
        "seconds": warm + seconds,
        "count_from": warm,
        "count_seconds": seconds,
        "drain_seconds": DRAIN_SECONDS,
    }
    client = await base.client("bench.clients.conversations", config)
    running = asyncio.create_task(client.run(2 * (warm + seconds) + DRAIN_SECONDS))
    try:
        await asyncio.sleep(warm)
        found = await _window(base, seconds)
        answer = await running
    finally:
        running.cancel()
    found |= {"read_tokens": Figure(answer["read"] / seconds, "/s")} | _answer_figures(answer, load)
    _require_carried(load, found)
    return found


async def _window(base: CaseDatabase, seconds: int) -> Figures:
    state_before = await base.sql.fetchrow(STATE)
    before = await base.read()
    await asyncio.sleep(seconds)
    after = await base.read()
    state = await base.sql.fetchrow(STATE)
    assert state is not None
    assert state_before is not None
    took = after.at - before.at
    digits = await base.sql.fetchval(TOKENS, state_before["now"], state["now"])
    return {
        "messages": Figure((state["completed"] - state_before["completed"]) / took, "/s"),
        "tokens": Figure(digits / TOKEN_DIGITS / took, "/s"),
        **{kind: Figure(_cores(before, after, kind), "cores") for kind in ("postgres", "api", "worker")},
        "wal_rate": Figure((after.wal - before.wal) / took, "B/s"),
        "growth": Figure(max(0, state["size"] - state_before["size"]) / took, "B/s"),
    }


def _cores(before: Reading, after: Reading, kind: str) -> float:
    return (after.cpu[kind] - before.cpu[kind]) / (after.at - before.at)


def _require_carried(load: Load, found: Figures) -> None:
    tokens = load.messages * load.tokens
    wanted = {"messages": load.messages, "tokens": tokens, "read_tokens": tokens * load.follow}
    for name, rate in wanted.items():
        if found[name].value < CARRIED_SHARE * rate:
            raise NotCarried(f"the machine carries {found[name].value:.0f} of {rate} {name.replace('_', ' ')} a second")


def _answer_figures(answer: Any, load: Load) -> Figures:
    names = ["accepted_p50", "accepted_p99"] + ["first_p50", "first_p99"] * load.follow
    lost = answer["failed"] + answer["lost"] + answer["unfinished"]
    return {name: Figure(answer[name], "ms") for name in names} | {"lost": Figure(lost, "tokens")}
