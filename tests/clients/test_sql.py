"""treadle.sql on connections and sessions of each library: the message exists if, and only if, the caller's rows do."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from service.db.pool import Connection
from tests.support.fixture_types import RegisterAgents
from treadle import sql as treadle_sql
from treadle.options import SubmitOptions

ORDER = "insert into orders values (1)"
OPTIONS: SubmitOptions = {"thread_id": "t", "priority": "high", "metadata": {"n": 1}}


class Undo(Exception):
    """What the caller raises to roll back."""


@pytest.fixture
async def orders(sql: Connection, register_agents: RegisterAgents) -> Connection:
    """A table of the caller's own."""
    await register_agents()
    await sql.execute("create table orders (id bigint)")
    return sql


async def check(orders: Connection, ids: list[UUID], number: int) -> None:
    found = await orders.fetch("select message_id, thread_id, priority, metadata from treadle.message_overview")
    assert [(row["message_id"], row["thread_id"], row["priority"], row["metadata"]) for row in found] == [
        (id, "t", "high", {"n": 1}) for id in ids
    ]
    assert await orders.fetchval("select count(*) from orders") == number


def with_psycopg(dsn: str, undo: bool) -> UUID:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        connection.execute(ORDER)
        message_id = treadle_sql.submit(connection, "Thank the buyer: 100 %s.", **OPTIONS)
        if undo:
            raise Undo
        return message_id


def with_an_engine(dsn: str, undo: bool) -> UUID:
    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(ORDER))
            message_id = treadle_sql.submit(connection, "Thank the buyer: 100 %s.", **OPTIONS)
            if undo:
                raise Undo
            return message_id
    finally:
        engine.dispose()


def with_a_session(dsn: str, undo: bool) -> UUID:
    class OwnSession(Session):
        pass

    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with OwnSession(engine) as session, session.begin():
            session.execute(sqlalchemy.text(ORDER))
            (message_id,) = treadle_sql.submit_many(session, [{"message": "Thank :the buyer", **OPTIONS}])
            if undo:
                raise Undo
            return message_id
    finally:
        engine.dispose()


@pytest.mark.parametrize("use", [with_psycopg, with_an_engine, with_a_session])
async def test_submit_with_a_blocking_library(orders: Connection, dsn: str, use: Callable[[str, bool], UUID]) -> None:
    with pytest.raises(Undo):
        await asyncio.to_thread(use, dsn, True)
    await check(orders, [], 0)
    await check(orders, [await asyncio.to_thread(use, dsn, False)], 1)


async def with_asyncpg(dsn: str, undo: bool) -> UUID:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        async with connection.transaction():
            await connection.execute(ORDER)
            message_id: UUID = await treadle_sql.submit(connection, "Thank the buyer.", **OPTIONS)
            if undo:
                raise Undo
            return message_id


async def with_async_psycopg(dsn: str, undo: bool) -> UUID:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(ORDER)
        message_id: UUID = await treadle_sql.submit(connection, "Thank the buyer.", **OPTIONS)
        if undo:
            raise Undo
        return message_id


async def with_an_async_session(dsn: str, undo: bool) -> UUID:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(sqlalchemy.text(ORDER))
            message_id: UUID = await treadle_sql.submit(session, "Thank the buyer.", **OPTIONS)
            if undo:
                raise Undo
            return message_id
    finally:
        await engine.dispose()


@pytest.mark.parametrize("use", [with_asyncpg, with_async_psycopg, with_an_async_session])
async def test_submit_with_an_asynchronous_library(orders: Connection, dsn: str, use: Any) -> None:
    with pytest.raises(Undo):
        await use(dsn, True)
    await check(orders, [], 0)
    await check(orders, [await use(dsn, False)], 1)


async def test_a_message_is_cancelled_with_the_transaction(orders: Connection) -> None:
    message_id = await treadle_sql.submit(orders, "x", notify=False)
    async with orders.transaction():
        assert await treadle_sql.cancel(orders, message_id) == "cancelled"
    assert await orders.fetchval("select state from treadle.message_overview") == "cancelled"
    with pytest.raises(asyncpg.PostgresError, match="There is no agent 'poet'") as refused:
        await treadle_sql.submit(orders, "x", agent="poet")
    assert refused.value.sqlstate == "TR422"
    with pytest.raises(TypeError, match="Give a connection or session of asyncpg, psycopg or SQLAlchemy, not dict"):
        treadle_sql.submit({}, "x")  # type: ignore[call-overload]


async def test_records_are_published_with_the_transaction(orders: Connection, dsn: str) -> None:
    await orders.execute("select treadle.create_topic('told')")
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            await treadle_sql.publish(session, "told", {"n": 0})
            await session.rollback()
    finally:
        await engine.dispose()
    with psycopg.connect(dsn) as connection:
        ids = [treadle_sql.publish(connection, "told", {"n": 1}, key="k", headers={"h": "100 %s"})]
        ids += treadle_sql.publish_many(connection, "told", [{"value": 2, "key": "k"}, {"value": [":a"]}])
    async with orders.transaction():
        ids.append(await treadle_sql.publish(orders, "told", None, notify=False))
    await orders.execute("select treadle.sequence_records()")
    found = await orders.fetch(
        "select record_id, key, headers, value from treadle.records order by created_at, record_id"
    )
    kept = {row["record_id"]: (row["key"], row["headers"], row["value"]) for row in found}
    assert [kept.pop(id) for id in ids] == [
        *(("k", {"h": "100 %s"}, {"n": 1}), ("k", {}, 2), (None, {}, [":a"]), (None, {}, None)),
    ]
    assert kept == {}
