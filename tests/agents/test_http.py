"""Agents over HTTP, against a server on loopback that sends exactly the bytes of the test."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.agents.adapters import http
from service.agents.builtin.echo import echo
from service.agents.http_errors import asked_delay, retry_after_seconds
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, text, types
from tests.support.ports import with_closed_port
from tests.support.remote_agent import Remote, Reply, answer, stream
from tests.support.waiting import until, wait_for
from treadle.adapters import http_agent


@pytest.fixture
async def remote(start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Remote]:
    """A server, and a worker whose agent remote asks it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with Remote().running() as server:
        await start_worker(
            http_agent("remote", server.url, headers={"Authorization": "Bearer x", "accept": "a/b"}), echo
        )
        yield server


async def ask(sql: Connection, message: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return await run(sql, message, agent="remote", **fields)


async def test_a_message_is_one_post(sql: Connection, remote: Remote) -> None:
    await run(sql, "one", agent="echo", thread_id="t")
    remote.script.append(answer({"result": {"said": "well"}, "usage": {"tokens": 7}}))
    row = await ask(sql, {"order": 1}, thread_id="t", metadata={"a": [1]})
    assert (row["state"], row["result"], row["usage"]) == ("completed", {"said": "well"}, {"tokens": 7})
    (request,) = remote.requests
    assert request.line == "POST /answer HTTP/1.1"
    message_id = str(row["message_id"])
    assert request.body == {
        "message": {"order": 1},
        "thread_id": "t",
        "tenant": "default",
        "message_id": message_id,
        "attempt": 1,
        "metadata": {"a": [1]},
        "history": [{"message": "one", "result": "one"}],
    }
    assert request.headers["idempotency-key"] == message_id
    assert (request.headers["authorization"], request.headers["accept"]) == ("Bearer x", "a/b")
    assert request.headers["content-type"] == "application/json"


async def test_the_history_has_a_budget(sql: Connection, remote: Remote, start_worker: StartWorker) -> None:
    await start_worker(http_agent("brief", remote.url, history_tokens=100, queue="brief"), queues=("brief",))
    for said in ("x" * 300, "y" * 300, "z"):
        await run(sql, said, agent="brief", thread_id="t")
    assert [exchange["message"][0] for exchange in remote.requests[-1].body["history"]] == ["y"]


async def test_any_json_is_a_result(sql: Connection, remote: Remote, subtests: pytest.Subtests) -> None:
    for body in ({"other": 1}, [1, 2], "text", 3, None, {"result": None}):
        with subtests.test(body=body):
            remote.script.append(answer(body))
            row = await ask(sql)
            wanted = None if isinstance(body, dict) and "result" in body else body
            assert (row["state"], row["result"]) == ("completed", wanted)


async def test_an_answer_without_content_has_no_result(sql: Connection, remote: Remote) -> None:
    remote.script.append(answer(b"", "204 No Content"))
    row = await ask(sql)
    assert (row["state"], row["result"]) == ("completed", None)


STREAM = (
    '\ufeff: hello\r\n\r\nevent: progress\r\ndata: {"percent": 1}\r\n\r\n',
    "event: chunk\r",
    '\ndata: "Hel"\r\n\r\nevent: chunk\ndata: {"chunk": "lo, "}\n\n',
    "event:chunk\ndata: wörld\n",
    "\ndata: two\ndata: lines\n\nevent: nothing\n\nid: 7\nretry: 1\n\n",
)


async def test_a_stream_is_passed_on_in_order(sql: Connection, remote: Remote) -> None:
    counted = '{"tokens": 3, "self": 1, "counts": 2, "usage": 3}'  # names of Python's, too
    remote.script.append(stream(*STREAM, f'event: done\ndata: {{"result": "Hello", "usage": {counted}}}\n\n'))
    row = await ask(sql)
    assert (row["state"], row["result"], row["usage"]) == ("completed", "Hello", json.loads(counted))
    entries = [(entry.type, entry.data) for entry in await log(sql, row["message_id"])][2:-1]
    assert entries == [
        ("progress", {"percent": 1}),
        *(("chunk", {"type": "content", "chunk": said, "index": n}) for n, said in enumerate(("Hel", "lo, ", "wörld"))),
        ("message", "two\nlines"),
    ]


async def test_done_without_data_makes_the_chunks_the_result(sql: Connection, remote: Remote) -> None:
    remote.script.append(
        stream("event: chunk\rdata: one \r\revent: chunk\rdata: two\r\revent: done\rdata:\r\r", stays=True)
    )
    assert (await ask(sql))["result"] == "one two"
    await wait_for(remote.hung_up)


async def test_a_stream_that_ends_without_done_is_a_failure(sql: Connection, remote: Remote) -> None:
    for reply, said in (
        (stream("event: chunk\ndata: x\n\n"), "The agent's stream ended without a done event."),
        (stream("event: done\ndata: 1\n"), "The agent's stream ended without a done event."),
        (stream("event: chunk\ndata: x\n\n", cut=True), "The agent broke off the connection: "),
        (Reply((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",)), "The agent broke off the connection: "),
        (Reply(()), "The agent broke off the connection: "),
        (answer(b""), "The agent's answer is not JSON: "),
        (answer(b"{"), "The agent's answer is not JSON: "),
        (answer(b"\xff"), "The agent's answer is not JSON: "),
    ):
        remote.script.append(reply)
        row = await ask(sql)
        assert (row["state"], row["result"], row["attempt"]) == ("completed", "well", 2), said
        (retry,) = (entry for entry in await log(sql, row["message_id"]) if entry.type == "retry")
        assert retry.data["error"].startswith(f"ConnectionError: {said}"), retry
    first, second = remote.requests[:2]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert (first.body["attempt"], second.body["attempt"]) == (1, 2)


async def test_json_that_is_too_deep_is_paid_for_once(sql: Connection, remote: Remote) -> None:
    deep = b"[" * 3_000 + b"]" * 3_000
    for reply, state, said in (
        (answer(deep), "failed", "The agent's answer is nested too deeply."),
        (answer(deep, "400 No"), "failed", f"The agent answered 400: {deep.decode()[:500]}."),
        (stream(f"event: chunk\ndata: {deep.decode()}\n\nevent: done\ndata:\n\n"), "completed", deep.decode()),
        (stream(f"event: own\ndata: {deep.decode()}\n\nevent: done\ndata: 1\n\n"), "completed", 1),
    ):
        remote.script.append(reply)
        row = await ask(sql)
        assert (row["state"], row["attempt"]) == (state, 1), row["error"]
        assert said == (row["error"] or row["result"])


async def test_an_error_event_decides_about_the_retry(sql: Connection, remote: Remote) -> None:
    for data, state, attempt, error in (
        ("boom", "completed", 2, "RuntimeError: boom"),
        ('{"error": "boom"}', "completed", 2, "RuntimeError: boom"),
        ('{"error": "later", "retry_after": 1}', "completed", 2, "later"),
        ('{"error": "later", "retry_after": "0.5"}', "completed", 2, "later"),
        ('{"error": "boom", "retry_after": -1}', "completed", 2, "RuntimeError: boom"),
        ('{"error": "boom", "retry_after": true}', "completed", 2, "RuntimeError: boom"),
        ('{"error": "boom", "retry_after": {"seconds": 1}}', "completed", 2, "RuntimeError: boom"),
        ('{"error": "never", "retryable": false}', "failed", 1, "never"),
        ("{}", "completed", 2, "RuntimeError: The agent failed without giving a reason."),
    ):
        remote.script.append(stream(f"event: error\ndata: {data}\n\n"))
        row = await ask(sql)
        assert (row["state"], row["attempt"]) == (state, attempt), data
        (said,) = (
            entry.data["error"] for entry in await log(sql, row["message_id"]) if entry.type in ("retry", "error")
        )
        assert said == error


async def test_permanent_errors_reject_the_message(sql: Connection, remote: Remote) -> None:
    for status, body, said in (
        (400, {"detail": "Too  long."}, "The agent answered 400: Too long."),
        (401, {"error": {"message": "Who?"}}, "The agent answered 401: Who?."),
        (404, b"<p>no</p>", "The agent answered 404: <p>no</p>."),
        (413, b"", "The agent answered 413."),
        (422, b"x" * 20_000_000, f"The agent answered 422: {'x' * 500}."),
        (301, b"", "The agent answered 301: redirects are not followed."),
        (307, b"", "The agent answered 307: redirects are not followed."),
    ):
        remote.script.append(answer(body, f"{status} No", Location=remote.url))
        row = await ask(sql)
        assert (row["state"], row["attempt"], row["error"]) == ("failed", 1, said)
    assert len(remote.requests) == 7


async def test_temporary_errors_are_retried(sql: Connection, remote: Remote) -> None:
    for status in (408, 409, 425, 500, 502, 504, 599):
        remote.script.append(answer({"message": "Not now"}, f"{status} No"))
        row = await ask(sql)
        assert (row["state"], row["attempt"]) == ("completed", 2), status
        retry = (await log(sql, row["message_id"]))[2]
        assert retry.data["error"] == f"ConnectionError: The agent answered {status}: Not now."


async def test_retry_after_is_obeyed(sql: Connection, remote: Remote) -> None:
    remote.script.append(answer({}, "503 Busy", Retry_After="1"))
    row = await ask(sql, max_attempts=1)
    assert (row["state"], row["attempt"], row["failures"]) == ("completed", 2, 0)
    retry = (await log(sql, row["message_id"]))[2]
    delay = datetime.fromisoformat(retry.data["retry_at"]) - retry.created_at
    assert timedelta(seconds=1) <= delay <= timedelta(seconds=1.1)


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((10**400, 3600), (-(10**400), None), (30, 30), ("30", 30), (0.1, 1), (True, None), (None, None)),
        *((float("nan"), None), (float("inf"), None), ("nan", None), ("soon", None), ([30], None)),
    ],
)
def test_the_delay_of_an_error_event_is_bounded(value: Any, seconds: float | None) -> None:
    assert asked_delay(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30),
        ("0.2", 1),
        ("30000000", 3600),
        ("1e300", 3600),
        (f"{NOW + 30:.0f}", 30),
        (f"{1_000 * (NOW + 30):.0f}", 30),
        (f"{NOW + 1e7:.0f}", 3600),
        *((odd, None) for odd in ("", "0", "-5", "inf", "-inf", "nan", "1e400", "soon", f"{NOW - 30:.0f}")),
        *((odd, None) for odd in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 99999999 07:28:00 GMT")),
    ],
)
def test_a_retry_after_is_bounded_at_both_ends(
    value: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert retry_after_seconds({"retry-after": value}) == seconds


async def test_answers_that_are_too_large_are_rejected(
    sql: Connection, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(http, "MAX_EVENT_BYTES", 1000)
    for reply, said in (
        (answer("x" * 1000), "The agent's answer has more than 1000 bytes."),
        (stream("data: " + "x" * 1000), "A line of the agent's stream has more than 1000 bytes."),
        (stream("data: " + "x" * 1001 + "\n\n"), "An event of the agent has more than 1000 bytes."),
        (stream(*["data: " + "x" * 99 + "\n"] * 11), "An event of the agent has more than 1000 bytes."),
        (stream("data:\n" * 1001), "An event of the agent has more than 1000 bytes."),
        (stream(*["data: " + "ö" * 99 + "\n"] * 6), "An event of the agent has more than 1000 bytes."),
        (stream(f"event: chunk\ndata: {'x' * 900}\n\n" * 2), "The chunks of the agent have more than 1000 bytes."),
        (stream(f"event: chunk\ndata: {'ö' * 300}\n\n" * 2), "The chunks of the agent have more than 1000 bytes."),
        (
            answer(b"x", Content_Encoding="gzip"),
            "The agent compressed its answer, which the request forbids.",
        ),
    ):
        remote.script.append(reply)
        row = await ask(sql)
        assert (row["state"], row["attempt"], row["error"]) == ("failed", 1, said)


async def test_an_event_that_agents_cannot_write_becomes_progress(
    sql: Connection, remote: Remote, subtests: pytest.Subtests
) -> None:
    for type in ("started", "step", "retry", "x" * 101, "a\u200bb"):
        with subtests.test(type=type):
            remote.script.append(stream(f'event: {type}\ndata: {{"n": 1}}\n\nevent: done\ndata: 7\n\n'))
            row = await ask(sql, max_attempts=1)
            assert (row["state"], row["result"]) == ("completed", 7)
            (entry,) = [entry for entry in await log(sql, row["message_id"]) if entry.type == "progress"]
            assert entry.data == {"event": type[:100], "data": {"n": 1}}


async def test_an_event_that_is_too_large_is_left_out(sql: Connection, remote: Remote) -> None:
    remote.script.append(stream("event: page\ndata: " + "x" * 999_999 + "\n\nevent: done\ndata: 7\n\n"))
    row = await ask(sql, max_attempts=1)
    assert (row["state"], row["result"]) == ("completed", 7)
    (entry,) = [entry for entry in await log(sql, row["message_id"]) if entry.type == "page"]
    assert entry.data == {"omitted": "larger than an event may be"}


class Dribble:
    """A response that sends its bytes one by one."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        for number in range(len(self._body)):
            yield self._body[number : number + 1]


async def test_a_server_that_sends_single_bytes_costs_linear_time() -> None:
    body = b"data: " + b"x" * 900_000 + b"\r\n\r\n"
    async with asyncio.timeout(30):  # it takes one second, and a minute if each byte copies the line
        lines = [line async for line in http._lines(Dribble(body))]  # type: ignore[arg-type]
    assert [len(line) for line in lines] == [900_006, 0]


async def test_cancelling_closes_the_connection(sql: Connection, remote: Remote) -> None:
    remote.script.append(stream("event: chunk\ndata: x\n\n", stays=True))
    message_id = await submit(sql, "Hi", agent="remote")
    await until(lambda: types(sql, message_id), lambda found: "chunk" in found)
    assert await text(sql, message_id) == "x"
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(remote.hung_up)


async def test_an_unreachable_server_is_retried(
    sql: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    nowhere = with_closed_port(dsn).partition("@")[2].partition("/")[0]
    await start_worker(
        http_agent("remote", f"http://{nowhere}/"), http_agent("odd", "gopher://x"), overload_patience=0.001
    )
    row = await ask(sql, max_attempts=1)
    assert (row["state"], row["attempt"]) == ("failed", 2)
    assert row["error"].startswith("The agent cannot be reached: ")
    assert row["error"].endswith("(OVERLOAD_PATIENCE).")
    odd = await run(sql, "Hi", agent="odd")
    assert (odd["state"], odd["attempt"]) == ("failed", 1)
    assert odd["error"].startswith("The agent URL is invalid: ")
