"""A chat: the events and the inputs of one thread over one WebSocket, which comes back by itself."""

import asyncio
import uuid
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from treadle.client.chat_frames import Frame, error_of_frame, error_of_handshake
from treadle.client.chat_inputs import Inputs
from treadle.client.connection import CONNECT_SECONDS
from treadle.client.errors import ApiError, Unavailable
from treadle.client.model import Event
from treadle.client.repeats import backoff
from treadle.options import OnBusy, Priority

MAX_FRAME_BYTES = 64_000_000
MAX_BUFFERED = 10_000  # events that wait for their reader; the socket is not read meanwhile
FOR_GOOD = 1008  # the close code after which a client does not come back
TOO_BIG = 1009  # a frame of the client was larger than the server takes
TROUBLED = (1011, 1013)  # the server cannot serve the socket now
TROUBLED_SECONDS = 1.0  # that the client waits at least after these


class ChatEvent(Event, frozen=True, kw_only=True):
    """An event of the thread's log. `deleted` and `gap` have no id and no message."""

    message_id: UUID | None


class Chat:
    """Iterate over it for the events. It resumes after the last one for as long as it takes; `last_id` and `log` are
    those of the last event that the reader received, for a program that resumes later. Inputs are sent again until they
    are accepted, and submitted once.

    Leaving its block closes the socket and stops no agent. Events that it has received by then and not given out are
    dropped: a later chat with its `last_id` and `log` reads them again.
    """

    def __init__(
        self,
        address: tuple[str, str | None],
        thread_id: str,
        *,
        agent: str | None = None,
        last_id: int = 0,
        log: int | None = None,
    ) -> None:
        self.thread_id = thread_id
        self.last_id = last_id
        self.log = log
        url, key = address
        self._url = f"ws{url.removeprefix('http').rstrip('/')}/ws/chat"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._agent = agent
        self._received = (last_id, log)  # of the last frame, which may wait in `_events`
        self._events: deque[tuple[ChatEvent, tuple[int, int | None]]] = deque()
        self._inputs = Inputs()
        self._changed = asyncio.Event()  # there are events, or the chat has ended
        self._wanted = asyncio.Event()  # there is room for events, or an input waits for its answer
        self._refusal = Frame("error")  # the last error that was about no input
        self._failures = 0  # sockets since the last one that the server opened
        self._task: asyncio.Task[None] | None = None

    async def send(
        self,
        message: str | Mapping[str, Any],
        *,
        agent: str | None = None,
        priority: Priority = "normal",
        metadata: Mapping[str, Any] | None = None,
        aside: bool | None = None,
        on_busy: OnBusy | None = None,
    ) -> UUID:
        """A message for the thread. When this returns, it is stored durably; its id. Raises ApiError where it is
        refused, and Unavailable when the chat is closed."""
        if self._task is None or self._task.done():
            raise Unavailable("The chat is closed.")
        key = uuid.uuid4().hex
        given = {"agent": agent, "metadata": metadata, "aside": aside, "on_busy": on_busy}
        said = {name: value for name, value in given.items() if value is not None}
        # The key comes first: the server finds it there even if it cannot read the message.
        frame = {"type": "user_input", "key": key, "message": message, "priority": priority, **said}
        self._wanted.set()
        return await self._inputs.send(key, frame)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatEvent:
        """Raises ApiError when the server admits the client no longer, and InvalidURI of websockets for a wrong
        address."""
        while not self._events:
            if self._task is None or self._task.done():
                if self._task is not None and not self._task.cancelled() and (error := self._task.exception()):
                    raise error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        event, (self.last_id, self.log) = self._events.popleft()
        self._wanted.set()
        return event

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._events.clear()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._inputs.end(None if task.cancelled() else task.exception())
        self._changed.set()

    async def _run(self) -> None:
        """Raises ApiError, InvalidURI."""
        while True:
            code = None
            try:
                async with connect(
                    self._address(),
                    additional_headers=self._headers,
                    open_timeout=CONNECT_SECONDS,
                    max_size=MAX_FRAME_BYTES,
                ) as socket:
                    code = await self._talk(socket)
            except InvalidStatus as refused:
                error = error_of_handshake(refused)
                if isinstance(error, ApiError) and error.status != 429:
                    raise error from None
            except InvalidURI:
                raise
            except (OSError, TimeoutError, WebSocketException):
                pass
            self._failures += 1
            await asyncio.sleep(max(backoff(self._failures), TROUBLED_SECONDS if code in TROUBLED else 0))

    async def _talk(self, socket: ClientConnection) -> int | None:
        """Until the socket is closed; returns the server's close code. Raises ApiError where the client must not come
        back."""
        self._inputs.socket = socket
        self._refusal = Frame("error")
        code = None
        try:
            await self._inputs.send_again()
            async for text in socket:
                self._take(msgspec.json.decode(text, type=Frame))
                while len(self._events) >= MAX_BUFFERED and not self._inputs:
                    self._wanted.clear()
                    await self._wanted.wait()
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd_then_sent:
                code = closed.rcvd.code
        finally:
            self._inputs.socket = None
        if code == FOR_GOOD:
            raise error_of_frame(self._refusal, 403, "The server refuses this chat.")
        if code == TOO_BIG:
            self._inputs.refuse_largest()
        return code

    def _take(self, frame: Frame) -> None:
        if frame.event:
            self._received = (frame.id or self._received[0], self._received[1])
            self._add(ChatEvent(str(frame.id), frame.event, frame.data, message_id=frame.message_id))
        elif frame.type == "error" and frame.key is None:
            self._refusal = frame
        elif frame.type == "error":
            self._inputs.refuse(frame.key or "", frame)
        elif frame.status == "open":
            self._failures = 0
            self._received = (self._received[0], frame.log)
            if self.log is None or not self.last_id:  # else `last_id` may be of another log, until the next event
                self.log = frame.log
        elif frame.status == "accepted" and frame.message_id is not None:
            self._inputs.accept(frame.key or "", frame.message_id)
        elif frame.status in ("deleted", "gap"):
            self._received = ((frame.next or 1) - 1 if frame.status == "gap" else 0, self._received[1])
            self._add(ChatEvent(None, frame.status, {"after": frame.after, "next": frame.next}, message_id=None))

    def _add(self, event: ChatEvent) -> None:
        self._events.append((event, self._received))
        self._changed.set()

    def _address(self) -> str:
        last_id, log = self._received
        given = {"thread_id": self.thread_id, "last_event_id": last_id, "log": log, "agent": self._agent}
        return f"{self._url}?{urlencode({name: value for name, value in given.items() if value is not None})}"
