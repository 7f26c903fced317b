"""Lists of subjects: they come in pages, read no schemas and little more than they return."""

import json
from functools import partial

from service.access.principal import AUTH_OFF
from service.db.pages import READ_ROWS, read_all
from service.db.pool import Connection, Database
from service.limits import PAGE_ITEMS
from service.schemas.store import NEWEST_PAGE, SchemaStore
from tests.support.api_client import Client
from tests.support.cli_runner import Cli

# Every third subject has only deleted versions, and the newest version of every second one is deleted.
FILL = """
    insert into treadle.schemas (tenant, schema_id, kind, schema, refs, digest, created_at)
    select 'default', n, 'JSON', '{}', '[]', gen_random_uuid(), now() from generate_series(1, $1::integer) n;
    """
VERSIONS = """
    insert into treadle.schema_versions (tenant, subject, version, schema_id, created_at, deleted_at)
    select 'default', 's' || lpad(n::text, 5, '0'), v, n, now(),
        case when n % 3 = 0 or (v = 2 and n % 2 = 0) then now() end
    from generate_series(1, $1::integer) n, generate_series(1, 2) v"""
SUBJECTS_OF_ALL = [f"s{n:05}" for n in range(1, 1_501)]
LIVE = [f"s{n:05}" for n in range(1, 1_501) if n % 3]


async def fill(sql: Connection, subjects: int) -> None:
    await sql.execute(FILL, subjects)
    await sql.execute(VERSIONS, subjects)
    await sql.execute("analyze treadle.schemas; analyze treadle.schema_versions")


async def test_subjects_are_listed_in_pages(database: Database, sql: Connection) -> None:
    await fill(sql, 1_500)
    store = SchemaStore(database)
    first, following = await store.page(AUTH_OFF)
    assert ([each.subject for each in first], following) == (LIVE[:PAGE_ITEMS], LIVE[PAGE_ITEMS - 1])
    assert [each.version for each in first[:4]] == [2, 1, 1, 2]
    assert [each.subject for each in await read_all(partial(store.page, AUTH_OFF))] == LIVE
    deleted = await read_all(partial(store.page, AUTH_OFF, deleted=True))
    assert [(each.subject, each.deleted) for each in deleted] == [(name, name not in LIVE) for name in SUBJECTS_OF_ALL]


async def test_the_command_lists_subjects_without_their_schemas(cli: Cli, sql: Connection) -> None:
    await fill(sql, 150)
    listed = json.loads((await cli("schemas", "list", "--json")).output)
    assert len(listed) == 100
    assert listed[0].keys() == {"subject", "version", "schema_id", "kind", "digest", "deleted"}
    assert len(json.loads((await cli("schemas", "list", "--deleted", "--json")).output)) == 150


async def test_the_dialect_reads_the_part_that_its_client_asks_for(open_api: Client, sql: Connection) -> None:
    await fill(sql, 1_500)

    async def subjects(**query: str | int) -> list[str]:
        answer = await open_api.get("/schema-registry/subjects", params=query)
        found: list[str] = answer.json()
        return found

    assert await subjects() == LIVE
    assert await subjects(offset=7, limit=3) == LIVE[7:10]
    assert await subjects(limit=0) == []
    assert await subjects(offset=-1, limit=-5, subjectPrefix="s0001") == [name for name in LIVE if name[:5] == "s0001"]
    assert await subjects(deleted="true", offset=1_490) == SUBJECTS_OF_ALL[1_490:]
    assert await subjects(deleted_only="true", limit=2) == ["s00003", "s00006"]


async def test_a_page_reads_little_more_than_it_returns(sql: Connection) -> None:
    await fill(sql, 20_000)
    read = (
        "select sum(seq_tup_read + idx_tup_fetch) from pg_stat_xact_user_tables"
        " where relname in ('schemas', 'schema_versions')"
    )
    for _ in range(7):  # with a plan of its own, and with the one that is kept
        async with sql.transaction():
            before = await sql.fetchval(read) or 0
            assert len(await sql.fetch(NEWEST_PAGE, "default", "s00700", True, READ_ROWS)) == READ_ROWS
            assert await sql.fetchval(read) - before <= 6 * READ_ROWS  # two versions, each with its schema
