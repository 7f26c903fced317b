"""Agents that ask an API of OpenAI's kind, over HTTP against a fake of it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import yaml

from service.agents import registry
from service.agents.openai.api import Api
from service.agents.openai.content import content_parts
from service.agents.openai.output import OutputForm
from service.config import Settings
from service.db.pool import Connection
from tests.support.fake_openai import FakeOpenAI, Reply, calls
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, text
from tests.support.waiting import until, wait_for
from treadle import Context
from treadle.adapters import openai_agent


class Weather(msgspec.Struct):
    """The weather of a place."""

    place: str
    degrees: list[int]
    wind: str | None = None


async def measure(context: Context, place: str) -> int:
    "Measures the temperature."
    if place == "Nowhere":
        raise LookupError(place)
    return 7


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeOpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeOpenAI().running() as fake:
        yield fake


@pytest.fixture
async def api(fake: FakeOpenAI, start_worker: StartWorker) -> FakeOpenAI:
    """A worker whose agents ask the fake API: `desk` has a tool, `weather` an output."""
    connection = Api("sk-test", fake.url, "gpt-test")
    desk = openai_agent(
        "desk",
        system="Be kind.",
        tools=[measure],
        max_tokens=99,
        price={"input": 1, "output": 2, "cache_read": 0.5},
        options={"temperature": 0},
        client_options=["tools", "output"],
    )
    weather = openai_agent("weather", output=Weather, max_attempts=2)
    await start_worker(desk.connect(connection), weather.connect(connection))
    return fake


async def test_rounds_of_text_and_tools(sql: Connection, api: FakeOpenAI) -> None:
    """Tokens stream, tools are called once each over two attempts, usage and cost are added, history is sent."""
    asked = calls(("a", "measure", {"place": "Rome"}), ("b", "measure", {"place": "Nowhere"}), text="I look.")
    api.script += [asked, Reply(ends="early"), Reply(({"reasoning_content": "Hm."}, {"content": "7 degrees."}))]
    row = await run(sql, "How warm is it?", agent="desk", thread_id="t")
    assert (row["state"], row["result"], row["attempt"]) == ("completed", "7 degrees.", 2)
    assert await text(sql, row["message_id"]) == "I look.\n\n7 degrees."
    usage = row["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (14, 8, 44)
    assert (usage["model"], usage["stop_reason"]) == ("gpt-test", "stop")
    assert usage["cost_usd"] == pytest.approx((14 + 4 + 88) / 1e6)
    events = await log(sql, row["message_id"])
    assert [event.data for event in events if event.type == "thinking"] == [{"content": "Hm."}]
    outputs = [event.data["output"] for event in events if event.type == "tool" and "output" in event.data]
    assert outputs.count(7) == outputs.count("LookupError: Nowhere") == 2  # told again by the second attempt
    first, second, third = api.requests
    assert second == third
    assert first["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "How warm is it?"},
    ]
    assert (first["max_tokens"], first["temperature"], first["stream"]) == (99, 0, True)
    [function] = first["tools"]
    assert function["function"]["parameters"]["required"] == ["place"]
    assistant, *results = second["messages"][2:]
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == [
        '{"place":"Rome"}',
        '{"place":"Nowhere"}',
    ]
    assert results == [
        {"role": "tool", "tool_call_id": "a", "content": "7"},
        {"role": "tool", "tool_call_id": "b", "content": "LookupError: Nowhere"},
    ]
    assert "authorization: bearer sk-test" in api.headers[0].lower()

    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    api.script += [Reply(status=400, message="Too long"), Reply()]
    row = await run(sql, {"content": [{"type": "text", "text": "And this?"}, picture]}, agent="desk", thread_id="t")
    assert row["result"] == "Hello, world"
    refused, shorter = api.requests[-2:]
    assert [said["role"] for said in refused["messages"]] == ["system", "user", "assistant", "user"]
    assert [said["role"] for said in shorter["messages"]] == ["system", "user"]
    assert shorter["messages"][1]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,aGk="},
    }

    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aGk="}
    named = {"type": "document", "title": "a.pdf", "source": pdf}
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi."}}
    row = await run(sql, {"content": [named, plain]}, agent="desk")
    assert api.requests[-1]["messages"][1]["content"] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        {"type": "text", "text": "Hi."},
    ]
    far = [{"type": kind, "source": {"type": "file", "file_id": "f"}} for kind in ("document", "image")]
    for block in far:
        row = await run(sql, {"content": [block]}, agent="desk")
        assert (row["state"], "content[0] has a source" in row["error"]) == ("failed", True)
    notes = [{"type": "text", "text": f"[{kind}, left out]"} for kind in ("document", "image")]
    assert content_parts(far, left_out=True) == notes


async def test_calls_without_ids_get_different_ones(sql: Connection, api: FakeOpenAI) -> None:
    api.script += [calls(("", "measure", {"place": "Rome"})) for _ in range(2)]
    assert (await run(sql, "How warm is it?", agent="desk"))["state"] == "completed"
    asked = [said["tool_calls"][0]["id"] for said in api.requests[-1]["messages"] if "tool_calls" in said]
    told = [said["tool_call_id"] for said in api.requests[-1]["messages"] if said["role"] == "tool"]
    assert (asked, len(set(asked))) == (told, 2)


async def test_arguments_that_are_too_deep_are_told_to_the_model(sql: Connection, api: FakeOpenAI) -> None:
    asked = {"name": "measure", "arguments": "[" * 3_000}
    part = {"index": 0, "id": "a", "type": "function", "function": asked}
    api.script += [Reply(({"tool_calls": [part]},), "tool_calls"), Reply(({"content": "Done."},))]
    row = await run(sql, "Hi", agent="desk")
    assert (row["state"], row["attempt"], row["result"]) == ("completed", 1, "Done."), row["error"]


async def test_an_output_is_a_form_that_the_answer_must_fit(sql: Connection, api: FakeOpenAI) -> None:
    api.script += [Reply(({"content": '{"place": 1}'},)), Reply(({"content": '{"place": "Rome", "degrees": [7]}'},))]
    row = await run(sql, "Rome?", agent="weather", thread_id="t")
    assert (row["state"], row["attempt"]) == ("completed", 2)
    assert row["result"] == {"place": "Rome", "degrees": [7], "wind": None}
    form = api.requests[0]["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("Weather", True)
    assert form["schema"]["required"] == ["place", "degrees", "wind"]
    assert form["schema"]["additionalProperties"] is False
    api.script.append(Reply(({"refusal": "I do not like Rome"},)))
    row = await run(sql, "Again?", agent="weather", thread_id="t")
    assert (row["state"], row["error"]) == ("failed", "The model refuses to answer: I do not like Rome")
    earlier = api.requests[-1]["messages"][1]
    assert msgspec.json.decode(earlier["content"]) == {"place": "Rome", "degrees": [7], "wind": None}

    kept = {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}}}
    await run(sql, "JSON, please", agent="desk", metadata={"openai": kept})
    assert api.requests[-1]["response_format"]["json_schema"] == {
        "name": "x", "schema": {"type": "object"}, "strict": True
    }  # fmt: skip
    assert (
        OutputForm({"type": "object", "additionalProperties": {"type": "integer"}}).parameters["json_schema"]["strict"]
        is False
    )
    for wrong in (str, {"type": "string"}, {"type": "no such type"}, lambda: 1):
        with pytest.raises((TypeError, ValueError), match="output"):
            openai_agent("x", output=wrong)


ERRORS = [
    (Reply(status=401, message="Bad key."), 1, "The OpenAI API answered 401: Bad key."),
    (Reply(status=429, code="insufficient_quota"), 1, "The OpenAI API refuses to answer: "),
    (Reply(status=500), 2, "The OpenAI API answered 500: Something is wrong."),
    (Reply(ends="error"), 2, "The OpenAI API broke off its answer: Something is wrong."),
    (Reply(finish_reason="content_filter"), 1, "The model refuses to answer: the content filter stopped it"),
]


async def test_errors_of_the_api(sql: Connection, api: FakeOpenAI) -> None:
    for reply, attempts, said in ERRORS:
        api.script += [reply] * attempts
        row = await run(sql, "Hi", agent="desk", max_attempts=attempts)
        assert (row["state"], row["attempt"]) == ("failed", attempts)
        assert said in row["error"]


async def test_an_overloaded_api_costs_no_failure_and_a_cancel_hangs_up(sql: Connection, api: FakeOpenAI) -> None:
    api.script += [Reply(status=429, headers={"Retry-After": "0"}), Reply(ends="error", code="rate_limit_exceeded")]
    row = await run(sql, "Hi", agent="desk", max_attempts=1)
    assert (row["state"], row["failures"]) == ("completed", 0)
    api.script.append(Reply(ends="never"))
    message_id = await submit(sql, "Hi", agent="desk")
    await until(lambda: text(sql, message_id))
    await sql.fetchval("select treadle.cancel($1)", message_id)
    await wait_for(api.hung_up)
    assert (await settled(sql, message_id))["state"] == "cancelled"


async def test_with_a_key_workers_templates_and_the_team_ask_the_api(
    fake: FakeOpenAI, sql: Connection, start_worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    entries = [
        {"name": "brief"},
        {"name": "asked", "template": "openai", "model": "gpt-other", "output": f"{__name__}:Weather"},
    ]
    (tmp_path / "agents.yaml").write_text(yaml.safe_dump({"agents": entries}))
    settings = Settings(openai_api_key="sk", openai_base_url=fake.url, agent_templates=tmp_path / "agents.yaml")
    found = registry.load(settings)
    assert (found.keyless, found.scripted) == ({"claude": "ANTHROPIC_API_KEY"}, ())
    await start_worker(*(found.get(name) for name in found.names))
    fake.script += [Reply(), Reply(), Reply(({"content": '{"place": "x", "degrees": []}'},))]
    for name in (None, "brief", "asked"):
        assert (await run(sql, "Hi", **({"agent": name} if name else {})))["state"] == "completed"
    assert [request["model"] for request in fake.requests] == ["gpt-5.4-mini", "gpt-5.4-mini", "gpt-other"]
    plan = '{"tasks": [{"id": "a", "title": "A", "instruction": "Do a."}]}'
    fake.script.append(Reply(({"content": plan},)))
    row = await run(sql, "What is bread?", agent="resolver")
    assert (row["result"], row["usage"]["output_tokens"]) == ("Hello, world", 66)

    both = Settings(openai_api_key="sk", anthropic_api_key="sk", model_name="gpt-x")
    assert (both.claude_model, both.openai_model) == ("claude-sonnet-5", "gpt-x")
    assert Settings(openai_api_key="sk", model_name="claude-x").openai_model == "claude-x"  # behind a proxy


def test_a_missing_sdk_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'treadle\[openai\]'"):
        openai_agent("x")
    assert "openai" not in registry.load(Settings(openai_api_key="sk")).names
