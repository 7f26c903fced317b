"""/ws/chat/queue: AutoGen's frames, from the first message to a replay after a cut."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7
from websockets.asyncio.client import ClientConnection, connect

from service.access.principal import AUTH_OFF, Principal
from service.agents.builtin.echo import echo
from service.config import Settings
from service.errors import Busy, NotFound, Refused
from service.events.feed import LogReader
from service.events.model import Page
from service.messages.model import NewInput, NewMessage
from service.protocols.queue_socket.session import QueueSession
from service.protocols.queue_socket.translate import TextMessage
from service.sockets.peer import ClientDisconnected
from tests.support.access import ROOT_KEY, bearer
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.websocket_client import port_of
from treadle import Context, agent


@agent("team")
async def team(context: Context, text: str) -> str:
    await context.event("tool", {"id": "1", "name": "look", "input": {"what": text}})
    await context.event("tool", {"id": "1", "name": "look", "output": 7})
    await context.event("message", {"source": "writer", "type": "TextMessage", "content": "A draft"})
    return f"{await context.input('Good?')}!"


async def frames_until(chat: ClientConnection, **wanted: Any) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    while not frames or not wanted.items() <= frames[-1].items():
        frames.append(json.loads(await chat.recv()))
    return frames


def said(text: str) -> str:
    return json.dumps({"content": text, "source": "ada", "type": "TextMessage"})


async def test_the_queue_socket_speaks_autogen(
    start_api: StartApi, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_from: list[int] = []
    next_page = LogReader.next

    async def noted(reader: LogReader, after: int, seconds: float) -> Page | None:
        read_from.append(after)
        return await next_page(reader, after, seconds)

    monkeypatch.setattr(LogReader, "next", noted)
    await start_worker(echo, team)
    api = await start_api(auth="required", treadle_key=ROOT_KEY)
    made = await api.post("/tokens", json={"scopes": ["read", "submit"], "session_id": "s"}, headers=bearer(ROOT_KEY))
    url = f"ws://127.0.0.1:{port_of(api)}/ws/chat/queue?session_id=s&token={made.json()['token']}"
    async with connect(url, proxy=None) as chat:
        await chat.send(said("hello there"))
        frames = await frames_until(chat, type="TextMessage", source="echo")
        assert [(frame["type"], frame["source"], frame["content"]) for frame in frames] == [
            ("TextMessage", "user", "hello there"),
            ("ModelClientStreamingChunkEvent", "echo", "hello"),
            ("ModelClientStreamingChunkEvent", "echo", " there"),
            ("TextMessage", "echo", "hello there"),
        ]
        for wrong in ("nonsense", "{}", '{"content": "", "source": "x"}', '{"content": "x", "type": "ImageMessage"}'):
            await chat.send(wrong)
            [error] = await frames_until(chat, type="error")
            assert error["source"] == "system"
        last_id = frames[-1]["id"]

    async with connect(f"{url}&agent=team&last_event_id={last_id}", proxy=None) as chat:
        await chat.send(said("the sky"))
        frames = await frames_until(chat, type="UserInputRequestedEvent")
        types = [frame["type"] for frame in frames]
        assert types == [
            "TextMessage", "ToolCallRequestEvent", "ToolCallExecutionEvent", "TextMessage", "UserInputRequestedEvent"
        ]  # fmt: skip
        assert frames[1]["content"] == [{"id": "1", "name": "look", "arguments": '{"what":"the sky"}'}]
        assert frames[2]["content"] == [{"call_id": "1", "name": "look", "content": "7", "is_error": False}]
        assert (frames[3]["source"], frames[-1]["content"], frames[-1]["source"]) == ("writer", "Good?", "team")
        first = frames[-1]
        chat.transport.abort()

    read_from.clear()
    async with connect(f"{url}&last_event_id={first['id']}", proxy=None) as chat:  # a second question beside the first
        aside = {"message": "the sea", "agent": "team", "session_id": "s", "aside": True}
        await api.post("/messages", json=aside, headers=bearer(ROOT_KEY))
        second = (await frames_until(chat, type="UserInputRequestedEvent"))[-1]
        third = await api.post("/messages", json=aside, headers=bearer(ROOT_KEY))
        await frames_until(chat, type="UserInputRequestedEvent", message_id=third.json()["message_id"])
        await chat.send(json.dumps({"content": "Maybe", "source": "ada", "request_id": third.json()["message_id"]}))
        await frames_until(chat, content="Maybe!", source="team", message_id=third.json()["message_id"])
        await chat.send(said("Yes"))  # answers the question that waits longest
        await frames_until(chat, content="Yes!", source="team", message_id=first["message_id"])
        await chat.send(said("No"))
        await frames_until(chat, content="No!", source="team", message_id=second["message_id"])
    assert min(read_from) == first["id"]

    async with connect(url, proxy=None) as chat:  # without a cursor, all of it is sent again
        frames = await frames_until(chat, content="No!")
        assert frames[0]["content"] == "hello there"

    async with connect(f"{url}&agent=team", proxy=None) as chat:
        await chat.send(said("the moon"))
        await frames_until(chat, content="the moon")
        asked = (await frames_until(chat, type="UserInputRequestedEvent"))[-1]
    async with connect(f"{url}&agent=team", proxy=None) as chat:
        await chat.send(said("Full"))  # before it has read the question again
        await frames_until(chat, content="Full!", message_id=asked["message_id"])


@pytest.mark.parametrize(
    ("ends", "stays"),
    [
        (NotFound("There is no such message."), None),  # else each further text would go to it
        (Busy("Another transaction holds the thread."), "first"),
        (None, None),
        ("second", "second"),  # the message asks again before the call returns
    ],
)
async def test_a_question_waits_until_it_is_answered_or_gone(ends: Refused | str | None, stays: str | None) -> None:
    asker = uuid7()
    names: list[str | None] = []

    class Messages:
        async def input(self, principal: Principal, message_id: UUID, given: NewInput) -> None:
            names.append(given.name)
            if isinstance(ends, Refused):
                raise ends
            if ends is not None:
                session._translator.questions[message_id] = ends

    services: Any = SimpleNamespace(messages=Messages(), settings=Settings())
    caller: Any = SimpleNamespace(principal=AUTH_OFF)
    session = QueueSession(services, caller, "t", agent=None, after=0)
    session._translator.begin(asker, "team", "first")
    session._knows_questions.set()
    with pytest.raises(Refused) if isinstance(ends, Refused) else contextlib.nullcontext():
        await session._take(TextMessage("Yes"))
    assert names == ["first"]
    assert session._translator.questions == ({} if stays is None else {asker: stays})


class GoneCaller:
    """A client that has sent these frames and disconnected."""

    principal = AUTH_OFF

    def __init__(self, *frames: str) -> None:
        self._frames = list(frames)

    async def receive(self) -> str:
        await asyncio.sleep(0)
        if not self._frames:
            raise ClientDisconnected
        return self._frames.pop(0)

    async def send(self, frame: str) -> None:
        raise ClientDisconnected

    async def count(self) -> None: ...

    def check(self) -> None: ...

    def require(self, scope: str) -> None: ...


class LongLog:
    """A log of two pages with a message each, and nothing more."""

    closing = False

    def __init__(self) -> None:
        self._pages = [True, False]

    @contextlib.contextmanager
    def follow(self, thread: int) -> Iterator["LongLog"]:
        yield self

    async def find(self, principal: Principal, thread_id: str) -> tuple[int, int]:
        return 1, 2

    async def next(self, after: int, seconds: float) -> Any:
        if not self._pages:
            await asyncio.Event().wait()
        data = '{"agent": "echo", "message": "x"}'
        entry = SimpleNamespace(cursor=after + 1, seq=1, message_id=uuid7(), type="queued", data=data, last=False)
        return SimpleNamespace(entries=[entry], more=self._pages.pop(0), ends_before=None)


async def test_what_a_client_sent_before_it_disconnected_is_handled() -> None:
    stored: list[str] = []

    class Messages:
        async def submit(self, principal: Principal, message: NewMessage) -> None:
            stored.append(str(message.message))

    log = LongLog()
    services: Any = SimpleNamespace(messages=Messages(), settings=Settings(), logs=log, feed=log)
    caller: Any = GoneCaller("nonsense", said("one"), said("two"))
    with pytest.raises(ClientDisconnected):
        await QueueSession(services, caller, "t", agent=None, after=0).run()
    assert stored == ["one", "two"]
