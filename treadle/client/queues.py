"""Calls about queues, agents, workers and access."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct

from treadle.client.connection import Connection, decode, next_cursor, segment
from treadle.client.details import Instance, Statistics
from treadle.client.model import Agent, DeadLetter, Page, Queue, Scope, Token, Worker

MAX_PAGE_ITEMS = 1_000  # of one answer


class _DeadLetterPage(Struct, frozen=True):
    dead_letters: list[DeadLetter]
    next_cursor: str | None


class Queues(Connection):
    async def queues(self) -> list[Queue]:
        """All queues with their figures."""
        return await self._list("/queues", list[Queue])

    async def pause(self, queue: str) -> Queue:
        """Let no worker claim from a queue; what runs goes on. Raises NotFound."""
        return decode(await self._send("POST", f"/queues/{segment(queue)}/pause"), Queue)

    async def resume(self, queue: str) -> Queue:
        """Let workers claim from a queue again. Raises NotFound."""
        return decode(await self._send("POST", f"/queues/{segment(queue)}/resume"), Queue)

    async def dead_letters(self, queue: str, *, limit: int = 100, cursor: str | None = None) -> Page[DeadLetter]:
        """A page of the failed messages of a queue, the newest first. Raises NotFound."""
        path = f"/queues/{segment(queue)}/dead-letters"
        page = decode(await self._send("GET", path, query={"limit": limit, "cursor": cursor}), _DeadLetterPage)
        return Page(page.dead_letters, page.next_cursor)

    async def agents(self) -> list[Agent]:
        """The registered agents."""
        return await self._list("/agents", list[Agent])

    async def workers(self) -> list[Worker]:
        """The living workers."""
        return await self._list("/workers", list[Worker])

    async def stats(
        self,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        step_seconds: int = 0,
        queue: str | None = None,
        agent: str | None = None,
        by: Literal["queue", "agent"] | None = None,
    ) -> Statistics:
        """What happened, in steps of time: counts, percentiles, tokens and cost.

        begin, end    Default: the last hour.
        step_seconds  A multiple of 60, or 0 for any.
        by            The figures of each queue or agent by itself.
        """
        query = {
            "from": None if begin is None else begin.isoformat(),
            "to": None if end is None else end.isoformat(),
            "step": step_seconds,
            "queue": queue,
            "agent": agent,
            "by": by,
        }
        return decode(await self._send("GET", "/stats", query=query), Statistics)

    async def instances(
        self, *, agent: str | None = None, thread_id: str | None = None, limit: int = 100
    ) -> list[Instance]:
        """The warm instances that workers keep, the newest first, at most `limit`."""
        found: list[Instance] = []
        cursor: str | None = None
        while True:
            page_limit = min(limit - len(found), MAX_PAGE_ITEMS)
            query = {"agent": agent, "thread_id": thread_id, "limit": page_limit, "cursor": cursor}
            answer = await self._send("GET", "/instances", query=query)
            found += decode(answer, list[Instance])
            cursor = next_cursor(answer)
            if cursor is None or len(found) >= limit:
                return found

    async def drop_instance(self, agent: str, thread_id: str) -> None:
        """Let workers drop the instance of an agent for a thread. Raises NotFound if there is no such agent."""
        await self._send("DELETE", f"/instances/{segment(agent)}/{segment(thread_id)}")

    async def health(self) -> dict[str, Any]:
        """Whether the service can work. Raises Unavailable."""
        return decode(await self._send("GET", "/health"), dict[str, Any])

    async def create_token(
        self,
        scopes: list[Scope],
        *,
        thread_id: str | None = None,
        message_id: UUID | str | None = None,
        subject: str | None = None,
        expires_in: float | None = None,
    ) -> Token:
        """Create an access token for a browser, restricted to a thread, a message or a subject.

        expires_in  Seconds; default: an hour.

        Raises Forbidden if the key of this client has fewer scopes.
        """
        fields = {
            "scopes": scopes,
            "thread_id": thread_id,
            "message_id": message_id,
            "subject": subject,
            "expires_in": expires_in,
        }
        body = {name: value for name, value in fields.items() if value is not None}
        return decode(await self._send("POST", "/tokens", body=body), Token)
