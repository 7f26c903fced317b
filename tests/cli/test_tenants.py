"""`treadle tenants`: create, suspend and delete them; their logins to PostgreSQL."""

import json

import asyncpg

from service.cli.address import with_login
from service.db.pool import Connection
from tests.support.cli_runner import Cli
from tests.support.sql_calls import ECHO


async def test_a_sql_role_logs_in_with_the_printed_address(cli: Cli, sql: Connection) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    printed = await cli("tenants", "sql-role", "acme", "--connections", "2")
    connection = await asyncpg.connect(printed.output.strip())
    role = await connection.fetchval("select session_user")
    assert await connection.fetchval("select count(*) from treadle.message_overview") == 0
    await connection.close()
    listed = json.loads((await cli("tenants", "sql-roles", "acme", "--json")).output)
    assert [found["role"] for found in listed] == [role]
    assert (await cli("tenants", "drop-sql-role", role)).output == f"{role} is dropped.\n"
    assert await sql.fetchval("select to_regrole($1)", role) is None
    acts = await sql.fetch("select action, target, principal from treadle.audit order by id offset 1")
    assert [(act["action"], act["target"]) for act in acts] == [("sql_role.create", role), ("sql_role.drop", role)]
    assert all(act["principal"].startswith("command line (") for act in acts)


async def test_commands_of_a_tenants_login_show_its_own(cli: Cli, sql: Connection) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    await sql.execute("select treadle.register_agents($1)", json.dumps([ECHO]))
    for tenant in ("acme", "default"):
        await sql.execute("select treadle.submit('x', thread_id => 'of ' || $1, tenant => $1)", tenant)
    role, address = json.loads((await cli("tenants", "sql-role", "acme", "--json")).output).values()
    for of_tenant in ((), ("--tenant", "acme"), ("--tenant", "default")):
        listed = await cli("threads", "--json", *of_tenant, DATABASE_URL=address)
        assert [thread["thread_id"] for thread in json.loads(listed.output)] == ["of acme"]
    for command in (("send", "y"), ("messages", "--json"), ("agents", "--json"), ("schemas", "list"), ("instances",)):
        assert (await cli(*command, DATABASE_URL=address)).exit_code == 0, command
    rows = await sql.fetch("select tenant, message_id::text from treadle.messages order by message_id desc")
    own = {row["tenant"]: row["message_id"] for row in rows}
    top = await cli("top", "--once", DATABASE_URL=address, COLUMNS="80")
    assert own["acme"] in top.output
    assert own["default"] not in top.output
    assert (await cli("cancel", own["acme"], DATABASE_URL=address)).exit_code == 0
    await sql.execute("select treadle.fold_counters()")
    [queue] = json.loads((await cli("queues", "--json", DATABASE_URL=address)).output)
    steps = json.loads((await cli("stats", "--step", "1h", "--json", DATABASE_URL=address)).output)["steps"]
    assert (queue["depth"], sum(step["submitted"] for step in steps)) == (1, 2)  # an hour may end meanwhile
    assert (await cli("dead-letters", "--json", DATABASE_URL=address)).output == "[]\n"
    tailed = await cli("tail", own["acme"], "--json", DATABASE_URL=address)
    assert [json.loads(line)["type"] for line in tailed.stdout.splitlines()] == ["queued", "cancelled"]
    assert "There is no message" in (await cli("tail", own["default"], DATABASE_URL=address)).output
    assert "may not act for the tenant" in (await cli("queues", "--tenant", "globex", DATABASE_URL=address)).output
    await cli("tenants", "drop-sql-role", role)


async def test_another_user_than_the_owner_gets_one_sentence(cli: Cli, sql: Connection, dsn: str) -> None:
    await sql.execute("create role visiting login in role treadle_app")
    refused = await cli("tenants", "sql-role", "acme", DATABASE_URL=dsn.replace("treadle@", "visiting@"))
    assert refused.exit_code == 1
    assert "The database user may not do this: permission denied for function create_sql_role." in refused.output
    await sql.execute("drop role visiting")


def test_the_address_keeps_all_but_the_login() -> None:
    found = with_login("postgresql://me:secret@a:1,b:2/db?sslmode=require&password=x&user=y", "role", "pw")
    assert found == "postgresql://role:pw@a:1,b:2/db?sslmode=require"


async def test_a_tenant_is_created_suspended_and_resumed(cli: Cli) -> None:
    assert (await cli("tenants", "create", "acme")).output == "The tenant acme is created.\n"
    assert (await cli("tenants", "suspend", "acme")).output == "The tenant acme is suspended.\n"
    rows = {row["tenant"]: row for row in json.loads((await cli("tenants", "list", "--json")).output)}
    assert rows.keys() == {"acme", "default"}
    assert rows["acme"]["suspended_at"] is not None
    assert (await cli("tenants", "resume", "acme")).output == "The tenant acme is active.\n"
    assert "acme" in (await cli("tenants", "list")).output
    again = await cli("tenants", "create", "acme")
    assert (again.exit_code, "There is a tenant 'acme' already." in again.output) == (1, True)


async def test_a_tenant_is_deleted_with_its_messages(cli: Cli, sql: Connection) -> None:
    await cli("tenants", "create", "acme")
    await sql.execute("select treadle.register_agents($1)", json.dumps([ECHO]))
    many = json.dumps([{"message": "x", "thread_id": f"t{n % 3}"} for n in range(10)] + [{"message": "x"}])
    await sql.execute("select treadle.submit_many($1, tenant => 'acme')", many)
    await sql.execute("select treadle.submit('x')")
    deleted = await cli("tenants", "delete", "acme", "--yes")
    assert deleted.exit_code == 0, deleted.output
    assert deleted.output.endswith("The tenant acme is deleted.\n")
    assert await sql.fetchval("select array_agg(tenant) from treadle.messages") == ["default"]
    assert json.loads((await cli("check", "--invariants", "--json")).output)["violations"] == []
    unknown = await cli("tenants", "delete", "acme", "--yes")
    assert (unknown.exit_code, "There is no tenant 'acme'." in unknown.output) == (1, True)


async def test_commands_act_for_the_tenant_that_they_name(cli: Cli, sql: Connection) -> None:
    await cli("tenants", "create", "acme")
    await sql.execute("select treadle.register_agents($1)", json.dumps([ECHO]))
    of_acme = ("--tenant", "acme")
    message_id = (await cli("send", "hello", "--thread", "t", *of_acme)).output.strip()
    assert "t" in (await cli("threads", *of_acme)).output
    assert (await cli("threads")).output == "There are no threads yet.\n"
    assert json.loads((await cli("queues", "--json", *of_acme)).output)[0]["depth"] == 1
    assert json.loads((await cli("queues", "--json", "--tenant", "default")).output)[0]["depth"] == 1  # of all
    for command in (("input", message_id, "x"), ("dead-letters", "redrive", message_id)):
        assert "There is no message" in (await cli(*command)).output
        assert "There is no message" not in (await cli(*command, *of_acme)).output
    assert "There is no tenant 'nowhere'." in (await cli("send", "hello", "--tenant", "nowhere")).output
