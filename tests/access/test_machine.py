"""Callers of two tenants do what they can, in any order, with the names, ids and keys of each other: none sees or
changes a thing of another.

    EXAMPLES=1000 make test ARGS="tests/access/test_machine.py -n 0"      looks for longer
"""

import asyncio
import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from service.db.pool import Connection
from tests.support.access import create_key, create_token
from tests.support.access_machine import AccessMachine, Caller, World
from tests.support.api_client import Client
from tests.support.sql_client import SqlClient

SETTINGS = settings(
    max_examples=int(os.environ.get("EXAMPLES", "10")),
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.generate],  # to shrink a program takes minutes; the message of a failure names the call
    database=None,
    suppress_health_check=list(HealthCheck),
)
SCOPES = ("submit", "read", "operate")


async def callers_of(api: Client, tenant: str) -> list[Caller]:
    key = (await create_key(api, *SCOPES, tenant=tenant))["key"]
    limited = (await create_key(api, *SCOPES, tenant=tenant, agents=["echo"]))["key"]
    subjects = [
        Caller(f"{subject} of {tenant}", tenant, await create_token(api, key, *SCOPES, subject=subject), subject)
        for subject in ("ada", "bob")
    ]
    return [
        Caller(f"key of {tenant}", tenant, key),
        Caller(f"key of echo of {tenant}", tenant, limited, agents=("echo",)),
        *subjects,
    ]


async def test_no_caller_reaches_a_thing_of_another(closed_api: Client, sql_client: SqlClient, sql: Connection) -> None:
    await sql_client.register({}, {"agent": "other"})
    for tenant in ("acme", "globex"):
        await sql.execute("select treadle.create_tenant($1)", tenant)
    callers = [caller for tenant in ("acme", "globex") for caller in await callers_of(closed_api, tenant)]
    world = World(closed_api, sql, callers, asyncio.get_running_loop())
    run: Any = run_state_machine_as_test  # takes any callable that makes a machine
    await asyncio.to_thread(run, lambda: AccessMachine(world), settings=SETTINGS)
