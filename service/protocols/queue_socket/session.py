"""The life of one queue socket: the client's messages on one side, the log of the thread on the other."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn

from service.access.authenticator import require
from service.access.principal import Principal
from service.client_limits import pause
from service.errors import Forbidden, NotFound, Refused, TooManyRequests
from service.events.model import OUT_OF_REACH, Entry, is_out_of_reach
from service.messages.model import NewInput, NewMessage
from service.messages.validation import validate_input, validate_messages
from service.protocols.queue_socket.services import QueueSocketServices
from service.protocols.queue_socket.translate import SYSTEM, TextMessage, Translator, read_frame
from service.waiting import wait_for


class Stopping(Exception):
    """This process is about to end."""


class QueueSession:
    """`receive` and `send` raise when the client has gone; `clients` are counted for each frame."""

    def __init__(
        self,
        services: QueueSocketServices,
        principal: Principal,
        thread_id: str,
        *,
        agent: str | None,
        after: int,
        clients: list[str],
        receive: Callable[[], Awaitable[str | bytes]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._services = services
        self._principal = principal
        self._thread_id = thread_id
        self._agent = agent
        self._after = after
        self._clients = clients
        self._receive = receive
        self._send = send
        self._translator = Translator()
        self._accepted = asyncio.Event()  # an input was stored: the thread exists

    async def run(self) -> None:
        """Raises what the first of the two sides raises: of the client's end, Stopping, Forbidden, Unauthorized,
        Unavailable, SchemaError."""
        sides = [asyncio.create_task(side) for side in (self._read(), self._write())]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            ends = await asyncio.gather(*sides, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _read(self) -> NoReturn:
        while True:
            frame = await self._receive()
            try:
                await self._count()
                self._check()
                require(self._principal, "submit")
                await self._take(read_frame(frame))
            except Refused as error:
                await self._send({"type": "error", "source": SYSTEM, "content": str(error)})

    async def _take(self, said: TextMessage) -> None:
        """A message answers the question that it names, or the one that waits longest. Without a question it is the
        next message of the thread."""
        messages, translator = self._services.messages, self._translator
        asker = said.request_id or next(iter(translator.questions), None)
        if asker is not None:
            name = translator.questions.get(asker)
            given = NewInput(said.content, name=name)
            validate_input(given, self._services.settings)
            try:
                await messages.input(self._principal, asker, given)
            except NotFound:
                translator.forget(asker, name)  # else each further text would go to it
                raise
            translator.forget(asker, name)
            return
        message = NewMessage(
            said.content, thread_id=self._thread_id, agent=self._agent, metadata={"source": said.source}
        )
        validate_messages([message], self._services.settings, in_batch=False)
        await messages.submit(self._principal, message)
        self._accepted.set()

    async def _count(self) -> None:
        try:
            for client in self._clients:
                self._services.limits.count_request(client)
        except TooManyRequests:
            await pause()
            raise

    def _check(self) -> None:
        if reason := self._services.access.end_of(self._principal):
            raise Forbidden(reason)

    async def _write(self) -> NoReturn:
        """Send the log from the client's cursor on, and go on with the next one if the thread is deleted."""
        while True:
            [log] = await self._services.threads.thread_logs([(self._principal, self._thread_id)])
            if log is None:
                await self._wait(self._accepted)
                self._accepted.clear()
                continue
            thread, last = log
            if self._after > last:  # the cursor is of another log of this name
                self._after = 0
            await self._follow(thread)
            self._after, self._translator = 0, Translator()

    async def _follow(self, thread: int) -> None:
        """Returns when the thread was deleted."""
        feed, behind = self._services.feed, True
        if self._after > 0:
            for message in await self._services.threads.open_messages(self._principal, thread):
                self._translator.begin(*message)
        with feed.subscribe(thread) as wake:
            while True:
                self._check()
                wake.clear()
                page = await feed.read(thread, self._after, behind=behind)
                if page is None:
                    return
                if page.log_end is not None:  # a failover lost the end of the log
                    self._after, self._translator = 0, Translator()
                for entry in page.entries:
                    await self._show(entry)
                behind = page.more or page.log_end is not None
                if not behind:
                    await self._wait(wake)

    async def _show(self, entry: Entry) -> None:
        if is_out_of_reach(entry, self._principal):
            raise Forbidden(OUT_OF_REACH)
        if entry.seq > 1 and not self._translator.knows(entry.message_id):
            with suppress(NotFound):
                status = await self._services.messages.status(self._principal, entry.message_id)
                self._translator.begin(entry.message_id, status.agent)
        for frame in self._translator.frames(entry):
            await self._send(frame)
        self._after = entry.cursor

    async def _wait(self, wake: asyncio.Event) -> None:
        if not self._services.feed.closing:
            await wait_for(wake, self._services.settings.poll_interval)
        if self._services.feed.closing:
            raise Stopping
