"""The inputs of a chat that the server has not accepted yet: each socket sends them again."""

import asyncio
import contextlib
from typing import Any
from uuid import UUID

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from treadle.client.chat_frames import Frame, error_of_frame
from treadle.client.errors import ApiError, Unavailable, api_error


class Input:
    """`accepted`: the id of its message."""

    def __init__(self, frame: dict[str, Any]) -> None:
        self.frame = msgspec.json.encode(frame)
        self.accepted: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()


class Inputs:
    """By their keys. `socket`: the open one; without one, they wait for the next."""

    def __init__(self) -> None:
        self.socket: ClientConnection | None = None
        self._waiting: dict[str, Input] = {}
        self._repeats: dict[str, asyncio.Task[None]] = {}  # of those that are refused for now

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def send(self, key: str, frame: dict[str, Any]) -> UUID:
        """Returns the id of the message when the server has stored it. Raises ApiError, Unavailable."""
        own = self._waiting[key] = Input(frame)
        try:
            await self._submit(own)
            return await own.accepted
        finally:
            self._waiting.pop(key, None)

    async def send_again(self) -> None:
        for own in list(self._waiting.values()):
            await self._submit(own)

    def accept(self, key: str, message_id: UUID) -> None:
        if (own := self._waiting.pop(key, None)) is not None and not own.accepted.done():
            own.accepted.set_result(message_id)

    def refuse(self, key: str, frame: Frame) -> None:
        """For good or, if the server says when to come again, for now."""
        if frame.retry_after is None:
            self._fail(key, error_of_frame(frame, 422, "The server refuses this input."))
        elif key not in self._repeats:
            repeat = self._repeats[key] = asyncio.create_task(self._repeat(key, frame.retry_after))
            repeat.add_done_callback(lambda _: self._repeats.pop(key, None))

    def refuse_largest(self) -> None:
        """The server read a frame that is too large. If any input is too large, the largest one is."""
        if self._waiting:
            key = max(self._waiting, key=lambda key: len(self._waiting[key].frame))
            self._fail(key, api_error(413, "The input is larger than the server's MAX_BODY_BYTES."))

    def end(self, error: BaseException | None) -> None:
        """The chat has ended with this error, or was closed."""
        for repeat in self._repeats.values():
            repeat.cancel()
        for own in self._waiting.values():
            if not own.accepted.done():
                own.accepted.set_exception(error or Unavailable("The chat is closed."))

    async def _submit(self, own: Input) -> None:
        if self.socket is not None:
            # The next socket sends it. AttributeError: websockets 16 aborts a transport that asyncio has closed.
            with contextlib.suppress(ConnectionClosed, AttributeError):
                await self.socket.send(own.frame, text=True)

    async def _repeat(self, key: str, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        if (own := self._waiting.get(key)) is not None:
            await self._submit(own)

    def _fail(self, key: str, error: ApiError) -> None:
        if (own := self._waiting.pop(key, None)) is not None and not own.accepted.done():
            own.accepted.set_exception(error)
