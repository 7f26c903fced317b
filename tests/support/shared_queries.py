"""Requests that arrive while a query is under way, and share the next one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from tests.support.waiting import until

Answer = TypeVar("Answer")


class SharedQuery:
    """`asked` and `query` are methods of the service: the one is called for each request, the other for each query. The
    first query is answered only when all requests have arrived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, asked: tuple[type, str], query: tuple[type, str]) -> None:
        self.queries = 0
        self._arrived = 0
        self._go_on = asyncio.Event()
        ask, read = getattr(*asked), getattr(*query)

        async def noted(*arguments: Any) -> Any:
            self._arrived += 1
            return await ask(*arguments)

        async def held(*arguments: Any) -> Any:
            self.queries += 1
            await self._go_on.wait()
            return await read(*arguments)

        monkeypatch.setattr(*asked, noted)
        monkeypatch.setattr(*query, held)

    async def ask(self, count: int, request: Callable[[], Awaitable[Answer]]) -> list[Answer]:
        """The answers to so many requests at once."""
        asking = asyncio.gather(*(request() for _ in range(count)))
        await until(lambda: self._arrived == count and self.queries)
        self._go_on.set()
        return await asking
