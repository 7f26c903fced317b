"""A thread's stream: all of its messages in order, live, until the thread is deleted."""

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import Event, event_ids, open_stream, stored_log, stream_path, types


async def test_a_thread_stream_has_all_messages_in_order(api_with_worker: Client) -> None:
    texts = ["a b", "c", "d e f"]
    messages = [await api_with_worker.submit(text, thread_id="t") for text in texts]
    await api_with_worker.submit("of another thread", thread_id="u")
    for message_id in messages:
        await api_with_worker.settled(message_id)
    async with open_stream(api_with_worker, "/threads/t/stream") as stream:
        whole = [await stream.event() for _ in range(3 * 3 + 6)]
    assert event_ids(whole) == list(range(1, 16))
    for message_id, text in zip(messages, texts, strict=True):
        own = [event for event in whole if event.data["message_id"] == message_id]
        stored = await stored_log(api_with_worker, message_id)
        assert [event.data["seq"] for event in own] == event_ids(stored)
        for event, kept in zip(own, stored, strict=True):
            assert event.type == kept.type
            assert event.data == kept.data | {"message_id": message_id, "seq": kept.id}
        assert own[-1].data["result"] == text
    turns = [(event.type, event.data["message_id"]) for event in whole if event.type in {"started", "done"}]
    assert turns == [(type, message_id) for message_id in messages for type in ("started", "done")]
    for seen in range(15):
        async with open_stream(api_with_worker, "/threads/t/stream", header=seen) as stream:
            assert [await stream.event() for _ in range(15 - seen)] == whole[seen:]
        if seen:
            last_id = whole[seen - 1].last_event_id
            async with open_stream(api_with_worker, "/threads/t/stream", query=last_id) as stream:
                assert await stream.event() == whole[seen]


async def test_a_thread_stream_stays_open_and_live(scripted_api: Client, script: ScriptedAgent) -> None:
    first = await scripted_api.submit("one", thread_id="t")
    await scripted_api.settled(first)
    async with open_stream(scripted_api, "/threads/t/stream", header=4) as stream:
        assert await stream.next() == ": keepalive"  # unlike the stream of a message, it is never 204
        second = await scripted_api.submit("x", agent="script", thread_id="t")
        assert types(await stream.until("started")) == ["queued", "started"]
        script.say(second, "word")
        event = await stream.event()
        assert (event.id, event.data["chunk"], event.data["message_id"]) == (7, "word", second)
        script.say(second, None)
        assert (await stream.event()).type == "done"
        third = await scripted_api.submit("y", agent="echo", thread_id="t")
        events = await stream.until("done")
        assert [event.data["message_id"] for event in events] == [third] * 4
        assert event_ids(events) == [9, 10, 11, 12]


async def test_a_thread_stream_with_an_unusual_thread_id(api: Client) -> None:
    message_id = await api.submit("x", thread_id="ünï ?#%2F..")
    async with open_stream(api, "/threads/%C3%BCn%C3%AF%20%3F%23%252F../stream") as stream:
        assert (await stream.event()).data["message_id"] == message_id


async def test_deleting_a_thread_ends_its_streams(scripted_api: Client, script: ScriptedAgent) -> None:
    running = await scripted_api.submit("x", agent="script", thread_id="t")
    behind = await scripted_api.submit("y", thread_id="t")
    async with (
        open_stream(scripted_api, stream_path(running)) as one,
        open_stream(scripted_api, stream_path(behind)) as other,
        open_stream(scripted_api, "/threads/t/stream") as thread,
    ):
        await one.until("started")
        await other.until("queued")
        assert {(await thread.event()).type for _ in range(3)} == {"queued", "started"}
        assert (await scripted_api.delete("/threads/t")).status_code == 204
        for stream in (one, other, thread):
            last = await stream.event()
            assert (last.id, last.type, last.data) == (None, "cancelled", {"state": "cancelled", "deleted": True})
            assert await stream.ended()
    for path in (stream_path(running), stream_path(behind), "/threads/t/stream"):
        assert (await scripted_api.get(path)).status_code == 404


# Cursors of a log that is gone


async def read_events(api: Client, count: int, **cursor: str | int) -> list[Event]:
    async with open_stream(api, "/threads/t/stream", **cursor) as stream:
        return [await stream.event() for _ in range(count)]


async def test_an_id_of_a_deleted_log_is_answered_with_a_gap_and_the_new_log(api_with_worker: Client) -> None:
    await api_with_worker.settled(await api_with_worker.submit("one two three", thread_id="t"))
    old = await read_events(api_with_worker, 6)
    assert (await api_with_worker.delete("/threads/t")).status_code == 204
    for text, length in (("short", 4), ("long enough to pass it", 12)):
        await api_with_worker.settled(await api_with_worker.submit(text, thread_id="t"))
        for event in (old[0], old[-1]):
            gap, *events = await read_events(api_with_worker, length + 1, header=event.last_event_id)
            assert gap == Event(None, "gap", {"after": event.id, "next": 1})
            assert event_ids(events) == list(range(1, length + 1))
        whole = events
    gap, *events = await read_events(api_with_worker, 13, query=500)  # a position alone
    assert gap == Event(None, "gap", {"after": 500, "next": 1})
    assert events == whole


async def test_an_id_of_events_that_a_failover_lost_is_answered_with_a_gap(
    api_with_worker: Client, sql: Connection
) -> None:
    await api_with_worker.settled(await api_with_worker.submit("one", thread_id="t"))
    seen = await read_events(api_with_worker, 4)
    # Another history of the same thread: at the same positions it has events of other times.
    await sql.execute("update treadle.events set created_at = created_at + interval '1 second' where thread_pos > 2")
    gap, *events = await read_events(api_with_worker, 5, header=seen[3].last_event_id)
    assert gap == Event(None, "gap", {"after": 4, "next": 1})
    assert event_ids(events) == [1, 2, 3, 4]
    kept = await read_events(api_with_worker, 2, header=seen[1].last_event_id)
    assert event_ids(kept) == [3, 4]


async def test_an_open_stream_notices_that_its_log_became_shorter(api: Client, sql: Connection) -> None:
    """After a failover a stream may find itself beyond the end of the log without ever having been interrupted."""
    message_id = await api.submit("one", thread_id="t")
    await api.submit("two", thread_id="t")
    async with open_stream(api, "/threads/t/stream") as thread, open_stream(api, stream_path(message_id)) as stream:
        assert [await thread.event(), await thread.event()]
        assert (await stream.event()).type == "queued"
        await sql.execute(
            "delete from treadle.events where thread_pos = 2; update treadle.thread_log set last_pos = 1, era = 0;"
            " update treadle.messages set last_seq = 0 where thread is not null and ord = 1"
        )
        assert await thread.event() == Event(None, "gap", {"after": 2, "next": 1})
        assert (await thread.event()).id == 1
        assert await stream.event() == Event(None, "gap", {"after": 1, "next": 1})


async def test_a_malformed_id_of_a_threads_stream_is_refused(api: Client) -> None:
    await api.submit("one", thread_id="t")
    for text in ("x", "-1", "1-", "1-xyz", "1-A", "1-00000000000000000", "1.5", "9" * 19, "1-0-0"):
        answer = await api.get("/threads/t/stream", headers={"Last-Event-ID": text})
        assert (answer.status_code, answer.json()["detail"]) == (
            400,
            "after (or Last-Event-ID) must be the id of the last event received.",
        )
