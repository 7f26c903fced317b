"""The room of stores: items that expire, what a tenant may have in all of its stores, and what a search may look at."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from service import limits
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

TOTALS = "select tenant, bytes from treadle.store_totals order by tenant"


async def use(sql_client: SqlClient, *calls: dict[str, Any], owner: str | None = None) -> list[Any]:
    reach = None if owner is None else json.dumps({"owner": owner})
    found: list[Any] = await sql_client.sql.fetchval(
        "select treadle.use_store($1::jsonb, reach => $2::jsonb)", json.dumps(calls), reach
    )
    return found


def item(op: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"op": op, "namespace": ["n"], "key": key, **fields}


async def keys(sql_client: SqlClient, **fields: Any) -> list[str]:
    [found] = await use(sql_client, {"op": "search", "prefix": ["n"], **fields})
    return sorted(one["key"] for one in found)


async def test_items_expire_after_their_last_change_or_read(sql_client: SqlClient) -> None:
    for key, fields in {"short": {"ttl": 1}, "long": {"ttl": 10}, "ever": {}}.items():
        await use(sql_client, item("put", key, value={"a": 1}, **fields))
    await sql_client.shift_clock(50)
    assert (await use(sql_client, item("get", "short", refresh=False)))[0]["key"] == "short"
    await use(sql_client, item("get", "short"))  # it stays for another minute
    await sql_client.shift_clock(100)
    assert await keys(sql_client, refresh=False) == ["ever", "long", "short"]
    await sql_client.shift_clock(120)
    assert await keys(sql_client) == ["ever", "long"]  # `long` stays for another ten minutes
    assert await use(sql_client, item("get", "short")) == [None]
    assert await use(sql_client, {"op": "namespaces"}) == [[["n"]]]
    assert await sql_client.sql.fetchval("select treadle.purge_store_items()") == 1
    await sql_client.shift_clock(700)
    assert await keys(sql_client, refresh=False) == ["ever", "long"]
    await sql_client.shift_clock(800)
    await use(sql_client, item("put", "long", value={"b": 2}))  # another item, for ever
    [again] = await use(sql_client, item("get", "long"))
    assert again["created_at"] == again["updated_at"]
    await sql_client.shift_clock(100_000)
    assert await sql_client.sql.fetchval("select treadle.purge_store_items()") == 0
    assert await keys(sql_client) == ["ever", "long"]
    for ttl in (0, -1, "1", 600_000):
        with pytest.raises(asyncpg.PostgresError, match="ttl must be"):
            await use(sql_client, item("put", "x", value={}, ttl=ttl))


async def test_all_stores_of_a_tenant_have_a_limit_together(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.limit_tenant('default', '{\"store_bytes\": 330}')")
    assert await sql_client.sql.fetchval("select in_force from treadle.tenants where tenant = 'default'") is None
    for owner in ("eve", "ann"):
        await use(sql_client, item("put", "k", value={"a": 1}), owner=owner)  # 8 bytes, 2 of names, and 100
    with pytest.raises(asyncpg.PostgresError, match="'default' are full: they hold at most 330 bytes"):
        await use(sql_client, item("put", "more", value={"a": 1}))
    await use(sql_client, item("put", "k", value={}), owner="ann")
    await use(sql_client, item("put", "more", value={"a": 1}))
    assert [tuple(row) for row in await sql_client.sql.fetch(TOTALS)] == [("default", 327)]
    await use(sql_client, item("delete", "more"), item("delete", "unknown"))
    await use(sql_client, item("delete", "k"), owner="ann")
    rows = await sql_client.sql.fetch("select owner, items from treadle.store_sizes")
    rows += await sql_client.sql.fetch("select bytes, max_bytes from treadle.store_use()")
    assert [tuple(row) for row in rows] == [("eve", 1), (110, 330)]
    for given, most in (('{"store_bytes": null}', None), (None, 10_000_000_000)):
        await sql_client.sql.execute("select treadle.limit_tenant('default', $1)", given)
        assert await sql_client.sql.fetchval("select max_bytes from treadle.store_use()") == most
    await sql_client.sql.execute("select treadle.declare_tenant_limits('{\"store_bytes\": 9}')")
    with pytest.raises(asyncpg.PostgresError, match="at most 9 bytes"):
        await use(sql_client, item("put", "more", value={"a": 1}))


async def test_a_search_looks_at_a_bounded_part_of_a_store(sql_client: SqlClient) -> None:
    await sql_client.sql.execute(
        "insert into treadle.store_items (tenant, owner, namespace, key, value, created_at, updated_at, bytes)"
        " select 'default', '', array[s, t], k::text, '{}', now(), now(), 2"
        " from unnest(array['large', 'small']) s, unnest(array['a', 'b']) t, generate_series(1, 5001) k"
        " where s = 'large' or k <= 2"
    )
    [found] = await use(sql_client, {"op": "search", "prefix": ["large"], "limit": 1000})
    assert len(found) == 1000
    for call in (
        {"op": "search", "prefix": ["large"], "filter": {"a": 1}},
        {"op": "search", "prefix": ["large", "*"]},
        {"op": "namespaces", "suffix": ["a"]},
    ):
        with pytest.raises(asyncpg.PostgresError, match="begin it with a longer namespace"):
            await use(sql_client, call)
    [found] = await use(
        sql_client, {"op": "search", "prefix": ["large", "a"], "filter": {"a": {"$ne": 1}}, "limit": 1000}
    )
    assert len(found) == 1000
    [found, spaces] = await use(
        sql_client,
        {"op": "search", "prefix": ["small", "*"]},
        {"op": "namespaces", "prefix": ["small"], "suffix": ["b"]},
    )
    assert (len(found), spaces) == (4, [["small", "b"]])
    await sql_client.sql.execute("update treadle.store_items set bytes = 20000000 where namespace[1] = 'small'")
    with pytest.raises(asyncpg.PostgresError, match="33554432 bytes"):
        await use(sql_client, {"op": "search", "prefix": ["small"], "filter": {"a": 1}})
    await sql_client.sql.execute("delete from treadle.store_items")  # which no size counts


COUNTED = "select sum(items)::integer, sum(bytes)::integer, count(*)::integer from treadle.store_sizes"
IN_ALL = "select sum(bytes)::integer, count(*)::integer from treadle.store_totals"


async def test_an_open_transaction_delays_changes_of_the_same_items_only(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    await use(sql_client, item("put", "kept", value={"a": 1}), item("put", "gone", value={"a": 1}, ttl=1))
    async with other.sql.transaction():
        await use(other, item("put", "new", value={"a": 1}), item("put", "kept", value={}))
        await use(sql_client, item("put", "next", value={"long": 1}), item("delete", "unknown"))
        await use(sql_client, item("put", "k", value={"a": 1}), owner="eve")
        await sql_client.shift_clock(100)
        assert await sql_client.sql.fetchval("select treadle.purge_store_items()") == 1
        with pytest.raises(asyncpg.LockNotAvailableError):
            await use(sql_client, item("put", "kept", value={"b": 2}))
    assert await keys(sql_client) == ["kept", "new", "next"]
    assert tuple(await fetch_row(sql_client.sql, COUNTED)) == (4, 445, 3)
    assert tuple(await fetch_row(sql_client.sql, IN_ALL)) == (445, 2)
    assert await sql_client.sql.fetchval("select treadle.fold_stores()") == 2
    assert tuple(await fetch_row(sql_client.sql, COUNTED)) == (4, 445, 2)
    assert tuple(await fetch_row(sql_client.sql, IN_ALL)) == (445, 1)
    assert await sql_client.sql.fetchval("select treadle.fold_stores()") == 0
    assert await sql_client.sql.fetchval("select bytes from treadle.store_use()") == 445


async def test_two_transactions_that_put_one_new_item_count_it_once(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    async with other.sql.transaction():
        await use(other, item("put", "k", value={"a": 1}))
        second = asyncio.create_task(persist(lambda: use(sql_client, item("put", "k", value={"long": 1}))))
        await other.until_blocked(sql_client)
    assert await second == [None]
    assert (await fetch_row(sql_client.sql, COUNTED))[:2] == (1, 113)
    async with other.sql.transaction():
        await use(other, item("delete", "k"))
        second = asyncio.create_task(persist(lambda: use(sql_client, item("put", "k", value={}))))
        await other.until_blocked(sql_client)
    assert await second == [None]
    assert (await fetch_row(sql_client.sql, COUNTED))[:2] == (1, 104)


async def test_the_limits_hold_for_committed_items(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.limit_tenant('default', '{\"store_bytes\": 230}')")
    other = await sql_client.connect()
    async with other.sql.transaction():
        await use(other, item("put", "a", value={"a": 1}))
        await use(sql_client, item("put", "b", value={"a": 1}), owner="eve")
    with pytest.raises(asyncpg.PostgresError, match="at most 230 bytes"):
        await use(sql_client, item("put", "c", value={"a": 1}), owner="ann")
    await use(sql_client, item("delete", "b"), owner="eve")
    await use(sql_client, item("put", "c", value={"a": 1}), owner="ann")


async def test_totals_that_an_upgrade_left_wrong_are_corrected(sql_client: SqlClient) -> None:
    """Functions of before migration 0025 count sizes and no totals."""
    await use(sql_client, item("put", "k", value={"a": 1}))
    await use(sql_client, item("put", "k", value={"a": 1}), owner="eve")
    await sql_client.sql.execute("delete from treadle.store_totals")
    await sql_client.sql.execute("insert into treadle.store_totals (tenant, bytes) values ('default', 100)")
    await sql_client.sql.execute("select treadle.fold_stores()")
    assert tuple(await fetch_row(sql_client.sql, IN_ALL)) == (220, 1)


async def test_an_item_counts_with_its_names_and_one_of_an_earlier_release_as_before(sql_client: SqlClient) -> None:
    await use(sql_client, {"op": "put", "namespace": ["ab", "\u00fc"], "key": "\u20ac", "value": {}})
    assert tuple(await fetch_row(sql_client.sql, IN_ALL)) == (2 + 2 + 2 + 3 + 100, 1)
    await use(sql_client, {"op": "delete", "namespace": ["ab", "\u00fc"], "key": "\u20ac"})
    await use(sql_client, item("put", "changed", value={}), item("put", "deleted", value={}))
    await sql_client.sql.execute("update treadle.store_items set bytes = case key when 'changed' then 2 end")
    await sql_client.sql.execute("update treadle.store_sizes set bytes = 4; update treadle.store_totals set bytes = 4")
    await use(sql_client, item("delete", "deleted"))
    assert (await fetch_row(sql_client.sql, COUNTED))[:2] == (1, 2)
    await use(sql_client, item("put", "changed", value={"a": 1}))
    assert (await fetch_row(sql_client.sql, COUNTED))[:2] == (1, 8 + 7 + 1 + 100)


async def test_a_filter_is_bounded(sql_client: SqlClient) -> None:
    values = list(range(limits.MAX_FILTER_VALUES))
    await use(sql_client, {"op": "search", "prefix": [], "filter": {"a": values}})
    with pytest.raises(asyncpg.PostgresError, match="filter must have at most 20 values in its arrays together"):
        await use(sql_client, {"op": "search", "prefix": [], "filter": {"a": [*values, {"b": 1}]}})
    with pytest.raises(asyncpg.PostgresError, match="filter must have at most 10000 bytes"):
        await use(sql_client, {"op": "search", "prefix": [], "filter": {"a": "x" * limits.MAX_FILTER_BYTES}})
