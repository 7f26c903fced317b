"""A chat for code without asyncio."""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from treadle.client.chat import Chat, ChatEvent


class BlockingChat:
    """The calls of Chat."""

    def __init__(self, wait_for: Callable[[Coroutine[Any, Any, Any]], Any], make: Callable[[], Chat]) -> None:
        self._wait_for = wait_for
        self._make = make

    def send(self, message: str | Mapping[str, Any], **options: Any) -> UUID:
        """As of Chat."""
        sent: UUID = self._wait_for(self._chat.send(message, **options))
        return sent

    @property
    def last_id(self) -> int:
        last_id: int = self._chat.last_id
        return last_id

    @property
    def log(self) -> int | None:
        log: int | None = self._chat.log
        return log

    def __iter__(self) -> Iterator[ChatEvent]:
        while True:
            try:
                yield self._wait_for(self._chat.__anext__())
            except StopAsyncIteration:
                return

    def __enter__(self) -> Self:
        self._chat = self._wait_for(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wait_for(self._chat.__aexit__(kind, error, traceback))

    async def _open(self) -> Chat:
        return await self._make().__aenter__()
