"""Chats of an API that requires a key: what each frame needs, and how they end."""

import asyncio

from service.db.pool import Connection
from tests.support.access import ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.fixture_types import StartWorker
from tests.support.websocket_client import chat_path_url, chat_url, open_socket

REFUSED = 1008


async def test_a_key_opens_a_socket_in_each_way(closed_api: Client) -> None:
    key = (await create_key(closed_api, "read"))["key"]
    async with open_socket(chat_url(closed_api, "t"), additional_headers=bearer(key)) as chat:
        assert (await chat.frame())["status"] == "open"
    async with open_socket(chat_url(closed_api, "t", token=key)) as chat:
        assert (await chat.frame())["status"] == "open"
    async with open_socket(chat_path_url(closed_api, "t")) as chat:
        await chat.send("auth", token=key)
        assert (await chat.frame())["status"] == "open"


async def test_a_first_frame_is_small(closed_api: Client) -> None:
    """Only that of a client that is not known yet: a known one may send a large frame at once."""
    for query in ({}, {"token": ROOT_KEY}):
        async with open_socket(chat_url(closed_api, "t", **query)) as chat:
            if not query:
                await chat.send("auth", token=ROOT_KEY)
            await chat.send("user_input", text="x" * 50_000)
            assert (await chat.find(status="accepted"))["message_id"]


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


async def test_many_sockets_wait_for_their_key_side_by_side(closed_api: Client) -> None:
    async def chat(number: int) -> None:
        async with open_socket(chat_url(closed_api, f"t{number}")) as socket:
            await socket.send("auth", token=ROOT_KEY)
            assert (await socket.frame())["status"] == "open"

    await asyncio.gather(*(chat(number) for number in range(20)))
