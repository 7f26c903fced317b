"""Agents of claude_agent: rounds of model and tools, over HTTP against a fake of the Messages API."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.db.pool import Connection
from tests.support.claude_runs import StartClaudeAgent, ask_claude, event_data, tool_results
from tests.support.fake_anthropic import Answer, FakeAnthropic, Status, tool_calls
from tests.support.messages import log, text
from tests.support.waiting import LIMIT_SECONDS
from treadle.adapters import claude_agent


def clock() -> None: ...


class Weather(msgspec.Struct):
    letters: int
    cities: list[str]


FIRST_ROUND = [  # of the conversation, as the model receives it in the second
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}},
            {"type": "tool_use", "id": "b", "name": "weather", "input": {"city": "Bergen"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": '{"letters":4,"cities":["Rome"]}'},
            {"type": "tool_result", "tool_use_id": "b", "content": '{"letters":6,"cities":["Bergen"]}'},
        ],
    },
]


async def test_tools_run_concurrently_until_the_model_has_finished(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    together = asyncio.Barrier(2)

    async def weather(city: str) -> Weather:
        """Says what the weather is."""
        async with asyncio.timeout(LIMIT_SECONDS):
            await together.wait()
        return Weather(len(city), [city])

    def shout(text: str) -> str:
        return text.upper()

    fake_claude.script += [
        tool_calls(
            ("a", "weather", {"city": "Rome"}), ("b", "weather", {"city": "Bergen"}), pieces=("Let me ", "look.")
        ),
        tool_calls(("c", "shout", {"text": "sun"})),
        Answer(("It ", "shines.")),
    ]
    await start_claude(weather, shout, system="Be kind.", model="claude-other", options={"temperature": 0})
    message = await ask_claude(sql)
    assert (message["state"], message["result"], message["attempt"]) == ("completed", "It shines.", 1)
    assert await text(sql, message["message_id"]) == "Let me look.\n\nIt shines."
    first, second, third = (request.body for request in fake_claude.requests)
    assert [tool["name"] for tool in first["tools"]] == ["weather", "shout"]
    assert (first["model"], first["system"], first["temperature"]) == ("claude-other", "Be kind.", 0)
    assert first["messages"] == [{"role": "user", "content": "Hi"}]
    assert second["messages"] == FIRST_ROUND
    assert third["messages"][:3] == second["messages"]
    assert tool_results(fake_claude, 2) == [{"type": "tool_result", "tool_use_id": "c", "content": "SUN"}]

    told = await event_data(sql, message, "tool")
    assert told[:2] == [
        {"id": "a", "name": "weather", "input": {"city": "Rome"}},
        {"id": "b", "name": "weather", "input": {"city": "Bergen"}},
    ]
    assert sorted(told[2:4], key=lambda result: str(result["id"])) == [
        {"id": "a", "name": "weather", "output": {"letters": 4, "cities": ["Rome"]}},
        {"id": "b", "name": "weather", "output": {"letters": 6, "cities": ["Bergen"]}},
    ]
    assert told[4:] == [
        {"id": "c", "name": "shout", "input": {"text": "sun"}},
        {"id": "c", "name": "shout", "output": "SUN"},
    ]
    steps = [step["name"] for step in await event_data(sql, message, "step")]
    assert (steps[0], steps[3:]) == ("round 1", ["round 2", "tool 2.1 shout"])
    assert set(steps[1:3]) == {"tool 1.1 weather", "tool 1.2 weather"}


THOUGHT = {"type": "thinking", "thinking": "The sky, I think.", "signature": "c2lnbmVk"}
HIDDEN = {"type": "redacted_thinking", "data": "aGlkZGVu"}


async def test_a_retry_repeats_no_finished_call(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    calls: list[str] = []

    async def weather(city: str, day: int | None = 1) -> dict[str, str | None]:
        calls.append(city)
        return {"sky": "blue", "rain": None}

    turn = (THOUGHT, HIDDEN, {"type": "text", "text": "Let me look."})
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome", "day": None}}
    fake_claude.script += [
        Answer((), blocks=(*turn, call), stop_reason="tool_use"),
        Status(500),
        Answer(("Bl",), ends="cut"),
        Answer(("Blue.",)),
    ]
    await start_claude(weather, thinking=2000, max_attempts=3, price={"input": 3, "output": 15})
    message = await ask_claude(sql)
    assert (message["state"], message["result"], message["attempt"]) == ("completed", "Blue.", 3)
    assert calls == ["Rome"]
    assert len(fake_claude.requests) == 4
    assert fake_claude.requests[0].body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    asked = [request.body["messages"] for request in fake_claude.requests]
    assert asked[1] == asked[2] == asked[3]
    assert asked[3][1]["content"] == [*turn, call]
    assert tool_results(fake_claude, 3)[0]["content"] == '{"sky":"blue","rain":null}'

    assert await text(sql, message["message_id"]) == "Let me look.\n\nBlue."
    entries = [entry for entry in await log(sql, message["message_id"]) if entry.type != "step"]
    attempts = [n for n, entry in enumerate(entries) if entry.type == "started"]
    stories = [
        [(entry.type, entry.data.get("chunk", entry.data)) for entry in entries[start + 1 : end]]
        for start, end in zip(attempts, [*attempts[1:], None], strict=True)
    ]
    story = [
        ("thinking", {"content": "The sky, I think."}),
        ("chunk", "Let me look."),
        ("tool", {"id": "a", "name": "weather", "input": {"city": "Rome", "day": None}}),
        ("tool", {"id": "a", "name": "weather", "output": {"sky": "blue", "rain": None}}),
    ]
    assert [found[:4] for found in stories] == [story] * 3
    assert [[kind for kind, _ in found[4:]] for found in stories] == [["retry"], ["chunk", "retry"], ["chunk", "done"]]
    assert stories[2][4] == ("chunk", "\n\nBlue.")
    # Each model call whose answer is known counts once.
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (22, 44)
    assert message["usage"]["cost_usd"] == pytest.approx((22 * 3 + 44 * 15) / 1e6)


async def test_usage_is_the_sum_of_flat_numbers(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    cached = {
        "cache_creation_input_tokens": 1000,
        "cache_read_input_tokens": 2000,
        "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
        **{"model": 1, "stop_reason": 2, "cost_usd": 3},  # of a server of another maker
    }
    fake_claude.script += [
        tool_calls(("a", "clock", {}), usage=cached),
        Answer(usage={"cache_read_input_tokens": 3000}),
    ]
    await start_claude(clock, price={"input": 3, "output": 15, "cache_read": 0.5})
    message = await ask_claude(sql)
    assert message["usage"] == {
        "model": "claude-test",
        "stop_reason": "end_turn",
        "input_tokens": 22,
        "output_tokens": 44,
        "cache_creation_input_tokens": 1000,
        "cache_read_input_tokens": 5000,
        "cost_usd": pytest.approx((22 * 3 + 44 * 15 + 1000 * 3.75 + 5000 * 0.5) / 1e6),
    }
    assert tool_results(fake_claude, 1) == [{"type": "tool_result", "tool_use_id": "a", "content": "null"}]


async def test_max_calls_stops_a_model_that_never_finishes(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    fake_claude.script += [tool_calls((f"{n}", "clock", {})) for n in range(4)]
    await start_claude(clock, max_calls=3)
    message = await ask_claude(sql)
    assert (message["state"], message["attempt"]) == ("failed", 1)
    assert message["error"] == "The model was called 3 times (max_calls) and has not finished."
    assert len(fake_claude.requests) == 3


# How the model stops


async def test_a_refusal_rejects_the_message(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    await start_claude(clock)
    details = {"type": "refusal", "category": "bio", "explanation": "It is not to be told."}
    for said, stop_details in ((".", None), (": It is not to be told.", details)):
        fake_claude.script.append(Answer(("Well",), stop_reason="refusal", stop_details=stop_details))
        message = await ask_claude(sql)
        assert (message["state"], message["attempt"]) == ("failed", 1)
        assert message["error"] == f"The model refuses to answer{said}"
        assert message["usage"]["stop_reason"] == "refusal"


async def test_a_tool_call_that_was_cut_off_is_not_made(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    calls: list[str] = []

    def delete(name: str) -> None:
        calls.append(name)

    await start_claude(delete)
    for reason in ("max_tokens", "model_context_window_exceeded"):
        fake_claude.script.append(tool_calls(("a", "delete", {"name": "al"}), stop_reason=reason))
        message = await ask_claude(sql)
        assert (message["state"], message["attempt"]) == ("failed", 1)
        assert message["error"] == f"The model's answer ended in the middle of a tool call: {reason}."
    assert calls == []


async def test_a_paused_answer_is_continued(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "sky"}}
    for more in ("is ", "very "):
        fake_claude.script.append(Answer((), blocks=({"type": "text", "text": more}, block), stop_reason="pause_turn"))
    fake_claude.script += [Status(500), Answer(("blue.",))]
    await start_claude(search)
    message = await ask_claude(sql)
    assert (message["result"], message["attempt"]) == ("is very blue.", 2)
    assert await text(sql, message["message_id"]) == "is very blue."
    assert fake_claude.requests[0].body["tools"] == [search]
    assert fake_claude.requests[3].body["messages"] == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "is "}, block, {"type": "text", "text": "very "}, block],
        },
    ]


async def test_an_empty_last_round_returns_the_text_of_an_earlier_one(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    fake_claude.script += [
        tool_calls(("a", "clock", {}), pieces=("It is noted.",)),
        tool_calls(("b", "clock", {}), pieces=("",)),
        Answer(()),
    ]
    await start_claude(clock)
    message = await ask_claude(sql)
    assert (message["state"], message["result"]) == ("completed", "It is noted.")
    assert await text(sql, message["message_id"]) == "It is noted."
    assert [block["type"] for block in fake_claude.requests[2].body["messages"][3]["content"]] == ["tool_use"]


# Invalid options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thinking": 1000}, "thinking is at least 1024 tokens and below max_tokens (4096)"),
        ({"thinking": 4096}, "thinking is at least 1024 tokens and below max_tokens (4096)"),
        ({"max_tokens": 0}, "max_tokens and max_calls are at least 1, history at least 0"),
        ({"price": {"input": 1}}, "the price does not fit: Object missing required field `output`"),
        ({"timeout": 0}, "the agent's timeout must be above 0"),
    ],
)
def test_invalid_options_are_refused_when_the_agent_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        claude_agent("x", **options)
    assert str(caught.value).startswith(said)
