"""The life of one queue socket: the client's messages on one side, the log of the thread on the other."""

import asyncio
import math
from contextlib import suppress
from typing import NoReturn

from service.errors import NotFound, Refused
from service.events.model import OUT_OF_REACH, Entry, is_out_of_reach
from service.messages.model import NewInput, NewMessage
from service.messages.validation import validate_input, validate_messages
from service.protocols.queue_socket.services import QueueSocketServices
from service.protocols.queue_socket.translate import TextMessage, Translator, encode, error_frame, read_frame
from service.sockets.admission import Caller
from service.sockets.peer import AccessEnded, ClientDisconnected, ServerStopping
from service.sockets.sides import run_sides
from service.waiting import wait_for


class QueueSession:
    def __init__(
        self,
        services: QueueSocketServices,
        caller: Caller,
        thread_id: str,
        *,
        agent: str | None,
        after: int,
    ) -> None:
        self._services = services
        self._caller = caller
        self._thread_id = thread_id
        self._agent = agent
        self._after = after
        self._translator = Translator()
        self._accepted = asyncio.Event()  # an input was stored: the thread exists
        self._knows_questions = asyncio.Event()  # the log was read to its end once

    async def run(self) -> None:
        """Raises what the first of the two sides raises: ClientDisconnected, ClientTooSlow, ServerStopping,
        AccessEnded, Unavailable, SchemaError."""
        await run_sides(self._read(), self._write())

    async def _read(self) -> NoReturn:
        while True:
            frame = await self._caller.receive()
            self._caller.check()
            try:
                await self._caller.count()
                self._caller.require("submit")
                await self._take(read_frame(frame))
            except Refused as error:
                with suppress(ClientDisconnected):  # `receive` first returns the frames that arrived before it
                    await self._caller.send(error_frame(error))

    async def _take(self, said: TextMessage) -> None:
        """A message answers the question that it names, or the one that waits longest. Without a question it is the
        next message of the thread."""
        await self._knows_questions.wait()  # a client that comes back may answer before it has read the question
        messages, translator = self._services.messages, self._translator
        asker = said.request_id or next(iter(translator.questions), None)
        if asker is not None:
            name = translator.questions.get(asker)
            given = NewInput(said.content, name=name)
            validate_input(given, self._services.settings)
            try:
                await messages.input(self._caller.principal, asker, given)
            except NotFound:
                translator.forget(asker, name)  # else each further text would go to it
                raise
            translator.forget(asker, name)
            return
        message = NewMessage(
            said.content, thread_id=self._thread_id, agent=self._agent, metadata={"source": said.source}
        )
        validate_messages([message], self._services.settings, in_batch=False)
        await messages.submit(self._caller.principal, message)
        self._accepted.set()

    def _check(self) -> None:
        """Raises ServerStopping, AccessEnded."""
        if self._services.feed.closing:
            raise ServerStopping
        self._caller.check()

    async def _write(self) -> NoReturn:
        """Send the log from the client's cursor on, and go on with the next one if the thread is deleted."""
        while True:
            log = await self._services.logs.find(self._caller.principal, self._thread_id)
            if log is None:
                self._knows_questions.set()
                self._check()
                await wait_for(self._accepted, self._services.settings.poll_interval)
                self._accepted.clear()
                continue
            thread, last = log
            if self._after > last:  # the cursor is of another log of this name
                self._after = 0
            await self._follow(thread)
            self._after, self._translator = 0, Translator()

    async def _follow(self, thread: int) -> None:
        """Returns when the thread was deleted."""
        if self._after > 0:
            for message in await self._services.threads.open_messages(self._caller.principal, thread):
                self._translator.begin(*message)
        with self._services.feed.follow(thread) as reader:
            while True:
                self._check()
                page = await reader.next(self._after, math.inf)
                if page is None:
                    return
                if page.ends_before is not None:  # a failover lost the end of the log
                    self._after, self._translator = 0, Translator()
                for entry in page.entries:
                    await self._show(entry)
                if not page.more and page.ends_before is None:
                    self._knows_questions.set()
                del page  # the next one may be long in coming

    async def _send(self, frame: str) -> None:
        """What the client sent before it disconnected may be an answer: the log is read on until that is known."""
        try:
            await self._caller.send(frame)
        except ClientDisconnected:
            if self._knows_questions.is_set():
                raise

    async def _show(self, entry: Entry) -> None:
        if is_out_of_reach(entry, self._caller.principal):
            raise AccessEnded(OUT_OF_REACH)
        if entry.seq > 1 and not self._translator.knows(entry.message_id):
            with suppress(NotFound):
                status = await self._services.messages.status(self._caller.principal, entry.message_id)
                self._translator.begin(entry.message_id, status.agent)
        for frame in self._translator.frames(entry):
            await self._send(encode(frame))
        self._after = entry.cursor
