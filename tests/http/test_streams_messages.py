"""The stream of a message: queue position, retries, and each final event."""

import pytest

from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import open_stream, stored_log, stream_path, types
from treadle import Context, Rejected, agent


async def test_a_stream_tells_the_queue_position(api: Client) -> None:
    first, second = await api.submit("1"), await api.submit("2")
    async with open_stream(api, stream_path(second)) as stream:
        assert (await stream.event(waiting=True)).type == "queued"
        told = await stream.event(waiting=True)
        assert (told.id, told.type) == (None, "waiting")
        assert told.data.keys() == {"state", "position", "message"}
        assert (told.data["state"], told.data["position"]) == ("queued", 1)
        assert told.data["message"]
        await api.delete(f"/messages/{first}")
        told = await stream.event(waiting=True)  # the next event only when the position changes
        assert (told.id, told.type, told.data["position"]) == (None, "waiting", 0)
    assert types(await stored_log(api, second)) == ["queued"]  # `waiting` is not stored


async def test_a_delayed_message_has_no_queue_position(api: Client) -> None:
    message_id = await api.submit("x", delay_seconds=60)
    async with open_stream(api, stream_path(message_id)) as stream:
        await stream.event()
        assert (await stream.event(waiting=True)).data["position"] is None


async def test_a_retry_is_an_event_of_the_stream(api_with_worker: Client) -> None:
    message_id = await api_with_worker.submit("a", metadata={"fail_times": 1})
    async with open_stream(api_with_worker, stream_path(message_id)) as stream:
        events = await stream.rest()
    assert types(events) == ["queued", "started", "retry", "started", "chunk", "done"]
    assert events[2].data.keys() == {"attempt", "error", "retry_at"}
    assert (events[1].data, events[2].data["attempt"], events[3].data) == ({"attempt": 1}, 1, {"attempt": 2})
    assert "Failing attempt 1" in events[2].data["error"]


async def test_a_failure_ends_the_stream(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await scripted_api.submit("x", agent="script")
    script.say(message_id, "partly", Rejected("Not this."))
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        events = await stream.rest()
    assert types(events) == ["queued", "started", "chunk", "error"]
    status = await scripted_api.status(message_id)
    assert events[-1].data.keys() == {"state", "error", "completed_at"}
    assert (events[-1].data["state"], events[-1].data["error"]) == ("failed", status["error"])


@pytest.mark.parametrize("runs", [False, True])
async def test_a_cancellation_ends_the_stream(scripted_api: Client, script: ScriptedAgent, runs: bool) -> None:
    message_id = await scripted_api.submit("x", agent="script", delay_seconds=0 if runs else 60)
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        assert (await stream.event()).type == "queued"
        if runs:
            assert (await stream.event()).type == "started"
        assert (await scripted_api.delete(f"/messages/{message_id}")).status_code == (202 if runs else 200)
        last = await stream.event()
        assert (last.type, last.data) == ("cancelled", {"state": "cancelled"})
        assert await stream.ended()
    assert (await scripted_api.get(stream_path(message_id), headers={"Last-Event-ID": str(last.id)})).status_code == 204


async def test_the_stream_of_a_redriven_message_continues_after_its_old_end(
    scripted_api: Client, script: ScriptedAgent
) -> None:
    message_id = await scripted_api.submit("x", agent="script")
    script.say(message_id, Rejected("Not now."))
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        failed = await stream.rest()
    assert types(failed) == ["queued", "started", "error"]
    assert (await scripted_api.get(stream_path(message_id), headers={"Last-Event-ID": "3"})).status_code == 204
    assert (await scripted_api.post(f"/messages/{message_id}/redrive")).status_code == 202
    async with (
        open_stream(scripted_api, stream_path(message_id)) as whole,
        open_stream(scripted_api, stream_path(message_id), header=3) as rest,
    ):
        script.say(message_id, "now", None)
        events = await whole.rest()
        assert events[:3] == failed
        assert types(events[3:]) == ["queued", "started", "chunk", "done"]
        assert events[3].data["redriven"] is True
        assert (events[3].data["message"], events[4].data) == ("x", {"attempt": 2})
        assert await rest.rest() == events[3:]


@pytest.mark.parametrize(("events", "size"), [(450, 1), (5, 100_000)], ids=["many", "large"])
async def test_the_pages_of_a_long_log_follow_each_other_without_a_poll(
    start_api: StartApi, start_worker: StartWorker, events: int, size: int
) -> None:
    """A page ends at a number of events or of characters; in both cases the reader continues at once."""

    @agent("long")
    async def long(context: Context, text: str) -> str:
        for _ in range(events):
            await context.event("part", "x" * size)
        return "ok"

    await start_worker(long, max_event_bytes=200_000)
    api = await start_api(poll_interval=300.0, keepalive_interval=300.0)
    message_id = await api.submit("x", agent="long")
    await api.settled(message_id)
    assert len(await api.events(message_id)) == events + 3
