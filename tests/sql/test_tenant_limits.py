"""Limits of a tenant: exact, also for transactions that stay open, and free for tenants without limits."""

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uuid_utils.compat as uuid

from service.errors import BY_SQLSTATE, LimitReached
from tests.support.sql_client import SqlClient
from tests.support.topic_calls import Topics
from tests.support.topic_calls import refusal as topic_refusal


async def limit(client: SqlClient, **limits: int) -> None:
    await client.sql.execute("select treadle.limit_tenant('default', $1)", json.dumps(limits))


async def submitted(client: SqlClient, quantity: int, **arguments: Any) -> list[str]:
    """The states of so many messages, each refused or accepted by itself."""
    rows = await client.submit_many(*({} for _ in range(quantity)), strict=False, autocommit=True, **arguments)
    return [row["state"] for row in rows]


async def asking_message(client: SqlClient) -> UUID:
    """A message that waits for input."""
    message_id = await client.submit()
    [claim] = await client.claim(1)
    await client.sql.execute(
        "select treadle.conclude($1, $2, 'input', '{}', null, null, null, null, $3, '{}', '{}', 3, null, null, null)",
        claim.message_id,
        claim.lease,
        claim.last_seq + 1,
    )
    return message_id


async def refusal(client: SqlClient, *messages: dict[str, Any]) -> LimitReached:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await client.submit_many(*messages or ({},))
    error = BY_SQLSTATE[str(refused.value.sqlstate)](str(refused.value))
    assert isinstance(error, LimitReached)
    return error


async def test_a_tenant_submits_so_many_messages_a_minute(sql_client: SqlClient) -> None:
    await limit(sql_client, per_minute=2)  # one in half a minute, in which also a busy machine makes some calls
    assert await submitted(sql_client, 4) == ["queued"] * 2 + ["refused"] * 2
    error = await refusal(sql_client)
    assert error.retry_after in range(10, 31)
    assert (error.policy, error.state) == ('"tenant";q=2;w=60', f'"tenant";r=0;t={error.retry_after}')
    again = f"try again in {error.retry_after} seconds."
    assert str(error) == f"The tenant 'default' may submit 2 messages in 60 seconds: {again}"
    await sql_client.shift_clock(35)
    assert await submitted(sql_client, 5) == ["queued"] + ["refused"] * 4
    await sql_client.shift_clock(3600)
    assert await submitted(sql_client, 3) == ["queued"] * 2 + ["refused"]


async def test_a_tenant_has_so_many_messages_queued(sql_client: SqlClient) -> None:
    await limit(sql_client, queued=3)
    assert await submitted(sql_client, 5) == ["queued"] * 3 + ["refused"] * 2
    assert (await refusal(sql_client)).policy == '"tenant";q=3'
    await sql_client.claim()
    assert await submitted(sql_client, 2) == ["queued", "refused"]


async def test_a_tenant_submits_so_many_bytes_a_day(sql_client: SqlClient) -> None:
    await limit(sql_client, bytes_per_day=1000)
    await sql_client.submit("x" * 900)
    error = await refusal(sql_client, {"message": "x" * 200})
    assert error.policy == '"tenant";q=1000;w=86400'
    await sql_client.submit("x" * 50)
    await sql_client.shift_clock(86400)
    await sql_client.submit("x" * 900)


@pytest.mark.parametrize("patient", ["true", "false"])
async def test_what_other_calls_store_counts_for_the_bytes_of_a_day(sql_client: SqlClient, patient: str) -> None:
    held = await sql_client.submit(thread_id="t", delay_seconds=600)
    asking = await asking_message(sql_client)
    object, charges = "jsonb_build_object('x', repeat('x', {0}))", []
    for call in (
        f"change_thread('t', {object}, patient => {patient})",
        f"change_message('{held}', metadata => {object}, patient => {patient})",
        f"create_thread('a{{0}}', {object}, patient => {patient})",
        f"create_thread('b{{0}}', memory => {object}, patient => {patient})",
        f"begin_thread('c{{0}}', 'items', '[]', {object}, 1, 9999, patient => {patient})",
        f"input('{asking}', {object}, patient => {patient})",
        "register_schema('s{0}', 'JSON', repeat('x', {0}), treadle.uuid7(), latest => 0)",
        f"submit('x', thread_id => 'd{{0}}', thread_metadata => {object})",
    ):
        await limit(sql_client, bytes_per_day=1000)
        with pytest.raises(asyncpg.PostgresError, match="may store 1000 bytes in 86400 seconds, and never") as never:
            await sql_client.sql.execute(f"select treadle.{call.format(1001)}")
        assert never.value.sqlstate == "TR422"
        await sql_client.submit_many({"message": "x" * 198})
        with pytest.raises(asyncpg.PostgresError, match="may store 1000 bytes in 86400 seconds: try again") as now:
            await sql_client.sql.execute(f"select treadle.{call.format(901)}")
        assert now.value.sqlstate == "TR430"
        await sql_client.sql.execute(f"select treadle.{call.format(700)}")
        charges.append(await sql_client.sql.fetchval("select bytes from treadle.tenant_use") - 200)
        await sql_client.shift_clock(86400 * len(charges))
    assert [charge in range(700, 730) for charge in charges] == [True] * 8, charges


async def test_a_schema_is_charged_where_it_is_stored_with_all_that_it_has(sql_client: SqlClient) -> None:
    await limit(sql_client, bytes_per_day=10_000)
    charged = "select bytes from treadle.tenant_use"
    register = """
        select treadle.register_schema(
            $1, 'JSON', '{}', 'ba2f9c08-3d3b-4d5e-9f2e-1a1b1c1d1e1f', latest => 0,
            extras => jsonb_build_object('metadata', repeat('x', 700)))"""
    await sql_client.sql.execute(register.replace("$1", "'s'"))
    first = await sql_client.sql.fetchval(charged)
    assert first in range(700, 750)
    await sql_client.sql.execute(register.replace("$1", "'another'"))
    assert await sql_client.sql.fetchval(charged) == first


async def test_an_open_transaction_is_charged_for_metadata_at_its_commit(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    await limit(sql_client, bytes_per_day=1000)
    other = await sql_client.connect()
    transaction = sql_client.sql.transaction()
    await transaction.start()
    await sql_client.sql.execute("select treadle.change_thread('t', jsonb_build_object('x', repeat('x', 700)))")
    await other.submit("x" * 700)
    with pytest.raises(asyncpg.PostgresError, match="may store 1000 bytes in 86400 seconds: try again"):
        await transaction.commit()
    assert (await sql_client.thread("t"))["metadata"] == {}


async def test_what_a_limit_never_allows_is_not_told_to_wait(sql_client: SqlClient) -> None:
    await limit(sql_client, per_minute=5, queued=4, bytes_per_day=1000)

    async def problem(*messages: dict[str, Any]) -> str:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await sql_client.submit_many(*messages)
        assert refused.value.sqlstate == "TR422"
        return str(refused.value)

    assert await problem(*[{}] * 6) == "The tenant 'default' may submit 5 messages in 60 seconds, and never 6 at once."
    assert "may have 4 messages queued, and never" in await problem(*[{}] * 5)
    large = {"message": "x" * 600}
    assert "may store 1000 bytes in 86400 seconds, and never 1204 at once" in await problem(large, large)
    assert "and never 1200 at once" in await problem({"message": "x" * 1198})
    rows = await sql_client.submit_many({"message": "x" * 1198}, {}, strict=False)
    assert [row["refusal_code"] for row in rows] == ["TR422", None]
    await sql_client.sql.execute("select treadle.limit_tenant('default', '{\"queued\": null}')")
    transaction = sql_client.sql.transaction()
    await transaction.start()
    for _ in range(6):
        await sql_client.submit()
    with pytest.raises(asyncpg.PostgresError, match="never 6 at once"):
        await transaction.commit()


async def test_concurrent_submits_do_not_exceed_a_limit(sql_client: SqlClient) -> None:
    await limit(sql_client, per_minute=20, queued=15)
    clients = [await sql_client.connect() for _ in range(6)]

    async def some(client: SqlClient) -> int:
        written = 0
        for _ in range(8):
            try:
                await client.submit_many({}, autocommit=True)
                written += 1
            except asyncpg.PostgresError as error:
                assert error.sqlstate == "TR430"  # noqa: PT017 - others are not refusals
        return written

    assert sum(await asyncio.gather(*map(some, clients))) == 15
    assert await sql_client.sql.fetchval("select sum(queued) from treadle.counters") == 15


async def test_an_open_transaction_stops_no_other_submit_and_is_charged_at_its_commit(sql_client: SqlClient) -> None:
    await limit(sql_client, per_minute=5)
    other = await sql_client.connect()
    await other.limit_lock_waits()
    transaction = sql_client.sql.transaction()
    await transaction.start()
    await sql_client.submit_many({}, {}, {})
    assert await submitted(other, 3) == ["queued"] * 3
    with pytest.raises(asyncpg.PostgresError, match="may submit 5 messages in 60 seconds"):
        await transaction.commit()
    assert await submitted(other, 3) == ["queued", "queued", "refused"]
    assert await sql_client.sql.fetchval("select count(*) from treadle.late_charges") == 0


async def test_sent_messages_are_not_charged(sql_client: SqlClient) -> None:
    parent = await sql_client.submit()
    await limit(sql_client, per_minute=1, queued=1)
    await sql_client.submit_many({"parent": str(parent)}, {"parent": str(parent)})


async def test_declared_limits_hold_where_a_tenant_has_none_of_its_own(sql_client: SqlClient) -> None:
    declare = "select treadle.declare_tenant_limits($1)"
    await sql_client.sql.execute(declare, json.dumps({"queued": 2, "per_minute": None, "bytes_per_day": None}))
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    assert await submitted(sql_client, 3, tenant="acme") == ["queued", "queued", "refused"]
    await limit(sql_client, queued=4)
    assert await submitted(sql_client, 5) == ["queued"] * 4 + ["refused"]
    await sql_client.sql.execute("select treadle.limit_tenant('default', null)")
    assert await submitted(sql_client, 1) == ["refused"]
    await sql_client.sql.execute(declare, "{}")
    assert await submitted(sql_client, 5) == ["queued"] * 5


async def test_limits_that_are_not_acceptable_are_refused(sql_client: SqlClient) -> None:
    """Also those that no bigint holds: every submit, and every claim of any tenant, would fail by them."""
    for wrong in (
        *({"per_minute": 0}, {"queued": -1}, {"queued": 1.5}, {"queued": "1"}, {"runs": 1}, 5),
        *({"queued": 1.0}, {"running": 10**15}, {"running": 1e30}),
    ):
        for function in ("limit_tenant('default', $1)", "declare_tenant_limits($1)"):
            with pytest.raises(asyncpg.PostgresError, match="whole numbers from 1") as refused:
                await sql_client.sql.execute(f"select treadle.{function}", json.dumps(wrong))
            assert refused.value.sqlstate == "TR422"
    await limit(sql_client, running=10**15 - 1, queued=10**15 - 1, per_minute=10**15 - 1, bytes_per_day=10**15 - 1)
    assert await submitted(sql_client, 1) == ["queued"]
    assert len(await sql_client.claim()) == 1


async def test_a_tenant_sees_its_limits_and_use(sql_client: SqlClient) -> None:
    await limit(sql_client, per_minute=4, bytes_per_day=1000)
    await sql_client.submit_many({"message": "12345678"}, {})
    await sql_client.claim()
    row = await sql_client.sql.fetchrow("select * from treadle.limits_of()")
    assert row is not None
    assert dict(row) == {
        "queued": 1,
        "max_queued": None,
        "running": 1,
        "max_running": None,
        "submits_left": 2,
        "per_minute": 4,
        "bytes_today": 17,
        "bytes_per_day": 1000,
    }


async def test_published_records_count_as_messages(sql_client: SqlClient) -> None:
    """At the commit, so that an open transaction holds up no other publisher. A known record costs nothing."""
    topics = Topics(sql_client)
    await topics.create("t")
    await limit(sql_client, per_minute=10, queued=1, bytes_per_day=1000)
    record = {"value": 1, "record_id": str(uuid.uuid7())}
    await topics.publish("t", record, *range(5))
    await topics.publish("t", record)
    other = Topics(await sql_client.connect())
    transaction = other.sql.transaction()
    await transaction.start()
    await other.publish("t", 6, 7)
    await topics.publish("t", 8, 9)
    assert (await topic_refusal(topics.publish("t", 10, 11, 12)))[0] == "TR430"
    await topics.publish("t", 10)
    assert (await topic_refusal(transaction.commit()))[0] == "TR430"
    assert (await topic_refusal(topics.publish("t", *range(11))))[0] == "TR422"
    assert await submitted(sql_client, 1) == ["queued"]
    assert await submitted(sql_client, 1) == ["refused"]
    await limit(sql_client, per_minute=1000)
    assert (await topic_refusal(topics.publish("t", "x" * 900)))[0] == "TR430"
    assert "bytes in 86400 seconds, and never" in (await topic_refusal(topics.publish("t", "x" * 1200)))[1]
