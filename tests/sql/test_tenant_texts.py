"""The texts that a login role of a tenant passes to the functions that are granted to it: the rows that they leave are
bounded, and those that are not acceptable are refused by an error of ours.

The walk goes over all functions that write, and passes each text, JSON and binary argument (of JSON also each field)
twice: huge, and null.
"""

from collections.abc import Iterator
from uuid import UUID

import asyncpg
import pytest

from service.db.pool import Connection
from tests.support.sql_client import SqlClient

HUGE = "repeat('x', 10000001)"
KEPT_BYTES = 2_000  # of a row, at most
REFUSALS = ("42501", "22023")  # of ours: the tenant is another one; of PostgreSQL's: lock_timeout
ARGUMENTS = {  # of each function that writes, in SQL
    "cancel": {"message_id": "'{held}'"},
    "change_message": {"message_id": "'{held}'"},
    "change_thread": {"thread_id": "'t'", "metadata": "'{{}}'"},
    "delete_thread": {"thread_id": "'t'"},
    "input": {"message_id": "'{asking}'", "input": "'1'"},
    "input_once": {"message_id": "'{asking}'", "key": "'k'", "input": "'1'", "name": "null"},
    "publish": {"topic": "'t'", "value": "'1'"},
    "publish_many": {"topic": "'t'", "records": """'[{{"value": 1}}]'"""},
    "publish_once": {"key": "'{key}'", "request_hash": "''", "topic": "'t'", "records": """'[{{"value": 1}}]'"""},
    "redrive": {"message_id": "'{held}'"},
    "retry_from": {"message_id": "'{held}'", "step": "'s'"},
    "submit": {"message": "'x'::text"},
    "submit_many": {"messages": """'[{{"message": "x"}}]'"""},
    "submit_once": {"key": "'{key}'", "request_hash": "''", "messages": """'[{{"message": "x"}}]'"""},
    "use_store": {"calls": "'[]'"},
}
FIELDS = {  # of the arguments that are JSON, with what makes the rest acceptable
    "reach": ("{}", ("owner", "thread_id", "message_id", "agents")),
    "headers": ("{}", ("name",)),
    "records": ('{"value": 1}', ("value", "key", "headers", "traceparent", "record_id", "schema_id")),
    "messages": (
        '{"message": "x", "thread_id": "new"}',
        (
            *("message", "message_id", "priority", "thread_id", "agent", "metadata", "delay_seconds", "parent"),
            *("traceparent", "callback_url", "on_busy", "ends_question", "thread_metadata", "actor"),
        ),
    ),
    "calls": ('{"op": "put", "namespace": ["n"], "key": "k", "value": {}}', ("op", "namespace", "key", "value", "ttl")),
}
WRITERS = """
    select p.proname
    from pg_proc p
    where p.pronamespace = 'treadle'::regnamespace and p.provolatile = 'v' and p.pronargs > 0
        and has_function_privilege('treadle_tenant', p.oid, 'execute')"""
TEXTS = """
    select distinct a.name, a.type::regtype::text as type
    from pg_proc p
    cross join unnest(p.proargnames, string_to_array(p.proargtypes::text, ' ')::oid[]) a (name, type)
    where p.pronamespace = 'treadle'::regnamespace and p.proname = $1
        and a.type in ('text'::regtype, 'jsonb'::regtype, 'bytea'::regtype)
    order by 1, 2"""
KEEPERS = """
    select string_agg(format('select %L as name, octet_length(t::text) as bytes from %s t', c.oid::regclass,
        c.oid::regclass), ' union all ')
    from pg_class c
    where c.relnamespace = 'treadle'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        and c.relname not in ('meta', 'agents')"""


def values_of(name: str, type: str) -> Iterator[str]:
    """Of an argument, in SQL."""
    huge = {"text": HUGE, "bytea": f"convert_to({HUGE}, 'UTF8')"}.get(type, f"jsonb_build_object('x', {HUGE})")
    yield from (huge, f"null::{type}")
    rest, fields = FIELDS.get(name, ("{}", ()))
    for field in fields if type == "jsonb" else ():
        for value in (HUGE, f"jsonb_build_array({HUGE})", f"jsonb_build_object('x', {HUGE})", "null"):
            found = f"'{rest}'::jsonb || jsonb_build_object('{field}', {value})"
            yield found if name in ("reach", "headers") else f"jsonb_build_array({found})"


async def asking_message(sql_client: SqlClient) -> UUID:
    """A message of acme that waits for input."""
    [row] = await sql_client.submit_many({"thread_id": "asks"}, tenant="acme")
    [claim] = await sql_client.claim(1)
    await sql_client.sql.execute(
        "select treadle.conclude($1, $2, 'input', '{}', null, null, null, null, $3, '{}', '{}', 3, null, null, null)",
        claim.message_id,
        claim.lease,
        claim.last_seq + 1,
    )
    return UUID(str(row["message_id"]))


async def is_done_or_refused(acme: Connection, call: str) -> bool:
    """Not: PostgreSQL itself found the fault."""
    try:
        await acme.execute(f"select treadle.{call}")
    except asyncpg.PostgresError as error:
        return error.sqlstate[:2] == "TR" or error.sqlstate in REFUSALS
    return True


async def test_the_walk_knows_each_function_that_writes(sql_client: SqlClient) -> None:
    found = {row["proname"] for row in await sql_client.sql.fetch(WRITERS)}
    assert set(ARGUMENTS) == found


@pytest.mark.parametrize("function", ARGUMENTS)
async def test_it_leaves_no_large_row(function: str, sql_client: SqlClient, acme: Connection) -> None:
    asking = await asking_message(sql_client)
    await sql_client.sql.execute("select treadle.create_topic('t', tenant => 'acme'), treadle.create_queue('webhooks')")
    kept = await sql_client.sql.fetchval(KEEPERS)
    number = 0
    for name, type in await sql_client.sql.fetch(TEXTS, function):
        for value in values_of(name, type):
            number += 1
            held = await acme.fetchval("select treadle.submit('x', thread_id => 't', delay_seconds => 600)")
            given = {
                key: text.format(held=held, asking=asking, key=number) for key, text in ARGUMENTS[function].items()
            }
            arguments = ", ".join(f"{key} => {text}" for key, text in {**given, name: value}.items())
            call = f"{function}({arguments})"
            assert await is_done_or_refused(acme, call), call
            large = await sql_client.sql.fetch(f"select * from ({kept}) k where bytes > {KEPT_BYTES}")
            assert large == [], call
