"""The store of LangGraph's API, with the unmodified package `langgraph-sdk`, and as graphs find it."""

import asyncio
import threading
from typing import Any

import asyncpg
import pytest
from langgraph.graph import MessagesState
from langgraph.store.base import BaseStore, GetOp
from langgraph_sdk.errors import PermissionDeniedError, UnprocessableEntityError

from service.db.pool import Connection
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.graphs import chain_graph
from tests.support.langgraph_clients import HI, connect, contents
from tests.support.messages import settled, submit
from tests.support.waiting import LIMIT_SECONDS, wait_for
from treadle.adapters import langgraph_agent


async def keep(state: MessagesState, store: BaseStore) -> dict[str, Any]:
    await store.aput(("seen", "async"), "last", {"text": state["messages"][-1].content, "n": 1})
    known = await store.asearch(("seen",), filter={"n": {"$lt": 3}})
    assert len(await store.abatch([GetOp(("seen",), "unknown")] * 101)) == 101
    return {"messages": [{"role": "ai", "content": repr([(item.namespace, item.value["text"]) for item in known])}]}


def keep_sync(state: MessagesState, store: BaseStore) -> dict[str, Any]:
    store.put(("seen", "sync"), "last", {"n": 5})
    found = store.get(("seen", "sync"), "last")
    store.delete(("seen", "sync"), "last")
    gone, spaces = store.get(("seen", "sync"), "last"), store.list_namespaces(prefix=("seen",), suffix=("async",))
    return {"messages": [{"role": "ai", "content": repr([found and found.value, gone, spaces])}]}


async def test_a_thread_that_outlives_its_attempt_cannot_use_the_store(
    start_worker: StartWorker, sql: Connection
) -> None:
    entered, ended, told = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException | None] = []

    def late(state: MessagesState, store: BaseStore) -> dict[str, Any]:
        entered.set()
        ended.wait(LIMIT_SECONDS)
        try:
            store.put(("late",), "key", {})
            raised.append(None)
        except BaseException as error:  # user code catches Exception
            raised.append(error)
        told.set()
        return {}

    await start_worker(langgraph_agent("late", chain_graph(MessagesState, late=late)))
    message_id = await submit(sql, "x", agent="late")
    await wait_for(entered)
    await sql.execute("select treadle.cancel($1)", message_id)
    await settled(sql, message_id, "cancelled")
    ended.set()
    await wait_for(told)
    assert [type(error) for error in raised] == [asyncio.CancelledError]


async def test_clients_and_graphs_use_the_store_of_their_subject(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker(langgraph_agent("keeper", chain_graph(MessagesState, keep=keep, keep_sync=keep_sync)))
    api = await start_api(**CLOSED)
    await sql.execute("select treadle.create_tenant('acme')")
    made = await api.post("/tokens", json={"scopes": ["read", "submit"], "subject": "eve"}, headers=bearer(ROOT_KEY))
    foreign = (await create_key(api, "read", "submit", tenant="acme"))["key"]
    async with connect(api, ROOT_KEY) as client, connect(api, made.json()["token"]) as eve:
        for store, text in ((client.store, "ours"), (eve.store, "hers")):
            await store.put_item(["seen", "client"], key="a", value={"text": text, "n": 2})
        values = await eve.runs.wait(None, "keeper", input=HI)
        seen = "[(('seen', 'async'), 'one two'), (('seen', 'client'), 'hers')]"
        assert contents(values)[1:] == [("ai", seen), ("ai", "[{'n': 5}, None, [('seen', 'async')]]")]
        item = await eve.store.get_item(["seen", "async"], key="last")
        assert (item["value"]["text"], item["namespace"]) == ("one two", ["seen", "async"])
        assert await client.store.get_item(["seen", "async"], key="last") is None
        first = await client.store.get_item(["seen", "client"], key="a")
        await client.store.put_item(["seen", "client"], key="a", value={"text": "new"}, index=["text"])
        again = await client.store.get_item(["seen", "client"], key="a")
        assert (again["value"], again["created_at"] < again["updated_at"]) == ({"text": "new"}, True)
        assert again["created_at"] == first["created_at"]
        await client.store.put_item(["a", "b", "c"], key="k", value={})
        assert await client.store.list_namespaces(max_depth=2) == {"namespaces": [["a", "b"], ["seen", "client"]]}
        assert await client.store.list_namespaces(suffix=["c"]) == {"namespaces": [["a", "b", "c"]]}
        found = await client.store.search_items([], limit=1, offset=1, query="anything")
        assert [one["key"] for one in found["items"]] == ["a"]
        for prefix, filter, keys in (
            (["seen", "*"], {"text": "new"}, ["a"]),
            (["*", "client"], {"text": {"$eq": "new", "$ne": "old"}}, ["a"]),
            (["*", "client", "*"], {}, []),
            (["a"], {"text": {"$ne": "new"}}, ["k"]),
            (["a"], {"text": None}, []),
        ):
            found = await client.store.search_items(prefix, filter=filter)
            assert [one["key"] for one in found["items"]] == keys
        await client.store.delete_item(["seen", "client"], key="a")
        assert (await client.store.search_items(["seen"]))["items"] == []
        wrong: list[Any] = [
            client.store.put_item([], key="k", value={}),
            client.store.put_item(["a"], key="", value={}),
            client.store.put_item(["a"], key="k", value={"x": "y" * 262_144}),
            client.store.put_item(["a"], key="k", value={}, ttl=0),
            client.store.put_item(["a\n"], key="k", value={}),
            client.store.put_item(["a" * 224] * 20, key="k", value={}),
            client.store.search_items(["a"], limit=0),
            client.store.search_items(["a"], filter={"n": {"$in": [1]}}),
        ]
        for call in wrong:
            with pytest.raises(UnprocessableEntityError):
                await call
        await sql.execute(
            "insert into treadle.store_items select 'default', '', array['large'], n::text,"
            " jsonb_build_object('x', repeat('y', 260000)), clock_timestamp(), clock_timestamp()"
            " from generate_series(1, 16) n"
        )
        assert len((await client.store.search_items(["large"], limit=15))["items"]) == 15
        with pytest.raises(UnprocessableEntityError, match="ask for fewer"):  # not a page that looks like the last one
            await client.store.search_items(["large"], limit=16)
        await sql.execute("delete from treadle.store_items where namespace = array['large']")
        with pytest.raises(asyncpg.PostgresError, match="at most 100"):
            await sql.execute("select treadle.use_store(jsonb_agg(n)) from generate_series(1, 101) n")
        await sql.execute("update treadle.store_sizes set items = 100000 where owner = ''")
        with pytest.raises(Exception, match=r"429|full"):
            await client.store.put_item(["a"], key="more", value={})
        await client.store.put_item(["a", "b", "c"], key="k", value={})  # no further item
    async with connect(api, foreign) as stranger:
        assert (await stranger.store.search_items([]))["items"] == []
        await stranger.store.delete_item(["a"], key="k")
    assert await sql.fetchval("select count(*) from treadle.store_sizes where tenant = 'acme'") == 0
    asked = {"scopes": ["read", "submit"], "thread_id": "t"}
    bound = (await api.post("/tokens", json=asked, headers=bearer(ROOT_KEY))).json()["token"]
    async with connect(api, bound) as restricted:
        with pytest.raises(PermissionDeniedError, match="may not use the store"):
            await restricted.store.search_items([])
    rows = await sql.fetch("select owner, namespace, key from treadle.store_overview order by owner, namespace")
    assert [tuple(row) for row in rows] == [
        ("", ["a", "b", "c"], "k"),
        ("eve", ["seen", "async"], "last"),
        ("eve", ["seen", "client"], "a"),
    ]
