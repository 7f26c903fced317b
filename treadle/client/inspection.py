"""Calls that look at messages, and that change many of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack
from uuid import UUID

from msgspec import Struct

from treadle.client.connection import Connection, decode, segment
from treadle.client.details import Changes, MessageDetails, MessageSummary, Reason
from treadle.client.model import Message, Page, State
from treadle.options import Priority

MessageId = UUID | str


class MessageFilter(TypedDict, total=False):
    """A message must satisfy each of these. `error` is a part of the error, and `q` of the message, the result or the
    metadata."""

    agent: str
    queue: str
    thread_id: str
    parent: MessageId
    since: datetime | str
    until: datetime | str
    error: str
    q: str


class _Page(Struct, frozen=True):
    messages: list[MessageSummary]
    next_cursor: str | None


class _Explanation(Struct, frozen=True):
    reasons: list[Reason]


class _Part(Changes, frozen=True):
    next_cursor: str | None


class Inspection(Connection):
    async def messages(
        self,
        *,
        state: State | Literal["open"] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        **wanted: Unpack[MessageFilter],
    ) -> Page[MessageSummary]:
        """A page of the messages that satisfy a filter, the newest first. A call looks at 1,000 messages at most, so a
        page may be empty although others follow.

        state  queued, processing, completed, failed, cancelled, or open (queued or processing).
        """
        query = {"state": state, "limit": limit, "cursor": cursor} | _as_text(wanted)
        page = decode(await self._send("GET", "/messages", query=query), _Page)
        return Page(page.messages, page.next_cursor)

    async def inspect(self, message_id: MessageId) -> MessageDetails:
        """A message with its attempts, steps, tools and the messages that it sent. Raises NotFound."""
        return decode(await self._send("GET", f"/messages/{segment(message_id)}"), MessageDetails)

    async def explain(self, message_id: MessageId) -> list[Reason]:
        """Why a message has not finished, the nearest reason first. Raises NotFound."""
        return decode(await self._send("GET", f"/messages/{segment(message_id)}/explain"), _Explanation).reasons

    async def change(
        self,
        message_id: MessageId,
        *,
        priority: Priority | None = None,
        delay_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Message:
        """Change a queued message; None leaves a value as it is. Raises NotFound, and Conflict if it is not queued, or
        has begun and is to be delayed."""
        given = {"priority": priority, "delay_seconds": delay_seconds, "metadata": metadata}
        body = {name: value for name, value in given.items() if value is not None}
        return decode(await self._send("PATCH", f"/messages/{segment(message_id)}", body=body), Message)

    async def cancel_many(
        self,
        *,
        state: Literal["queued", "processing"] | None = None,
        preview: bool = True,
        **wanted: Unpack[MessageFilter],
    ) -> Changes:
        """Cancel the open messages that satisfy a filter; with `preview`, only count them."""
        more = {} if state is None else {"state": state}
        return await self._change_many("cancel", preview, _as_text(wanted) | more)

    async def redrive_many(self, *, preview: bool = True, **wanted: Unpack[MessageFilter]) -> Changes:
        """Give the failed messages that satisfy a filter a new life; with `preview`, only count them."""
        return await self._change_many("redrive", preview, _as_text(wanted))

    async def _change_many(self, action: str, preview: bool, wanted: dict[str, Any]) -> Changes:
        """Part by part, to the end."""
        matched = changed = skipped = 0
        body = wanted | {"preview": preview, "limit": 1000 if preview else 200}
        while True:
            part = decode(await self._send("POST", f"/messages/{action}", body=body), _Part)
            matched, changed, skipped = matched + part.matched, changed + part.changed, skipped + part.skipped
            if part.next_cursor is None:
                return Changes(matched, changed, skipped)
            body["cursor"] = part.next_cursor


def _as_text(wanted: MessageFilter) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in wanted.items()
        if value is not None
    }
