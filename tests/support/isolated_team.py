"""A team that worker processes import: its model writes its requests to a file, and waits at the third task until
a gate is open."""

import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from service.agents.resolver.model_requests import DoTask, ModelRequest
from service.agents.resolver.scripted import Scripted
from service.agents.resolver.team import team
from tests.support.gates import until_open


class Noted(Scripted):
    async def stream(self, request: ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        name = f"task {request.task.id}" if isinstance(request, DoTask) else request.role
        with Path(os.environ["TEST_NOTES"]).open("a") as notes:  # noqa: ASYNC230
            notes.write(f"{name}\n")
        if name == "task t3":
            await until_open(os.environ["TEST_GO"])
        async with aclosing(super().stream(request, usage)) as pieces:
            async for piece in pieces:
                yield piece


noted, bystander = team(Noted(), "noted", "bystander")
