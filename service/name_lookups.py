"""Looks up the addresses of host names that clients choose.

The C library resolves names and cannot be interrupted: if a name server does not answer, it holds a thread for long
after the caller has given up. So the lookups have threads of their own, each tenant may hold only a few of them, and a
name holds one, however many callers wait for it.
"""

import asyncio
import functools
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from service.places import Places

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOKUP_SECONDS = 5.0
PLACE_SECONDS = 1.0  # that a lookup waits for others of its tenant
LOOKUP_THREADS = 64
THREADS_OF_TENANT = 4
MORE_THREADS = 24  # a tenant may have as many of these as are free: the only one that looks up has half of them


class Crowded(Exception):
    """Other lookups of the tenant hold all threads that it may have. The text is one sentence."""


class NameLookups:
    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._places = Places(THREADS_OF_TENANT)
        self._more: Counter[str] = Counter()  # of MORE_THREADS, by tenant
        self._running: dict[str, asyncio.Future[list[Address]]] = {}  # by name

    async def find(self, tenant: str, name: str) -> list[Address]:
        """The addresses of the name, at least one. Raises OSError (TimeoutError is one), UnicodeError, Crowded."""
        looking = self._running.get(name)
        if looking is None:
            leave = await self._enter(tenant)
            looking = self._running.get(name)
            if looking is None:
                looking = self._start(name, leave)
            else:  # another caller was first
                leave()
        async with asyncio.timeout(LOOKUP_SECONDS):
            return await asyncio.shield(looking)

    async def _enter(self, tenant: str) -> Callable[[], None]:
        """Wait for a thread of the tenant; what it returns gives the thread back."""
        if self._more[tenant] < MORE_THREADS - self._more.total():
            self._more[tenant] += 1
            return functools.partial(self._leave_more, tenant)
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._places.enter(tenant)
        except TimeoutError:
            raise Crowded("Other host names of the tenant are being looked up, and do not answer.") from None
        return functools.partial(self._places.leave, tenant)

    def _leave_more(self, tenant: str) -> None:
        self._more -= Counter([tenant])

    def _start(self, name: str, leave: Callable[[], None]) -> "asyncio.Future[list[Address]]":
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUP_THREADS + MORE_THREADS, thread_name_prefix="lookup")
        looking = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, name)
        self._running[name] = looking
        looking.add_done_callback(functools.partial(self._end, name, leave))
        return looking

    def _end(self, name: str, leave: Callable[[], None], looking: "asyncio.Future[list[Address]]") -> None:
        """The thread is free."""
        del self._running[name]
        leave()
        if not looking.cancelled():
            looking.exception()  # its callers may have given up: then asyncio must not log the exception


def _look_up(name: str) -> list[Address]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0])) for entry in found))
