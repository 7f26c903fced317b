"""API, worker and migration with login roles of their own, none of them a superuser."""

import asyncpg

from service.db.migrate import migrate
from service.db.pool import Connection
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import until


async def test_api_and_worker_work_with_the_rights_of_their_role(
    start_api: StartApi, start_worker: StartWorker, sql: Connection, dsn: str
) -> None:
    await sql.execute(
        "create role own_api login in role treadle_app; create role own_worker login in role treadle_worker"
    )
    try:
        await start_worker(database_url=dsn.replace("treadle@", "own_worker@"))
        api = await start_api(database_url=dsn.replace("treadle@", "own_api@"))
        accepted = (await api.post("/messages", json={"message": "hello", "thread_id": "t"})).json()
        status = f"/messages/{accepted['message_id']}/status"

        async def completed() -> bool:
            return bool((await api.get(status)).json()["state"] == "completed")

        await until(completed)
        for path in ("/health/ready", "/queue", "/queues", "/threads", "/threads/t", "/agents", "/workers", "/tenant"):
            assert (await api.get(path)).status_code == 200, path
        users = await sql.fetch(
            "select distinct usename from pg_stat_activity where application_name like 'treadle%'"
            " and datname = current_database()"
        )
        assert {row["usename"] for row in users} == {"own_api", "own_worker"}
    finally:
        await sql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename in ('own_api', 'own_worker');"
            "drop role own_api; drop role own_worker"
        )


async def test_an_owner_that_is_no_superuser_migrates(sql: Connection, empty_dsn: str) -> None:
    """Its processes cannot take roles that another user created, and keep its rights."""
    database = empty_dsn.rpartition("/")[2]
    await sql.execute(f"create role own_owner login createrole; alter database {database} owner to own_owner")
    theirs = empty_dsn.replace("treadle@", "own_owner@")
    await migrate(theirs)
    connection = await asyncpg.connect(theirs)
    assert await connection.fetchval("select count(*) from treadle.messages") == 0
    await connection.close()
    await sql.execute(f"alter database {database} owner to treadle")
    admin = await asyncpg.connect(empty_dsn)
    await admin.execute("reassign owned by own_owner to treadle; drop owned by own_owner; drop role own_owner")
    await admin.close()
