"""A server that receives webhooks: it answers what the test says, and keeps what it received."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from service.db.pool import Connection
from tests.support.waiting import until


class Received(NamedTuple):
    """One POST."""

    path: str
    headers: dict[str, str]
    body: bytes


class HookReceiver:
    """`answers`: by path, what the next requests get, the last one for ever: a status, or a whole head. An answer of 0
    never comes. Without an answer it is 204."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int | str]] = {}
        self.received: list[Received] = []
        self.origin = ""

    def at(self, path: str) -> list[Received]:
        return [post for post in self.received if post.path == path]

    async def has(self, path: str, count: int) -> list[Received]:
        """Wait for so many requests."""

        async def received() -> list[Received]:
            return self.at(path)

        found: list[Received] = await until(received, lambda found: len(found) >= count)
        return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["HookReceiver"]:
        tasks: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            path = first.split(" ")[1]
            self.received.append(Received(path, headers, await reader.readexactly(int(headers["content-length"]))))
            answers = self.answers.get(path) or [204]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if answer == 0:
                await asyncio.Event().wait()
            head = answer if isinstance(answer, str) else f"HTTP/1.1 {answer} Answer"
            writer.write(f"{head}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()


async def hurry(sql: Connection) -> bool:
    """Let the deliveries that wait for their next attempt begin it now; whether there are any."""
    changed = await sql.execute(
        "update treadle.messages set run_at = treadle.clock() where agent = 'webhook' and hold = 'backoff'"
    )
    return changed != "UPDATE 0"
