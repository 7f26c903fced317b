"""Topics: publish, deliver to subscriptions (from publish to last finish), catch up from the earliest record."""

import asyncio
import time
from functools import partial
from typing import Any

import msgspec

from bench import fill, meter
from bench.posting import post, posts
from bench.processes import BenchError
from bench.report import Figure, Figures
from bench.sample import BODY
from bench.stage import CaseDatabase, Stage, rate, spread

BATCH_RECORDS = 1_000
RECORD_KEYS = 1_000
MAX_IN_FLIGHT = 2_000
ROUND_LIMIT_SECONDS = 300.0
PAUSE_SECONDS = 0.02  # between two records when idle
TUNED_SETTINGS = {"WORKER_CONCURRENCY": "400"}

PUBLISH = "select count(*) from treadle.publish_many('t', $1::jsonb, notify => true)"
SUBSCRIBE = "select treadle.create_subscription($1, '{t}', 'noop', start => $2, max_in_flight => $3)"
COMPLETED = "select coalesce(sum(completed), 0) >= $1 from treadle.subscription_counts"
LAST_END = "select extract(epoch from max(completed_at) - $1)::float8 from treadle.messages where completed_at >= $1"

# Records of a key that began before the one before them had ended, by the log (a claim that waits for a finish has read
# the clock before it), and records with more than one message.
WRONG = """
    select
        (select count(*) from (
            select e.began < lag(e.ended) over (partition by m.thread order by m.record_offset) as early
            from treadle.messages m
            cross join lateral (
                select min(v.thread_pos) filter (where v.type = 'started') as began,
                    max(v.thread_pos) filter (where v.type = 'done') as ended
                from treadle.events v where v.message_id = m.message_id) e
            where m.thread is not null) k where k.early)
        + (select count(*) - count(distinct (subscription, record_offset)) from treadle.messages
            where subscription is not null)"""

# Records with offsets, by plain inserts with the same effect as publish and sequence_records.
RETAIN = """
    with numbered as (
        select treadle.uuid7() as id, n from generate_series(0, $1::integer - 1) n
    ), written as (
        insert into treadle.records (record_id, tenant, topic, value, bytes, created_at)
        select u.id, 'default', t.id, to_jsonb($2::text), 200, treadle.clock()
        from numbered u, treadle.topics t where t.topic = 't'
    ), logged as (
        insert into treadle.topic_log (topic, "offset", tenant, record_id)
        select t.id, e.next_offset + u.n, 'default', u.id
        from numbered u, treadle.topics t, treadle.topic_ends e where t.topic = 't' and e.topic = t.id
    )
    update treadle.topic_ends e set next_offset = e.next_offset + $1, bytes = e.bytes + $1 * 200
    from treadle.topics t where t.topic = 't' and e.topic = t.id"""

LATENCIES = """
    select extract(epoch from m.started_at - r.created_at)::float8 * 1000 as taken
    from treadle.messages m
    join treadle.topic_log g on g.topic = m.record_topic and g."offset" = m.record_offset
    join treadle.records r using (record_id)
    order by m.record_offset desc limit $1"""


async def run(stage: Stage) -> None:
    count, times = stage.pick(20_000, 2_000), stage.pick(3, 1)
    await _publish(stage, stage.pick(40, 4), times)
    await _posts(stage, stage.pick(10_000, 1_000), times)
    live = None
    for name, groups, keys in (
        ("one subscription", 1, 0),
        ("1,000 keys", 1, RECORD_KEYS),
        ("three subscriptions", 3, 0),
    ):
        async with stage.base(f"topics {name}") as base:
            await base.worker(**TUNED_SETTINGS)
            await _topic(base, *(f"s{n}" for n in range(groups)))
            figures = await stage.repeat(name, times, partial(_deliver, base, count, groups=groups, keys=keys))
            live = live or figures["rate"].value
    await _catch_up(stage, stage.pick(1_000_000, 5_000), live or 0)
    await _idle(stage, stage.pick(200, 30))


async def _topic(base: CaseDatabase, *subscriptions: str) -> None:
    await base.sql.execute("select treadle.create_topic('t')")
    for name in subscriptions:
        await base.sql.execute(SUBSCRIBE, name, "latest", MAX_IN_FLIGHT)


def _batch(number: int, keys: int = 0) -> str:
    records: list[dict[str, Any]] = [{"value": BODY} for _ in range(BATCH_RECORDS)]
    if keys:
        for n, record in enumerate(records):
            record["key"] = f"k{(number * BATCH_RECORDS + n) % keys}"
    return msgspec.json.encode(records).decode()


async def _publish(stage: Stage, batches: int, times: int) -> None:
    """One connection, alone and beside many records that are kept."""
    retained = stage.pick(1_000_000, 5_000)
    async with stage.base("topics publish") as base:
        await _topic(base)
        await _publish_batches(base, 2)
        alone = await stage.repeat("publish, batches of 1,000", times, partial(_publish_batches, base, batches))
        stage.tell(f"{retained} retained records")
        for _ in range(retained // 5_000):
            await base.sql.execute(RETAIN, 5_000, BODY)
        await fill.fold_and_vacuum(base.sql)
        rounds = [await _publish_batches(base, batches) for _ in range(times)]
        figures = sorted(rounds, key=lambda found: found["rate"].value)[times // 2]
        figures |= {"growth": Figure(alone["rate"].value / figures["rate"].value, "x")}
        stage.record("publish beside 1,000,000 retained", figures, rounds)


async def _posts(stage: Stage, requests: int, times: int) -> None:
    """A record a POST; a worker without subscriptions gives the offsets."""
    async with stage.base("topics posts") as base:
        await base.worker()
        await _topic(base)
        _, port = await base.processes.api()
        body = msgspec.json.encode({"value": BODY}).decode()
        config = posts(port, 64, requests, "/topics/t/records", body)
        await post(stage, base, "POST, 64 connections", config, 1, times, "records")


async def _publish_batches(base: CaseDatabase, batches: int) -> Figures:
    texts = [_batch(n) for n in range(batches)]
    before = await base.read()
    began = time.perf_counter()
    for text in texts:
        await base.sql.fetchval(PUBLISH, text)
    seconds = time.perf_counter() - began
    after = await base.read()
    while await base.sql.fetchval("select more from treadle.sequence_records()"):
        pass
    records = batches * BATCH_RECORDS
    return rate(records, seconds, "records") | meter.cost(before, after, records)


async def _deliver(base: CaseDatabase, count: int, *, groups: int, keys: int) -> Figures:
    """From the first publish to the last finish; the rate is that of one subscription."""
    texts = [_batch(n, keys) for n in range(count // BATCH_RECORDS)]
    done = await base.sql.fetchval("select coalesce(sum(completed), 0) from treadle.subscription_counts")
    await fill.fold_and_vacuum(base.sql)
    since = await base.sql.fetchval("select treadle.clock()")
    before = await base.read()
    for text in texts:
        await base.sql.fetchval(PUBLISH, text)
    return await _ended(base, since, before, done, count, groups)


async def _ended(
    base: CaseDatabase, since: object, before: meter.Reading, done: int, count: int, groups: int
) -> Figures:
    await base.until(COMPLETED, done + count * groups, seconds=ROUND_LIMIT_SECONDS, what=f"{count} records")
    after = await base.read()
    seconds = await base.sql.fetchval(LAST_END, since)
    if wrong := await base.sql.fetchval(WRONG):
        raise BenchError(f"{wrong} records were delivered twice or out of their order.")
    return rate(count, seconds, "records") | meter.cost(before, after, count * groups)


async def _catch_up(stage: Stage, count: int, live: float) -> None:
    """A subscription from the earliest of many records, against live delivery of the same kind."""
    async with stage.base("topics earliest") as base:
        await _topic(base)
        stage.tell(f"{count} retained records")
        for _ in range(count // 5_000):
            await base.sql.execute(RETAIN, 5_000, BODY)
        await fill.fold_and_vacuum(base.sql)
        await base.worker(**TUNED_SETTINGS)
        stage.tell(f"from the earliest of {count}")
        since = await base.sql.fetchval("select treadle.clock()")
        before = await base.read()
        await base.sql.execute(SUBSCRIBE, "s", "earliest", MAX_IN_FLIGHT)
        figures = await _ended(base, since, before, 0, count, 1)
        figures["growth"] = Figure(live / figures["rate"].value, "x")
        stage.record("from the earliest of 1,000,000", figures)


async def _idle(stage: Stage, count: int) -> None:
    """One record at a time: from the publish to the start of its handler."""
    async with stage.base("topics idle") as base:
        await base.worker()
        await _topic(base, "s")
        stage.tell(f"{count} records, one at a time")
        for n in range(count + 10):
            await base.sql.execute("select treadle.publish('t', to_jsonb($1::text), notify => true)", BODY)
            await base.until(COMPLETED, n + 1, seconds=10, what="a record", pause=0.005)
            await asyncio.sleep(PAUSE_SECONDS)
        rows = await base.sql.fetch(LATENCIES, count)
        stage.record("idle: publish to handler", spread([row["taken"] for row in rows]))
