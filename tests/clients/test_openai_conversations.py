"""Conversations of OpenAI's API with items and metadata of their own, their pages, and responses that are deleted."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.openai_agents import openai_agents
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture
async def client(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> AsyncIterator[Any]:
    await start_worker(script.agent, *openai_agents())
    url = f"{(await start_api()).base_url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=LIMIT_SECONDS) as client:
        yield client


def told(answer: Any) -> list[Any]:
    """The history, the orders and the text that the agent was told."""
    return list(json.loads(answer.output_text))


async def texts(client: Any, conversation: str, **options: Any) -> list[str]:
    items = client.conversations.items.list(conversation, **options)
    return [item.content[0].text for item in [item async for item in items]]


async def test_a_conversation_begins_with_items(client: Any) -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}
    system = {"type": "message", "role": "developer", "content": "Be kind."}
    made = await client.conversations.create(metadata={"topic": "letters"}, items=[system, user, assistant])
    assert (await client.conversations.retrieve(made.id)) == made
    added = await client.conversations.items.create(made.id, items=[{"role": "user", "content": "b"}])
    assert [item.content[0].text for item in added.data] == ["b"]
    first = await client.responses.create(model="recall", input="c", conversation=made.id)
    assert told(first) == [[["a", "A"]], "Be kind.", "b\n\nc"]
    second = await client.responses.create(model="recall", input="d", conversation=made.id)
    history, orders, text = told(second)
    assert ([said for said, _ in history], orders, text) == (["a", "b\n\nc"], "Be kind.", "d")
    expected = ["Be kind.", "a", "A", "b", "b\n\nc", first.output_text, "d", second.output_text]
    for limit in (1, 2, 3, 8, 100):
        assert await texts(client, made.id, order="asc", limit=limit) == expected
        assert await texts(client, made.id, limit=limit) == expected[::-1]
    items = (await client.conversations.items.list(made.id, order="asc")).data
    for item in items:
        assert await client.conversations.items.retrieve(item.id, conversation_id=made.id) == item
    changed = await client.conversations.update(made.id, metadata={"topic": "parcels"})
    assert changed.metadata == {"topic": "parcels"}
    assert len((await client.conversations.items.list(made.id)).data) == 8
    empty = await client.conversations.create()
    assert (await client.conversations.update(empty.id, metadata={"n": "1"})).metadata == {"n": "1"}
    foreign = items[-1].id
    for call in (
        client.conversations.items.create(made.id, items=[user]),
        client.conversations.create(items=[{"role": "robot", "content": "x"}]),
        client.conversations.create(items=[{"role": "user", "content": [{"type": "input_file"}]}]),
        client.conversations.create(items=[user] * 101),
        client.conversations.items.list(empty.id, after=foreign, limit=5),
        client.conversations.items.list(made.id, after="msg_x"),
    ):
        with pytest.raises(openai.BadRequestError):
            await call
    for call in (
        client.conversations.items.retrieve(foreign, conversation_id=empty.id),
        client.conversations.items.retrieve("msg_x", conversation_id=made.id),
        client.conversations.items.create("no-such-conversation", items=[user]),
        client.conversations.retrieve("conv_ffffffffffff7fffbfffffffffffffff"),  # of the year 10889
    ):
        with pytest.raises(openai.NotFoundError):
            await call


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that need the same thread wait for each other as long as that takes."""
    for module in ("messages", "threads"):
        monkeypatch.setattr(f"service.{module}.store.HELD_SECONDS", 600)


@pytest.mark.usefixtures("waiting")
async def test_items_that_are_added_at_the_same_time_are_all_kept(client: Any) -> None:
    made = await client.conversations.create()

    async def add(text: str) -> str:
        added = await client.conversations.items.create(made.id, items=[{"role": "user", "content": text}])
        [item] = added.data
        return str(item.content[0].text)

    wanted = [str(number) for number in range(10)]
    updates = (client.conversations.update(made.id, metadata={"n": number}) for number in wanted)
    answers = await asyncio.gather(*(add(text) for text in wanted), *updates)
    assert answers[:10] == wanted
    assert sorted(await texts(client, made.id)) == wanted


async def test_the_first_items_have_a_bound_in_bytes(client: Any) -> None:
    made = await client.conversations.create()
    large = [{"role": "user", "content": "x" * 300_000}]
    for _ in range(3):
        await client.conversations.items.create(made.id, items=large)
    with pytest.raises(openai.BadRequestError, match="at most 1000000 bytes"):
        await client.conversations.items.create(made.id, items=large)
    assert len(await texts(client, made.id)) == 3


async def test_labels_of_a_client_give_no_orders(client: Any) -> None:
    labels = {"system": "crm", "history": "h", "tools": "t", "openai": "o", "openai_deleted": "x", "k": "v"}
    made = await client.responses.create(model="recall", input="x", metadata=labels)
    assert (made.metadata, told(made)) == (labels, [[], None, "x"])
    assert (await client.responses.retrieve(made.id)).metadata == labels
    with pytest.raises(openai.BadRequestError, match="after must be"):
        await client.responses.input_items.list(made.id, after="item_x")


async def test_metadata_of_a_thread_that_are_no_items_are_passed_over(client: Any) -> None:
    made = await client.conversations.create()
    await client.responses.create(model="recall", input="a", conversation=made.id)
    async with Client(str(client.base_url).removesuffix("/v1/")) as api:
        for wrong in ([1], [{"role": 5}], "text"):
            changed = await api.patch(f"/threads/{made.id}", json={"metadata": {"openai_items": wrong}})
            assert changed.status_code == 200, changed.text
            assert told(await client.responses.create(model="recall", input="b", conversation=made.id))[2] == "b"
            assert (await texts(client, made.id, order="asc"))[0] == "a"


async def test_a_deleted_response_is_gone(client: Any, script: ScriptedAgent) -> None:
    first = await client.responses.create(model="recall", input="a")
    second = await client.responses.create(model="recall", input="b", previous_response_id=first.id)
    alone = await client.responses.create(model="recall", input="c", store=False)
    running = await client.responses.create(model="script", input="d", store=False, stream=True)
    begun = await anext(running)
    with pytest.raises(openai.BadRequestError, match="cancel it first"):
        await client.responses.delete(begun.response.id)
    await client.responses.cancel(begun.response.id)
    await running.close()
    for response in (first, alone, begun.response):
        await client.responses.delete(response.id)
        for call in (
            client.responses.retrieve(response.id),
            client.responses.delete(response.id),
            client.responses.input_items.list(response.id),
            client.responses.create(model="recall", input="x", previous_response_id=response.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
    third = await client.responses.create(model="recall", input="e", previous_response_id=second.id)
    assert [said for said, _ in told(third)[0]] == ["a", "b"]  # the conversation keeps what was said
