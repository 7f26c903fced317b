"""An API that a test can stop and start again."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import uvicorn.server

from service.api.app import Api, UvicornServer
from service.config import Settings
from service.protocols.leases.traces import MakeTraces
from tests.support.ports import kept_port
from tests.support.waiting import until


class _HurriedAsyncio:
    """uvicorn looks ten times a second whether it should stop, and then waits as long again: a test would wait most of
    its time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


vars(uvicorn.server)["asyncio"] = _HurriedAsyncio()


class ApiServer:
    """An API in this process. It can be stopped and started again at its port."""

    def __init__(self, settings: Settings, make_traces: MakeTraces | None = None) -> None:
        self._settings = settings
        self._make_traces = make_traces
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.api = Api(self._settings, str(self._settings.database_url), make_traces=self._make_traces)
        self.server = UvicornServer(self.api)
        # With the protocol named, asyncio sets TCP_NODELAY, as it does where it binds by itself.
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", self.port))
        self._listening.listen(200)
        self.port = self._listening.getsockname()[1]
        self._task = asyncio.create_task(self.server.serve([self._listening]))
        await until(lambda: self.server.started or self._task.done())

    async def stop(self) -> None:
        self.server.should_exit = True
        await self._task
        self._listening.close()

    @property
    def connections(self) -> list[Any]:
        """uvicorn's side of the open connections."""
        return list(self.server.server_state.connections)


@contextlib.asynccontextmanager
async def api_server(
    settings: Settings, *, make_traces: MakeTraces | None = None, **changes: Any
) -> AsyncIterator[ApiServer]:
    server = ApiServer(msgspec.structs.replace(settings, **changes), make_traces)
    with kept_port() as server.port:
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
