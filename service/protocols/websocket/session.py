"""One socket's life: it listens to its client, and tells it the thread's log.

The client's last id is all the state there is. Whatever goes wrong, the socket is closed, the client comes back with
that id, and no agent has noticed anything.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable
from typing import NoReturn, Protocol, TypeAlias

import msgspec

from service.batching import Batcher
from service.config import Settings
from service.errors import Refused, SchemaError, Unavailable
from service.events.feed import Feed
from service.events.store import is_full
from service.messages.model import NewMessage
from service.messages.store import MessageStore
from service.messages.validation import check, check_input
from service.protocols.websocket.model import (
    Answer,
    Cancel,
    Error,
    Input,
    Ping,
    Pong,
    Status,
    UserInput,
    key_of,
    of_log,
    read,
    write,
)
from service.threads.store import ThreadStore
from service.waiting import wait_for

log = logging.getLogger(__name__)

# Why the server closes a socket (RFC 6455).
REFUSED, BROKEN, RESTART, TRY_LATER = 1008, 1011, 1012, 1013

Log: TypeAlias = tuple[int, int]  # a thread's surrogate key, and the last position in its log


class Gone(Exception):
    """The peer is: there is nobody to tell."""


class Slow(Exception):
    """The peer takes nothing: what is sent stays here."""


class Closing(Exception):
    """This process is about to end."""


class Peer(Protocol):
    """The other end of a socket."""

    async def receive(self) -> str | bytes:
        """The next frame; raises Gone."""

    async def send(self, frame: str) -> None:
        """Returns when there is room again for what was sent before; raises Gone."""

    async def close(self, code: int) -> None:
        """Raises Gone."""


class Chats:
    """What the sockets of one API process share."""

    def __init__(self, settings: Settings, feed: Feed, messages: MessageStore, threads: ThreadStore) -> None:
        self.settings = settings
        self.feed = feed
        self.messages = messages
        self.threads = threads
        self._logs: Batcher[str, Log | None] = Batcher(lambda ids, _: threads.logs(ids), limit=500)

    async def log(self, thread_id: str) -> Log | None:
        """None where there is no such thread."""
        return await self._logs.submit(thread_id)


class Session:
    def __init__(self, chats: Chats, peer: Peer, thread_id: str, after: int) -> None:
        self._chats = chats
        self._feed = chats.feed
        self._peer = peer
        self._thread_id = thread_id
        self._after = after
        self._begun = asyncio.Event()  # an input of ours was accepted, so there is a thread

    async def run(self) -> None:
        listening, telling = asyncio.create_task(self._listen()), asyncio.create_task(self._tell())
        tasks = (listening, telling)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if telling.done() and isinstance(telling.exception(), Gone):
                await asyncio.wait([listening])  # to the last frame that it had sent
            for task in tasks:
                if task.done() and (error := task.exception()):
                    await self._end(error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, error: BaseException) -> None:
        with contextlib.suppress(Gone, Slow):
            if isinstance(error, Closing):
                await self._close(RESTART)
            elif isinstance(error, Unavailable | SchemaError):
                log.log(error.log_level, "chat interrupted", extra={"error": str(error)})
                await self._send(Error(str(error), retry_after=Unavailable.retry_after))
                await self._close(TRY_LATER)
            elif not isinstance(error, Gone | Slow):
                log.error("chat broke", exc_info=error)
                await self._send(Error("Something went wrong here; the server's log tells what."))
                await self._close(BROKEN)

    # What the client says

    async def _listen(self) -> NoReturn:
        while True:
            frame = await self._peer.receive()
            try:
                question = read(frame)
            except Refused as error:
                await self._answer(Error(str(error), key=key_of(frame)))
                continue
            if isinstance(question, Ping):
                await self._answer(Pong())
            elif isinstance(question, Cancel):
                await self._cancel(question)
            elif isinstance(question, Input):
                await self._input(question)
            else:
                await self._submit(question)

    async def _submit(self, asked: UserInput) -> None:
        messages = self._chats.messages
        try:
            message = asked.of_thread(self._thread_id)
            check([message], self._chats.settings, batch=False)
            agent = await self._agent_while_busy(asked, message)
            sent = msgspec.structs.replace(message, agent=agent, aside=True) if agent else message
            if asked.key is None:
                accepted = await messages.submit(sent)
            else:
                [accepted] = await messages.submit_once(*self._once(asked.key, message), [sent])
                if agent:  # what was sent before under this key may have gone elsewhere
                    went_to = (await messages.status(accepted.message_id)).agent
                    agent = agent if went_to == agent else None
        except Refused as error:
            await self._answer(Error(str(error), key=asked.key, retry_after=error.retry_after))
            return
        self._begun.set()
        await self._answer(
            Status(
                "accepted",
                message_id=accepted.message_id,
                key=asked.key,
                queue_position=accepted.queue_position,
                agent=agent,
            )
        )

    async def _agent_while_busy(self, asked: UserInput, message: NewMessage) -> str | None:
        """Who answers this at once, where an agent is at work in the thread and the client does not say otherwise. An
        object is made for the agent that it names."""
        if asked.aside is not None or not isinstance(message.message, str):
            return None
        return await self._chats.threads.agent_while_busy(self._thread_id, asked.agent)

    def _once(self, key: str, message: NewMessage) -> tuple[str, bytes]:
        """The Idempotency-Key of an input and the hash of what it asks: keys are a thread's own, and none of HTTP's."""
        own = hashlib.sha256(f"{self._thread_id}\n{key}".encode()).hexdigest()
        return f"chat {own}", hashlib.sha256(b"chat\n" + msgspec.json.encode(message, order="sorted")).digest()

    async def _cancel(self, asked: Cancel) -> None:
        try:
            await self._chats.messages.cancel(asked.message_id)
        except Refused as error:
            await self._answer(Error(str(error), message_id=asked.message_id, retry_after=error.retry_after))
        else:
            await self._answer(Status("cancelling", message_id=asked.message_id))

    async def _input(self, given: Input) -> None:
        try:
            check_input(given, self._chats.settings)
            await self._chats.messages.input(given.message_id, given)
        except Refused as error:
            await self._answer(Error(str(error), message_id=given.message_id, retry_after=error.retry_after))
        else:
            await self._answer(Status("answered", message_id=given.message_id))

    async def _answer(self, answer: Answer) -> None:
        """Raises Slow. That the client is gone is for receive to say, after all that it had sent before it went."""
        with contextlib.suppress(Gone):
            await self._send(answer)

    # What the client is told

    async def _tell(self) -> NoReturn:
        found = await self._chats.log(self._thread_id)
        # A cursor beyond the log is of a log that is no more: what comes next is new to its reader all the same.
        self._after = min(self._after, found[1] if found else 0)
        await self._opened(found)
        while True:
            while found is None:
                await self._pause(self._begun)
                self._begun.clear()
                if (found := await self._chats.log(self._thread_id)) is not None:
                    await self._opened(found)
            await self._follow(found[0])
            await self._send(Status("deleted", thread_id=self._thread_id))
            found, self._after = None, 0

    async def _opened(self, found: Log | None) -> None:
        key, last = found or (None, 0)
        await self._send(Status("open", thread_id=self._thread_id, log=key, after=self._after, last=last))

    async def _follow(self, thread: int) -> None:
        """The log from the cursor on, until the thread is deleted."""
        with self._feed.subscribe(thread) as wake:
            while True:
                wake.clear()
                entries = await self._feed.read_thread(thread, self._after)
                if entries is None:
                    return
                if entries and entries[0].position > self._after + 1:
                    await self._send(Status("gap", after=self._after, next=entries[0].position))
                for entry in entries:
                    await self._send(of_log(entry))
                    self._after = entry.position
                if not is_full(entries):
                    await self._pause(wake)

    async def _pause(self, wake: asyncio.Event) -> None:
        """Until there may be something new; raises Closing."""
        if not self._feed.closing:
            await wait_for(wake, self._chats.settings.poll_interval)
        if self._feed.closing:
            raise Closing

    async def _send(self, answer: Answer) -> None:
        """Raises Gone, Slow."""
        await self._patiently(self._peer.send(write(answer)))

    async def _close(self, code: int) -> None:
        await self._patiently(self._peer.close(code))

    async def _patiently(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._chats.settings.keepalive_interval):
                await sending
        except TimeoutError:
            raise Slow from None
