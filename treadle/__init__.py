"""Treadle for authors of agents.

    from treadle import Context, agent

    @agent("shout")
    async def shout(context: Context, text: str) -> str:
        return text.upper()

`treadle.adapters` has agents that other frameworks and services run; `treadle.resolver` has the team of planner,
executors and aggregator. The package `service` is internal.
"""

from service.agents.contract import ChildFailed, Context, Exchange, Overloaded, Rejected, RetryAfter, UnderWay
from service.agents.definition import Agent, agent
from service.agents.limits import LimitOptions, Limits

__all__ = [
    "Agent",
    "ChildFailed",
    "Context",
    "Exchange",
    "LimitOptions",
    "Limits",
    "Overloaded",
    "Rejected",
    "RetryAfter",
    "UnderWay",
    "agent",
]
