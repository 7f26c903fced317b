"""The audit: each act with its principal, in the transaction of the act."""

import json
from typing import Any

import asyncpg
import pytest

from service.access.store import KeyStore
from service.config import Settings
from service.cursors import format_name
from service.db.pool import Connection, Database
from service.maintenance.purge_audit import PurgeAudit
from service.maintenance.store import MaintenanceStore
from tests.support.access import ROOT_KEY, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.cli_runner import Cli
from tests.support.sql_client import SqlClient


async def audit(sql: Connection) -> list[tuple[Any, ...]]:
    rows = await sql.fetch("select tenant, principal, action, target from treadle.audit order by id")
    return [tuple(row) for row in rows]


async def test_acts_over_http_are_noted(closed_api: Client, sql: Connection) -> None:
    made = await create_key(closed_api, "submit", "read", "operate", name="ops")
    who = f"key {made['key_id']} (ops)"
    headers = bearer(made["key"])
    answer = await closed_api.post("/messages", json={"message": "x", "thread_id": "t"}, headers=headers)
    message_id = answer.json()["message_id"]
    before = len(await audit(sql))
    token = await create_token(closed_api, made["key"], "submit", "operate", thread_id="t")
    cancelled = await closed_api.delete(f"/messages/{message_id}", headers=bearer(token))
    assert cancelled.status_code == 200
    assert (await closed_api.delete(f"/messages/{message_id}", headers=headers)).status_code == 409
    assert (await closed_api.post(f"/messages/{message_id}/redrive", headers=headers)).status_code == 409
    assert (await closed_api.delete("/threads/t", headers=headers)).status_code == 204
    assert (await closed_api.delete("/threads/t", headers=headers)).status_code == 404
    for act in ("pause", "resume"):
        assert (await closed_api.post(f"/queues/default/{act}", headers=bearer(ROOT_KEY))).status_code == 200
    assert (await audit(sql))[before:] == [
        ("default", who, "token.create", "t"),
        ("default", f"token of {who}", "message.cancel", message_id),
        ("default", who, "thread.delete", "t"),
        ("default", "key of TREADLE_KEY", "queue.pause", "default"),
        ("default", "key of TREADLE_KEY", "queue.resume", "default"),
    ]


async def test_a_message_that_cancels_others_is_noted(closed_api: Client, sql: Connection) -> None:
    key = (await create_key(closed_api, "submit", name="hasty"))["key"]
    message = {"message": "x", "thread_id": "t"}
    first = await closed_api.post("/messages", json=message, headers=bearer(ROOT_KEY))
    for way in ("interrupt", "rollback"):
        before = len(await audit(sql))
        second = await closed_api.post("/messages", json={**message, "on_busy": way}, headers=bearer(key))
        [(_, who, action, target)] = (await audit(sql))[before:]
        assert ("(hasty)" in who, action, target) == (True, "message.cancel", first.json()["message_id"])
        first = second
    assert await sql.fetchval("select details from treadle.audit order by id desc limit 1") == {"by": "rollback"}


async def test_the_audit_is_read_in_pages(closed_api: Client, cli: Cli, sql: Connection) -> None:
    """A tenant reads its own; an operator reads all, over HTTP and at the terminal."""
    await sql.execute("select treadle.create_tenant('acme')")
    acme = (await create_key(closed_api, "admin", "read", tenant="acme"))["key"]
    own = [("acme", "key.create"), ("acme", "tenant.create")]
    every = [("default", "token.create"), *own]
    await create_token(closed_api, ROOT_KEY, "read", subject="ada")

    async def read(key: str, **query: Any) -> list[tuple[str, str]]:
        found, cursor = [], None
        while True:
            more: dict[str, str] = {} if cursor is None else {"cursor": cursor}
            answer = await closed_api.get("/audit", params={"limit": 1, **query, **more}, headers=bearer(key))
            assert answer.status_code == 200, answer.text
            found += [(act["tenant"], act["action"]) for act in answer.json()["acts"]]
            if (cursor := answer.json()["next_cursor"]) is None:
                return found

    assert await read(acme) == await read(acme, tenant="acme") == await read(ROOT_KEY, tenant="acme") == own
    assert await read(ROOT_KEY) == await read(ROOT_KEY, since="2020-01-01T00:00:00+01:00") == every
    assert await read(ROOT_KEY, since="2999-01-01T00:00:00Z") == []
    subject = await create_token(closed_api, acme, "read", subject="ada")
    agents = (await create_key(closed_api, "admin", agents=["echo"]))["key"]
    for key, query, status in (
        (acme, "?tenant=default", 403),
        (subject, "", 403),
        (agents, "", 403),
        (acme, "?since=yesterday", 400),
        (acme, "?since=2026-01-01T00:00:00", 400),
        (acme, "?cursor=x", 400),
        (acme, f"?cursor={format_name('2026-01-01T00:00:00+00:00 ' + '9' * 4301)}", 400),
        (acme, "?tenant=", 400),
    ):
        assert (await closed_api.get(f"/audit{query}", headers=bearer(key))).status_code == status, query
    listed = json.loads((await cli("audit", "--tenant", "acme", "--since", "1h", "--json")).stdout)
    assert [act["action"] for act in listed] == ["token.create", "key.create", "tenant.create"]
    newest = json.loads((await cli("audit", "--tenant", "acme", "--limit", "1", "--json")).stdout)
    assert [act["action"] for act in newest] == ["token.create"]
    shown = (await cli("audit", COLUMNS="80")).stdout
    assert "tenant.create acme by " in shown
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


async def test_acts_in_sql_are_noted_with_the_role(sql_client: SqlClient) -> None:
    sql = sql_client.sql
    message_id = await sql_client.submit()
    await sql_client.run(outcome="rejected")
    await sql.fetchval("select treadle.redrive($1)", message_id)
    with pytest.raises(asyncpg.PostgresError, match="There is no queue"):
        await sql.execute("select treadle.pause('missing')")
    await sql.execute("select treadle.create_tenant('acme'), treadle.suspend_tenant('acme')")
    await sql.execute("select treadle.suspend_tenant('acme', false), treadle.delete_tenant('acme', actor => 'ann')")
    assert await audit(sql) == [
        ("default", "role treadle", "message.redrive", str(message_id)),
        ("acme", "role treadle", "tenant.create", "acme"),
        ("acme", "role treadle", "tenant.suspend", "acme"),
        ("acme", "role treadle", "tenant.resume", "acme"),
        ("acme", "ann", "tenant.delete", "acme"),
    ]


async def test_an_act_that_changes_nothing_leaves_no_row(sql_client: SqlClient) -> None:
    sql = sql_client.sql
    waits = await sql_client.submit(thread_id="t")
    runs = (await sql_client.claim_one()).message_id
    second = await sql_client.submit(thread_id="t", priority="low", metadata={"a": 1})
    assert waits == runs
    webhook = await sql.fetchval(
        "select webhook_id from treadle.create_webhook('https://example.com', '{message.failed}')"
    )
    await sql.execute("select treadle.create_topic('t'), treadle.create_subscription('s', '{t}', 'echo')")
    before = len(await audit(sql))
    acts: tuple[tuple[Any, ...], ...] = (
        ("treadle.cancel($1)", runs),
        ("treadle.change_message($1, priority => 'high', metadata => $2)", second, '{"b": 1}'),
        ("treadle.change_thread('t', $1)", '{"b": 1}'),
        ("treadle.set_schema_rule('x', 'compatibility', 'FULL')",),
        ("treadle.pause_subscription('s')",),
        ("treadle.pause('default')",),
        ("treadle.change_webhook($1, '{\"enabled\": false}')", webhook),
        ("treadle.begin_thread('begun', 'items', '[]', '{\"a\": 1}', 9, 99)",),
        ("treadle.begin_thread('begun', 'items', '[{}]', '{\"a\": 1}', 9, 99)",),
    )
    for call, *arguments in acts:
        for _ in range(2 if "[{}]" not in call else 1):
            await sql.execute(f"select {call}", *arguments)
    await sql.execute("select treadle.change_message($1), treadle.set_schema_rule('x', 'mode', null)", second)
    assert [(action, target) for _, _, action, target in (await audit(sql))[before:]] == [
        ("message.cancel", str(runs)),
        ("message.change", str(second)),
        ("thread.change", "t"),
        ("schema.rule", "x"),
        ("subscription.pause", "s"),
        ("queue.pause", "default"),
        ("webhook.change", str(webhook)),
        ("thread.change", "begun"),
    ]
    with pytest.raises(asyncpg.PostgresError, match="not queued"):
        await sql.execute("select treadle.change_message($1)", runs)


async def test_a_transaction_that_is_rolled_back_leaves_no_row(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    transaction = sql_client.sql.transaction()
    await transaction.start()
    assert await sql_client.sql.fetchval("select treadle.cancel($1)", message_id) == "cancelled"
    await transaction.rollback()
    assert await audit(sql_client.sql) == []


async def test_the_audit_is_kept_for_its_own_time(sql: Connection, database: Database, settings: Settings) -> None:
    await sql.execute(
        "insert into treadle.audit (at, tenant, principal, action, target)"
        " select clock_timestamp() - n * interval '1 hour', 'default', 'x', 'key.create', n::text"
        " from generate_series(1, 30) n"
    )
    kept = Settings(audit_retention_hours=20.5)
    await PurgeAudit(kept, MaintenanceStore(database)).run()
    assert [row[3] for row in await audit(sql)] == [str(n) for n in range(1, 21)]


async def test_the_keys_of_a_deleted_tenant_end(sql: Connection, database: Database, cli: Cli) -> None:
    refused = await cli("keys", "create", "--tenant", "acme", "--scope", "read")
    assert (refused.exit_code, refused.stderr) == (1, "Error: There is no tenant 'acme'.\n")
    await sql.execute("select treadle.create_tenant('acme')")
    made = json.loads((await cli("keys", "create", "--tenant", "acme", "--scope", "read", "--json")).stdout)
    store = KeyStore(database)
    assert not (await store.find([made["key_id"]]))[made["key_id"]].revoked
    await sql.execute("select treadle.delete_tenant('acme')")
    assert (await store.find([made["key_id"]]))[made["key_id"]].revoked
    while not await sql.fetchval("select coalesce(gone, true) from treadle.delete_tenant_chunk('acme')"):
        pass
    assert await store.find([made["key_id"]]) == {}
    assert [row[2] for row in await audit(sql)] == ["tenant.create", "tenant.delete"]


async def test_a_number_that_is_written_otherwise_is_a_change(sql_client: SqlClient) -> None:
    sql = sql_client.sql
    message_id = await sql_client.submit(thread_id="t")
    for number in ("1", "1.0"):
        metadata = f'{{"a": {number}}}'
        await sql.execute("select treadle.change_message($1, metadata => $2)", message_id, metadata)
        await sql.execute("select treadle.change_thread('t', $1)", metadata)
        for table in ("messages", "threads"):
            assert await sql.fetchval(f"select metadata::text from treadle.{table}") == metadata
