"""Faults by transactions of users that stay open: their locks may delay the threads that they name, no others."""

import asyncio
import json
import time

from faults import watch
from faults.history import Fault
from faults.load import THREAD_COUNT
from faults.publishers import SUBSCRIPTIONS, new_record, publish
from faults.world import NothingToBreak, World, fault

HOLD_SECONDS = 4.0  # shorter than the patience of a request


@fault(weight=3)
async def held_threads(world: World, _: Fault) -> None:
    """A transaction submits to half of the threads and cancels what runs there, stays open, and is rolled back."""
    threads = [f"thread-{n}" for n in range(THREAD_COUNT // 2)]
    connection = await world.cluster.primary.connect()
    try:
        transaction = connection.transaction()
        await transaction.start()
        messages = [{"message": "held", "agent": "scribe", "thread_id": thread} for thread in threads]
        await connection.execute("select treadle.submit_many($1::jsonb)", json.dumps(messages))
        cancelled = await connection.fetchval(
            "select count(treadle.cancel(l.message_id)) from treadle.leases l"
            " join treadle.threads t on t.id = l.thread where t.thread_id = any($1)",
            threads,
        )
        held = asyncio.create_task(asyncio.sleep(HOLD_SECONDS))
        await watch.message_ends(world, "a message beside held threads", world.clients.send("scribe", chunks=3))
        await held
        await transaction.rollback()
        if not cancelled:
            raise NothingToBreak("nothing ran in these threads")
    finally:
        await connection.close()


HANDLED = """
    select count(*) from treadle.messages m
    where m.subscription is not null and m.state = 'completed' and m.body #>> '{}' = $1"""


@fault(weight=3)
async def held_keys(world: World, _: Fault) -> None:
    """A transaction holds the threads of half of the keys of records; a record of another key is handled meanwhile."""
    holder = await world.cluster.primary.connect()
    watcher = await world.cluster.primary.connect()
    try:
        transaction = holder.transaction()
        await transaction.start()
        held = await holder.fetch(
            "select t.thread_id from treadle.threads t where t.thread_id like 'records/%' and t.id % 2 = 0"
            " order by t.id for no key update"
        )
        if not held:
            raise NothingToBreak("there was no thread of a key")
        key = f"beside-held-{len(world.history.published)}"
        await publish(watcher, world.history, [new_record(key, key)])
        began = time.monotonic()
        while await watcher.fetchval(HANDLED, key) < len(SUBSCRIPTIONS):
            if time.monotonic() - began > watch.RECOVERY_SECONDS:
                world.history.not_recovered.append("no record was handled beside keys that a transaction holds")
                break
            await asyncio.sleep(watch.POLL_SECONDS)
        await asyncio.sleep(max(0.0, began + HOLD_SECONDS - time.monotonic()))
        await transaction.rollback()
    finally:
        await holder.close()
        await watcher.close()
