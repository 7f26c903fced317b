"""What is refused is refused in one clear sentence, as problem+json, and nothing is written."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import pytest
from conftest import Client, StartApi

from service.agents.contract import Context, agent
from service.agents.echo import echo
from service.db.pool import Connection

JSON = {"Content-Type": "application/json"}
TABLES = ("messages", "threads", "events", "thread_log", "idempotency", "counters")
NOBODY = "01890000-0000-7000-8000-000000000000"


def problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """Check that this is a problem as RFC 9457 has it, in a sentence for a person that has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found.keys() == {"type", "title", "status", "detail"}
    assert (found["type"], found["status"]) == ("about:blank", status)
    assert found["title"]
    detail = found["detail"]
    assert detail.endswith(".")
    assert 10 < len(detail) < 250, detail
    assert not any(cryptic in detail for cryptic in ("`", "$", "\n", "Traceback", "msgspec", "regex", "got ")), detail
    for word in words:
        assert word in detail
    return dict(found)


async def written(sql: Connection) -> dict[str, int]:
    """Rows in every table that a submit writes to, lanes included."""
    tables = [f"treadle.{table}" for table in TABLES]
    tables += [row[0] for row in await sql.fetch("select 'pgmq.q_' || queue_name from pgmq.list_queues() order by 1")]
    return {table: await sql.fetchval(f"select count(*) from {table}") for table in tables}


@contextlib.contextmanager
def case(name: str) -> Iterator[None]:
    """Names the case in what fails here."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the case: {name}")
        raise


def message(**fields: Any) -> str:
    return json.dumps({"message": "x"} | fields)


def with_literal(field: str, literal: str) -> str:
    return f'{{"message": "x", "{field}": {literal}}}'


Cases = dict[str, tuple[str | bytes, int, str]]

TEXTS: Cases = {
    "no message": ("{}", 422, "message"),
    "empty text": (message(message=""), 422, "message must be a text that is not empty"),
    "text too long": (message(message="x" * 1001), 422, "message has 1001 characters; at most 1000"),
    "object too long": (message(message={"x": "y" * 1001}), 422, "message has"),
    "number for a text": (message(message=1), 422, "message must be"),
    "null for a text": (message(message=None), 422, "message must be"),
    "boolean for a text": (message(message=True), 422, "message must be"),
    "list for a text": (message(message=["x"]), 422, "message must be"),
    "object to a text agent": (message(message={"x": 1}), 422, "The agent 'echo' takes text"),
    "NUL in the text": (message(message="a\0b"), 422, "message must not contain the NUL character"),
    "NUL after a backslash": (message(message="a\\\0"), 422, "message must not contain the NUL character"),
    "half a surrogate pair": ('{"message": "a\\ud800"}', 400, "not valid JSON"),
    "half a surrogate pair, then text": ('{"message": "a\\ud800 and more"}', 400, "surrogate"),
    "second half of a surrogate pair": ('{"message": "a\\udc00"}', 400, "surrogate"),
}
NAMES: Cases = {
    "unknown priority": (message(priority="urgent"), 422, "priority must be high, normal or low"),
    "priority null": (message(priority=None), 422, "priority must be high, normal or low"),
    "priority in capitals": (message(priority="HIGH"), 422, "priority must be high, normal or low"),
    "unknown agent": (message(agent="nobody"), 422, "There is no agent 'nobody'"),
    "empty agent": (message(agent=""), 422, "There is no agent ''"),
    "agent a number": (message(agent=1), 422, "agent must be"),
    "NUL in the agent": (message(agent="echo\0"), 422, "agent must not contain the NUL"),
}
THREADS: Cases = {
    "thread id too long": (message(thread_id="x" * 256), 422, "thread_id must be a text of 1 to 255 characters"),
    "thread id too long in two bytes": (message(thread_id="ß" * 256), 422, "thread_id must be"),
    "empty thread id": (message(thread_id=""), 422, "thread_id must be"),
    "slash in the thread id": (message(thread_id="a/b"), 422, "thread_id must be"),
    "newline at the thread id's end": (message(thread_id="a\n"), 422, "thread_id must be"),
    "control character in the thread id": (message(thread_id="a\x1bb"), 422, "thread_id must be"),
    "delete in the thread id": (message(thread_id="\x7f"), 422, "thread_id must be"),
    "C1 control character in the thread id": (message(thread_id="a\x85"), 422, "thread_id must be"),
    "NUL in the thread id": (message(thread_id="a\0"), 422, "thread_id must be"),
    "thread id a number": (message(thread_id=7), 422, "thread_id must be"),
}
METADATA: Cases = {
    "metadata a list": (message(metadata=[]), 422, "metadata must be an object"),
    "metadata a text": (message(metadata="x"), 422, "metadata must be an object"),
    "NUL in the metadata": (message(metadata={"a": [{"b": "\0"}]}), 422, "metadata must not contain the NUL"),
    "NUL in a key of the metadata": (message(metadata={"a\0": 1}), 422, "metadata must not contain the NUL"),
    "half a surrogate pair in the metadata": (with_literal("metadata", '{"a": "\\udfff"}'), 400, "surrogate"),
    "a number beyond all floats": (with_literal("metadata", '{"a": 1e400}'), 422, "metadata[...]"),
    "a number of 5000 digits": (with_literal("metadata", f'{{"a": {"9" * 5000}}}'), 422, "metadata[...]"),
    "101 levels of metadata": (with_literal("metadata", f'{{"a": {"[" * 100}{"]" * 100}}}'), 422, "nested too deeply"),
    "100,000 levels of metadata": (
        with_literal("metadata", '{"a":' * 100_000 + "1" + "}" * 100_000),
        422,
        "nested too deeply",
    ),
}
NUMBERS: Cases = {
    "delay a text": (message(delay_seconds="1"), 422, "delay_seconds must be a number from 0"),
    "delay a boolean": (message(delay_seconds=True), 422, "delay_seconds must be"),
    "negative delay": (message(delay_seconds=-0.001), 422, "delay_seconds must be"),
    "delay beyond a year": (message(delay_seconds=31_622_401), 422, "delay_seconds must be"),
    "delay beyond all floats": (with_literal("delay_seconds", "1e400"), 422, "delay_seconds holds a number"),
    "delay not a number": (with_literal("delay_seconds", "NaN"), 400, "not valid JSON"),
    "delay infinite": (with_literal("delay_seconds", "Infinity"), 400, "not valid JSON"),
    "no attempts": (message(max_attempts=0), 422, "max_attempts must be a whole number from 1 to 1000"),
    "too many attempts": (message(max_attempts=1001), 422, "max_attempts must be"),
    "far too many attempts": (message(max_attempts=2**64), 422, "max_attempts must be"),
    "half an attempt": (message(max_attempts=1.5), 422, "max_attempts must be"),
    "attempts a boolean": (message(max_attempts=True), 422, "max_attempts must be"),
    "attempts a text": (message(max_attempts="3"), 422, "max_attempts must be"),
    "no time": (message(timeout_seconds=0), 422, "timeout_seconds must be a number above 0"),
    "negative time": (message(timeout_seconds=-1), 422, "timeout_seconds must be"),
    "too much time": (message(timeout_seconds=604_801), 422, "timeout_seconds must be"),
}
BODIES: Cases = {
    "unknown field": (message(nonsense=1), 422, "'nonsense'"),
    "the id from outside": (message(message_id=NOBODY), 422, "'message_id'"),
    "a list": ("[]", 422, "must be an object"),
    "a text": ('"x"', 422, "must be an object"),
    "null": ("null", 422, "must be an object"),
    "cut off": ('{"message": "x"', 400, "not valid JSON"),
    "single quotes": ("{'message': 'x'}", 400, "not valid JSON"),
    "trailing comma": ('{"message": "x",}', 400, "not valid JSON"),
    "a control character": ('{"message": "a\x01b"}', 400, "not valid JSON"),
    "latin-1": ('{"message": "é"}'.encode("latin-1"), 400, "UTF-8"),
    "surrogates in UTF-8": (b'{"message": "\xed\xa0\x80"}', 400, "UTF-8"),
    "100,000 open brackets": ("[" * 100_000, 422, "must be an object"),
}


@pytest.fixture
async def strict(start_api: StartApi, agents: Callable[..., Awaitable[None]]) -> Client:
    await agents()
    return await start_api(max_message_chars=1000)


@pytest.mark.parametrize("cases", [TEXTS, NAMES, THREADS, METADATA, NUMBERS, BODIES])
async def test_a_bad_message_is_refused_alone_and_in_a_batch(strict: Client, sql: Connection, cases: Cases) -> None:
    before = await written(sql)
    for name, (body, status, words) in cases.items():
        with case(name):
            answer = await strict.post("/messages", content=body, headers=JSON | {"Idempotency-Key": "alone"})
            problem(answer, status, words)
            raw = body.encode() if isinstance(body, str) else body
            batch = b'{"messages": [{"message": "good", "thread_id": "t"}, ' + raw + b"]}"
            answer = await strict.post("/messages/batch", content=batch, headers=JSON | {"Idempotency-Key": "batch"})
            problem(answer, status)
            problem(await strict.post("/messages/batch", content=batch, headers=JSON), status)
            assert await written(sql) == before


BAD_BATCHES: dict[str, tuple[Any, int, str]] = {
    "no messages": ({"messages": []}, 422, "messages must be a list of 1 to 1000 messages"),
    "too many messages": ({"messages": [{"message": "x"}] * 1001}, 422, "messages must be a list of 1 to 1000"),
    "no list": ({}, 422, "messages is missing"),
    "messages null": ({"messages": None}, 422, "messages must be a list"),
    "an object for the list": ({"messages": {"message": "x"}}, 422, "messages must be a list"),
    "a bare list": ([{"message": "x"}], 422, "must be an object"),
    "unknown field": ({"messages": [{"message": "x"}], "priority": "low"}, 422, "'priority'"),
    "a number among them": ({"messages": [{"message": "x"}, 5]}, 422, "messages[1] must be an object"),
    "a bad one among them": (
        {"messages": [{"message": "x"}, {"message": "x", "max_attempts": 0}]},
        422,
        "messages[1].max_attempts must be a whole number",
    ),
    "one without a message": ({"messages": [{"message": "x"}, {}]}, 422, "message of messages[1] is missing"),
}


async def test_a_bad_batch_is_refused_whole(strict: Client, sql: Connection) -> None:
    before = await written(sql)
    for name, (body, status, words) in BAD_BATCHES.items():
        with case(name):
            problem(await strict.post("/messages/batch", json=body), status, words)
            assert await written(sql) == before


async def test_what_only_looks_bad_is_taken(strict: Client) -> None:
    for fields in (
        {"message": "x" * 1000},
        {"message": "\U0001f600" * 1000},
        {"message": " "},
        {"message": "\\u0000 is how one writes a NUL"},
        {"message": "line\r\nline\u2028line\x7f"},
        {"thread_id": "x" * 255},
        {"thread_id": "ß" * 255},
        {"thread_id": "\U0001f600" * 255},
        {"thread_id": " "},
        {"metadata": None, "thread_id": None, "agent": None, "delay_seconds": None, "max_attempts": None},
        {"metadata": {}},
        {"metadata": {"a": 12345678901234567890123, "b": -1.5, "c": [None, True, {"": ""}]}},
        {"metadata": {str(n): [n] for n in range(200)}},
        {"delay_seconds": 0},
        {"delay_seconds": 31_622_400},
        {"max_attempts": 1000},
        {"timeout_seconds": 0.001},
    ):
        body = {"message": "x"} | fields
        message_id = await strict.submit(**body)
        status = await strict.status(message_id)
        assert status["user_message"] == body["message"]
        assert status["thread_id"] == body.get("thread_id")
        assert status["metadata"] == (body.get("metadata") or {})


async def test_depth_is_counted_not_brackets(strict: Client) -> None:
    deep: Any = None
    for _ in range(95):
        deep = [deep]
    message_id = await strict.submit("[[[" * 100, metadata={"a": deep})
    assert (await strict.status(message_id))["metadata"] == {"a": deep}


async def test_an_agent_with_an_input_type_takes_objects(start_api: StartApi, agents: Any, sql: Connection) -> None:
    class Question(msgspec.Struct):
        text: str

    @agent("asker")
    async def asker(_: Context, question: Question) -> str:
        return question.text

    await agents(echo, asker)
    api = await start_api()
    message_id = await api.submit({"text": "why?"}, agent="asker")
    assert (await api.status(message_id))["user_message"] == {"text": "why?"}
    before = await written(sql)
    answer = await api.post("/messages", json={"message": {"text": "\0"}, "agent": "asker"})
    problem(answer, 422, "message must not contain the NUL")
    assert await written(sql) == before


async def test_without_any_agent_nothing_is_taken(start_api: StartApi, sql: Connection) -> None:
    api = await start_api()
    before = await written(sql)
    problem(await api.post("/messages", json={"message": "x"}), 422, "No agent")
    assert await written(sql) == before


async def test_a_body_of_another_type_is_refused(api: Client, sql: Connection) -> None:
    before = await written(sql)
    for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "x"):
        answer = await api.post("/messages", content=message(), headers={"Content-Type": other})
        problem(answer, 415, "must be application/json", other)
    assert await written(sql) == before


async def test_json_by_any_of_its_names(api: Client) -> None:
    for headers in (
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON"},
        {"Content-Type": "application/vnd.example+json"},
        {},
    ):
        assert (await api.post("/messages", content=message(), headers=headers)).status_code == 202


async def test_no_body_at_all(api: Client, sql: Connection) -> None:
    before = await written(sql)
    problem(await api.post("/messages", headers=JSON), 400, "no body")
    problem(await api.post("/messages/batch"), 400, "no body")
    assert await written(sql) == before


async def test_an_oversized_body_is_413(start_api: StartApi, agents: Any, sql: Connection) -> None:
    await agents()
    api = await start_api(max_body_bytes=5000, max_message_chars=100_000)
    before = await written(sql)
    large = message(message="x" * 5000)
    for path in ("/messages", "/messages/batch"):
        problem(await api.post(path, content=large, headers=JSON), 413, "at most 5000 bytes")

    async def in_chunks() -> AsyncIterator[bytes]:  # without Content-Length
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000].encode()

    problem(await api.post("/messages", content=in_chunks(), headers=JSON), 413, "at most 5000 bytes")
    assert await written(sql) == before
    head = len(message(message=""))
    assert (await api.post("/messages", content=message(message="x" * (5000 - head)), headers=JSON)).status_code == 202


async def test_a_full_queue_is_429(start_api: StartApi, agents: Any, sql: Connection) -> None:
    await agents()
    api = await start_api(max_queue_size=3)
    await api.submit("1")
    await api.submit("2", delay_seconds=60)
    before = await written(sql)
    answer = await api.post("/messages/batch", json={"messages": [{"message": "3"}, {"message": "4"}]})
    problem(answer, 429, "full", "at most 3")
    assert int(answer.headers["retry-after"]) >= 1
    assert await written(sql) == before
    third = await api.submit("3")
    before = await written(sql)
    answer = await api.post("/messages", json={"message": "4"}, headers={"Idempotency-Key": "4"})
    problem(answer, 429, "full")
    assert int(answer.headers["retry-after"]) >= 1
    assert await written(sql) == before
    assert (await api.delete(f"/messages/{third}")).status_code == 200
    answer = await api.post("/messages", json={"message": "4"}, headers={"Idempotency-Key": "4"})
    assert answer.status_code == 202  # there is room again, and the refusal did not use the key up


async def test_a_bad_idempotency_key_is_refused(api: Client, sql: Connection) -> None:
    before = await written(sql)
    for key in ("", "k" * 256):
        answer = await api.post("/messages", json={"message": "x"}, headers={"Idempotency-Key": key})
        problem(answer, 422, "Idempotency-Key")
    assert await written(sql) == before


BAD_IDS = ["x", "123", "%20", NOBODY[:-1], f"{NOBODY}0", f"{NOBODY[:-1]}g", "%00", "%ff", "null", "'; drop table x"]


async def test_a_malformed_message_id_is_400(api: Client) -> None:
    for bad in BAD_IDS:
        for method, path in (
            ("GET", "/status"),
            ("GET", "/events"),
            ("GET", "/stream"),
            ("POST", "/redrive"),
            ("DELETE", ""),
        ):
            with case(f"{method} {bad}{path}"):
                problem(await api.request(method, f"/messages/{bad}{path}"), 400, "not a message id")


async def test_what_is_not_there_is_404(api: Client, sql: Connection) -> None:
    before = await written(sql)
    for method, path in (
        ("GET", f"/messages/{NOBODY}/status"),
        ("GET", f"/messages/{NOBODY}/events"),
        ("GET", f"/messages/{NOBODY}/stream"),
        ("DELETE", f"/messages/{NOBODY}"),
        ("POST", f"/messages/{NOBODY}/redrive"),
        ("GET", "/threads/nobody"),
        ("GET", "/threads/nobody/messages"),
        ("GET", "/threads/nobody/stream"),
        ("DELETE", "/threads/nobody"),
        ("GET", "/queues/nobody"),
        ("GET", "/queues/nobody/dead-letters"),
        ("POST", "/queues/nobody/pause"),
        ("POST", "/queues/nobody/resume"),
    ):
        problem(await api.request(method, path), 404, NOBODY if NOBODY in path else "nobody")
    assert await written(sql) == before


async def test_an_unknown_route_is_404(api: Client) -> None:
    for method, path in (
        ("GET", "/nope"),
        ("POST", "/nope"),
        ("GET", "/messages/batch/nope"),
        ("GET", f"/messages/{NOBODY}/nope"),
        ("GET", "/threads/a/b/c"),
        ("GET", "/docs/nope"),
        ("GET", "/favicon.ico"),
        ("GET", "/nope%00"),
    ):
        with case(f"{method} {path}"):
            problem(await api.request(method, path), 404, "nothing at")


async def test_a_wrong_method_is_405(api: Client) -> None:
    for method, path, allowed in (
        ("GET", "/messages", "POST"),
        ("PUT", "/messages", "POST"),
        ("GET", f"/messages/{NOBODY}", "DELETE"),
        ("POST", f"/messages/{NOBODY}/status", "GET"),
        ("DELETE", "/queue", "GET"),
        ("GET", "/queues/default/pause", "POST"),
        ("PATCH", "/threads/t", "GET"),
    ):
        with case(f"{method} {path}"):
            answer = await api.request(method, path)
            problem(answer, 405, method, allowed)
            assert allowed in answer.headers["allow"]


BAD_PARAMETERS: dict[str, tuple[str, ...]] = {
    "/threads?limit=": ("0", "-1", "1001", "x", "", "1e9"),
    "/threads/t/messages?limit=": ("0", "1001", "9" * 30),
    "/queues/default/dead-letters?limit=": ("0", "1001", "x"),
    f"/messages/{NOBODY}/events?limit=": ("0", "1001", "x"),
    f"/messages/{NOBODY}/events?after=": ("-1", "x", "2147483648", "1.5"),
    f"/messages/{NOBODY}/stream?after=": ("-1", "x", "9" * 20, "9" * 5000, "%D9%A3"),
    "/threads/t/stream?after=": ("-1", "x", "9223372036854775808", "9" * 5000),
    "/threads?cursor=": (
        *("x", "", "%00", "AAAA", "MjAyNi0wMS0wMQ==", "9" * 5000),
        "OTk5OS0xMi0zMVQyMzo1OTo1OS0yMzo1OSAx",  # 9999-12-31T23:59:59-23:59 1
        "MjAyNi0wMS0wMVQwMDowMDowMCswMDowMCA5OTk5OTk5OTk5OTk5OTk5OTk5",  # ... 9999999999999999999
    ),
    "/threads/t/messages?cursor=": ("x", "", "-1", "1.5", "9" * 30),
}


async def test_a_bad_parameter_is_400(api: Client) -> None:
    await api.submit("x", thread_id="t")
    for path, values in BAD_PARAMETERS.items():
        for value in values:
            with case(path + value[:40]):
                problem(await api.get(path + value), 400, path.rpartition("?")[2].rstrip("="))


async def test_a_bad_last_event_id_is_400(api: Client) -> None:
    message_id = await api.submit("x", thread_id="t")
    for seen in ("x", "-1", "1.0", "0x1", "9" * 20, "9" * 5000):
        for path in (f"/messages/{message_id}/stream", "/threads/t/stream"):
            with case(f"{path} after {seen[:40]}"):
                problem(await api.get(path, headers={"Last-Event-ID": seen}), 400, "Last-Event-ID")


async def test_no_thread_has_a_nul_in_its_id(api: Client) -> None:
    for path in ("/threads/%00", "/threads/a%00b/messages", "/threads/%00/stream", "/queues/%00"):
        problem(await api.get(path), 422, "NUL")


async def test_a_bug_shows_no_trace(api: Client, sql: Connection) -> None:
    """Somebody breaks the database's functions: the answer is a problem without internals."""
    message_id = await api.submit("x")
    await sql.execute(
        "create or replace function treadle.queue_position(message_id uuid) returns bigint language sql as 'select 1/0'"
    )
    answer = await api.get(f"/messages/{message_id}/status")
    assert answer.status_code >= 500 or answer.status_code == 422
    problem(answer, answer.status_code)


# PostgreSQL is away


@pytest.fixture
def closed_port() -> int:
    """A port of loopback at which nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


async def test_without_postgres(start_api: StartApi, closed_port: int) -> None:
    api = await start_api(database_url=f"postgresql://treadle@127.0.0.1:{closed_port}/treadle")
    for path in ("/health", "/health/ready"):
        answer = await api.get(path)
        assert answer.status_code == 503
        health = answer.json()
        assert (health["status"], health["queue_initialized"]) == ("unavailable", False)
        assert "PostgreSQL cannot be reached" in health["detail"]
    answer = await api.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    for method, path, body in (
        ("POST", "/messages", {"message": "x"}),
        ("POST", "/messages/batch", {"messages": [{"message": "x"}]}),
        ("GET", f"/messages/{NOBODY}/status", None),
        ("GET", f"/messages/{NOBODY}/events", None),
        ("DELETE", f"/messages/{NOBODY}", None),
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

    for path in (f"/messages/{NOBODY}/stream", "/threads/t/stream"):
        answer = await api.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content == b"retry: 1000\n\n"
    problem(await api.post("/messages", json={"message": ""}), 422, "message must be")  # bad input is bad all the same


async def test_a_database_that_was_never_migrated(start_api: StartApi, empty_dsn: str) -> None:
    api = await start_api(database_url=empty_dsn)
    answer = await api.get("/health/ready")
    assert answer.status_code == 503
    assert "migrate" in answer.json()["detail"]
    answer = await api.post("/messages", json={"message": "x"})
    problem(answer, 503, "treadle migrate")
    assert "retry-after" in answer.headers
    for path in (f"/messages/{NOBODY}/stream", "/threads/t/stream"):
        answer = await api.get(path)
        assert (answer.status_code, answer.content) == (200, b"retry: 1000\n\n")


async def test_a_thread_that_somebody_holds_is_409_for_its_messages_only(
    start_api: StartApi, agents: Any, sql: Connection, dsn: str
) -> None:
    """Who holds a thread in a transaction of their own delays its messages and nobody else's."""
    await agents()
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
