"""A WebSocket client that checks every frame, and a chat user who keeps the last id and the unacknowledged inputs."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Literal
from urllib.parse import quote, urlencode
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from service.events.model import RESERVED_TYPES
from tests.support.api_client import Client
from tests.support.api_server import ApiServer
from tests.support.waiting import LIMIT_SECONDS

SOCKET_TIMEOUT_SECONDS = LIMIT_SECONDS  # a socket that is silent for longer is a failure
OUTPUT = {"chunk", "done"}


def port_of(api: Client | ApiServer) -> int:
    return api.port if isinstance(api, ApiServer) else int(api.base_url.port or 0)


def chat_url(api: Client | ApiServer, thread_id: str | None, *, after: Any = None, **more: Any) -> str:
    asked = {"thread_id": thread_id, "last_event_id": after, **more}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return f"ws://127.0.0.1:{port_of(api)}/ws/chat?{query}"


def chat_path_url(api: Client | ApiServer, thread_id: str) -> str:
    return f"ws://127.0.0.1:{port_of(api)}/ws/{quote(thread_id, safe='')}"


class Socket:
    """An open socket; it checks every frame of the server."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._kept: deque[dict[str, Any]] = deque()  # frames that `answer` passed over

    async def send(self, type: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": type, **fields}))

    async def frame(self) -> dict[str, Any]:
        if self._kept:
            return self._kept.popleft()
        async with asyncio.timeout(SOCKET_TIMEOUT_SECONDS):
            return checked(json.loads(await self.connection.recv()))

    async def answer(self, **wanted: Any) -> dict[str, Any]:
        """The first frame with these fields. The frames before it stay to be read: events of a message can come before
        the answer to its input."""
        passed = []
        while not matches(frame := await self.frame(), wanted):
            passed.append(frame)
        self._kept.extendleft(reversed(passed))
        return frame

    async def until(self, **wanted: Any) -> list[dict[str, Any]]:
        """Frames up to the first with these fields."""
        frames = [await self.frame()]
        while not matches(frames[-1], wanted):
            frames.append(await self.frame())
        return frames

    async def find(self, **wanted: Any) -> dict[str, Any]:
        return (await self.until(**wanted))[-1]

    async def rest(self) -> tuple[list[dict[str, Any]], int | None]:
        """Frames until the server closes, and its close code; None if the connection broke."""
        frames = []
        try:
            while True:
                frames.append(await self.frame())
        except ConnectionClosed as closed:
            return frames, closed.rcvd.code if closed.rcvd else None

    def cut(self) -> None:
        """Break the connection without a close frame, as a network does."""
        self.connection.transport.abort()


@contextlib.asynccontextmanager
async def open_socket(url: str, **options: Any) -> AsyncIterator[Socket]:
    limits: dict[str, Any] = {"open_timeout": SOCKET_TIMEOUT_SECONDS, "ping_timeout": SOCKET_TIMEOUT_SECONDS}
    async with connect(url, compression=None, proxy=None, **{"close_timeout": 1, **limits, **options}) as connection:
        yield Socket(connection)


def checked(frame: dict[str, Any]) -> dict[str, Any]:
    """Check that the frame has exactly the fields of its type; returns it."""
    if "id" in frame:
        assert frame.keys() == {"type", "id", "message_id", "seq", "event", "data", "created_at"}, frame
        assert frame["type"] == ("agent_output" if frame["event"] in OUTPUT else "status"), frame
    elif frame["type"] == "status":
        assert frame["status"] in {"open", "accepted", "cancelling", "answered", "deleted", "gap"}, frame
        assert "event" not in frame
    elif frame["type"] == "error":
        assert frame.keys() <= {"type", "detail", "status", "key", "message_id", "retry_after"}, frame
        assert frame["detail"].endswith("."), frame
    else:
        assert frame == {"type": "pong"}
    return frame


def matches(frame: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(frame.get(name) == value for name, value in wanted.items())


def log_frames(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The frames that are events of the log."""
    return [frame for frame in frames if "id" in frame]


def event_types(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["event"] for frame in log_frames(frames)]


async def stored_events(api: Client, thread_id: str, count: int) -> list[dict[str, Any]]:
    """The events of the thread's messages, message by message, by the messages' own logs; all messages must be over."""
    messages = (await api.get(f"/threads/{quote(thread_id, safe='')}/messages")).json()["messages"]
    found = []
    for message in messages:
        after, over = 0, False
        while not over:
            page = (await api.get(f"/messages/{message['message_id']}/events", params={"after": after})).json()
            found += [{"message_id": message["message_id"], **event} for event in page["events"]]
            after, over = page["next_after"], page["over"]
    assert len(found) == count, (len(found), count)
    return found


def assert_whole_transcript(frames: list[dict[str, Any]], log: list[dict[str, Any]]) -> None:
    """Check that the frames have every event of the log once, in the thread's order, as it was stored."""
    shown = log_frames(frames)
    assert [frame["id"] for frame in shown] == list(range(1, len(log) + 1))
    by_message = {
        (frame["message_id"], frame["seq"]): (frame["event"], frame["data"], frame["created_at"]) for frame in shown
    }
    assert by_message == {
        (event["message_id"], event["seq"]): (event["type"], event["data"], event["created_at"]) for event in log
    }
    for message_id in {frame["message_id"] for frame in shown}:
        seqs = [frame["seq"] for frame in shown if frame["message_id"] == message_id]
        assert seqs == list(range(1, len(seqs) + 1))


class ChatUser:
    """A user of a thread, over any number of connections."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        self.frames: list[dict[str, Any]] = []  # frames of the log
        self.unacknowledged: dict[str, dict[str, Any]] = {}  # inputs by their key
        self.messages: dict[str, str] = {}  # key: message_id
        self.errors: list[str] = []
        self.retries: list[str] = []  # errors after which an input was sent again

    @property
    def last(self) -> int:
        return int(self.frames[-1]["id"]) if self.frames else 0

    def say(self, text: str, **fields: Any) -> str:
        """Record an input; it is sent on the open connection, or on the next one."""
        key = str(uuid4())
        self.unacknowledged[key] = {"text": text, "key": key, **fields}
        return key

    async def take(self, frame: dict[str, Any], chat: Socket) -> None:
        if "id" in frame:
            self.frames.append(frame)
        elif frame.get("status") == "accepted":
            assert self.messages.setdefault(frame["key"], frame["message_id"]) == frame["message_id"]
            self.unacknowledged.pop(frame["key"], None)
        elif "retry_after" in frame and frame.get("key") in self.unacknowledged:
            self.retries.append(frame["detail"])
            await chat.send("user_input", **self.unacknowledged[frame["key"]])
        elif frame["type"] == "error":
            self.errors.append(frame["detail"])

    @property
    def over(self) -> bool:
        """Whether every input was answered."""
        ends = {frame["message_id"] for frame in self.frames if frame["event"] in {"done", "error", "cancelled"}}
        return not self.unacknowledged and ends >= set(self.messages.values())


Ending = Literal["done", "error", "cancelled"]
assert OUTPUT <= RESERVED_TYPES
