"""treadle.client against a real API: its calls, its errors, and what it does when the network or the server fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest

from faults.proxy import Proxy
from service.agents.builtin.echo import echo
from service.inspection import model as inspection_model
from service.messages import model as message_model
from service.queues import model as queue_model
from service.statistics import model as statistics_model
from service.threads import model as thread_model
from tests.support.api_client import Client as ApiClient
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from treadle import Context, agent, client
from treadle.client import AsyncClient, Client, Event, details
from treadle.client.repeats import Repeats


def url_of(api: ApiClient) -> str:
    return str(api.base_url)


@contextlib.asynccontextmanager
async def proxied(api: ApiClient) -> AsyncIterator[tuple[Proxy, AsyncClient]]:
    """A client that reaches the API through a bad network."""
    proxy = Proxy(api.base_url.port or 0)
    await proxy.start()
    try:
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}") as through:
            yield proxy, through
    finally:
        await proxy.close()


@agent("broken", max_attempts=1)
async def broken(context: Context, text: str) -> str:
    raise ValueError(text)


async def test_the_blocking_client_makes_every_call(start_api: StartApi, start_worker: StartWorker) -> None:

    await start_worker(echo, broken)
    api = await start_api()

    def use() -> None:
        with Client(url_of(api)) as treadle:
            accepted = treadle.submit("one two", thread_id="a b?", metadata={"delay_ms": 1})
            events = list(treadle.stream(accepted.message_id))
            assert [event.type for event in events if event.id] == ["queued", "started", "chunk", "chunk", "done"]
            assert "".join(event.text for event in events) == "one two"
            assert next(treadle.stream(accepted.message_id, after=4)).type == "done"
            assert list(treadle.stream(accepted.message_id, after=5)) == []
            assert treadle.wait(accepted.message_id).result == "one two"
            assert treadle.run("again", thread_id="a b?", timeout=30) == "again"
            assert [thread.message_count for thread in treadle.threads().items] == [2]
            assert treadle.thread("a b?").states["completed"] == 2
            page = treadle.thread_messages("a b?", limit=1)
            assert page.next_cursor is not None
            assert treadle.thread_messages("a b?", cursor=page.next_cursor).items[0].result == "again"
            assert treadle.thread_usage("a b?") == {}
            with pytest.raises(client.MessageFailed, match="no") as failed:
                treadle.run("no", agent="broken")
            assert [letter.message_id for letter in treadle.dead_letters("default").items] == [
                failed.value.message.message_id
            ]
            treadle.redrive(failed.value.message.message_id)
            assert treadle.wait(failed.value.message.message_id).state == "failed"
            assert {one.agent for one in treadle.agents()} == {"echo", "broken"}
            assert len(treadle.workers()) == 1
            assert treadle.pause("default").paused
            waiting, other = treadle.submit_many([{"message": "x"}, {"message": "y"}])
            assert (waiting.queue_position, other.queue_position) == (0, 1)
            assert treadle.change(other.message_id, metadata={"n": 1}).metadata == {"n": 1}
            assert treadle.explain(other.message_id)[0].cause == "queue_paused"
            listed = treadle.messages(
                state="open", agent="echo", since=waiting.created_at - timedelta(minutes=1), limit=1
            )
            assert [one.message_id for one in listed.items] == [other.message_id]
            listed = treadle.messages(state="open", limit=1, cursor=listed.next_cursor)
            assert [one.message_id for one in listed.items] == [waiting.message_id]
            assert treadle.cancel_many(agent="echo").matched == 2
            treadle.cancel(waiting.message_id)
            assert treadle.status(waiting.message_id).state == "cancelled"
            with pytest.raises(client.Conflict):
                treadle.cancel(waiting.message_id)
            assert not treadle.resume("default").paused
            assert treadle.wait(other.message_id).is_over
            assert [queue.name for queue in treadle.queues()] == ["default"]
            assert treadle.redrive_many(error="no", preview=False).changed == 1
            assert treadle.wait(failed.value.message.message_id).state == "failed"
            whole = treadle.inspect(failed.value.message.message_id)
            assert ([one.outcome for one in whole.attempts], whole.complete) == (["failed"] * 3, True)
            assert sum(step.failed for step in treadle.stats(by="agent").steps) >= 0
            assert treadle.instances(agent="echo") == []
            treadle.drop_instance("echo", "a b?")
            assert treadle.change_thread("a b?", {"customer": "7"}).metadata == {"customer": "7"}
            assert [thread.thread_id for thread in treadle.threads(q="customer").items] == ["a b?"]
            assert treadle.health()["status"]
            treadle.delete_thread("a b?")
            with pytest.raises(client.NotFound):
                treadle.thread("a b?")
        treadle.close()  # a second time does nothing

    await asyncio.to_thread(use)


async def test_a_blocking_stream_that_is_left_early_is_closed(scripted_api: ApiClient, script: ScriptedAgent) -> None:
    treadle = Client(url_of(scripted_api))
    accepted = await asyncio.to_thread(treadle.submit, "x", agent="script")
    script.say(str(accepted.message_id), "a")

    def read_one() -> Event:
        for event in treadle.stream(accepted.message_id):
            if event.text:
                return event
        raise AssertionError("The stream has no chunk.")

    assert (await asyncio.to_thread(read_one)).text == "a"
    script.say(str(accepted.message_id), "b", None)
    assert (await asyncio.to_thread(treadle.wait, accepted.message_id)).result == "ab"
    await asyncio.to_thread(treadle.close)


async def test_a_stream_that_is_cut_resumes_with_exactly_the_rest(
    scripted_api: ApiClient, script: ScriptedAgent
) -> None:
    async with proxied(scripted_api) as (proxy, treadle):
        accepted = await treadle.submit("x", agent="script", thread_id="t")
        message_id = str(accepted.message_id)
        script.say(message_id, "0")
        received: list[Event] = []
        pieces = iter(["1", "2", "3", RuntimeError("a retry"), "4", "5", None])
        async with contextlib.aclosing(treadle.stream(message_id)) as events:
            async for event in events:
                if event.id is not None:
                    received.append(event)
                if event.text or event.type == "retry":
                    proxy.cut()
                    script.say(message_id, next(pieces))
                    if event.text == "5":
                        script.say(message_id, None)
        assert [event.id for event in received] == [str(seq) for seq in range(1, len(received) + 1)]
        assert [event.text for event in received if event.text] == ["0", "1", "2", "3", "4", "5"]
        assert received[-1].type == "done"
        assert proxy.cuts >= 7
        # The thread's stream: the same events under its own ids, from any of them on.
        async with contextlib.aclosing(treadle.stream_thread("t")) as thread_events:
            in_thread = [await anext(thread_events)]
            while in_thread[-1].type != "done":
                in_thread.append(await anext(thread_events))
        assert [event.type for event in in_thread] == [event.type for event in received]
        async with contextlib.aclosing(treadle.stream_thread("t", after=in_thread[-2].id)) as rest:
            assert (await anext(rest)).type == "done"


async def test_a_submit_whose_answer_is_lost_submits_once(api: ApiClient) -> None:
    async with proxied(api) as (proxy, treadle):
        await treadle.health()  # so that the connection is open
        proxy.lose_answers(1)
        accepted = await treadle.submit("x", thread_id="t")
        assert proxy.cuts == 1
        page = await treadle.thread_messages("t")
        assert [message.message_id for message in page.items] == [accepted.message_id]


async def test_calls_wait_for_a_server_that_is_away(api: ApiClient) -> None:
    async with proxied(api) as (proxy, treadle):
        proxy.refuse()
        call = asyncio.create_task(treadle.submit("x"))
        done, _ = await asyncio.wait({call}, timeout=0.3)
        assert not done
        await proxy.admit()
        assert (await call).state == "queued"
        proxy.refuse()
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}", repeat_seconds=0) as hasty:
            with pytest.raises(client.Unavailable, match="cannot be reached"):
                await hasty.submit("x")


async def test_waiting_has_a_limit(scripted_api: ApiClient) -> None:
    async with AsyncClient(url_of(scripted_api)) as treadle:
        accepted = await treadle.submit("x", agent="script")
        with pytest.raises(TimeoutError):
            await treadle.wait(accepted.message_id, timeout=0.05)
        waiting = asyncio.create_task(treadle.run("y", agent="script"))
        async with contextlib.aclosing(treadle.stream(accepted.message_id)) as events:
            async for event in events:
                if event.type == "started":
                    await treadle.cancel(accepted.message_id)
            assert event.type == "cancelled"
        waiting.cancel()


async def test_refusals_are_exceptions_with_the_sentence_of_the_server(api: ApiClient) -> None:
    async with AsyncClient(url_of(api), repeat_seconds=0) as treadle:
        with pytest.raises(client.Invalid, match="There is no agent 'poet'") as refused:
            await treadle.submit("x", agent="poet")
        assert refused.value.status == 422
        with pytest.raises(client.NotFound):
            await treadle.status("019a0000-0000-7000-8000-000000000000")
        with pytest.raises(client.NotFound):
            await anext(treadle.stream("019a0000-0000-7000-8000-000000000000"))
        accepted = await treadle.submit("x")
        with pytest.raises(client.Conflict):
            await treadle.redrive(accepted.message_id)
        with pytest.raises(client.Conflict):
            await treadle.answer(accepted.message_id, "yes", name="q")


def answering(*answers: httpx2.Response) -> AsyncClient:
    """A client of a server that gives these answers in turn."""
    rest = list(answers)
    return AsyncClient(transport=httpx2.MockTransport(lambda _: rest.pop(0)))


async def test_a_proxys_page_and_a_token_that_ends_are_understood() -> None:
    async with answering(httpx2.Response(413, text="<html>too\nlarge</html>")) as treadle:
        with pytest.raises(client.Invalid, match="The server answered 413: <html>too large</html>"):
            await treadle.health()
    last_word = 'event: unauthorized\ndata: {"message": "The token has expired."}\n\n'
    stream = httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=last_word)
    async with answering(stream) as treadle:
        with pytest.raises(client.Unauthorized, match="expired"):
            await anext(treadle.stream("x"))


async def test_a_stream_goes_on_after_a_failure_that_a_redrive_follows() -> None:
    """A final event ends the stream only where the server closes it there."""

    def stream(text: str) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    failed = 'event: error\ndata: {"error": "e"}\nid: 1\n\n'
    async with answering(
        stream(failed + "retry: 1\n\n"),  # an API that stops
        httpx2.Response(502, text="a proxy"),
        stream('event: queued\ndata: {}\nid: 2\n\nevent: done\ndata: {}\nid: 3\n\nevent: chunk\ndata: {"chu'),
        httpx2.Response(204),
    ) as treadle:
        events = [event async for event in treadle.stream("x")]
    assert [(event.id, event.type) for event in events] == [("1", "error"), ("2", "queued"), ("3", "done")]


@pytest.mark.parametrize(
    ("status", "headers", "repeatable", "delay"),
    [
        (429, {"retry-after": "7"}, False, 7),
        (409, {"retry-after": "1"}, True, 1),
        (409, {}, True, None),
        (503, {}, True, 0),
        (503, {}, False, None),
        (422, {}, True, None),
        (429, {"retry-after": "61"}, True, None),
    ],
)
def test_which_refusals_are_repeated(
    status: int, headers: dict[str, str], repeatable: bool, delay: float | None
) -> None:
    repeats = Repeats(60, repeatable=repeatable, clock=lambda: 0.0)
    answer = httpx2.Response(status, headers=headers, json={"detail": "No."})
    if delay is None:
        with pytest.raises(client.TreadleError, match="No"):
            repeats.after_refusal(answer)
    else:
        assert delay <= repeats.after_refusal(answer) < delay + 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (client.Accepted, message_model.Accepted),
        (client.Message, message_model.Status),
        (client.ThreadSummary, thread_model.ThreadSummary),
        (client.Thread, thread_model.Thread),
        (client.Queue, queue_model.Queue),
        (client.DeadLetter, queue_model.DeadLetter),
        (client.Agent, queue_model.Agent),
        (client.Worker, queue_model.Worker),
        (client.Instance, queue_model.Instance),
        (client.MessageSummary, inspection_model.MessageSummary),
        (client.MessageDetails, inspection_model.Message),
        (details.Attempt, inspection_model.Attempt),
        (details.Mark, inspection_model.Mark),
        (details.Descendant, inspection_model.Descendant),
        (details.EventCount, inspection_model.EventCount),
        (client.Reason, message_model.Reason),
        (client.Statistics, statistics_model.Statistics),
        (details.Step, statistics_model.Step),
    ],
)
def test_the_client_knows_every_field_of_the_server(ours: Any, theirs: Any) -> None:
    assert [field.name for field in msgspec.structs.fields(ours)] == [
        field.name for field in msgspec.structs.fields(theirs)
    ]


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)
