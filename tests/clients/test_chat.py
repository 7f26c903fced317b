"""`chat` of both Python clients against a real API."""

import asyncio

import pytest

from faults.proxy import Proxy
from service.agents.builtin.echo import echo
from tests.support.api_client import Client as ApiClient
from tests.support.fixture_types import StartApi, StartWorker
from treadle.client import ApiError, AsyncClient, Client, Unavailable


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
                with pytest.raises(ApiError, match="There is no agent 'none'"):
                    await chat.send("x", agent="none")
                with pytest.raises(ApiError, match="on_busy"):
                    await chat.send("x", on_busy="perhaps")  # type: ignore[arg-type]
            with pytest.raises(Unavailable, match="closed"):
                await chat.send("x")
            async with client.chat("chat", last_id=chat.last_id - 1, log=chat.log) as later:
                assert (await anext(later)).data["result"] == "three"
            async with client.chat("a/b") as refused:
                with pytest.raises(ApiError, match="thread_id must be"):
                    await anext(refused)
    finally:
        await proxy.close()
    assert [number for _, number, _ in told] == [str(number + 1) for number in range(len(told))]
    assert list(dict.fromkeys(message for message, _, _ in told)) == sent
    assert [kind for message, _, kind in told if message == sent[0]] == ["queued", "started", "chunk", "chunk", "done"]
    assert proxy.cuts > 1


async def test_an_input_waits_for_a_server_that_is_away_and_is_submitted_once(api_with_worker: ApiClient) -> None:
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
                await asyncio.sleep(0.2)
                assert not sending.done()
                await proxy.admit()
                sent.append(await sending)
                found = (await client.thread_messages("away")).items
    finally:
        await proxy.close()
    assert [message.message_id for message in found][1:] == sent


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
