"""Fixtures of the SQL tests."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from service.db import migrate as migration
from service.db.pool import Connection, Database
from tests.support.migrations import NEXT, AddMigration
from tests.support.sql_client import SqlClient
from tests.support.tenant_logins import tenant_session
from tests.support.topic_calls import Topics


@pytest.fixture
def add_migration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AddMigration:
    """Adds one migration after the newest; its text is given."""

    def add(text: str) -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(migration.MIGRATIONS_FOLDER, folder)
        (folder / "versions" / f"{NEXT}_next.py").write_text(text)
        monkeypatch.setattr(migration, "MIGRATIONS_FOLDER", folder)

    return add


@pytest.fixture
async def acme(sql_client: SqlClient, database: Database, dsn: str) -> AsyncIterator[Connection]:
    """A session of the tenant acme's login role."""
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    async with tenant_session(database, dsn, "acme") as connection:
        yield connection


@pytest.fixture
async def topics(sql_client: SqlClient) -> Topics:
    """Calls on the connection `sql`; there is the topic t."""
    found = Topics(sql_client)
    await found.create("t")
    return found


@pytest.fixture
async def other(sql_client: SqlClient) -> UUID:
    """A message `hidden` of the tenant `other` in its thread `hidden`, a record in its topic `hidden`, and more."""
    await sql_client.sql.execute("select treadle.create_tenant('other')")
    await sql_client.sql.execute("select treadle.create_topic('hidden', tenant => 'other')")
    await sql_client.sql.execute(
        "select treadle.create_subscription('hidden', '{#}', 'echo', tenant => 'other'),"
        " treadle.publish('hidden', '\"hidden\"', tenant => 'other')"
    )
    await sql_client.sql.execute("select treadle.sequence_records()")
    await sql_client.sql.execute(
        "select treadle.register_schema('hidden', 'JSON', '{}', treadle.uuid7(), latest => 0, tenant => 'other'),"
        " treadle.set_schema_rule('hidden', 'mode', 'READONLY', tenant => 'other')"
    )
    await sql_client.sql.execute(
        """select treadle.use_store(
            '[{"op": "put", "namespace": ["hidden"], "key": "hidden", "value": {"x": "hidden"}}]', tenant => 'other')"""
    )
    [row] = await sql_client.submit_many({"message": "hidden", "thread_id": "hidden"}, tenant="other")
    await sql_client.heartbeat()
    await sql_client.sql.execute(
        "select treadle.report_instances('w', array(select id from treadle.threads), '{hidden}', '{1}')"
    )
    return UUID(str(row["message_id"]))


@pytest.fixture
async def standing_clock(sql_client: SqlClient) -> None:
    """Let the database's clock stand still but for `shift_clock`: a pause between two calls of a test takes no time."""
    now = await sql_client.sql.fetchval("select clock_timestamp()::text")
    await sql_client.sql.execute(
        "create or replace function treadle.clock() returns timestamptz language sql volatile parallel safe"
        f" as $$ select timestamptz '{now}' + treadle._clock_shift() $$"
    )
