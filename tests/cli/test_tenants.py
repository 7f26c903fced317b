"""`treadle tenants`: logins of tenants to PostgreSQL."""

import json

import asyncpg

from service.cli.address import with_login
from service.db.pool import Connection
from tests.support.cli_runner import Cli


async def test_a_sql_role_logs_in_with_the_printed_address(cli: Cli, sql: Connection) -> None:
    printed = await cli("tenants", "sql-role", "acme", "--connections", "2")
    connection = await asyncpg.connect(printed.output.strip())
    role = await connection.fetchval("select session_user")
    assert await connection.fetchval("select count(*) from treadle.message_overview") == 0
    await connection.close()
    listed = json.loads((await cli("tenants", "sql-roles", "acme", "--json")).output)
    assert [found["role"] for found in listed] == [role]
    assert (await cli("tenants", "drop-sql-role", role)).output == f"{role} is dropped.\n"
    assert await sql.fetchval("select to_regrole($1)", role) is None


async def test_another_user_than_the_owner_gets_one_sentence(cli: Cli, sql: Connection, dsn: str) -> None:
    await sql.execute("create role visiting login in role treadle_app")
    refused = await cli("tenants", "sql-role", "acme", DATABASE_URL=dsn.replace("treadle@", "visiting@"))
    assert refused.exit_code == 1
    assert "The database user may not do this: permission denied for function create_sql_role." in refused.output
    await sql.execute("drop role visiting")


def test_the_address_keeps_all_but_the_login() -> None:
    found = with_login("postgresql://me:secret@a:1,b:2/db?sslmode=require&password=x&user=y", "role", "pw")
    assert found == "postgresql://role:pw@a:1,b:2/db?sslmode=require"
