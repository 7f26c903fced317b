"""Two transactions create the same thing at once: the second one waits, and gets the answer of a later call."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from tests.support.sql_client import SqlClient

# The functions wait for 200 milliseconds or two seconds, which is short on a busy machine.
WAIT_LONGER = """
    do $$
    declare
        v_function regprocedure;
    begin
        for v_function in
            select p.oid
            from pg_proc p
            where p.pronamespace = 'treadle'::regnamespace and p.proconfig::text like '%lock_timeout%'
        loop
            execute format('alter function %s set lock_timeout = ''60s''', v_function);
        end loop;
    end $$"""
HASH = "sha256('')"
CREATIONS: dict[str, tuple[str, Any, Any]] = {  # the call, and what the first and the second one answer
    "thread with a message": (
        """select state from treadle.submit_many('[{"message": "hi", "thread_id": "t"}]')""",
        [("queued",)],
        [("queued",)],
    ),
    "submit with a key": (f"select repeated from treadle.submit_once('k', {HASH}, '[]')", [(False,)], [(True,)]),
    "record": (
        f'select known from treadle.publish_many(\'made\', \'[{{"value": 1, "record_id": "{uuid7()}"}}]\')',
        [(False,)],
        [(True,)],
    ),
    "publish with a key": (
        f"select jsonb_array_length(treadle.publish_once('k', {HASH}, 'made', '[{{\"value\": 1}}]'))",
        [(1,)],
        [(1,)],
    ),
    "topic": ("select treadle.create_topic('t')", [("created",)], [("unchanged",)]),
    "subscription": (
        "select treadle.create_subscription('s', '{made}', 'echo')",
        [("created",)],
        [("unchanged",)],
    ),
    "subscription of an agent": (
        "select treadle.follow_topics('echo', '{made}')",
        [("created",)],
        [("unchanged",)],
    ),
    "key": (
        f"select 1 from treadle.create_key('kkkkkkkkkkkk', {HASH}, 'default', '', '{{read}}')",
        [(1,)],
        ("TR409", "There is a key 'kkkkkkkkkkkk' already."),
    ),
    "webhook": (
        "select 1 from treadle.create_webhook('http://example.com', '{message.failed}')",
        [(1,)],
        [(1,)],
    ),
    "tenant": (
        "select treadle.create_tenant('acme')",
        [(None,)],
        ("TR409", "There is a tenant 'acme' already."),
    ),
    "queue": ("select treadle.create_queue('other')", [(None,)], [(None,)]),
    "schema": (
        f"select version from treadle.register_schema('s', 'JSON', '{{}}', '{uuid4()}', 0)",
        [(1,)],
        [(1,)],
    ),
    "version of a schema": (  # the caller checks again whether the subject allows it
        "select version from treadle.register_schema('s', 'JSON', '{}', gen_random_uuid(), 0)",
        [(1,)],
        [(None,)],
    ),
    "rule of a schema": (
        "select treadle.set_schema_rule('s', 'mode', 'READONLY')",
        [(None,)],
        [("READONLY",)],
    ),
    "agent": (
        'select treadle.register_agents(\'[{"agent": "new", "queue": "new", "timeout_seconds": 1,'
        " \"max_attempts\": 1}]', 'new')",
        [(None,)],
        [(None,)],
    ),
    "thread": ("select treadle.create_thread('t')", [(True,)], [(False,)]),
    "conversation": (
        "select treadle.begin_thread('t', 'items', '[1]', '{}', 9, 999)",
        [([1],)],
        [([1, 1],)],
    ),
    "item": (
        """select treadle.use_store('[{"op": "put", "namespace": ["a"], "key": "k", "value": {}}]')""",
        [([None],)],
        [([None],)],
    ),
    "secret": ("select 1 from treadle.instance_secret()", [(1,)], [(1,)]),
    "secret of callbacks": ("select 1 from treadle.callback_secret()", [(1,)], [(1,)]),
    "limits": ("select treadle.declare_tenant_limits('{\"queued\": 5}')", [(None,)], [(None,)]),
    "size of queues": ("select treadle.declare_queue_size(7)", [(None,)], [(None,)]),
}


async def outcome(call: Any) -> Any:
    try:
        return [tuple(row) for row in await call]
    except asyncpg.PostgresError as error:
        return error.sqlstate, str(error)


@pytest.mark.new_database
@pytest.mark.parametrize("what", CREATIONS)
async def test_the_second_of_two_at_once(sql_client: SqlClient, what: str) -> None:
    call, first, second = CREATIONS[what]
    await sql_client.sql.execute(WAIT_LONGER)
    await sql_client.sql.execute("select treadle.create_topic('made')")
    one, two = await sql_client.connect(), await sql_client.connect()
    async with one.sql.transaction():
        assert await outcome(one.sql.fetch(call)) == first
        waiting = asyncio.create_task(outcome(two.sql.fetch(call)))
        await sql_client.until_blocked(two)
    assert await waiting == second
