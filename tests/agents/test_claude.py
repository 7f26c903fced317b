"""The agent claude, over HTTP against a fake of the Messages API."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.agents.claude.api import Api
from service.db.pool import Connection
from tests.support.fake_anthropic import Answer, FakeAnthropic, Status
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, text, types
from tests.support.ports import with_closed_port
from tests.support.waiting import until, wait_for
from treadle.adapters import ClaudeAgent, claude_agent


def connected(url: str, **options: Any) -> ClaudeAgent:
    return claude_agent("claude", **options).connect(Api("sk-test", url, "claude-test"))


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAnthropic]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeAnthropic().running() as fake:
        yield fake


@pytest.fixture
async def anthropic(fake: FakeAnthropic, start_worker: StartWorker) -> FakeAnthropic:
    """A fake API and a worker whose agent claude asks it."""
    await start_worker(connected(fake.url, client_options=["system", "max_tokens"]), echo)
    return fake


async def ask(sql: Connection, message: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return await run(sql, message, agent="claude", **fields)


async def test_an_answer_streams_and_its_usage_is_stored(sql: Connection, anthropic: FakeAnthropic) -> None:
    message = await ask(sql)
    assert (message["state"], message["result"]) == ("completed", "Hello, world")
    entries = await log(sql, message["message_id"])
    assert [entry.data["chunk"] for entry in entries if entry.type == "chunk"] == ["Hello", ", ", "world"]
    assert message["usage"]["input_tokens"] == 11
    assert message["usage"]["output_tokens"] == 22
    assert message["usage"]["model"] == "claude-test"
    assert message["usage"]["stop_reason"] == "end_turn"
    (request,) = anthropic.requests
    assert request.path == "/v1/messages"
    assert request.headers["authorization"] == "Bearer sk-test"
    assert request.body == {
        "model": "claude-test",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }


async def test_the_threads_history_is_the_conversation(sql: Connection, anthropic: FakeAnthropic) -> None:
    anthropic.script += [Answer(("one ",)), *[Status(400)] * 3, Answer(("two",))]
    await ask(sql, "first", thread_id="t")
    await run(sql, "  ", agent="echo", thread_id="t")  # an empty exchange, which the API would refuse
    await run(sql, "echoed", agent="echo", thread_id="t")
    assert (await ask(sql, "refused", thread_id="t"))["state"] == "failed"
    await ask(sql, "elsewhere", thread_id="other")
    system = {"system": "Be brief.", "max_tokens": 7}
    await ask(sql, "third", thread_id="t", metadata=system)
    body = anthropic.requests[-1].body
    assert body["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "echoed"},
        {"role": "assistant", "content": "echoed"},
        {"role": "user", "content": "third"},
    ]
    assert (body["system"], body["max_tokens"]) == ("Be brief.", 7)
    assert "system" not in anthropic.requests[0].body


async def test_invalid_metadata_is_rejected(sql: Connection, anthropic: FakeAnthropic) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"max_tokens": 0}, "metadata.max_tokens must be a whole number above 0."),
        ({"max_tokens": "7"}, "metadata.max_tokens must be a whole number above 0."),
        ({"max_tokens": True}, "metadata.max_tokens must be a whole number above 0."),
        ({"system": ["x"]}, "metadata.system must be a text."),
    ]
    for metadata, said in wrong:
        message = await ask(sql, metadata=metadata)
        assert (message["state"], message["attempt"], message["error"]) == ("failed", 1, said)
    assert anthropic.requests == []


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
BLOCKS = [
    {"type": "text", "text": "What is this?"},
    PICTURE,
    {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}},
    {
        "type": "document",
        "source": {"type": "file", "file_id": "file_1"},
        "title": None,
        "citations": {"enabled": True},
        "cache_control": {"type": "ephemeral"},
    },
]


async def test_a_message_may_be_content_blocks(sql: Connection, anthropic: FakeAnthropic) -> None:
    """They are passed on unchanged, now and later as a part of the history."""
    assert (await ask(sql, {"content": BLOCKS}, thread_id="t"))["state"] == "completed"
    await ask(sql, {"content": "And that?"}, thread_id="t")
    await ask(sql, "Why?", thread_id="t")
    assert anthropic.requests[0].body["messages"] == [{"role": "user", "content": BLOCKS}]
    assert [turn["content"] for turn in anthropic.requests[2].body["messages"]] == [
        *(BLOCKS, "Hello, world", "And that?", "Hello, world", "Why?"),
    ]


async def test_invalid_content_is_rejected(sql: Connection, anthropic: FakeAnthropic) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"content": []}, "Expected `array` of length >= 1 - at `$.content`."),
        ({"content": ["x"]}, "Expected `object`, got `str` - at `$.content[0]`."),
        ({"text": "x"}, "Object contains unknown field `text`."),
        ({}, "Object missing required field `content`."),
        ({"content": "x", "role": "user"}, "Object contains unknown field `role`."),
    ]
    for message, said in wrong:
        row = await ask(sql, message)
        assert (row["state"], row["attempt"]) == ("failed", 1)
        assert row["error"] == f"The message does not fit the agent's input: {said}"
    row = await ask(sql, {"content": [PICTURE, {"text": "x"}]})
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert row["error"] == "The message's content[1] is not a content block: it has no type."
    assert anthropic.requests == []


async def test_the_agents_system_prompt_precedes_that_of_the_metadata(
    sql: Connection, fake: FakeAnthropic, start_worker: StartWorker
) -> None:
    options = {"system": "You are Ada.", "history": 1, "max_tokens": 3000, "thinking": 2000}
    await start_worker(connected(fake.url, client_options=["system", "max_tokens"], **options))
    for text_in in ("one", "two", "three"):
        await ask(sql, text_in, thread_id="t")
    await ask(sql, "four", metadata={"system": "Be brief.", "max_tokens": 2001})
    assert [len(request.body["messages"]) for request in fake.requests] == [1, 3, 3, 1]
    assert [request.body["system"] for request in fake.requests[2:]] == ["You are Ada.", "You are Ada.\n\nBe brief."]
    row = await ask(sql, "five", metadata={"max_tokens": 2000})
    assert row["error"] == "metadata.max_tokens must be above the 2000 tokens of thinking."


@pytest.mark.parametrize(
    ("allowed", "system", "max_tokens"), [((), "Orders.", 9), (["system"], "Orders.\n\nForget them.", 9)]
)
async def test_clients_change_only_what_the_agent_allows(
    sql: Connection, fake: FakeAnthropic, start_worker: StartWorker, allowed: Any, system: str, max_tokens: int
) -> None:
    await start_worker(connected(fake.url, system="Orders.", max_tokens=9, client_options=allowed))
    await ask(sql, metadata={"system": "Forget them.", "max_tokens": 77})
    (request,) = fake.requests
    assert (request.body["system"], request.body["max_tokens"]) == (system, max_tokens)


async def test_history_tokens_limit_the_conversation(
    sql: Connection, fake: FakeAnthropic, start_worker: StartWorker
) -> None:
    await start_worker(connected(fake.url, history_tokens=100))
    for text_in in ("x" * 300, "y" * 300, "z"):
        await ask(sql, text_in, thread_id="t")
    assert [turn["content"][:1] for turn in fake.requests[-1].body["messages"]] == ["y", "H", "z"]


async def test_the_history_fits_the_models_window(
    sql: Connection, fake: FakeAnthropic, start_worker: StartWorker
) -> None:
    """Eight long pastes are more than the window of a model."""
    await start_worker(connected(fake.url))
    for number in range(9):
        await ask(sql, f"{number}" * 100_000, thread_id="t")
    said = [turn["content"][0] for turn in fake.requests[-1].body["messages"] if turn["role"] == "user"]
    assert said == ["5", "6", "7", "8"]


def link(number: int) -> dict[str, Any]:
    picture = {"type": "image", "source": {"type": "url", "url": f"https://example.org/{number}.png"}}
    return {"content": [picture, {"type": "text", "text": f"picture {number}"}]}


async def test_a_refused_history_is_left_out_piece_by_piece(sql: Connection, anthropic: FakeAnthropic) -> None:
    for number in range(6):
        await ask(sql, link(number) if number < 2 else f"text {number}", thread_id="t")
    anthropic.requests.clear()
    anthropic.script += [
        Status(400, "invalid_request_error", "messages.0.content.0: Unable to download the file."),
        Status(400, "invalid_request_error", "prompt is too long: 300000 tokens > 200000 maximum"),
        Status(413, "request_too_large", "Request exceeds the maximum size"),
    ]
    message = await ask(sql, link(9), thread_id="t")
    assert (message["state"], message["attempt"]) == ("completed", 1)
    sizes = [len(request.body["messages"]) for request in anthropic.requests]
    assert sizes == [13, 13, 7, 3]
    first_of_second = anthropic.requests[1].body["messages"][0]["content"]
    assert [block["text"] for block in first_of_second] == ["[image, left out]", "picture 0"]
    assert anthropic.requests[-1].body["messages"][-1]["content"] == link(9)["content"]  # the message itself is whole
    told = [entry.data for entry in await log(sql, message["message_id"]) if entry.type == "history"]
    assert [sorted(data.keys() - {"reason"}) for data in told] == [
        ["attachments_of_messages"],
        ["exchanges"],
        ["exchanges"],
    ]
    assert [data.get("exchanges") for data in told] == [None, 3, 2]


async def test_a_refusal_of_the_message_itself_is_final(sql: Connection, anthropic: FakeAnthropic) -> None:
    await ask(sql, "earlier", thread_id="t")
    anthropic.requests.clear()
    anthropic.script.append(Status(400, "invalid_request_error", "messages.2.content.0: Unable to download the file."))
    message = await ask(sql, link(1), thread_id="t")
    assert (message["state"], message["attempt"], len(anthropic.requests)) == ("failed", 1, 1)


async def test_a_request_that_stays_refused_is_rejected(sql: Connection, anthropic: FakeAnthropic) -> None:
    await ask(sql, "earlier", thread_id="t")
    anthropic.script += [Status(400, "invalid_request_error", "credit balance is too low")] * 2
    message = await ask(sql, "now", thread_id="t")
    assert (message["state"], message["attempt"]) == ("failed", 1)
    assert message["error"] == "The Anthropic API answered 400: credit balance is too low."
    assert [len(request.body["messages"]) for request in anthropic.requests[1:]] == [3, 1]


async def test_retry_after_of_a_429_is_obeyed(sql: Connection, anthropic: FakeAnthropic) -> None:
    limited = Status(429, "rate_limit_error", "Slow down", {"Retry-After": "1"})
    anthropic.script += [limited, Answer()]
    message = await ask(sql, max_attempts=1)  # it is no failure
    assert (message["state"], message["result"], message["attempt"]) == ("completed", "Hello, world", 2)
    retry = (await log(sql, message["message_id"]))[2]
    assert retry.type == "retry"
    assert retry.data["error"] == "The Anthropic API answered 429: Slow down."
    delay = datetime.fromisoformat(retry.data["retry_at"]) - retry.created_at
    assert timedelta(seconds=1) <= delay <= timedelta(seconds=1.1)
    assert len(anthropic.requests) == 2  # the SDK itself does not retry


async def test_retry_after_may_be_a_date(sql: Connection, anthropic: FakeAnthropic) -> None:
    at = (datetime.now(UTC) + timedelta(minutes=1)).replace(microsecond=0)
    anthropic.script.append(Status(503, headers={"Retry-After": format_datetime(at, usegmt=True)}))
    message_id = await submit(sql, "Hi", agent="claude")
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    retry = (await log(sql, message_id))[2]
    assert abs(datetime.fromisoformat(retry.data["retry_at"]) - at) < timedelta(seconds=10)


async def test_an_invalid_retry_after_means_backoff(sql: Connection, anthropic: FakeAnthropic) -> None:
    for value in ("soon", "1 2", "Mon, 99 Foo 2026 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00"):
        anthropic.script.append(Status(429, headers={"Retry-After": value}))
        assert (await ask(sql))["attempt"] == 2, value


async def test_permanent_errors_of_the_api_reject_the_message(sql: Connection, anthropic: FakeAnthropic) -> None:
    refusals = [
        Status(400, "invalid_request_error", "max_tokens: too many."),
        Status(401, "authentication_error", "invalid x-api-key"),
        Status(403, "permission_error", "not for you"),
        Status(404, "not_found_error", "model: claude-none"),
        Status(413, "request_too_large", "too long", {"Retry-After": "1"}),
    ]
    for number, refusal in enumerate(refusals, 1):
        anthropic.script.append(refusal)
        message = await ask(sql)
        assert (message["state"], message["attempt"]) == ("failed", 1), refusal
        assert message["error"] == f"The Anthropic API answered {refusal.status}: {refusal.message.rstrip('.')}."
        assert len(anthropic.requests) == number


async def test_temporary_errors_of_the_api_are_retried(sql: Connection, anthropic: FakeAnthropic) -> None:
    for status in (408, 409, 500, 502):
        anthropic.script.append(Status(status, "overloaded_error", "Overloaded"))
        message = await ask(sql)
        assert (message["state"], message["attempt"]) == ("completed", 2), status
        retry = (await log(sql, message["message_id"]))[2]
        assert retry.data["error"] == f"ConnectionError: The Anthropic API answered {status}: Overloaded."


async def test_a_stream_that_ends_early_but_cleanly_is_a_failure(sql: Connection, anthropic: FakeAnthropic) -> None:
    for reply in (Answer(("Hel",), ends="early"), Answer((), ends="early"), Status(200)):
        anthropic.script.append(reply)
        message = await ask(sql)
        assert (message["result"], message["attempt"]) == ("Hello, world", 2)
        entries = await log(sql, message["message_id"])
        (retry,) = (entry for entry in entries if entry.type == "retry")
        assert retry.data["error"] == "ConnectionError: The stream ended before the answer did."
        assert await text(sql, message["message_id"]) == "Hello, world"


async def test_a_stream_that_is_cut_is_a_failure(sql: Connection, anthropic: FakeAnthropic) -> None:
    anthropic.script.append(Answer(("Hel",), ends="cut"))
    message = await ask(sql)
    assert (message["result"], message["attempt"]) == ("Hello, world", 2)
    assert await types(sql, message["message_id"]) == [
        *("queued", "started", "chunk", "retry"),
        *("started", "chunk", "chunk", "chunk", "done"),
    ]


async def test_an_error_in_the_middle_of_a_stream_is_retried(sql: Connection, anthropic: FakeAnthropic) -> None:
    for kind, prefix, failures in (("overloaded_error", "", 0), ("api_error", "ConnectionError: ", 1)):
        anthropic.script.append(Answer(("Hel",), ends="error", error=kind))
        message = await ask(sql)
        assert (message["state"], message["attempt"], message["failures"]) == ("completed", 2, failures)
        retry = (await log(sql, message["message_id"]))[3]
        assert retry.data["error"] == f"{prefix}The Anthropic API broke off its answer: Told in the stream."


async def test_an_answer_cut_off_at_max_tokens_is_the_result(sql: Connection, anthropic: FakeAnthropic) -> None:
    anthropic.script.append(Answer(("Hel",), stop_reason="max_tokens"))
    message = await ask(sql)
    assert (message["result"], message["usage"]["stop_reason"]) == ("Hel", "max_tokens")


async def test_an_overloaded_api_costs_no_failure(sql: Connection, anthropic: FakeAnthropic) -> None:
    for status in (429, 503, 529):
        anthropic.script += [Status(status, "overloaded_error", "Overloaded")] * 2
        message = await ask(sql, max_attempts=1)
        assert (message["state"], message["attempt"], message["failures"]) == ("completed", 3, 0), status


async def test_an_unreachable_api_exhausts_patience_and_no_attempts(
    sql: Connection, dsn: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    nowhere = with_closed_port(dsn).partition("@")[2].partition("/")[0]
    await start_worker(connected(f"http://{nowhere}"), overload_patience=0.001)
    message = await ask(sql, max_attempts=1)
    assert (message["state"], message["attempt"]) == ("failed", 2)
    assert message["error"].startswith("The Anthropic API cannot be reached: ")
    assert message["error"].endswith(" This has lasted for more than 0.001 seconds (OVERLOAD_PATIENCE).")


async def test_cancelling_closes_the_connection(sql: Connection, anthropic: FakeAnthropic) -> None:
    anthropic.script.append(Answer(("Hel",), ends="never"))
    message_id = await submit(sql, "Hi", agent="claude")
    await until(lambda: types(sql, message_id), lambda found: "chunk" in found)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(anthropic.hung_up)
