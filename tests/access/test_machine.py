"""Callers of two tenants do what they can, in any order, with the names, ids, cursors and keys of each other: none sees
or changes a thing of another.

    make strangers      makes 20,000 calls (CALLS) and shows how many of which kind
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from service.access.principal import ALL_SCOPES, Principal
from service.access.sql_roles.store import SqlRoleStore
from service.access.tokens import sign
from service.cli.address import with_login
from service.db.pool import Connection, Database
from tests.support.access import ROOT_KEY, bearer, create_key, create_token
from tests.support.access_machine import World
from tests.support.access_model import EVERY_SCOPE, Caller
from tests.support.access_sql import AccessMachine
from tests.support.api_client import Client
from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient

CALLS = int(os.environ.get("CALLS", "400"))
STEPS = 25  # of a program
SETTINGS = settings(
    max_examples=4,
    stateful_step_count=STEPS,
    deadline=None,
    phases=[Phase.generate],  # to shrink a program takes minutes; the message of a failure names the call
    database=None,
    suppress_health_check=list(HealthCheck),
)


async def callers_of(api: Client, tenant: str, secret: bytes) -> list[Caller]:
    """Three keys, two subjects, and what has ended: a key and a token."""
    key = (await create_key(api, *EVERY_SCOPE, tenant=tenant))["key"]
    limited = (await create_key(api, *EVERY_SCOPE, tenant=tenant, agents=["echo"]))["key"]
    reader = (await create_key(api, "read", tenant=tenant))["key"]
    revoked = await create_key(api, *EVERY_SCOPE, tenant=tenant)
    await api.delete(f"/keys/{revoked['key_id']}", headers=bearer(ROOT_KEY))
    expired = sign(Principal(tenant, ALL_SCOPES, "expired", key_id=key.split("_")[1], expires_at=1e9), secret)
    return [
        Caller(f"key of {tenant}", tenant, key),
        Caller(f"key of echo of {tenant}", tenant, limited, agents=("echo",)),
        Caller(f"reader of {tenant}", tenant, reader, scopes=("read",)),
        *[
            Caller(name, tenant, await create_token(api, key, *EVERY_SCOPE, subject=name), subject=name)
            for name in ("ada", "bob")
        ],
        Caller(f"revoked key of {tenant}", tenant, revoked["key"], dead=True),
        Caller(f"expired token of {tenant}", tenant, expired, dead=True),
    ]


@pytest.fixture
async def sessions(sql: Connection, database: Database, dsn: str) -> AsyncIterator[dict[str, Connection]]:
    """A session of a login role of each tenant."""
    store, found = SqlRoleStore(database), {}
    async with contextlib.AsyncExitStack() as stack:
        for tenant in ("acme", "globex"):
            await sql.execute("select treadle.create_tenant($1)", tenant)
            role, password = await store.create(tenant, connections=5, statement_seconds=60)
            stack.push_async_callback(store.drop, role)
            found[tenant] = await asyncpg.connect(with_login(dsn, role, password))
            stack.push_async_callback(found[tenant].close)
        yield found


async def test_no_caller_reaches_a_thing_of_another(
    closed_api: Client, sql_client: SqlClient, sql: Connection, sessions: dict[str, Connection]
) -> None:
    await sql_client.register({}, {"agent": "other"})
    secret = await sql.fetchval("select treadle.signing_secret()")
    callers = [caller for tenant in sessions for caller in await callers_of(closed_api, tenant, secret)]
    world = World(closed_api, sql, sessions, callers, asyncio.get_running_loop())
    run: Any = run_state_machine_as_test  # takes any callable that makes a machine
    while world.calls.total() < CALLS:
        await asyncio.to_thread(run, lambda: AccessMachine(world), settings=SETTINGS)
    await assert_consistent(sql)
    for (protocol, kind), count in sorted(world.calls.items()):
        print(f"{protocol:<10} {kind:<17} {count:>6}")
    print(f"{world.calls.total()} calls, {next(world.examples)} programs")
