"""A thread's stream: all of its messages in order, live, until the thread is deleted."""

from tests.support.api_client import Client
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import event_ids, open_stream, stored_log, stream_path, types


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
        async with open_stream(api_with_worker, "/threads/t/stream", query=seen) as stream:
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
        third = await scripted_api.submit("y", thread_id="t")
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
