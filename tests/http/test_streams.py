"""The log of a message: its bytes as a stream, resumed anywhere, and as JSON pages."""

import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.db.pool import Connection
from service.events.store import EventStore
from tests.support.api_client import Client
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import Event, event_ids, open_stream, parse, stored_log, stream_path, types

# The bytes


async def test_the_bytes_of_a_stream(api_with_worker: Client) -> None:
    message_id = await api_with_worker.submit("one two", thread_id="t", priority="high")
    await api_with_worker.settled(message_id)
    async with api_with_worker.stream("GET", stream_path(message_id)) as answer:
        headers = answer.headers
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.status_code == 200
    assert re.fullmatch(r"text/event-stream(; charset=utf-8)?", headers["content-type"])
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers
    assert "content-encoding" not in headers
    assert b"\r" not in raw
    *parts, end = raw.split(b"\n\n")
    assert end == b""
    events = [parse(part) for part in parts]
    done = events[-1]
    assert isinstance(done, Event)
    status = await api_with_worker.status(message_id)
    queued = {"message": "one two", "agent": "echo", "priority": "high", "thread_id": "t"}
    assert events == [
        Event(1, "queued", queued),
        Event(2, "started", {"attempt": 1}),
        Event(3, "chunk", {"type": "content", "chunk": "one", "index": 0}),
        Event(4, "chunk", {"type": "content", "chunk": " two", "index": 1}),
        Event(5, "done", {"state": "completed", "result": "one two", "completed_at": done.data["completed_at"]}),
    ]
    assert datetime.fromisoformat(done.data["completed_at"]) == datetime.fromisoformat(status["completed_at"])


ODD = '\x85 \u2028 \u2029 \x7f \ufeff \ufffd \U0001f9f5 \t \r\n \x0b\x0c\x1c\x1e \\ " id: 7\ndata: x\n\n'


async def test_every_character_survives_the_stream(api_with_worker: Client) -> None:
    """Also for clients that split lines at every line separator of Unicode, as the reader of httpx does."""
    message_id = await api_with_worker.submit(ODD, thread_id="t", metadata={"delay_ms": 1})
    chunks = [event.data["chunk"] for event in await api_with_worker.events(message_id) if event.type == "chunk"]
    assert "".join(chunks) == ODD
    assert [event.data for event in await api_with_worker.events(message_id)][-1]["result"] == ODD
    async with open_stream(api_with_worker, "/threads/t/stream") as stream:
        assert (await stream.until("done"))[-1].data["result"] == ODD


async def test_events_of_an_agent_are_streamed_unchanged(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await scripted_api.submit("x", agent="script", thread_id="t")
    own: list[tuple[str, Any]] = [
        ("progress", {"percent": 50}),
        ("tool", {"name": "search", "input": {"q": ["a", 1, None]}}),
        ("ünïcode type", {}),
        ("list", [1, {"a": 2}]),
        ("text", "just text"),
        ("nothing", None),
        ("clash", {"seq": "mine", "message_id": "mine", "data": "mine"}),
    ]
    script.say(message_id, *own, None)
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        events = await stream.rest()
    assert [(event.type, event.data) for event in events[2:-1]] == own
    assert event_ids(events) == list(range(1, 11))
    async with open_stream(scripted_api, "/threads/t/stream") as stream:
        in_thread = await stream.until("done")
    assert [(event.data["message_id"], event.data["seq"]) for event in in_thread] == [
        (message_id, n) for n in range(1, 11)
    ]
    assert [event.data.get("data") for event in in_thread[5:8]] == [[1, {"a": 2}], "just text", None]
    assert in_thread[3].data["input"] == {"q": ["a", 1, None]}


async def test_long_logs_and_large_events_are_complete(scripted_api: Client, script: ScriptedAgent) -> None:
    many = await scripted_api.submit("x", agent="script")
    large = await scripted_api.submit("x", agent="script")
    script.say(many, *(str(n) for n in range(450)), None)
    pieces = [letter * 400_000 for letter in "abcd"]
    script.say(large, *(("blob", piece) for piece in pieces), None)
    for message_id in (many, large):
        await scripted_api.settled(message_id)
    async with open_stream(scripted_api, stream_path(many)) as stream:
        events = await stream.rest()
    assert event_ids(events) == list(range(1, 454))
    assert [event.data["chunk"] for event in events[2:-1]] == [str(n) for n in range(450)]
    async with open_stream(scripted_api, stream_path(large)) as stream:
        assert [event.data for event in await stream.rest()][2:-1] == pieces


# Resuming


async def test_a_client_resumes_after_every_event_without_gap_or_repeat(api_with_worker: Client) -> None:
    message_id = await api_with_worker.submit("a b c", metadata={"fail_times": 1})
    await api_with_worker.settled(message_id)
    whole = await stored_log(api_with_worker, message_id)
    assert types(whole) == ["queued", "started", "retry", "started", "chunk", "chunk", "chunk", "done"]
    for seen in range(len(whole)):
        async with open_stream(api_with_worker, stream_path(message_id), header=seen) as stream:
            assert await stream.rest() == whole[seen:]
        async with open_stream(api_with_worker, stream_path(message_id), query=seen) as stream:
            assert await stream.rest() == whole[seen:]
    async with open_stream(
        api_with_worker, stream_path(message_id), header=5, query=1
    ) as stream:  # Last-Event-ID takes precedence
        assert await stream.rest() == whole[5:]


async def test_204_only_when_the_message_is_over_and_its_last_event_was_received(
    scripted_api: Client, script: ScriptedAgent
) -> None:
    message_id = await scripted_api.submit("x", agent="script")
    script.say(message_id, "a")
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        await stream.until("chunk")
    async with open_stream(
        scripted_api, stream_path(message_id), header=3
    ) as stream:  # the client has all events, but the message runs on
        script.say(message_id, "b", None)
        assert types(await stream.rest()) == ["chunk", "done"]
    async with open_stream(scripted_api, stream_path(message_id), header=4) as stream:
        assert types(await stream.rest()) == ["done"]
    for seen in (5, 6, 2**31 - 2):
        for answer in (
            await scripted_api.get(stream_path(message_id), headers={"Last-Event-ID": str(seen)}),
            await scripted_api.get(stream_path(message_id), params={"after": seen}),
        ):
            assert (answer.status_code, answer.content) == (204, b"")


Step = st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(["header", "query"]))


@given(plan=st.lists(Step, max_size=6), fails=st.booleans())
@hypothesis_settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
async def test_a_client_that_disconnects_anywhere_receives_the_remaining_events(
    scripted_api: Client, script: ScriptedAgent, plan: list[tuple[int, int, str]], fails: bool
) -> None:
    """In each step the agent emits some words; the client resumes, reads some events and disconnects."""
    message_id = await scripted_api.submit("x", agent="script")
    there, seen = 2, list[Event]()  # queued and started always come
    if fails:
        script.say(message_id, "lost", RuntimeError("The first attempt fails."))
        there += 3  # chunk, retry, started
    for said, read, how in plan:
        script.say(message_id, *["word"] * said)
        there += said
        cursor = {how: len(seen)} if seen else {}
        async with open_stream(scripted_api, stream_path(message_id), **cursor) as stream:
            for _ in range(min(read, there - len(seen))):
                seen.append(await stream.event())
    script.say(message_id, None)
    async with open_stream(scripted_api, stream_path(message_id), header=len(seen)) as stream:
        seen += await stream.rest()
    assert event_ids(seen) == list(range(1, there + 2))
    assert types(seen)[-1] == "done"
    assert seen[-1].data["result"] == "word" * sum(said for said, _, _ in plan)
    assert seen == await stored_log(scripted_api, message_id)
    assert (
        await scripted_api.get(stream_path(message_id), headers={"Last-Event-ID": str(len(seen))})
    ).status_code == 204


async def test_a_log_without_its_beginning_starts_with_a_gap(api_with_worker: Client, sql: Connection) -> None:
    message_id = await api_with_worker.submit("a b")
    await api_with_worker.settled(message_id)
    await sql.execute("delete from treadle.events where message_id = $1 and seq <= 2", message_id)
    async with open_stream(api_with_worker, stream_path(message_id)) as stream:
        gap, *events = await stream.rest()
    assert gap == Event(None, "gap", {"after": 0, "next": 3})
    assert event_ids(events) == [3, 4, 5]
    async with open_stream(api_with_worker, stream_path(message_id), header=2) as stream:
        assert await stream.rest() == events


# As JSON


async def test_events_are_paged(api_with_worker: Client) -> None:
    message_id = await api_with_worker.submit("a b c")
    async with open_stream(api_with_worker, stream_path(message_id)) as stream:
        whole = await stream.rest()
    path = f"/messages/{message_id}/events"
    page = (await api_with_worker.get(path)).json()
    assert page.keys() == {"message_id", "events", "next_after", "over"}
    assert all(event.keys() == {"seq", "type", "data", "created_at"} for event in page["events"])
    assert (page["message_id"], page["next_after"], page["over"]) == (message_id, 6, True)
    assert await stored_log(api_with_worker, message_id) == whole
    after, collected = 0, []
    for n in range(3):
        page = (await api_with_worker.get(path, params={"after": after, "limit": 2})).json()
        assert len(page["events"]) == 2
        assert page["over"] is (n == 2)
        after = page["next_after"]
        collected += [event["seq"] for event in page["events"]]
    assert collected == [1, 2, 3, 4, 5, 6]
    page = (await api_with_worker.get(path, params={"after": 6})).json()
    assert (page["events"], page["next_after"], page["over"]) == ([], 6, True)


async def test_events_of_an_unfinished_message(api: Client) -> None:
    message_id = await api.submit("x")
    for after, seqs in ((0, [1]), (1, []), (2**31 - 2, [])):
        page = (await api.get(f"/messages/{message_id}/events", params={"after": after})).json()
        assert [event["seq"] for event in page["events"]] == seqs
        assert page["over"] is False


async def test_a_new_stream_is_opened_with_one_question(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered with whether there is such a message, and with its first events."""
    message_id = await api.submit("x", delay_seconds=600)
    asked: list[str] = []
    for name in ("page", "log_end", "read"):
        original = getattr(EventStore, name)

        async def noted(*args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            asked.append(name)
            return await original(*args, **options)

        monkeypatch.setattr(EventStore, name, noted)
    async with open_stream(api, stream_path(message_id)) as stream:
        assert (await stream.event()).type == "queued"
    assert asked[0] == "page"
    assert set(asked) <= {"page", "read"}  # the hint of the submit may come only now, and has the log read again
