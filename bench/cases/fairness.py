"""Fairness: how long a quiet tenant's messages wait alone, and beside another tenant's flood."""

import asyncio

from bench import fill
from bench.report import Figure, Figures
from bench.sample import BODY, percentile
from bench.stage import CaseDatabase, Stage, spread

PAUSE_SECONDS = 0.01  # between two messages of the quiet tenant
QUIET_LIMIT_SECONDS = 60.0

SUBMIT = "select treadle.submit($1::text, agent => 'noop', tenant => 'quiet', notify => true)"
QUIET_TENANT_IS_DONE_SQL = (
    "select not exists (select from treadle.messages where tenant = 'quiet' and state in ('queued', 'processing'))"
)
WAITS = """
    select extract(epoch from started_at - created_at)::float8 * 1000 as wait
    from treadle.messages where tenant = 'quiet' order by created_at desc limit $1"""
FLOOD_LEFT = "select coalesce(sum(queued), 0)::bigint from treadle.tenant_counts where tenant = 'default'"


async def run(stage: Stage) -> None:
    messages = stage.pick(1_000, 30)  # a p99 needs that many
    flood = stage.pick(300_000, 5_000)  # lasts longer than the messages
    async with stage.base("fairness") as base:
        await base.sql.execute("select treadle.create_tenant('quiet')")
        await base.worker()
        stage.tell(f"{messages} messages of a quiet tenant alone")
        await _quiet(base, messages)  # so that all statements are planned
        alone = await _quiet(base, messages)
        stage.record("alone", spread(alone))
        stage.tell(f"the same beside a flood of {flood} messages")
        await base.sql.execute("select treadle.pause('default')")
        await fill.queued(base.dsn, flood)
        await base.sql.execute("select treadle.pause('default', false)")
        stage.record("beside a flood", await _beside(base, messages, alone))
    async with stage.base("fairness, flood first") as base:
        await base.worker()
        stage.tell(f"the same beside a flood of {flood} messages from before the quiet tenant was created")
        await base.sql.execute("select treadle.pause('default')")
        await fill.queued(base.dsn, flood)
        await base.sql.execute("select treadle.pause('default', false), treadle.create_tenant('quiet')")
        stage.record("beside an earlier flood", await _beside(base, messages, alone))


async def _beside(base: CaseDatabase, messages: int, alone: list[float]) -> Figures:
    """The waits of so many messages beside the flood, and how they compare to those alone."""
    beside = await _quiet(base, messages)
    left = await base.sql.fetchval(FLOOD_LEFT)
    times = percentile(beside, 0.99) / percentile(alone, 0.99)
    return spread(beside) | {"p99_ratio": Figure(times, "x"), "flood_left": Figure(left, "messages")}


async def _quiet(base: CaseDatabase, messages: int) -> list[float]:
    """The waits for a worker of so many messages, one after the other, in ms and in order."""
    for _ in range(messages):
        await base.sql.fetchval(SUBMIT, BODY)
        await asyncio.sleep(PAUSE_SECONDS)
    await base.until(QUIET_TENANT_IS_DONE_SQL, seconds=QUIET_LIMIT_SECONDS, what="the quiet tenant's messages")
    return sorted(row["wait"] for row in await base.sql.fetch(WAITS, messages))
