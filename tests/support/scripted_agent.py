"""An agent that emits what the test tells it to."""

import asyncio
from collections import defaultdict
from typing import Any

from treadle import Context, agent


class ScriptedAgent:
    """An agent that emits what the test hands to `say`: texts, (type, data) pairs, errors to raise; None ends it."""

    def __init__(self) -> None:
        self.lines: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

        @agent("script", max_attempts=2)
        async def script(context: Context, text: str) -> str:
            """Says what it is told."""
            said = ""
            while (line := await self.lines[context.message_id].get()) is not None:
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, str):
                    said += line
                    await context.emit(line)
                else:
                    await context.event(*line)
            return said

        self.agent = script

    def say(self, message_id: str, *lines: Any) -> None:
        for line in lines:
            self.lines[message_id].put_nowait(line)
