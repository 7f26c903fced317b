"""A bad message is refused in one clear sentence, alone and in a batch, and nothing is written."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.api_answers import UNKNOWN_ID, named_case, problem, row_counts
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from treadle import Context, agent

JSON = {"Content-Type": "application/json"}


def message(**fields: Any) -> str:
    return json.dumps({"message": "x"} | fields)


def with_literal(field: str, literal: str) -> str:
    return f'{{"message": "x", "{field}": {literal}}}'


Cases = dict[str, tuple[str | bytes, int, str]]

TEXTS: Cases = {
    "no message": ("{}", 422, "message"),
    "empty text": (message(message=""), 422, "message must be a text that is not empty"),
    "text too long": (message(message="x" * 1001), 422, "message has 1001 characters; at most 1000"),
    "object too long": (message(message={"x": "y" * 1001}), 422, "message has"),
    "number for a text": (message(message=1), 422, "message must be"),
    "null for a text": (message(message=None), 422, "message must be"),
    "number out of range": (
        with_literal("metadata", '{"a": -1e400}'),
        422,
        "out of range; send one that fits a 64-bit",
    ),
    "boolean for a text": (message(message=True), 422, "message must be"),
    "list for a text": (message(message=["x"]), 422, "message must be"),
    "object to a text agent": (message(message={"x": 1}), 422, "The agent 'echo' takes text"),
    "NUL in the text": (message(message="a\0b"), 422, "message must not contain the NUL character"),
    "NUL after a backslash": (message(message="a\\\0"), 422, "message must not contain the NUL character"),
    "half a surrogate pair": ('{"message": "a\\ud800"}', 400, "not valid JSON"),
    "half a surrogate pair, then text": ('{"message": "a\\ud800 and more"}', 400, "surrogate"),
    "second half of a surrogate pair": ('{"message": "a\\udc00"}', 400, "surrogate"),
}
NAMES: Cases = {
    "unknown priority": (message(priority="urgent"), 422, "priority must be high, normal or low"),
    "priority null": (message(priority=None), 422, "priority must be high, normal or low"),
    "priority in capitals": (message(priority="HIGH"), 422, "priority must be high, normal or low"),
    "unknown agent": (message(agent="unknown"), 422, "There is no agent 'unknown'"),
    "empty agent": (message(agent=""), 422, "There is no agent ''"),
    "agent a number": (message(agent=1), 422, "agent must be"),
    "NUL in the agent": (message(agent="echo\0"), 422, "agent must not contain the NUL"),
}
THREADS: Cases = {
    "thread id too long": (message(thread_id="x" * 256), 422, "thread_id must be a text of 1 to 255 characters"),
    "thread id too long in two bytes": (message(thread_id="ß" * 256), 422, "thread_id must be"),
    "empty thread id": (message(thread_id=""), 422, "thread_id must be"),
    "slash in the thread id": (message(thread_id="a/b"), 422, "thread_id must be"),
    "newline at the thread id's end": (message(thread_id="a\n"), 422, "thread_id must be"),
    "control character in the thread id": (message(thread_id="a\x1bb"), 422, "thread_id must be"),
    "delete in the thread id": (message(thread_id="\x7f"), 422, "thread_id must be"),
    "C1 control character in the thread id": (message(thread_id="a\x85"), 422, "thread_id must be"),
    "NUL in the thread id": (message(thread_id="a\0"), 422, "thread_id must be"),
    "thread id a number": (message(thread_id=7), 422, "thread_id must be"),
}
METADATA: Cases = {
    "metadata a list": (message(metadata=[]), 422, "metadata must be an object"),
    "metadata a text": (message(metadata="x"), 422, "metadata must be an object"),
    "NUL in the metadata": (message(metadata={"a": [{"b": "\0"}]}), 422, "metadata must not contain the NUL"),
    "NUL in a key of the metadata": (message(metadata={"a\0": 1}), 422, "metadata must not contain the NUL"),
    "half a surrogate pair in the metadata": (with_literal("metadata", '{"a": "\\udfff"}'), 400, "surrogate"),
    "a number beyond all floats": (with_literal("metadata", '{"a": 1e400}'), 422, "metadata[...]"),
    "a number of 5000 digits": (with_literal("metadata", f'{{"a": {"9" * 5000}}}'), 422, "metadata[...]"),
    "101 levels of metadata": (with_literal("metadata", f'{{"a": {"[" * 100}{"]" * 100}}}'), 422, "nested too deeply"),
    "100,000 levels of metadata": (
        with_literal("metadata", '{"a":' * 100_000 + "1" + "}" * 100_000),
        422,
        "nested too deeply",
    ),
}
NUMBERS: Cases = {
    "delay a text": (message(delay_seconds="1"), 422, "delay_seconds must be a number from 0"),
    "delay a boolean": (message(delay_seconds=True), 422, "delay_seconds must be"),
    "negative delay": (message(delay_seconds=-0.001), 422, "delay_seconds must be"),
    "delay beyond a year": (message(delay_seconds=31_622_401), 422, "delay_seconds must be"),
    "delay beyond all floats": (with_literal("delay_seconds", "1e400"), 422, "delay_seconds holds a number"),
    "delay not a number": (with_literal("delay_seconds", "NaN"), 400, "not valid JSON"),
    "delay infinite": (with_literal("delay_seconds", "Infinity"), 400, "not valid JSON"),
    "no attempts": (message(max_attempts=0), 422, "max_attempts must be a whole number from 1 to 1000"),
    "too many attempts": (message(max_attempts=1001), 422, "max_attempts must be"),
    "far too many attempts": (message(max_attempts=2**64), 422, "max_attempts must be"),
    "half an attempt": (message(max_attempts=1.5), 422, "max_attempts must be"),
    "attempts a boolean": (message(max_attempts=True), 422, "max_attempts must be"),
    "attempts a text": (message(max_attempts="3"), 422, "max_attempts must be"),
    "no time": (message(timeout_seconds=0), 422, "timeout_seconds must be a number above 0"),
    "negative time": (message(timeout_seconds=-1), 422, "timeout_seconds must be"),
    "too much time": (message(timeout_seconds=604_801), 422, "timeout_seconds must be"),
}
BODIES: Cases = {
    "unknown field": (message(nonsense=1), 422, "'nonsense'"),
    "the id from outside": (message(message_id=UNKNOWN_ID), 422, "'message_id'"),
    "a list": ("[]", 422, "must be an object"),
    "a text": ('"x"', 422, "must be an object"),
    "null": ("null", 422, "must be an object"),
    "cut off": ('{"message": "x"', 400, "not valid JSON"),
    "single quotes": ("{'message': 'x'}", 400, "not valid JSON"),
    "trailing comma": ('{"message": "x",}', 400, "not valid JSON"),
    "a control character": ('{"message": "a\x01b"}', 400, "not valid JSON"),
    "latin-1": ('{"message": "é"}'.encode("latin-1"), 400, "UTF-8"),
    "surrogates in UTF-8": (b'{"message": "\xed\xa0\x80"}', 400, "UTF-8"),
    "100,000 open brackets": ("[" * 100_000, 422, "nested too deeply"),
    "500,001 numbers": (with_literal("metadata", f'{{"a": [{"1e9," * 500_000}0]}}'), 422, "too many values"),
    "10,001 extreme numbers": (
        with_literal("metadata", f'{{"a": [{"1e308," * 5_000}{"1E-0308," * 5_001}0]}}'),
        422,
        "numbers with an exponent of three digits",
    ),
    "200,001 arrays": (with_literal("metadata", f'{{"a": [{"[]," * 200_000}0]}}'), 422, "too many arrays"),
    "200,001 objects": (with_literal("metadata", f'{{"a": [{"{}," * 200_000}0]}}'), 422, "too many arrays"),
    "200,001 texts": (with_literal("metadata", '{"a": [' + '"",' * 200_000 + "0]}"), 422, "too many arrays"),
}


@pytest.fixture
async def strict(start_api: StartApi, register_agents: Callable[..., Awaitable[None]]) -> Client:
    await register_agents()
    return await start_api(max_message_chars=1000)


@pytest.mark.parametrize("cases", [TEXTS, NAMES, THREADS, METADATA, NUMBERS, BODIES])
async def test_a_bad_message_is_refused_alone_and_in_a_batch(strict: Client, sql: Connection, cases: Cases) -> None:
    before = await row_counts(sql)
    for name, (body, status, words) in cases.items():
        with named_case(name):
            answer = await strict.post("/messages", content=body, headers=JSON | {"Idempotency-Key": "alone"})
            problem(answer, status, words)
            raw = body.encode() if isinstance(body, str) else body
            batch = b'{"messages": [{"message": "good", "thread_id": "t"}, ' + raw + b"]}"
            answer = await strict.post("/messages/batch", content=batch, headers=JSON | {"Idempotency-Key": "batch"})
            problem(answer, status)
            problem(await strict.post("/messages/batch", content=batch, headers=JSON), status)
            assert await row_counts(sql) == before


BAD_BATCHES: dict[str, tuple[Any, int, str]] = {
    "no messages": ({"messages": []}, 422, "messages must be a list of 1 to 1000 messages"),
    "too many messages": ({"messages": [{"message": "x"}] * 1001}, 422, "messages must be a list of 1 to 1000"),
    "no list": ({}, 422, "messages is missing"),
    "messages null": ({"messages": None}, 422, "messages must be a list"),
    "an object for the list": ({"messages": {"message": "x"}}, 422, "messages must be a list"),
    "a bare list": ([{"message": "x"}], 422, "must be an object"),
    "unknown field": ({"messages": [{"message": "x"}], "priority": "low"}, 422, "'priority'"),
    "a number among them": ({"messages": [{"message": "x"}, 5]}, 422, "messages[1] must be an object"),
    "a bad one among them": (
        {"messages": [{"message": "x"}, {"message": "x", "max_attempts": 0}]},
        422,
        "messages[1].max_attempts must be a whole number",
    ),
    "one without a message": ({"messages": [{"message": "x"}, {}]}, 422, "message of messages[1] is missing"),
    "one too long": (
        {"messages": [{"message": "x"}, {"message": "x" * 1001}]},
        422,
        "messages[1]: message has 1001 characters",
    ),
    "one of an unknown agent": (
        {"messages": [{"message": "x"}, {"message": "x", "agent": "poet"}]},
        422,
        "messages[1]: There is no agent 'poet'",
    ),
    "one with a NUL": (
        {"messages": [{"message": "x"}, {"message": "x", "metadata": {"a": "\0"}}]},
        422,
        "messages[1]: metadata must not contain the NUL",
    ),
}


async def test_a_bad_batch_is_refused_whole(strict: Client, sql: Connection) -> None:
    before = await row_counts(sql)
    for name, (body, status, words) in BAD_BATCHES.items():
        with named_case(name):
            problem(await strict.post("/messages/batch", json=body), status, words)
            assert await row_counts(sql) == before


async def test_unusual_but_valid_messages_are_accepted(strict: Client) -> None:
    cases: list[dict[str, Any]] = [
        {"message": "x" * 1000},
        {"message": "\U0001f600" * 1000},
        {"message": " "},
        {"message": "\\u0000 is how one writes a NUL"},
        {"message": "line\r\nline\u2028line\x7f"},
        {"thread_id": "x" * 255},
        {"thread_id": "ß" * 255},
        {"thread_id": "\U0001f600" * 255},
        {"thread_id": " "},
        {"metadata": None, "thread_id": None, "agent": None, "delay_seconds": None, "max_attempts": None},
        {"metadata": {}},
        {"metadata": {"a": 12345678901234567890123, "b": -1.5, "c": [None, True, {"": ""}]}},
        {"metadata": {str(n): [n] for n in range(200)}},
        {"delay_seconds": 0},
        {"delay_seconds": 31_622_400},
        {"max_attempts": 1000},
        {"timeout_seconds": 0.001},
    ]
    for fields in cases:
        body = {"message": "x"} | fields
        message_id = await strict.submit(**body)
        status = await strict.status(message_id)
        assert status["user_message"] == body["message"]
        assert status["thread_id"] == body.get("thread_id")
        assert status["metadata"] == (body.get("metadata") or {})


async def test_many_parts_and_escaped_quotes_are_accepted(strict: Client) -> None:
    """The work on a body is bounded by the number of its parts, and only real ones are counted."""
    metadata = {
        "texts": ["[{"] * 60_000,
        "arrays": [[]] * 60_000,
        "objects": [{}] * 60_000,
        "numbers": [0] * 250_000,
        "quotes": '\\"[' * 150_000,
    }
    message_id = await strict.submit("x", metadata=metadata)
    assert (await strict.status(message_id))["metadata"] == metadata


async def test_brackets_inside_texts_do_not_count_as_nesting(strict: Client) -> None:
    deep: Any = None
    for _ in range(95):
        deep = [deep]
    message_id = await strict.submit("[[[" * 100, metadata={"a": deep})
    assert (await strict.status(message_id))["metadata"] == {"a": deep}


async def test_an_agent_with_an_input_type_accepts_objects(
    start_api: StartApi, register_agents: Any, sql: Connection
) -> None:
    class Question(msgspec.Struct):
        text: str

    @agent("asker")
    async def asker(_: Context, question: Question) -> str:
        return question.text

    await register_agents(echo, asker)
    api = await start_api()
    message_id = await api.submit({"text": "why?"}, agent="asker")
    assert (await api.status(message_id))["user_message"] == {"text": "why?"}
    before = await row_counts(sql)
    answer = await api.post("/messages", json={"message": {"text": "\0"}, "agent": "asker"})
    problem(answer, 422, "message must not contain the NUL")
    assert await row_counts(sql) == before


async def test_without_a_registered_agent_a_submit_is_refused(start_api: StartApi, sql: Connection) -> None:
    api = await start_api()
    before = await row_counts(sql)
    problem(await api.post("/messages", json={"message": "x"}), 422, "No default agent")
    assert await row_counts(sql) == before


# The body as a whole


async def test_a_content_type_other_than_json_is_415(api: Client, sql: Connection) -> None:
    before = await row_counts(sql)
    for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "x"):
        answer = await api.post("/messages", content=message(), headers={"Content-Type": other})
        problem(answer, 415, "must be application/json", other)
    assert await row_counts(sql) == before


async def test_every_json_content_type_is_accepted(api: Client) -> None:
    for headers in (
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON"},
        {"Content-Type": "application/vnd.example+json"},
    ):
        assert (await api.post("/messages", content=message(), headers=headers)).status_code == 202


async def test_a_missing_body_is_400(api: Client, sql: Connection) -> None:
    before = await row_counts(sql)
    problem(await api.post("/messages", headers=JSON), 400, "no body")
    problem(await api.post("/messages/batch"), 400, "no body")
    assert await row_counts(sql) == before


async def test_an_oversized_body_is_413(start_api: StartApi, register_agents: Any, sql: Connection) -> None:
    await register_agents()
    api = await start_api(max_body_bytes=5000, max_message_chars=100_000)
    before = await row_counts(sql)
    large = message(message="x" * 5000)
    for path in ("/messages", "/messages/batch"):
        problem(await api.post(path, content=large, headers=JSON), 413, "at most 5000 bytes")

    async def in_chunks() -> AsyncIterator[bytes]:  # without Content-Length
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000].encode()

    problem(await api.post("/messages", content=in_chunks(), headers=JSON), 413, "at most 5000 bytes")
    assert await row_counts(sql) == before
    head = len(message(message=""))
    assert (await api.post("/messages", content=message(message="x" * (5000 - head)), headers=JSON)).status_code == 202
