"""Sockets of an API that requires a key: how they are admitted, what each frame needs, and how they end."""

import asyncio
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from service.db.pool import Connection
from service.protocols.websocket.admission import FIRST_FRAME_BYTES
from tests.support.access import ROOT_KEY, PassTime, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.websocket_client import Socket, chat_path_url, chat_url, open_socket

REFUSED, TOO_BIG = 1008, 1009


async def assert_refused(chat: Socket, detail: str) -> None:
    """The socket says why and closes, and has sent nothing else."""
    [frame], code = await chat.rest()
    assert (frame["type"], code) == ("error", REFUSED)
    assert detail in frame["detail"]


async def test_a_key_opens_a_socket_in_each_way(closed_api: Client) -> None:
    key = (await create_key(closed_api, "read"))["key"]
    async with open_socket(chat_url(closed_api, "t"), additional_headers=bearer(key)) as chat:
        assert (await chat.frame())["status"] == "open"
    async with open_socket(chat_url(closed_api, "t", token=key)) as chat:
        assert (await chat.frame())["status"] == "open"
    async with open_socket(chat_path_url(closed_api, "t")) as chat:
        await chat.send("auth", token=key)
        assert (await chat.frame())["status"] == "open"


async def test_a_handshake_with_a_bad_key_is_refused(closed_api: Client) -> None:
    writer = (await create_key(closed_api, "submit"))["key"]
    for key, status in (("nonsense", 401), (writer, 403)):
        with pytest.raises(InvalidStatus) as caught:
            async with open_socket(chat_url(closed_api, "t"), additional_headers=bearer(key)):
                pass
        answer = caught.value.response
        assert answer.status_code == status
        assert (answer.headers.get("www-authenticate") is not None) == (status == 401)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_page_with_a_bad_token_is_told_so(closed_api: Client) -> None:
    writer = (await create_key(closed_api, "submit"))["key"]
    async with open_socket(chat_url(closed_api, "t", token="nonsense")) as chat:
        await assert_refused(chat, "The key is not valid.")
    async with open_socket(chat_url(closed_api, "t")) as chat:
        await chat.send("auth", token=writer)
        await assert_refused(chat, "lacks the scope read")


@pytest.mark.parametrize(
    "frame", ['{"type": "user_input", "text": "x"}', '{"type": "ping"}', "nonsense", '{"type": "auth"}']
)
async def test_nothing_is_read_before_the_key(frame: str, closed_api: Client, sql: Connection) -> None:
    async with open_socket(chat_url(closed_api, "t")) as chat:
        await chat.connection.send(frame)
        await chat.send("auth", token=ROOT_KEY)
        await assert_refused(chat, "as the first frame")
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_a_first_frame_is_small(closed_api: Client) -> None:
    """An unknown client makes the API read no large frame; a known one may send one at once."""
    async with open_socket(chat_url(closed_api, "t")) as chat:
        await chat.send("auth", token="x" * FIRST_FRAME_BYTES)
        assert await chat.rest() == ([], TOO_BIG)
    for query in ({}, {"token": ROOT_KEY}):
        async with open_socket(chat_url(closed_api, "t", **query)) as chat:
            if not query:
                await chat.send("auth", token=ROOT_KEY)
            await chat.send("user_input", text="x" * 50_000)
            assert (await chat.find(status="accepted"))["message_id"]


async def test_a_silent_socket_is_closed(closed_api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.protocols.websocket.admission.FIRST_FRAME_SECONDS", 0.05)
    async with open_socket(chat_url(closed_api, "t")) as chat:
        await assert_refused(chat, "within 5 seconds as the first frame")


async def test_scopes_hold_for_each_frame(closed_api: Client, sql: Connection) -> None:
    reader = (await create_key(closed_api, "read"))["key"]
    message_id = "00000000-0000-7000-8000-000000000000"
    async with open_socket(chat_url(closed_api, "t"), additional_headers=bearer(reader)) as chat:
        assert (await chat.frame())["status"] == "open"
        for kind, fields in (
            ("user_input", {"text": "x", "key": "k"}),
            ("cancel", {"message_id": message_id}),
            ("input", {"message_id": message_id, "input": "x"}),
        ):
            await chat.send(kind, **fields)
            frame = await chat.frame()
            assert (frame["type"], frame["detail"]) == ("error", "The key or token lacks the scope submit.")
        await chat.send("ping")
        assert (await chat.frame())["type"] == "pong"
    assert await sql.fetchval("select count(*) from treadle.messages") == 0


async def test_a_revoked_key_loses_its_sockets(closed_api: Client, start_worker: StartWorker) -> None:
    made = await create_key(closed_api, "read", "submit")
    async with (
        open_socket(chat_url(closed_api, "t"), additional_headers=bearer(made["key"])) as chat,
        open_socket(chat_url(closed_api, "none yet"), additional_headers=bearer(made["key"])) as idle,
    ):
        await chat.send("user_input", text="x")
        await chat.until(event="queued")
        assert (await idle.frame())["status"] == "open"
        await closed_api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
        for socket in (chat, idle):
            frames, code = await socket.rest()
            assert (frames[-1]["type"], frames[-1]["detail"], code) == ("error", "The key is revoked.", REFUSED)


async def test_a_socket_ends_with_its_token(closed_api: Client, pass_time: PassTime) -> None:
    token = await create_token(closed_api, ROOT_KEY, "read", "submit", thread_id="t", expires_in=600)
    async with open_socket(chat_url(closed_api, "t", token=token)) as chat:
        assert (await chat.frame())["status"] == "open"
        pass_time(601)
        frames, code = await chat.rest()
        assert (frames[-1]["detail"], code) == ("The key or token has expired.", REFUSED)


async def test_a_socket_outlives_its_token_with_another_one(closed_api: Client, pass_time: PassTime) -> None:
    first, second, other = [
        await create_token(closed_api, ROOT_KEY, "read", "submit", thread_id=thread_id, expires_in=seconds)
        for thread_id, seconds in (("t", 600), ("t", 6000), ("u", 6000))
    ]
    async with open_socket(chat_url(closed_api, "t", token=first)) as chat:
        assert (await chat.frame())["status"] == "open"
        for wrong in (other, "nonsense"):
            await chat.send("auth", token=wrong)
            assert (await chat.frame())["type"] == "error"
        await chat.send("auth", token=second)
        await chat.send("ping")
        assert (await chat.frame())["type"] == "pong"
        pass_time(601)
        await chat.send("user_input", text="x")
        assert (await chat.find(status="accepted"))["message_id"]


async def test_with_auth_off_a_page_may_send_its_token(start_api: StartApi, register_agents: Any) -> None:
    """So one page works with both kinds of API."""
    await register_agents()
    api = await start_api(auth="off")
    async with open_socket(chat_url(api, "t", token="nonsense")) as chat:
        await chat.send("auth", token="nonsense")
        await chat.send("ping")
        assert {(await chat.frame())["type"] for _ in range(2)} == {"status", "pong"}


async def test_many_sockets_wait_for_their_key_side_by_side(closed_api: Client) -> None:
    async def chat(number: int) -> None:
        async with open_socket(chat_url(closed_api, f"t{number}")) as socket:
            await socket.send("auth", token=ROOT_KEY)
            assert (await socket.frame())["status"] == "open"

    await asyncio.gather(*(chat(number) for number in range(20)))
