"""Calls about messages."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Unpack
from uuid import UUID

from msgspec import Struct

from treadle.client.connection import Connection, decode, segment
from treadle.client.errors import MessageCancelled, MessageFailed
from treadle.client.model import Accepted, Message
from treadle.client.streams import Streams
from treadle.options import SubmitOptions, submission

MessageId: TypeAlias = UUID | str


class ClientOptions(SubmitOptions, total=False):
    idempotency_key: str | None


class _Batch(Struct, frozen=True):
    messages: list[Accepted]


class Messages(Streams, Connection):
    async def submit(self, message: str | Mapping[str, Any], **options: Unpack[ClientOptions]) -> Accepted:
        """Submit a message: a text, or an object if the agent declares an input type. When this returns, it is stored
        durably.

        agent            Default: the default agent of the installation.
        thread_id        The conversation; default: the message stands alone.
        priority         high, normal (the default) or low.
        metadata         Any JSON object; the agent can read it.
        delay_seconds    Until it may run.
        max_attempts     Failures until it has failed; default: the agent's.
        max_losses       Workers lost until it has failed; default: the agent's.
        timeout_seconds  Of one attempt; default: the agent's.
        aside            It belongs to the thread but takes no turn in it.
        on_busy          Where another message of the thread is open: enqueue (the default), reject, interrupt, rollback
                         or steer.
        callback_url     An address that is told of its end with one signed POST.
        thread_metadata  The metadata of the thread, if it begins with this message.
        idempotency_key  Calls with the same key submit once, within 24 hours; default: a random one, so that a call
                         that is repeated after a lost answer submits once.

        Raises Invalid, Conflict, TooManyRequests, Unauthorized, Forbidden or Unavailable.
        """
        key = options.pop("idempotency_key", None) or str(uuid.uuid4())
        body = submission(message, options)
        return decode(await self._send("POST", "/messages", body=body, idempotency_key=key), Accepted)

    async def submit_many(
        self, messages: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> list[Accepted]:
        """Submit up to 1,000 messages in this order, all or nothing: objects with `message` and the options of
        `submit`."""
        answer = await self._send(
            "POST",
            "/messages/batch",
            body={"messages": messages},
            idempotency_key=idempotency_key or str(uuid.uuid4()),
        )
        return decode(answer, _Batch).messages

    async def status(self, message_id: MessageId) -> Message:
        """The status of a message. Raises NotFound."""
        return decode(await self._send("GET", f"/messages/{segment(message_id)}/status"), Message)

    async def wait(self, message_id: MessageId, *, timeout: float | None = None) -> Message:
        """Wait until a message is over, and return its status. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            async for _ in self.stream(message_id, after=None):
                pass
            return await self.status(message_id)

    async def run(
        self, message: str | Mapping[str, Any], *, timeout: float | None = None, **options: Unpack[ClientOptions]
    ) -> Any:
        """Submit a message (with the options of `submit`), wait for its end, and return its result.

        Raises MessageFailed, MessageCancelled, or TimeoutError after `timeout` seconds; the message then goes on.
        """
        async with asyncio.timeout(timeout):
            accepted = await self.submit(message, **options)
            ended = await self.wait(accepted.message_id)
        if ended.state == "failed":
            raise MessageFailed(ended)
        if ended.state == "cancelled":
            raise MessageCancelled(ended)
        return ended.result

    async def cancel(self, message_id: MessageId) -> None:
        """Cancel a message. One that runs ends within about a second. Raises Conflict if it is over."""
        await self._send("DELETE", f"/messages/{segment(message_id)}")

    async def answer(self, message_id: MessageId, input: Any, *, name: str | None = None) -> None:
        """Answer the question that a message waits with. `name` is the question's, so that a repeated call cannot
        answer the next question. Raises Conflict if the message does not ask it."""
        body = {"input": input} if name is None else {"input": input, "name": name}
        path = f"/messages/{segment(message_id)}/input"
        await self._send("POST", path, body=body, repeatable=name is not None)

    async def redrive(self, message_id: MessageId) -> None:
        """Give a failed message a new life. Raises Conflict if it has not failed."""
        await self._send("POST", f"/messages/{segment(message_id)}/redrive", repeatable=False)

    async def retry(self, message_id: MessageId, step: str) -> None:
        """Run a message that is over again, from this step; the results of the steps before it are kept.

        Raises Conflict if it is not over, or keeps no result of the step.
        """
        await self._send("POST", f"/messages/{segment(message_id)}/retry", body={"step": step}, repeatable=False)
