"""treadle.explain: the reason of every hold, state and cause, with what to do."""

import json
import re
from typing import Any, get_args
from uuid import UUID

import asyncpg
import pytest

from service.messages.model import Cause
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

Reasons = dict[str, tuple[str, str]]
OPEN_FOR_A_SECOND = """
    select count(*)
    from pg_stat_activity
    where datname = current_database()
        and state = 'idle in transaction'
        and xact_start < clock_timestamp() - interval '1 second'"""
# The functions that explain run with the rights of a role that owns the tables, and is no superuser.
OWNED_BY = """
    grant create, usage on schema treadle to {role};
    grant usage on schema pgmq to {role};
    grant all on all tables in schema pgmq to {role};
    grant all on all tables in schema treadle to {role};
    grant execute on all functions in schema treadle to {role};
    alter table treadle.messages owner to {role};
    alter table treadle.threads owner to {role};
    alter function treadle.explain owner to {role}"""


async def explain(client: SqlClient, message_id: UUID, tenant: str = "default", reach: Any = None) -> Reasons:
    """Sentence and advice of each cause, the nearest first."""
    rows = await client.sql.fetch(
        "select * from treadle.explain($1, $2, $3)", message_id, tenant, None if reach is None else json.dumps(reach)
    )
    for row in rows:
        assert row["cause"] in get_args(Cause), row["cause"]
        assert row["sentence"].endswith((".", ")")), row
        assert row["advice"]
    return {row["cause"]: (row["sentence"], row["advice"]) for row in rows}


async def only(client: SqlClient, message_id: UUID, cause: str) -> str:
    """The sentence of the only reason."""
    found = await explain(client, message_id)
    assert list(found) == [cause], found
    return found[cause][0]


def says(sentence: str, expected: str, seconds: int) -> bool:
    """Whether it is the sentence with so many seconds in the place of #. The calls of a busy machine add some."""
    found = re.fullmatch(re.escape(expected).replace(re.escape("#"), r"(\d+)"), sentence)
    return found is not None and seconds <= int(found[1]) < seconds + 20


async def living(client: SqlClient, *, agent: str = "echo", running: int = 0) -> None:
    """A worker with a heartbeat now."""
    await client.heartbeat()
    await client.sql.execute("update treadle.workers set agents = array[$1], in_flight = $2", agent, running)


async def test_a_message_in_its_lane(sql_client: SqlClient) -> None:
    """No worker, none with the agent, none with room, others before it, a paused queue, a full queue."""
    first, second = await sql_client.submit(), await sql_client.submit()
    assert list(await explain(sql_client, first)) == ["no_worker", "position"]
    await living(sql_client, agent="other")
    found = await explain(sql_client, first)
    assert found["no_agent"] == (
        "The only living worker of the queue default lacks the agent echo.",
        "Name its module in AGENTS of the workers of this queue.",
    )
    await living(sql_client)
    assert "; 1 message is claimed before it" in await only(sql_client, second, "position")
    assert "no others are claimed before it" in await only(sql_client, first, "position")
    await living(sql_client, running=10)
    assert "run 10 of 10 messages" in await only(sql_client, first, "workers_busy")
    said = (await explain(sql_client, first, reach={"owner": None}))["workers_busy"][0]
    assert said.endswith("and all workers of the queue are busy.")
    await living(sql_client)
    await sql_client.sql.execute("select treadle.pause('default', true, 'key 4f2a (ci)')")
    found = await explain(sql_client, first)
    assert list(found) == ["queue_paused", "position"]
    assert found["queue_paused"][0].startswith("The queue default is paused by key 4f2a (ci) at 20")
    assert "4f2a" not in (await explain(sql_client, first, reach={"owner": None}))["queue_paused"][0]
    await sql_client.sql.execute("select treadle.pause('default', false)")
    await sql_client.sql.execute("update treadle.queues set concurrency = 1")
    await sql_client.claim(1)
    found = await explain(sql_client, second)
    assert list(found) == ["queue_concurrency", "position"]
    assert found["queue_concurrency"][0] == "The queue default runs as many messages as it may, 1."


async def test_a_message_behind_its_thread(sql_client: SqlClient) -> None:
    first = await sql_client.submit(thread_id="t")
    second = await sql_client.submit(thread_id="t")
    await living(sql_client)
    said = await only(sql_client, second, "thread")
    assert says(said, f"It has waited # s behind the message {first} of its thread, which is in its lane.", 0)
    await sql_client.claim(1)
    said = await only(sql_client, second, "thread")
    assert says(said, f"It has waited # s behind the message {first} of its thread, which is run by the worker w.", 0)
    await sql_client.shift_clock(40)
    said = (await explain(sql_client, second))["thread"][0]
    assert says(said, f"It has waited # s behind the message {first} of its thread, which is run by the worker w.", 40)
    restricted = await explain(sql_client, second, reach={"message_id": str(second)})
    assert says(restricted["thread"][0], "It has waited # s behind another message of its thread.", 40)


async def test_a_message_that_an_open_transaction_holds(sql_client: SqlClient) -> None:
    """Claims pass over it until the transaction ends, however many workers have room."""
    message_id = await sql_client.submit(thread_id="t")
    await living(sql_client)
    user = await sql_client.connect()
    await user.sql.execute("begin; set application_name = 'psql'")
    await user.submit(thread_id="t")
    await until(lambda: sql_client.sql.fetchval("select exists (select from treadle._holder_of($1))", message_id))
    found = await explain(sql_client, message_id)
    assert list(found) == ["locked", "position"]
    pid = user.sql.get_server_pid()
    assert found["locked"][0].startswith(f"The transaction of process {pid} (psql) has held it or its thread for ")
    assert f"pg_terminate_backend({pid})" in found["locked"][1]
    restricted = await explain(sql_client, message_id, reach={"owner": None})
    assert restricted["locked"][0] == "An open transaction holds it or its thread, and claims pass over it."
    await user.sql.execute("commit")
    assert list(await explain(sql_client, message_id)) == ["position"]


async def test_a_lock_that_claims_pass_by_is_no_reason(sql_client: SqlClient) -> None:
    """Two transactions share a lock on the message, or on its thread. Claims pass over the message in the first case,
    and take it in the second."""
    message_id = await sql_client.submit(thread_id="t")
    await living(sql_client)
    users = [await sql_client.connect(), await sql_client.connect()]
    held = "select exists (select from treadle._holder_of($1))"
    for statement, causes in {
        "select from treadle.messages for key share": ["locked", "position"],
        "select from treadle.threads for key share": ["position"],
        "select from treadle.threads for share": ["locked", "position"],
    }.items():
        for user in users:
            await user.sql.execute(f"begin; {statement}")
        await until(lambda: sql_client.sql.fetchval(OPEN_FOR_A_SECOND), lambda count: count == 2)
        assert await sql_client.sql.fetchval(held, message_id) == ("locked" in causes), statement
        assert list(await explain(sql_client, message_id)) == causes, statement
        for user in users:
            await user.sql.execute("rollback")
    assert len(await sql_client.claim()) == 1  # to explain has left no lock


async def test_a_holder_whose_age_its_reader_may_not_see(sql_client: SqlClient) -> None:
    """PostgreSQL hides the ages of other users' transactions from roles outside pg_read_all_stats: the sentence says
    what holds the message now, and streams say nothing of a lock that may be a moment old."""
    message_id = await sql_client.submit(thread_id="t")
    await living(sql_client)
    role = f"{await sql_client.sql.fetchval('select current_database()')}_blind"
    await sql_client.sql.execute(f"create role {role}")
    await sql_client.sql.execute(f"grant treadle_app, treadle_worker to {role}; {OWNED_BY.format(role=role)}")
    user = await sql_client.connect()
    await user.sql.execute("begin")
    await user.submit(thread_id="t")
    stop = "select treadle._head_stop(m) from treadle.messages m where m.message_id = $1"
    await until(lambda: sql_client.sql.fetchval(stop, message_id), lambda reason: reason == "locked")
    said = (await explain(sql_client, message_id))["locked"][0]
    pid = user.sql.get_server_pid()
    assert said.startswith(f"The transaction of process {pid} (")
    assert said.endswith(") holds it or its thread now, and claims pass over it.")
    await sql_client.sql.execute(f"set role {role}")
    assert await sql_client.sql.fetchval(stop, message_id) is None
    await user.sql.execute("rollback")
    await sql_client.sql.execute("reset role")
    await sql_client.sql.execute(f"reassign owned by {role} to treadle; drop owned by {role}; drop role {role}")


async def test_a_message_whose_workers_claim_for_other_tenants(sql_client: SqlClient) -> None:
    """Remote workers of one tenant, and workers with TENANTS, are not workers of the messages of others."""
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    own = await sql_client.submit()
    [row] = await sql_client.submit_many({"message": "x"}, tenant="acme")
    await living(sql_client)
    for claims_for in ("serves = 'acme'", "serves = null, tenants = '{acme,other}'"):
        await sql_client.sql.execute(f"update treadle.workers set {claims_for}")
        found = await explain(sql_client, own)
        assert found["no_worker"] == (
            "The living workers of the queue default claim no messages of its tenant default.",
            "Start a worker that has default in QUEUES, and default in TENANTS or no TENANTS.",
        )
        assert list(await explain(sql_client, row["message_id"], "acme")) == ["position"]
        unclaimed = await sql_client.sql.fetch("select queue, queued from treadle.unclaimed_queues()")
        assert [tuple(row) for row in unclaimed] == [("default", 1)]
    another = "select treadle.another_claims('other', 'default', 'echo', $1)"
    assert [await sql_client.sql.fetchval(another, tenant) for tenant in ("acme", "default")] == [True, False]
    await sql_client.sql.execute("update treadle.workers set agents = '{}'")
    assert await sql_client.sql.fetchval("select agent from treadle.missing_agents()") == "echo"


async def test_a_message_that_is_not_due(sql_client: SqlClient) -> None:
    await living(sql_client)
    delayed = await sql_client.submit(delay_seconds=100)
    said = await only(sql_client, delayed, "delay")
    assert said.startswith("It was submitted with a delay and is due at 20")
    await sql_client.sql.execute("update treadle.messages set run_at = treadle.clock() - interval '3 seconds'")
    said = (await only(sql_client, delayed, "delay")).partition("has been due for ")[2]
    assert says(said[: said.index(",")], "# s", 3)
    assert ", and a worker's janitor admits it" in said
    retried = await sql_client.submit()
    await sql_client.run(outcome="error", error="It broke.", delay=50.0)
    said = await only(sql_client, retried, "backoff")
    assert said.endswith("after 1 of 3 failures; the last attempt ended with: It broke.")
    overloaded = await sql_client.submit()
    await sql_client.run(outcome="overloaded", error="Busy.", delay=50.0)
    assert "the last attempt ended with: Busy." in await only(sql_client, overloaded, "overloaded")
    await sql_client.sql.execute("delete from treadle.workers")
    assert list(await explain(sql_client, retried)) == ["backoff", "no_worker"]


async def test_a_parked_message(sql_client: SqlClient) -> None:
    await living(sql_client)
    parents = [await sql_client.submit(), await sql_client.submit()]
    child = await sql_client.sql.fetchval("select treadle.uuid7()")
    sends = json.dumps([{"message_id": str(child), "message": "x", "parent": str(parents[0])}])
    claims = await sql_client.claim(2)
    for claim, outcome, sent, children in zip(
        claims, ("children", "input"), (sends, None), ([child], None), strict=True
    ):
        await sql_client.sql.execute(
            "select treadle.conclude($1, $2, $3, '{}', null, null, null, null, $4, '{}', '{}', 3, $5, null, $6)",
            *(claim.message_id, claim.lease, outcome, claim.last_seq + 1, sent, children),
        )
    said = await only(sql_client, claims[0].message_id, "children")
    assert said == f"It waits for 1 of the messages that it sent: {child} (queued)."
    await sql_client.sql.execute("update treadle.parked set children = array[gen_random_uuid()]")
    assert await only(sql_client, claims[0].message_id, "children") == "The messages that it waited for have ended."
    assert (await only(sql_client, claims[1].message_id, "input")).startswith("It has been asking a person for ")
    await sql_client.sql.execute("select treadle.tend_parents()")


async def test_a_message_of_a_tenant_that_is_stopped_or_has_its_share(sql_client: SqlClient) -> None:
    await living(sql_client)
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    rows = await sql_client.submit_many(*({"message": "x"} for _ in range(203)), tenant="acme")
    own = await sql_client.submit()
    found = await explain(sql_client, rows[-1]["message_id"], "acme")
    assert found["share"][0] == (
        "Its tenant has its share of the lane, 200 rows, and 2 of its messages wait before this one."
    )
    await sql_client.sql.execute("select treadle.limit_tenant('acme', '{\"running\": 1}')")
    await sql_client.sql.execute("select from treadle.claim('w', '{default}', 5, 60, tenants => '{acme}')")
    sentence, advice = (await explain(sql_client, rows[-1]["message_id"], "acme"))["tenant_running"]
    assert (sentence, "limit acme" in advice) == ("Its tenant runs 1 message, as many as it may at once.", True)
    await sql_client.sql.execute("select treadle.suspend_tenant('acme', true, 'key 1 (ops)')")
    for row in (rows[1], rows[-1]):
        reason = (await explain(sql_client, row["message_id"], "acme"))["tenant_suspended"]
        assert reason[0].startswith("Its tenant acme has been suspended since 20")
        assert reason[1] == "treadle tenants resume acme lets it go on."
        assert "ops" not in reason[0]
    await sql_client.sql.execute("select treadle.suspend_tenant('default', true, 'key 1 (ops)')")
    assert "by key 1 (ops) at 20" in (await explain(sql_client, own))["tenant_suspended"][0]


async def test_a_message_that_runs(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(timeout_seconds=60)
    [claim] = await sql_client.claim()
    assert list(await explain(sql_client, message_id)) == ["worker_lost"]
    await sql_client.heartbeat("w", claim)
    said = await only(sql_client, message_id, "running")
    assert says(said, "The worker w has run attempt 1 for # s; its timeout is 60 s.", 0)
    await sql_client.shift_clock(8)
    assert list(await explain(sql_client, message_id)) == ["worker_silent", "running"]
    said = (await explain(sql_client, message_id))["worker_silent"][0].partition("has been silent for ")[2]
    assert says(said, "# s.", 8)
    await sql_client.shift_clock(70)
    await sql_client.heartbeat("w", claim)
    said = await only(sql_client, message_id, "overdue")
    assert says(said, "Attempt 1 has run for # s, beyond its timeout of 60 s.", 70)
    await sql_client.cancel(message_id)
    assert list(await explain(sql_client, message_id)) == ["cancel_requested", "overdue"]


async def test_a_message_that_is_over(sql_client: SqlClient) -> None:
    done = await sql_client.submit()
    await sql_client.run()
    assert (await only(sql_client, done, "completed")).startswith("It completed at 20")
    failed = await sql_client.submit()
    await sql_client.run(outcome="rejected", error="No.")
    assert (await only(sql_client, failed, "failed")).endswith("with 1 of 3 failures and 0 losses: No.")
    cancelled = await sql_client.submit()
    await sql_client.cancel(cancelled)
    assert (await only(sql_client, cancelled, "cancelled")).startswith("It was cancelled at 20")


async def test_what_the_caller_does_not_see_is_unknown(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    for tenant, reach in (("acme", None), ("default", {"owner": "ann"}), ("default", {"agents": ["other"]})):
        with pytest.raises(asyncpg.PostgresError, match=f"There is no message {message_id}") as caught:
            await explain(sql_client, message_id, tenant, reach)
        assert caught.value.sqlstate == "TR404"


async def test_times_are_short(sql_client: SqlClient) -> None:
    spans = {"-5 s": "0 s", "119 s": "119 s", "5 min": "5 min", "3 h": "3 h", "4 days": "4 days"}
    for span, text in spans.items():
        assert await sql_client.sql.fetchval("select treadle._span($1::text::interval)", span) == text
