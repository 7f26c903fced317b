"""Treadle for authors of agents, and for programs that call the HTTP API.

    from treadle import Context, agent

    @agent("shout")
    async def shout(context: Context, text: str) -> str:
        return text.upper()

`treadle.adapters` has agents that other frameworks and services run; `treadle.resolver` has the team of planner,
executors and aggregator. `Client` and `AsyncClient` call a server, and `Worker` runs agents in your own program;
`treadle.sql` submits in your own transaction. The package `service` is internal.
"""

from typing import TYPE_CHECKING, Any

from service.agents.contract import ChildFailed, Context, Exchange, Overloaded, Rejected, RetryAfter, UnderWay
from service.agents.definition import Agent, agent
from service.agents.limits import LimitOptions, Limits

if TYPE_CHECKING:
    from treadle.client import AsyncClient, Client
    from treadle.worker import Worker

__all__ = [
    "Agent",
    "AsyncClient",
    "ChildFailed",
    "Client",
    "Context",
    "Exchange",
    "LimitOptions",
    "Limits",
    "Overloaded",
    "Rejected",
    "RetryAfter",
    "UnderWay",
    "Worker",
    "agent",
]


def __getattr__(name: str) -> Any:
    """The clients, imported when they are first used: agents do without their HTTP library."""
    if name in ("AsyncClient", "Client"):
        from treadle import client

        return getattr(client, name)
    if name == "Worker":
        from treadle import worker

        return worker.Worker
    raise AttributeError(f"module 'treadle' has no attribute {name!r}")
