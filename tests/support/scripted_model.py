"""A scripted model for the resolver. It records its requests, and waits or fails where the test wants it to."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from service.agents.resolver.model_requests import Clarify, DoTask, MakePlan, ModelRequest, RevisePlan
from service.agents.resolver.scripted import Scripted
from service.agents.resolver.team import team
from tests.support.api_client import Client
from tests.support.sse_reader import stored_log
from tests.support.waiting import until
from treadle import Agent

QUERY = "Describe the bread. Describe the butter. Then compare them."  # t1 and t2, then t3


def request_name(request: ModelRequest) -> str:
    return f"task {request.task.id}" if isinstance(request, DoTask) else request.role


class ScriptedModel(Scripted):
    """The planner answers with `plans`, one after another. `hold` makes a request wait until `let_go`; `fail` makes it
    raise, once for each error."""

    def __init__(self, *plans: Any) -> None:
        self.requests: list[ModelRequest] = []
        self.plans = [plan if isinstance(plan, str) else json.dumps({"tasks": plan}) for plan in plans]
        self.held: list[str] = []  # that wait now, or were interrupted
        self.interrupted: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}
        self._errors: dict[str, list[Exception]] = {}

    @property
    def asked(self) -> list[str]:
        return [request_name(request) for request in self.requests]

    @property
    def agents(self) -> tuple[Agent, Agent]:
        return team(self)

    def hold(self, *names: str) -> None:
        self._gates |= {name: asyncio.Event() for name in names}

    def let_go(self, *names: str) -> None:
        for name in names or tuple(self._gates):
            self._gates[name].set()

    def fail(self, name: str, *errors: Exception) -> None:
        self._errors[name] = list(errors)

    async def holds(self, *names: str) -> None:
        await until(lambda: self.held, lambda held: set(held) == set(names))

    async def failed(self, name: str) -> None:
        """Wait until the model has raised all errors of this request."""
        await until(lambda: not self._errors[name])

    async def stream(self, request: ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        name = request_name(request)
        self.requests.append(request)
        if name in self._gates:
            await self._wait(name)
        if self._errors.get(name):
            raise self._errors[name].pop(0)
        if isinstance(request, MakePlan | RevisePlan) and self.plans:
            yield self.plans.pop(0)
            return
        async with aclosing(super().stream(request, usage)) as pieces:
            async for piece in pieces:
                yield piece

    async def _wait(self, name: str) -> None:
        self.held.append(name)
        try:
            await self._gates[name].wait()
        except asyncio.CancelledError:
            self.interrupted.append(name)
            raise
        finally:
            self.held.remove(name)

    def last(self, kind: type[Any]) -> Any:
        return next(request for request in reversed(self.requests) if isinstance(request, kind))

    @property
    def progress(self) -> Any:
        """The progress that the clarifier received last."""
        return self.last(Clarify).progress


def task(name: str, *after: str) -> dict[str, Any]:
    return {"id": name, "title": f"Title {name}", "instruction": f"Do {name}.", "after": list(after)}


async def ask_resolver(api: Client, message: str = QUERY, **fields: Any) -> str:
    return await api.submit(message, **{"agent": "resolver", "thread_id": "t", "metadata": {"pace_ms": 0}, **fields})


async def has_event(api: Client, message_id: str, type: str, **data: Any) -> None:
    """Wait until the message's log has an event of this type with these data."""
    await until(
        lambda: stored_log(api, message_id),
        lambda events: any(event.type == type and data.items() <= event.data.items() for event in events),
    )


async def ask_and_settle(api: Client, message: str = QUERY, **fields: Any) -> dict[str, Any]:
    return await api.settled(await ask_resolver(api, message, **fields))
