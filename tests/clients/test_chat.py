"""`chat` of both Python clients against a real API."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidURI

from faults.proxy import Proxy
from service.agents.builtin.echo import echo
from tests.support.api_client import Client as ApiClient
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import LIMIT_SECONDS, until
from treadle.client import ApiError, AsyncClient, Client, Unavailable
from treadle.client import chat as chats


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The attempts for which a chat has asked how long it waits; it waits a moment."""
    attempts: list[int] = []

    def backoff(attempt: int) -> float:
        attempts.append(attempt)
        return 0.01

    monkeypatch.setattr(chats, "backoff", backoff)
    return attempts


@asynccontextmanager
async def chat_with(*frames: dict[str, object], code: int | None = None) -> AsyncIterator[chats.Chat]:
    """A chat with a server that says this after each input, or closes each socket with this code."""

    async def handle(socket: ServerConnection) -> None:
        if code is not None:
            await socket.close(code)
            return
        async for text in socket:
            key = json.loads(text)["key"]
            for frame in frames:
                await socket.send(json.dumps({**frame, **({"key": key} if "key" in frame else {})}))

    async with asyncio.timeout(LIMIT_SECONDS), serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with chats.Chat((f"http://127.0.0.1:{port}", None), "t") as chat:
            yield chat


async def test_a_chat_whose_socket_is_cut_after_each_event_tells_every_event_once(api_with_worker: ApiClient) -> None:
    proxy = Proxy(api_with_worker.base_url.port or 0)
    await proxy.start()
    told = []
    try:
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}") as client, asyncio.timeout(60):
            async with client.chat("chat", agent="echo") as chat:
                sent = [await chat.send("one two", metadata={"delay_ms": 60})]
                async for event in chat:
                    told.append((event.message_id, event.id, event.type))
                    proxy.cut()
                    if event.type == "done" and len(sent) == 1:
                        sent.append(await chat.send("three"))
                    elif event.type == "done":
                        break
                with pytest.raises(ApiError, match="There is no agent 'none'") as unknown:
                    await chat.send("x", agent="none")
                with pytest.raises(ApiError, match="on_busy"):
                    await chat.send("x", on_busy="perhaps")  # type: ignore[arg-type]
            with pytest.raises(Unavailable, match="closed"):
                await chat.send("x")
            async with client.chat("chat", last_id=chat.last_id - 1, log=chat.log) as later:
                assert (await anext(later)).data["result"] == "three"
            async with client.chat("a/b") as refused:
                with pytest.raises(ApiError, match="thread_id must be") as malformed:
                    await anext(refused)
    finally:
        await proxy.close()
    assert [number for _, number, _ in told] == [str(number + 1) for number in range(len(told))]
    assert list(dict.fromkeys(message for message, _, _ in told)) == sent
    assert [kind for message, _, kind in told if message == sent[0]] == ["queued", "started", "chunk", "chunk", "done"]
    assert proxy.cuts > 1
    assert (unknown.value.status, malformed.value.status) == (422, 422)


async def test_an_input_waits_for_a_server_that_is_away_and_is_submitted_once(
    api_with_worker: ApiClient, delays: list[int]
) -> None:
    proxy = Proxy(api_with_worker.base_url.port or 0)
    await proxy.start()
    try:
        async with asyncio.timeout(60), AsyncClient(f"http://127.0.0.1:{proxy.port}") as client:
            chat = client.chat("away", agent="echo")
            async with chat:
                await chat.send("first", metadata={"delay_ms": 1})
                async for event in chat:
                    if event.type == "done":
                        break
                proxy.lose_answers(1)
                sent = [await chat.send("second")]
                proxy.refuse()
                sending = asyncio.create_task(chat.send("third"))
                await until(lambda: 2 in delays)  # a connection was refused
                assert not sending.done()
                await proxy.admit()
                sent.append(await sending)
                found = (await client.thread_messages("away")).items
    finally:
        await proxy.close()
    assert [message.message_id for message in found][1:] == sent


async def test_a_chat_goes_on_after_the_last_event_that_its_reader_received(api_with_worker: ApiClient) -> None:
    async with asyncio.timeout(60), AsyncClient(str(api_with_worker.base_url)) as client:
        async with client.chat("buffered", agent="echo") as chat:
            await client.wait(await chat.send("one"))
            second = await chat.send("two")
            await client.wait(second)
            await until(lambda: len(chat._events) == 8)
            assert chat.last_id == 0
            async for event in chat:
                if event.type == "done":
                    break
        async with client.chat("buffered", last_id=chat.last_id, log=chat.log) as later:
            events = [await anext(later) for _ in range(4)]
    assert [(event.message_id, event.type) for event in events] == [
        (second, kind) for kind in ("queued", "started", "chunk", "done")
    ]


async def test_an_input_that_is_too_large_is_refused_and_the_next_one_is_stored(
    start_api: StartApi, start_worker: StartWorker
) -> None:
    await start_worker()
    api = await start_api(max_body_bytes=1_000_000)
    async with asyncio.timeout(60), AsyncClient(str(api.base_url)) as client, client.chat("t", agent="echo") as chat:
        large, small = await asyncio.gather(chat.send("x" * 5_000_000), chat.send("small"), return_exceptions=True)
        assert isinstance(large, ApiError)
        assert large.status == 413
        assert [message.message_id for message in (await client.thread_messages("t")).items] == [small]


async def test_a_chat_waits_longer_for_each_socket_that_the_server_closes_at_once(
    delays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chats, "TROUBLED_SECONDS", 0.01)
    async with chat_with(code=1013):
        await until(lambda: delays[:4] == [1, 2, 3, 4])


async def test_an_input_that_is_refused_for_now_holds_up_no_event() -> None:
    refusals = [{"type": "error", "detail": "no", "status": 422}, {"type": "error", "key": "", "retry_after": 3600}]
    event = {"type": "status", "id": 1, "event": "queued", "message_id": "01a2021b-5882-7486-83fd-c82903d8cbd5"}
    async with chat_with(*refusals, event) as chat:
        sending = asyncio.create_task(chat.send("x"))
        assert (await anext(chat)).type == "queued"
        assert not sending.done()
    with pytest.raises(Unavailable, match="closed"):
        await sending


async def test_a_chat_does_not_repeat_a_wrong_address() -> None:
    async with asyncio.timeout(LIMIT_SECONDS), chats.Chat(("ftp://host", None), "t") as chat:
        with pytest.raises(InvalidURI):
            await anext(chat)


async def test_the_chat_of_the_blocking_client(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(echo)
    api = await start_api()

    def talk() -> None:
        with Client(str(api.base_url)) as client:
            with client.chat("blocking", agent="echo") as chat:
                message_id = chat.send("one two")
                events = [next(iter(chat)) for _ in range(5)]
            assert [event.type for event in events] == ["queued", "started", "chunk", "chunk", "done"]
            assert {event.message_id for event in events} == {message_id}
            with client.chat("blocking", last_id=chat.last_id, log=chat.log) as later:
                later.send("three")
                assert next(iter(later)).id == str(chat.last_id + 1)
            assert list(later) == []

    await asyncio.to_thread(talk)
    assert (await api.get("/threads/blocking")).json()["message_count"] == 2
