"""Row types that functions hand to each other: `treadle migrate` replaces one whose definition changes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.db import migrate as migration
from service.db import schema
from service.db.migrate import migrate
from tests.support.sql_client import SqlClient

Change = Callable[[str, str, str], None]


@pytest.fixture
def change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Replace a text in a file of sql/, for the migrations of this test."""
    folder = tmp_path / "sql"
    shutil.copytree(schema.SQL_FOLDER, folder)
    monkeypatch.setattr(migration, "SQL_FOLDER", folder)

    def replace(name: str, old: str, new: str) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return replace


async def attributes(sql_client: SqlClient, name: str) -> tuple[int, list[str]]:
    row = await sql_client.sql.fetchrow(
        "select to_regtype($1)::oid::bigint as oid, treadle._attributes($1) as attributes", f"treadle.{name}"
    )
    assert row is not None
    return row["oid"], row["attributes"]


async def test_an_attribute_at_the_end_is_added_in_place(sql_client: SqlClient, dsn: str, change: Change) -> None:
    session = await sql_client.connect()
    await session.submit(thread_id="t")  # plans of this session know the old type
    oid, before = await attributes(sql_client, "target_thread")
    change("15_types.sql", "    turn      uuid ", "    turn      uuid,\n    note      text ")
    change("39_thread_places.sql", "c.turn)::treadle.target_thread", "c.turn, null)::treadle.target_thread")
    await migrate(dsn)
    assert await attributes(sql_client, "target_thread") == (oid, [*before, "note text"])
    await session.submit(thread_id="t")
    assert (await sql_client.thread("t"))["last_ord"] == 2


async def test_a_type_that_changes_otherwise_is_replaced_with_its_functions(
    sql_client: SqlClient, dsn: str, change: Change
) -> None:
    worker = await sql_client.connect()
    await sql_client.submit(thread_id="t")
    claim = await worker.claim_one()
    oid, before = await attributes(sql_client, "entry")
    change(
        "15_types.sql",
        "    seq        integer,\n    thread     bigint,",
        "    seq        bigint,\n    thread     bigint,",
    )
    await migrate(dsn)
    new_oid, after = await attributes(sql_client, "entry")
    assert new_oid != oid
    assert after == [before[0], "seq bigint", *before[2:]]
    assert await worker.append((claim, claim.last_seq + 1, ["x"])) == ["ok"]
    assert await worker.finish(claim, first_seq=claim.last_seq + 2) == ["completed"]


async def test_a_migration_without_a_change_keeps_every_type(sql_client: SqlClient, dsn: str) -> None:
    query = "select oid::bigint from pg_type where typnamespace = 'treadle'::regnamespace"
    before = {row["oid"] for row in await sql_client.sql.fetch(query)}
    await migrate(dsn)
    after = {row["oid"] for row in await sql_client.sql.fetch(query)}
    assert before <= after  # those of the partitions of another day may have come to them
