"""OpenAI's APIs under /v1, with the unmodified package `openai` as the client."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from service.protocols.openai.answers import usage_of
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.openai_agents import openai_agents
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until


def connect(api: Client, key: str = "unused", **options: Any) -> Any:
    return AsyncOpenAI(base_url=f"{api.base_url}/v1", api_key=key, **options)


@pytest.fixture
async def apis(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> list[Client]:
    """Two replicas, and a worker with agents."""
    await start_worker(echo, script.agent, *openai_agents())
    return [await start_api(), await start_api()]


@pytest.fixture
async def client(apis: list[Client]) -> AsyncIterator[Any]:
    async with connect(apis[0]) as found:
        yield found


@pytest.fixture
async def replica(apis: list[Client]) -> AsyncIterator[Any]:
    async with connect(apis[1]) as found:
        yield found


def message_of(answer: Any) -> str:
    """The id of the message of a response or a completion."""
    return str(UUID(re.sub("resp_|chatcmpl-", "", answer.id)))


async def started(client: Any, **fields: Any) -> tuple[Any, Any]:
    """A stream of a new response of the agent script, and its first event."""
    stream = await client.responses.create(model="script", input="go", stream=True, **fields)
    first = await anext(aiter(stream))
    return stream, first


async def test_a_response_and_its_stream_say_the_same(client: Any, replica: Any) -> None:
    assert [model.id async for model in client.models.list()] == [
        *("echo", "recall", "script", "structured", "weather"),
    ]
    made = await client.responses.create(model="echo", input="one two", metadata={"a": "b"}, instructions="Be brief.")
    assert (made.status, made.output_text, made.metadata, made.instructions) == (
        *("completed", "one two", {"a": "b"}, "Be brief."),
    )
    assert await replica.responses.retrieve(made.id) == made
    async with client.responses.stream(response_id=made.id) as again:
        events = [event async for event in again]
        assert (await again.get_final_response()).output_text == "one two"
    assert [event.type.removeprefix("response.") for event in events] == [
        *("created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert events[-1].response.model_dump(exclude={"output"}) == made.model_dump(exclude={"output"})
    assert [item.id for item in events[-1].response.output] == [item.id for item in made.output]
    items = await client.responses.input_items.list(made.id)
    assert [item.content[0].text for item in items.data] == ["one two"]


async def test_a_stream_that_is_cut_goes_on_at_another_replica(
    client: Any, replica: Any, script: ScriptedAgent
) -> None:
    stream, first = await started(client, background=True)
    own_id = first.response.id
    script.say(message_of(first.response), "one", RuntimeError("The first attempt fails."))
    seen = [first]
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            await stream.close()
            break
    script.say(message_of(first.response), "two ", "three", None)
    rest = await replica.responses.retrieve(own_id, stream=True, starting_after=seen[-1].sequence_number)
    seen += [event async for event in rest]
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == "two three"
    whole = [event async for event in await replica.responses.retrieve(own_id, stream=True)]
    assert [event.model_dump() for event in seen] == [event.model_dump() for event in whole]
    numbers = [event.sequence_number for event in seen]
    assert (numbers[0], sorted(set(numbers))) == (0, numbers)
    dropped = [event.item.status for event in seen if event.type == "response.output_item.done"]
    assert dropped == ["incomplete", "completed"]
    async with client.responses.stream(response_id=own_id, starting_after=seen[3].sequence_number) as helped:
        assert [event.sequence_number async for event in helped] == numbers[4:]
        assert (await helped.get_final_response()).output_text == "two three"


async def test_a_cancel_may_be_repeated(client: Any, replica: Any, script: ScriptedAgent) -> None:
    stream, first = await started(client, background=True)
    script.say(message_of(first.response), "half")
    ended = asyncio.ensure_future(_types(stream))
    await until(lambda: client.responses.retrieve(first.response.id), lambda found: found.status == "in_progress")
    for _ in range(2):
        assert (await replica.responses.cancel(first.response.id)).status == "cancelled"
    assert "response.completed" not in await ended
    assert (await client.responses.retrieve(first.response.id)).status == "cancelled"
    await client.responses.delete(first.response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.response.id)


async def _types(stream: Any) -> list[str]:
    return [event.type async for event in stream]


async def test_an_agent_calls_functions_of_its_client(client: Any, replica: Any) -> None:
    first = await client.responses.create(model="weather", input="Rome Oslo")
    calls = [item for item in first.output if item.type == "function_call"]
    assert (first.status, first.output_text) == ("completed", "Let me see. ")
    assert [(call.name, call.arguments) for call in calls] == [
        ("get_weather", '{"city":"Rome"}'),
        ("get_weather", '{"city":"Oslo"}'),
    ]
    answers: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": sky}
        for call, sky in zip(calls, ["sun", "rain"], strict=True)
    ]
    with pytest.raises(openai.BadRequestError, match="waits for the outputs"):
        await client.responses.create(previous_response_id=first.id, input="Well?")
    with pytest.raises(openai.BadRequestError, match="every function call"):
        await client.responses.create(previous_response_id=first.id, input=answers[:1])
    second = await client.responses.create(previous_response_id=first.id, input=answers)
    assert second.id != first.id
    again = await replica.responses.create(previous_response_id=first.id, input=answers)  # after a lost answer
    assert (again.id, again.output_text) == (second.id, second.output_text)
    [ask] = [item for item in second.output if item.type == "function_call"]
    assert (ask.name, ask.arguments) == ("input", '{"question":"Which unit?"}')
    async with client.responses.stream(model="weather", previous_response_id=second.id, input="Celsius") as stream:
        assert (await stream.get_final_response()).output_text == "sun, rain in Celsius"
    assert await replica.responses.retrieve(first.id) == first
    assert await replica.responses.retrieve(second.id) == second
    with pytest.raises(openai.BadRequestError, match="sent before"):
        await client.responses.create(previous_response_id=first.id, input=[{**answers[0], "output": "x"}, answers[1]])


async def test_a_conversation_has_a_memory(client: Any) -> None:
    async def said(**fields: Any) -> tuple[Any, Any]:
        made = await client.responses.create(model="recall", **fields)
        return made, [exchange[0] for exchange in json.loads(made.output_text)[0]]

    first, known = await said(input="a")
    assert (known, first.usage.model_dump(include={"input_tokens", "output_tokens"})) == (
        *([], {"input_tokens": 4, "output_tokens": 2}),
    )
    second, known = await said(input="b", previous_response_id=first.id)
    assert known == ["a"]
    fork, known = await said(input="c", previous_response_id=first.id)  # beside the second
    assert known == ["a"]
    assert (await said(input="d", previous_response_id=fork.id))[1] == ["a", "c"]
    assert (await said(input="e", previous_response_id=second.id))[1] == ["a", "b"]
    conversation = await client.conversations.create()
    assert (await client.conversations.items.list(conversation.id)).data == []
    await said(input="f", conversation=conversation.id)
    last, known = await said(input="g", conversation={"id": conversation.id})
    assert (known, last.conversation.id) == (["f"], conversation.id)
    items = client.conversations.items.list(conversation.id, limit=3, order="asc")
    texts = [item.content[0].text async for item in items]
    assert [text for text in texts if len(text) == 1] == ["f", "g"]
    newest = await client.conversations.items.list(conversation.id, limit=1)
    assert newest.data[0].id == last.output[0].id.rpartition("_0_")[0]
    assert (await client.conversations.retrieve(conversation.id)).metadata == {}
    changed = await client.conversations.update(conversation.id, metadata={"topic": "letters"})
    assert (changed.id, changed.metadata) == (conversation.id, {"topic": "letters"})
    assert await client.conversations.retrieve(conversation.id) == changed
    assert (await client.conversations.delete(conversation.id)).deleted
    given: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": "H"},
        {"role": "user", "content": [{"type": "input_text", "text": "i"}]},
    ]
    made = await client.responses.create(model="recall", input=given, store=False)
    assert json.loads(made.output_text) == [[["h", "H"]], "Be kind.", "i"]


def test_the_first_name_of_a_count_that_has_a_number_counts() -> None:
    """As in the statistics of the service."""
    reported = {"input_tokens": 5, "prompt_tokens": 3, "output_tokens": True, "completion_tokens": 2}
    usage = usage_of(cast(Any, SimpleNamespace(usage=reported)))
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (5, 2, 7)


async def test_structured_outputs(client: Any) -> None:
    class Answer(BaseModel):
        text: str

    made = await client.responses.parse(model="structured", input="x", text_format=Answer)
    assert made.output_parsed == Answer(text="x")
    async with client.responses.stream(model="structured", input="x", text_format=Answer) as stream:
        assert (await stream.get_final_response()).output_parsed == Answer(text="x")


async def test_chat_completions(client: Any, script: ScriptedAgent) -> None:
    ask: Any = client.chat.completions.create
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "b"},
    ]
    made = await ask(model="recall", messages=messages)
    assert json.loads(made.choices[0].message.content) == [[["a", "A"]], "Be brief.", "b"]
    assert (made.choices[0].finish_reason, made.usage.total_tokens) == ("stop", 6)
    stream = await ask(model="echo", messages=messages, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "b"
    assert (chunks[-2].choices[0].finish_reason, chunks[-1].usage.total_tokens) == ("stop", 0)
    messages = [{"role": "user", "content": "Rome"}]
    made = await ask(model="weather", messages=messages)
    assert made.choices[0].finish_reason == "tool_calls"
    messages.append(made.choices[0].message.model_dump(exclude_none=True))
    [call] = made.choices[0].message.tool_calls
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "sun"})
    chunks = [chunk async for chunk in await ask(model="weather", messages=messages, stream=True)]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    [[tool]] = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices[0].delta.tool_calls]
    messages.append({"role": "assistant", "tool_calls": [tool.model_dump(exclude={"index"})]})
    messages.append({"role": "tool", "tool_call_id": tool.id, "content": "Celsius"})
    assert (await ask(model="weather", messages=messages)).choices[0].message.content == "sun in Celsius"


async def test_events_of_the_agent_are_left_out_of_a_chat(client: Any, script: ScriptedAgent) -> None:
    ask: Any = client.chat.completions.create
    stream = await ask(model="script", messages=[{"role": "user", "content": "go"}], stream=True)
    first = await anext(aiter(stream))
    script.say(message_of(first), ("progress", "Reading"), "one ", ("mine", {"chunk": 3, "error": {}}), "two", None)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "one two"


async def test_a_chat_goes_on_when_its_attempt_is_repeated(client: Any, script: ScriptedAgent) -> None:
    """A second attempt that says the same goes on where the first one ended; another answer is an error."""
    for second, answer in (("one two", "one two"), ("two", None)):
        ask: Any = client.chat.completions.create
        stream = await ask(model="script", messages=[{"role": "user", "content": "go"}], stream=True)
        text = ""
        with pytest.raises(openai.APIError, match="began again") if answer is None else contextlib.nullcontext():
            async for chunk in stream:
                if not text:
                    script.say(message_of(chunk), "one ", RuntimeError("It fails."), second, None)
                text += chunk.choices[0].delta.content or ""
        assert answer is None or text == answer


async def test_errors_have_the_shape_and_the_status_of_the_dialect(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents()
    api = await start_api(**CLOSED, max_queue_size=1)
    async with connect(api, ROOT_KEY, max_retries=0) as client:

        async def refused(kind: type[openai.APIStatusError], code: str | None, **fields: Any) -> openai.APIStatusError:
            with pytest.raises(kind) as caught:
                await client.responses.create(**{"model": "echo", "input": "x", **fields})
            assert caught.value.code == code, caught.value.body
            return caught.value

        await refused(openai.BadRequestError, "invalid_value", model="missing")
        await refused(openai.BadRequestError, "invalid_value", input=[])
        await refused(openai.BadRequestError, "invalid_value", input=[{"role": "user", "content": [{"type": "x"}]}])
        await refused(openai.BadRequestError, "invalid_value", background=True, store=False)
        await refused(openai.NotFoundError, "previous_response_not_found", previous_response_id="resp_x")
        await refused(
            openai.BadRequestError, None, input=[{"type": "function_call_output", "call_id": "call_x", "output": ""}]
        )
        queued = await client.responses.create(model="echo", input="x", background=True)
        assert queued.status == "queued"
        full = await refused(openai.RateLimitError, "rate_limit_exceeded")
        assert full.response.headers["x-should-retry"] == "true"
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "x"}], n=2)
        await sql.execute("select treadle.create_tenant('acme')")
        for key, kind in (
            ((await create_key(api, "read", "submit", tenant="acme"))["key"], openai.NotFoundError),
            ((await create_key(api, "submit"))["key"], openai.PermissionDeniedError),
            ("nonsense", openai.AuthenticationError),
        ):
            with pytest.raises(kind):
                await client.with_options(api_key=key).responses.retrieve(queued.id)
        only_submits = client.with_options(api_key=(await create_key(api, "submit"))["key"])
        with pytest.raises(openai.PermissionDeniedError):
            await only_submits.responses.create(model="echo", input="x")
        with pytest.raises(openai.PermissionDeniedError):
            await only_submits.responses.cancel(queued.id)
    unknown = await api.post(
        "/v1/responses", content=b"{", headers={**bearer(ROOT_KEY), "Content-Type": "application/json"}
    )
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_request_under_an_idempotency_key_is_answered_once(client: Any) -> None:
    async def ask() -> Any:
        return await client.responses.create(model="echo", input="x", extra_headers={"Idempotency-Key": "k"})

    assert (await ask()).id == (await ask()).id


@pytest.mark.usefixtures("patient_stop")
async def test_a_server_that_stops_ends_streams_with_an_error(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent, settings: Settings
) -> None:
    await start_worker(script.agent)
    other = await start_api()
    async with api_server(settings) as server:
        client = AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x")
        stream, first = await started(client)
        waiting = asyncio.ensure_future(client.responses.create(model="script", input="go"))
        await until(lambda: other.get("/queue"), lambda answer: answer.json()["total_processing"] == 2)
    with pytest.raises(openai.APIError, match="The server stops"):
        async for _ in stream:
            pass
    assert (await waiting).status == "in_progress"
    await client.close()
    script.say(message_of(first.response), "done", None)
    script.say(message_of(await waiting), None)
    async with connect(other) as resumed:
        await until(lambda: resumed.responses.retrieve(first.response.id), lambda found: found.output_text == "done")
