"""A chat over WebSocket: inputs and events in order, over any number of sockets."""

from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.websocket_client import (
    ChatUser,
    assert_whole_transcript,
    chat_path_url,
    chat_url,
    event_types,
    log_frames,
    matches,
    open_socket,
    stored_events,
)
from treadle import Context, agent


async def test_the_transcript_equals_the_log_of_the_thread(api_with_worker: Client) -> None:
    async with open_socket(chat_url(api_with_worker, "t", token="ignored")) as chat:
        assert await chat.frame() == {"type": "status", "status": "open", "thread_id": "t", "after": 0, "last": 0}
        frames: list[dict[str, Any]] = []
        for text in ("a b", "c", "d e f"):
            await chat.send("user_input", text=text)
        while event_types(frames).count("done") < 3:
            frames.append(await chat.frame())
    accepted = [frame["message_id"] for frame in frames if frame.get("status") == "accepted"]
    answers = [
        (frame["message_id"], frame["data"]["result"]) for frame in log_frames(frames) if frame["event"] == "done"
    ]
    assert answers == list(zip(accepted, ["a b", "c", "d e f"], strict=True))
    [opened] = [frame for frame in frames if frame.get("status") == "open"]
    assert opened.keys() == {"type", "status", "thread_id", "log", "after", "last"}
    assert_whole_transcript(frames, await stored_events(api_with_worker, "t", 3 * 3 + 6))


@pytest.mark.parametrize("thread_id", ["plain", "ünï ?#%2F..", "chat"])
async def test_both_urls_lead_to_the_same_thread(api_with_worker: Client, thread_id: str) -> None:
    async with open_socket(chat_url(api_with_worker, thread_id)) as chat:
        await chat.send("user_input", text="x")
        whole = log_frames(await chat.until(event="done"))
    assert whole[0]["data"]["thread_id"] == thread_id
    if thread_id != "chat":  # that URL takes the thread from its query
        async with open_socket(chat_path_url(api_with_worker, thread_id)) as chat:
            assert log_frames(await chat.until(event="done")) == whole
    async with open_socket(chat_url(api_with_worker, thread_id)) as chat:
        assert log_frames(await chat.until(event="done")) == whole


async def test_a_client_that_reconnects_receives_exactly_the_remaining_events(api_with_worker: Client) -> None:
    async with open_socket(chat_url(api_with_worker, "t")) as chat:
        await chat.send("user_input", text="one two")
        await chat.send("user_input", text="three")
        whole = log_frames(await chat.until(event="done") + await chat.until(event="done"))
    assert [frame["id"] for frame in whole] == list(range(1, 10))
    for seen in range(10):
        async with open_socket(chat_url(api_with_worker, "t", after=seen)) as chat:
            opened = await chat.frame()
            assert (opened["after"], opened["last"]) == (seen, 9)
            assert [await chat.frame() for _ in range(9 - seen)] == whole[seen:]
            await chat.send("ping")
            assert await chat.frame() == {"type": "pong"}  # no further event came before it


async def test_output_progress_and_retries_arrive_as_they_happen(scripted_api: Client, script: ScriptedAgent) -> None:
    async with open_socket(chat_url(scripted_api, "t")) as chat:
        await chat.send("user_input", text="x", agent="script", key="k")
        message_id = (await chat.answer(status="accepted", key="k"))["message_id"]
        await chat.until(event="started")
        script.say(message_id, "word")
        frame = await chat.find(type="agent_output")
        assert (frame["event"], frame["data"]) == ("chunk", {"type": "content", "chunk": "word", "index": 0})
        script.say(message_id, ("progress", {"percent": 50}), ("accepted", [1, None]), ("note", "a text"))
        assert [(await chat.frame())["data"] for _ in range(3)] == [{"percent": 50}, [1, None], "a text"]
        script.say(message_id, RuntimeError("No."))
        retry = await chat.find(type="status", event="retry")
        assert (retry["data"]["attempt"], retry["data"]["error"]) == (1, "RuntimeError: No.")
        await chat.until(event="started")
        script.say(message_id, "again", None)
        done = await chat.find(type="agent_output", event="done")
        assert done["data"]["result"] == "again"


async def test_the_fields_of_an_input_reach_the_message(start_api: StartApi, start_worker: StartWorker) -> None:
    @agent("look")
    async def look(context: Context, request: dict[str, Any]) -> dict[str, Any]:
        return {"asked": request, "metadata": context.metadata}

    await start_worker(echo, look)
    api = await start_api()
    async with open_socket(chat_url(api, "t")) as chat:
        await chat.send("user_input", message={"a": [1]}, agent="look", priority="high", metadata={"b": 2})
        done = await chat.find(event="done")
        assert done["data"]["result"] == {"asked": {"a": [1]}, "metadata": {"b": 2}}
        assert (await api.status(done["message_id"]))["priority"] == "high"
        await chat.send("user_input", message="a text", agent="echo", on_busy="interrupt")
        assert (await chat.find(event="done"))["data"]["result"] == "a text"
    async with open_socket(chat_url(api, "other", agent="look")) as chat:
        await chat.send("user_input", message={"a": [2]})
        assert (await chat.find(event="done"))["data"]["result"]["asked"] == {"a": [2]}


async def test_all_sockets_of_a_thread_receive_the_same_events(api_with_worker: Client, start_api: StartApi) -> None:
    replica = await start_api()
    async with (
        open_socket(chat_url(api_with_worker, "t")) as one,
        open_socket(chat_url(api_with_worker, "t")) as other,
        open_socket(chat_url(replica, "t")) as elsewhere,
    ):
        for chat in (one, other, elsewhere):
            assert "log" not in await chat.frame()  # there is no thread yet
        await one.send("user_input", text="from one")
        shown = [log_frames(await chat.until(event="done")) for chat in (one, other, elsewhere)]
        assert shown[0] == shown[1] == shown[2]
        await elsewhere.send("user_input", text="from elsewhere")
        shown = [log_frames(await chat.until(event="done")) for chat in (one, other, elsewhere)]
        assert shown[0] == shown[1] == shown[2]
        assert shown[0][0]["data"]["message"] == "from elsewhere"


async def test_an_input_repeated_with_its_key_is_stored_once(api_with_worker: Client, sql: Connection) -> None:
    async def ask(text: str, *, thread_id: str = "t", **fields: Any) -> dict[str, Any]:
        async with open_socket(chat_url(api_with_worker, thread_id)) as chat:
            await chat.send("user_input", text=text, **fields)
            found = {"status": "accepted"} if fields.get("key") != "k" or text == "hello" else {"type": "error"}
            return await chat.find(**found)

    first = await ask("hello", key="k")
    assert await ask("hello", key="k") == first
    refused = await ask("something else", key="k")
    assert (refused["key"], "used with another" in refused["detail"]) == ("k", True)
    elsewhere = await ask("hello", key="k", thread_id="u")  # keys belong to their thread
    assert elsewhere["message_id"] != first["message_id"]
    await api_with_worker.post("/messages", json={"message": "by http"}, headers={"Idempotency-Key": "k"})
    assert (await ask("hello"))["message_id"] != (await ask("hello"))["message_id"]
    counts = await sql.fetch(
        "select t.thread_id, count(*) from treadle.messages m left join treadle.threads t on t.id = m.thread group by 1"
    )
    assert {row["thread_id"]: row["count"] for row in counts} == {"t": 3, "u": 1, None: 1}


async def test_a_client_can_resend_an_unacknowledged_input(api_with_worker: Client) -> None:
    """The socket breaks between an input and its acknowledgement."""
    person = ChatUser("t")
    key = person.say("hello")
    async with open_socket(chat_url(api_with_worker, "t")) as chat:
        await chat.frame()
        await chat.send("user_input", **person.unacknowledged[key])
        chat.cut()
    while not person.over:
        async with open_socket(chat_url(api_with_worker, "t", after=person.last)) as chat:
            for wanted in person.unacknowledged.values():
                await chat.send("user_input", **wanted)
            while not person.over:
                await person.take(await chat.frame(), chat)
    assert [frame["event"] for frame in person.frames] == ["queued", "started", "chunk", "done"]


async def test_a_cancel_frame_cancels_the_message(scripted_api: Client, script: ScriptedAgent) -> None:
    async with open_socket(chat_url(scripted_api, "t")) as chat:
        for _ in range(2):
            await chat.send("user_input", text="x", agent="script")
        running = (await chat.answer(status="accepted"))["message_id"]
        queued = (await chat.answer(status="accepted"))["message_id"]
        await scripted_api.settled(running, "processing")
        for message_id in (queued, running):
            await chat.send("cancel", message_id=message_id)
            # The answer and the event come in any order.
            awaited = [{"status": "cancelling", "message_id": message_id}, {"event": "cancelled"}]
            while awaited:
                frame = await chat.frame()
                awaited = [wanted for wanted in awaited if not matches(frame, wanted)]
            assert (await scripted_api.settled(message_id))["state"] == "cancelled"
        await chat.send("cancel", message_id=running)
        refused = await chat.find(type="error")
        assert refused["message_id"] == running
        await chat.send("cancel", message_id="01a2009f-2623-7067-b6fa-75d59fc54b21")
        assert "There is no message" in (await chat.find(type="error"))["detail"]


async def test_closing_a_socket_stops_no_agent(scripted_api: Client, script: ScriptedAgent) -> None:
    async with open_socket(chat_url(scripted_api, "t")) as chat:
        await chat.send("user_input", text="x", agent="script")
        message_id = (await chat.answer(status="accepted"))["message_id"]
        await chat.until(event="started")
    script.say(message_id, "without a reader", None)
    assert (await scripted_api.settled(message_id))["result"] == "without a reader"


async def test_inputs_are_stored_although_the_socket_closes_at_once(api_with_worker: Client) -> None:
    # A client that breaks its connection, because its close is not answered in time, loses its frames under way.
    patient = {"max_queue": None, "close_timeout": LIMIT_SECONDS}
    async with open_socket(chat_url(api_with_worker, "t"), **patient) as chat:
        for number in range(20):
            await chat.send("user_input", text=f"{number}")

    async def count() -> int:
        answer = await api_with_worker.get("/threads/t")
        return int(answer.json()["message_count"]) if answer.status_code == 200 else 0

    await until(count, lambda found: found == 20)


async def test_the_next_input_after_a_deletion_starts_a_new_log(api_with_worker: Client) -> None:
    async with open_socket(chat_url(api_with_worker, "t")) as chat:
        await chat.send("user_input", text="one two three")
        opened = [frame for frame in await chat.until(event="done") if frame.get("status") == "open"]
        assert (await api_with_worker.delete("/threads/t")).status_code == 204
        assert await chat.frame() == {"type": "status", "status": "deleted", "thread_id": "t"}
        await chat.send("user_input", text="x")
        frames = await chat.until(event="done")
        assert [frame["id"] for frame in log_frames(frames)] == [1, 2, 3, 4]
    async with open_socket(chat_url(api_with_worker, "t", after=6)) as chat:  # an id of the deleted log
        again, gap, *frames = await chat.until(event="done")
        assert (again["after"], again["last"]) == (0, 4)
        assert again["log"] != opened[-1]["log"]
        assert gap == {"type": "status", "status": "gap", "after": 6, "next": 1}
        assert [frame["id"] for frame in frames] == [1, 2, 3, 4]


async def test_an_id_of_a_deleted_log_is_recognised_by_the_name_of_its_log(api_with_worker: Client) -> None:
    async with open_socket(chat_url(api_with_worker, "t")) as chat:
        await chat.send("user_input", text="one")
        old = [frame for frame in await chat.until(event="done") if frame.get("status") == "open"][-1]["log"]
    assert (await api_with_worker.delete("/threads/t")).status_code == 204
    for log in (old, old + 1):
        async with open_socket(chat_url(api_with_worker, "t", after=2, log=log)) as chat:
            opened, gap = await chat.frame(), await chat.frame()
            assert ("log" not in opened, opened["after"], opened["last"]) == (True, 0, 0)
            assert (gap["status"], gap["after"], gap["next"]) == ("gap", 2, 1)
    message_id = await api_with_worker.submit("one two three", thread_id="t")
    await api_with_worker.settled(message_id)
    async with open_socket(chat_url(api_with_worker, "t", after=2, log=old)) as chat:  # the new log is longer
        opened, gap, *frames = await chat.until(event="done")
        assert opened["after"] == 0
        assert (gap["status"], gap["after"], gap["next"]) == ("gap", 2, 1)
        assert [frame["id"] for frame in frames] == [1, 2, 3, 4, 5, 6]
    async with open_socket(chat_url(api_with_worker, "t", after=2, log=opened["log"])) as chat:
        opened, *frames = await chat.until(event="done")
        assert opened["after"] == 2
        assert [frame["id"] for frame in frames] == [3, 4, 5, 6]


async def test_a_long_log_is_replayed_in_pages(
    start_api: StartApi, start_worker: StartWorker, api_with_worker: Client
) -> None:
    async with open_socket(chat_url(api_with_worker, "t")) as chat:
        await chat.send("user_input", text="w " * 1000)
        whole = log_frames(await chat.until(event="done"))
    assert [frame["id"] for frame in whole] == list(range(1, len(whole) + 1))
    assert len(whole) > 1000
    async with open_socket(chat_url(api_with_worker, "t")) as chat:
        assert log_frames(await chat.until(event="done")) == whole


async def test_a_question_is_answered_over_the_socket(start_api: StartApi, start_worker: StartWorker) -> None:
    @agent("asks")
    async def asks(context: Context, text: str) -> Any:
        return await context.input("sure?", name="sure")

    await start_worker(asks)
    api = await start_api()
    async with open_socket(chat_url(api, "t")) as chat:
        await chat.send("user_input", text="x", agent="asks")
        parked = await chat.find(event="parked")
        message_id = parked["message_id"]
        assert parked["data"] == {"attempt": 1, "hold": "input", "name": "sure", "question": "sure?"}
        await chat.send("input", message_id=message_id, input={"yes": 1}, name="other")
        refused = await chat.find(type="error")
        assert (refused["message_id"], "asks 'sure' now" in refused["detail"]) == (message_id, True)
        await chat.send("input", message_id=message_id, input="\x00")
        assert "NUL" in (await chat.find(type="error"))["detail"]
        await chat.send("input", message_id=message_id, input={"yes": 1}, name="sure")
        frames = [await chat.frame()]
        while frames[-1].get("event") != "done":
            frames.append(await chat.frame())
        assert any(frame.get("status") == "answered" and frame["message_id"] == message_id for frame in frames)
        assert frames[-1]["data"]["result"] == {"yes": 1}
