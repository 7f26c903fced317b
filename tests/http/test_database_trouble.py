"""The API while PostgreSQL is unreachable, not migrated, broken or locked: one sentence, no internals."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID, problem
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.ports import with_closed_port


async def test_an_internal_error_shows_no_stack_trace(api: Client, sql: Connection) -> None:
    """A broken SQL function is a problem without internals."""
    message_id = await api.submit("x")
    await sql.execute(
        "create or replace function treadle.queue_position("
        "message_id uuid, tenant text default 'default', reach jsonb default null)"
        " returns bigint language sql as 'select 1/0'"
    )
    answer = await api.get(f"/messages/{message_id}/status")
    assert answer.status_code >= 500 or answer.status_code == 422
    problem(answer, answer.status_code)


async def test_without_postgresql_requests_are_503_and_streams_reconnect(start_api: StartApi, dsn: str) -> None:
    api = await start_api(database_url=with_closed_port(dsn))
    for path in ("/health", "/health/ready"):
        answer = await api.get(path)
        assert answer.status_code == 503
        health = answer.json()
        assert (health["status"], health["queue_initialized"]) == ("unhealthy", False)
        assert "PostgreSQL cannot be reached" in health["reasons"][0]
    answer = await api.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    for method, path, body in (
        ("POST", "/messages", {"message": "x"}),
        ("POST", "/messages/batch", {"messages": [{"message": "x"}]}),
        ("GET", f"/messages/{UNKNOWN_ID}/status", None),
        ("GET", f"/messages/{UNKNOWN_ID}/events", None),
        ("DELETE", f"/messages/{UNKNOWN_ID}", None),
        ("GET", "/queue", None),
        ("GET", "/queues", None),
        ("GET", "/threads", None),
        ("GET", "/agents", None),
        ("DELETE", "/threads/t", None),
    ):
        answer = await api.request(method, path, json=body)
        assert problem(answer, 503, "PostgreSQL cannot be reached")["title"] == "Database unavailable"
        assert int(answer.headers["retry-after"]) >= 1
    answer = await api.post("/messages", json={"message": "x"}, headers={"Idempotency-Key": "k"})
    problem(answer, 503)

    for path in (f"/messages/{UNKNOWN_ID}/stream", "/threads/t/stream"):
        answer = await api.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content == b"retry: 1000\n\n"
    problem(await api.post("/messages", json={"message": ""}), 422, "message must be")  # validation needs no database


async def test_a_database_without_the_schema_is_503(start_api: StartApi, empty_dsn: str) -> None:
    api = await start_api(database_url=empty_dsn)
    answer = await api.get("/health/ready")
    assert answer.status_code == 503
    assert "migrate" in answer.json()["reasons"][0]
    answer = await api.post("/messages", json={"message": "x"})
    problem(answer, 503, "treadle migrate")
    assert "retry-after" in answer.headers
    for path in (f"/messages/{UNKNOWN_ID}/stream", "/threads/t/stream"):
        answer = await api.get(path)
        assert (answer.status_code, answer.content) == (200, b"retry: 1000\n\n")


async def test_a_locked_thread_delays_only_its_own_messages(
    start_api: StartApi, register_agents: Any, sql: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that holds the row of a thread delays the messages of that thread and no others."""
    monkeypatch.setattr("service.messages.store.HELD_SECONDS", 600)
    await register_agents()
    api = await start_api()
    await api.submit("first", thread_id="held")
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute("select from treadle.threads where thread_id = 'held' for update")
            waiting = asyncio.create_task(api.submit("second", thread_id="held"))
            others = await asyncio.gather(*(api.submit("x", thread_id=f"free-{n}") for n in range(5)), api.submit("y"))
            assert len(others) == 6
            assert not waiting.done()
        assert (await api.status(await waiting))["thread_id"] == "held"
    finally:
        await holder.close()
    assert len(set(others)) == 6
    assert str(uuid4()) not in others
