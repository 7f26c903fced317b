"""What a new connection asks of the server."""

from uuid import uuid4

from service.db.connection import FIXED_TYPES, KnownTypesConnection, connect
from tests.support.waiting import let_the_loop_read

IDS = "select $1::uuid[]"


async def test_a_connection_asks_for_no_type_that_another_has_met(dsn: str) -> None:
    ids = [uuid4(), uuid4()]
    first = await connect(dsn, name="first")
    second = await connect(dsn, name="second")
    try:
        assert await first.fetchval(IDS, ids) == ids
        asked: list[str] = []
        with second.query_logger(lambda query: asked.append(query.query)):
            assert await second.fetchval(IDS, ids) == ids
            await let_the_loop_read()  # asyncpg logs in a callback
        assert asked == [IDS]
    finally:
        await first.close()
        await second.close()


async def test_types_of_a_database_are_looked_up_in_each(dsn: str, empty_dsn: str) -> None:
    """The same oid may be another type there."""
    found = []
    for address in (dsn, empty_dsn):
        connection = await connect(address, name="test")
        await connection.execute("create type public.pair as (a integer, b text)")
        found.append(await connection.fetchval("select row(1, 'x')::public.pair"))
        await connection.close()
    assert [tuple(pair) for pair in found] == [(1, "x")] * 2
    assert set(KnownTypesConnection._known) <= set(FIXED_TYPES)
