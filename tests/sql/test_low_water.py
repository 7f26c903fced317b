"""Low-water marks follow the first rows of their tables, and no row is lost below them."""

from typing import Literal

import pytest

from tests.support.invariants import assert_consistent
from tests.support.low_water import DEAD, FILL_COUNTERS, FILL_LANE, LANE, fold_past, low, sweep, sweep_past
from tests.support.sql_client import SqlClient
from tests.support.waiting import until


@pytest.mark.parametrize("newest", [False, True])
async def test_a_mark_does_not_pass_an_uncommitted_row(sql_client: SqlClient, newest: bool) -> None:
    slow = await sql_client.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    late = None if newest else await slow.submit()
    await sql_client.submit_many(*[{}] * 1500)
    assert len(await sql_client.claim(1500)) == 1500
    late = late or await slow.submit()  # if it is the newest, there is no newer transaction
    for _ in range(5):
        assert await sweep(sql_client) <= (1501 if newest else 1)
    await transaction.commit()
    assert [claim.message_id for claim in await sql_client.claim(10)] == [late]
    await sweep_past(sql_client, 1500)


OTHERS: dict[str, tuple[Literal["read_committed", "repeatable_read"], str]] = {
    "an old snapshot": ("repeatable_read", "select count(*) from treadle.messages"),
    "an open transaction that writes": ("read_committed", "create table theirs ()"),
    "an open transaction that submits": ("read_committed", "select treadle.submit('x'::text, agent => 'echo')"),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_transactions_of_others_stop_no_mark(sql_client: SqlClient, other: str) -> None:
    isolation, statement = OTHERS[other]
    user = await sql_client.connect()
    async with user.sql.transaction(isolation=isolation):
        await user.sql.execute(statement)
        await sql_client.sql.execute(FILL_LANE)
        await sql_client.sql.execute(FILL_COUNTERS)
        await sql_client.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
        await sql_client.submit()
        await sweep_past(sql_client, DEAD)
        await fold_past(sql_client, DEAD)
    await sql_client.sql.execute("select treadle.sweep(), treadle.fold_counters()")
    assert len(await sql_client.claim(10)) == (2 if "submits" in other else 1)
    await assert_consistent(sql_client.sql)


async def test_late_rows_and_counts_come_back_behind_the_mark_that_passed_them(sql_client: SqlClient) -> None:
    """Of two transactions that stay open, the one that ends first is not held back by the other."""

    async def queued() -> int:
        return int(await sql_client.sql.fetchval("select sum(queued) from treadle.queue_counts"))

    slow, slower = await sql_client.connect(), await sql_client.connect()
    transactions = [user.sql.transaction() for user in (slow, slower)]
    for transaction in transactions:
        await transaction.start()
    late = [await user.submit(thread_id=f"t{n}") for n, user in enumerate((slow, slower))]
    await sql_client.sql.execute(FILL_LANE)
    await sql_client.sql.execute(FILL_COUNTERS)
    await sql_client.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
    await sweep_past(sql_client, DEAD)
    await fold_past(sql_client, DEAD)
    for transaction, message_id in zip(transactions, late, strict=True):
        await transaction.commit()
        assert await sql_client.claim(10) == []
        queues = await sql_client.sql.fetchval("select queues from treadle.sweep()")
        assert queues == ["default"]
        await sql_client.sql.execute("select treadle.fold_counters()")
        assert await queued() == 1
        assert [claim.message_id for claim in await sql_client.claim(10)] == [message_id]
        await assert_consistent(sql_client.sql)
    assert await sql_client.sql.fetchval("select count(*) from treadle.low_water where passed <> '{}'") == 0


async def test_a_row_that_becomes_visible_again_below_its_mark_comes_back(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1500)
    hidden = await sql_client.sql.fetchval(f"select min(msg_id) from pgmq.{LANE}")
    await sql_client.sql.execute("select from pgmq.set_vt('default_normal', $1::bigint, 100)", hidden)
    await sql_client.claim(1499)
    await sweep_past(sql_client, hidden + 1400)
    assert await sql_client.claim(1) == []
    await sql_client.shift_clock(101)
    mark = await low(sql_client)
    assert await sql_client.sql.fetchval("select queues from treadle.sweep(120)") == ["default"]
    assert await low(sql_client) >= mark
    assert len(await sql_client.claim(1)) == 1


async def test_a_foreign_row_that_was_sent_with_a_delay_goes_to_the_dead_letters(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select pgmq.send('default_normal', '{}', 100)")
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.claim(1500)
    await sweep_past(sql_client, 1400)
    await sql_client.shift_clock(101)
    await sql_client.sql.execute("select treadle.sweep(120)")
    assert await sql_client.sql.fetchval("select reason from treadle.dead_letters") == "foreign"


async def test_the_mark_of_returned_messages_follows_too(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.finish(*await sql_client.claim(1500), outcome="released")
    await sql_client.claim(1499)
    (left,) = await sql_client.sql.fetch(f"select msg_id from pgmq.{LANE} where vt = enqueued_at")

    async def returned() -> int:
        await sweep(sql_client)
        return await low(sql_client, f"{LANE} returned")

    await until(returned, lambda mark: mark == left["msg_id"])
    assert len(await sql_client.claim(10)) == 1


async def test_a_mark_is_not_written_for_a_few_ids(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 20)
    await sql_client.claim(20)
    for _ in range(3):
        assert await sweep(sql_client) == 0


async def test_counters_stay_exact_past_a_transaction_that_commits_late(sql_client: SqlClient) -> None:
    async def queued() -> int:
        return int(await sql_client.sql.fetchval("select sum(queued) from treadle.queue_counts"))

    await sql_client.sql.execute(
        "insert into treadle.counters (tenant, queue, slot)"
        " select 'default', 'default', now() from generate_series(1, 2000)"
    )
    slow = await sql_client.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    await slow.submit_many({}, {})  # there is no newer transaction
    for _ in range(3):
        await sql_client.sql.fetchval("select treadle.fold_counters()")
        assert await queued() == 0
    await transaction.commit()
    assert await queued() == 2
    await fold_past(sql_client, 1000)
    assert await queued() == 2


async def test_a_mark_from_another_server_is_replaced(sql_client: SqlClient) -> None:
    """After a dump and restore a mark does not wait for a transaction of the old server."""
    await sql_client.sql.execute(
        f"update treadle.low_water set next_low = 7, awaited = '{{99/99}}' where name = '{LANE}'"
    )
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.claim(1500)
    await sweep_past(sql_client, 1400)


async def test_no_mark_passes_an_uncommitted_claim(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1501)
    await sql_client.finish(*await sql_client.claim(1500))
    slow = await sql_client.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    (claim,) = await slow.claim(1)  # there is no newer transaction
    for _ in range(3):
        await sweep(sql_client)
    await transaction.commit()
    assert await low(sql_client, "leases") <= await sql_client.sql.fetchval("select id from treadle.leases")
    for _ in range(2):
        assert await sql_client.heartbeat("w", grace=0) == {}
    assert (
        await sql_client.sql.fetchval("select state from treadle.messages where message_id = $1", claim.message_id)
        == "queued"
    )
