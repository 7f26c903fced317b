"""Calls about threads."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from treadle.client.connection import Connection, decode, next_cursor, segment
from treadle.client.model import Message, Page, Thread, ThreadSummary


class _MessagePage(Struct, frozen=True):
    messages: list[Message]
    next_cursor: str | None


class _Usage(Struct, frozen=True):
    usage: dict[str, float | int]


class Threads(Connection):
    async def threads(
        self, *, q: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[ThreadSummary]:
        """A page of the threads, the most recently active first; `q`: a text in their id, metadata or last message."""
        answer = await self._send("GET", "/threads", query={"q": q, "limit": limit, "cursor": cursor})
        return Page(decode(answer, list[ThreadSummary]), next_cursor(answer))

    async def thread(self, thread_id: str) -> Thread:
        """A thread with the number of its messages by state. Raises NotFound."""
        return decode(await self._send("GET", f"/threads/{segment(thread_id)}"), Thread)

    async def thread_messages(self, thread_id: str, *, limit: int = 100, cursor: str | None = None) -> Page[Message]:
        """A page of the messages of a thread, in their order. Raises NotFound."""
        path = f"/threads/{segment(thread_id)}/messages"
        page = decode(await self._send("GET", path, query={"limit": limit, "cursor": cursor}), _MessagePage)
        return Page(page.messages, page.next_cursor)

    async def thread_usage(self, thread_id: str) -> dict[str, float | int]:
        """The sum of each number that the messages of a thread report as their usage. Raises NotFound."""
        return decode(await self._send("GET", f"/threads/{segment(thread_id)}/usage"), _Usage).usage

    async def change_thread(self, thread_id: str, metadata: Mapping[str, Any]) -> Thread:
        """Replace the metadata of a thread. Raises NotFound."""
        path = f"/threads/{segment(thread_id)}"
        return decode(await self._send("PATCH", path, body={"metadata": metadata}), Thread)

    async def delete_thread(self, thread_id: str) -> None:
        """Delete a thread with its messages, and cancel those that are not over. Raises NotFound."""
        await self._send("DELETE", f"/threads/{segment(thread_id)}", repeatable=False)
