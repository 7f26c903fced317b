"""Chats that are answered with an error: bad frames, bad URLs, pages of other hosts."""

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.websocket_client import chat_url, open_socket

# Frames


BAD_FRAMES: list[tuple[str | bytes, str]] = [
    ("", "The frame is not valid JSON"),
    ("{", "The frame is not valid JSON: it ends too early"),
    ("nonsense", "The frame is not valid JSON"),
    (b"\xff\xfe", "The frame is not valid JSON"),
    ("[]", "The frame must be an object."),
    ("{}", "type is missing."),
    ('{"type": "nothing"}', "type 'nothing' is unknown."),
    ('{"type": "user_input"}', "Send exactly one of text and message."),
    ('{"type": "user_input", "text": "x", "message": "x"}', "Send exactly one of text and message."),
    ('{"type": "user_input", "text": ""}', "text must be a text that is not empty."),
    ('{"type": "user_input", "text": 5}', "text must be a text that is not empty."),
    ('{"type": "user_input", "text": "a\\u0000b"}', "message must not contain the NUL character (U+0000)."),
    ('{"type": "user_input", "text": "123456"}', "message has 6 characters; at most 5 are allowed."),
    ('{"type": "user_input", "text": "x", "agent": "unknown"}', "There is no agent 'unknown'."),
    ('{"type": "user_input", "text": "x", "priority": "urgent"}', "priority must be high, normal or low."),
    ('{"type": "user_input", "text": "x", "metadata": 1}', "metadata must be an object."),
    ('{"type": "user_input", "text": "x", "key": ""}', "key must be a text of 1 to 255 characters."),
    ('{"type": "user_input", "text": "x", "extra": 1}', "'extra' is not a known field; remove it."),
    ('{"type": "user_input", "message": {}}', "echo"),
    ('{"type": "cancel"}', "message_id is missing."),
    ('{"type": "cancel", "message_id": "x"}', "message_id must be the id of a message (a UUID)."),
    ('{"type": "ping", "metadata": ' + "[" * 5000 + "]" * 5000 + "}", "."),
]


async def test_a_bad_frame_is_answered_and_the_socket_stays_open(
    start_api: StartApi, register_agents: Any, subtests: pytest.Subtests
) -> None:
    await register_agents()
    api = await start_api(max_message_chars=5)
    for number, (frame, detail) in enumerate(BAD_FRAMES):
        with subtests.test(frame=frame[:80]):
            async with open_socket(chat_url(api, f"t{number}")) as chat:
                await chat.frame()
                await chat.connection.send(frame)
                error = await chat.frame()
                assert error["type"] == "error"
                assert detail in error["detail"]
                await chat.send("ping")
                assert await chat.frame() == {"type": "pong"}
                await chat.send("user_input", text="x")
                await chat.until(event="queued")


RESTS = {
    "deep": '"message": {"deep": ' + "[" * 5000 + "]" * 5000 + "}}",
    "many": '"message": {"many": [' + "[]," * 200_001 + "0]}}",
    "surrogate": '"message": {"half": "\\ud800"}}',
    "number": '"message": {"number": 1e400}}',
    "NUL": '"message": {"nul": "\\u0000"}}',
    "cut": '"text": "cut off',
    "NaN": '"text": NaN}',
}


async def test_an_error_names_an_early_key_whatever_follows(api: Client, subtests: pytest.Subtests) -> None:
    for name, rest in RESTS.items():
        with subtests.test(name):
            async with open_socket(chat_url(api, name)) as chat:
                await chat.frame()
                await chat.connection.send('{"type": "user_input", "key": "k1", ' + rest)
                assert (await chat.frame())["key"] == "k1"


async def test_an_error_names_the_key_of_its_input(api: Client) -> None:
    async with open_socket(chat_url(api, "t")) as chat:
        for fields in ({"text": ""}, {"text": "x", "agent": "unknown"}, {"text": "x", "what": 1}):
            await chat.send("user_input", **fields, key="mine")
            assert (await chat.find(type="error"))["key"] == "mine"


async def test_an_input_for_a_full_queue_can_be_retried(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    api = await start_api(max_queue_size=1)
    async with open_socket(chat_url(api, "t")) as chat:
        await chat.send("user_input", text="x", key="1")
        await chat.answer(status="accepted")
        await chat.send("user_input", text="y", key="2")
        error = await chat.find(type="error")
        assert error["key"] == "2"
        assert error["retry_after"] >= 1
        [queued] = (await api.get("/queue")).json()["queued_messages"]
        await api.delete(f"/messages/{queued['id']}")
        await chat.send("user_input", text="y", key="2")
        await chat.answer(status="accepted", key="2")


async def test_a_frame_that_is_too_big_closes_the_socket(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    api = await start_api(max_body_bytes=10_000)
    async with open_socket(chat_url(api, "t")) as chat:
        await chat.send("user_input", text="x" * 9_000)
        await chat.until(event="queued")
        await chat.send("user_input", text="x" * 10_000)
        assert (await chat.rest())[1] == 1009


BAD_URLS: list[tuple[dict[str, Any], str]] = [
    ({"thread_id": None}, "thread_id must be"),
    ({"thread_id": ""}, "thread_id must be"),
    ({"thread_id": "a/b"}, "thread_id must be"),
    ({"thread_id": "x" * 256}, "thread_id must be"),
    ({"thread_id": "a/b", "after": "x"}, "thread_id must be"),
    ({"thread_id": "t", "after": "x"}, "last_event_id must be"),
    ({"thread_id": "t", "after": -1}, "last_event_id must be"),
    ({"thread_id": "t", "after": 2**63}, "last_event_id must be"),
]


async def test_a_bad_url_is_refused_with_a_sentence(api: Client, subtests: pytest.Subtests) -> None:
    for asked, detail in BAD_URLS:
        with subtests.test(**asked):
            async with open_socket(chat_url(api, **asked)) as chat:
                [error], code = await chat.rest()
                assert detail in error["detail"]
                assert code == 1008


async def test_an_unknown_url_is_refused(api: Client) -> None:
    url = chat_url(api, "t").replace("/ws/chat", "/ws/no/such")
    with pytest.raises(InvalidStatus):
        async with open_socket(url):
            pass
    for headers in ({}, {"Connection": "upgrade", "Upgrade": "websocket"}):  # not a WebSocket handshake
        assert 400 <= (await api.get("/ws/chat", headers=headers)).status_code < 500
