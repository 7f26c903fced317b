"""Agents that wait until the test releases them, one that rejects everything, and one that doubles a text."""

import asyncio

from tests.support.waiting import until
from treadle import Agent, Context, Rejected, agent


def gate_agent() -> tuple[Agent, list[str], asyncio.Event]:
    """An agent that waits, the inputs it waits with, and the event that releases all of them."""
    waiting: list[str] = []
    release = asyncio.Event()

    @agent("gate")
    async def wait(context: Context, request: str) -> str:
        waiting.append(request)
        await release.wait()
        return request

    return wait, waiting, release


class HoldingAgent:
    """An agent that holds its messages until `release` is set; `interrupted` has the messages that were cancelled."""

    def __init__(self, queue: str = "default") -> None:
        self.inside: set[str] = set()
        self.interrupted: set[str] = set()
        self.release = asyncio.Event()

        @agent("holding", queue=queue, max_attempts=1)
        async def hold(context: Context, text: str) -> str:
            """Holds messages."""
            self.inside.add(context.message_id)
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.interrupted.add(context.message_id)
                raise
            return text

        self.agent = hold

    async def holds(self, *ids: str) -> None:
        """Wait until the agent holds these messages."""
        await until(lambda: self.inside, lambda found: found >= set(ids))


class CountingAgent:
    """An agent that holds its messages until `release` is set, and counts how many it holds, and held at most."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.release = asyncio.Event()

        @agent("count")
        async def count(context: Context, request: str) -> None:
            """Counts its messages."""
            self.running += 1
            self.most = max(self.most, self.running)
            await self.release.wait()
            self.running -= 1

        self.agent = count


@agent("reject")
async def reject(_: Context, text: str) -> str:
    """Rejects everything."""
    raise Rejected(f"No {text}.")


@agent("double")
async def double(context: Context, text: str) -> str:
    """Returns the text twice."""
    if text == "bad":
        raise Rejected("Not that.")
    return text * 2
