"""The agent's part of an attempt: decode, run, and make an outcome of how it ended. The same in the worker and in a
child."""

import asyncio
from typing import Any

import msgspec

from service.agents.contract import Rejected
from service.agents.definition import Agent
from service.config import Settings
from service.queues.model import Claim
from service.worker.context import AttemptContext, Backing
from service.worker.outcome import Outcome, completed, failed
from service.worker.sync_agents import SyncContext, SyncRunner


async def call(agent: Agent, claim: Claim, backing: Backing, settings: Settings, sync: SyncRunner) -> Outcome:
    """Run the agent to its end. Nothing it raises, SystemExit included, gets further than this; a CancelledError does
    where the attempt was stopped."""
    try:
        context = AttemptContext(
            claim,
            _read(claim.metadata),
            backing,
            max_event_bytes=settings.max_event_bytes,
            in_thread=not agent.is_async,
        )
        request = agent.decode(_read(claim.body))
        if agent.is_async:
            return context.concluded(completed(await agent(context, request), settings))
        in_thread = SyncContext(context, asyncio.get_running_loop())
        try:
            outcome = await sync.run(_call_sync, agent, in_thread, request, claim.failures, settings)
        finally:
            in_thread.end()
        return context.concluded(outcome) if outcome.kind == "completed" else outcome
    except asyncio.CancelledError as error:
        if backing.stopped():
            raise
        return failed(error, claim.failures, settings)
    except BaseException as error:
        return failed(error, claim.failures, settings)


def _call_sync(agent: Agent, context: SyncContext, request: Any, failures: int, settings: Settings) -> Outcome:
    """In a thread. What the agent raises stays here: no future can carry StopIteration."""
    try:
        return completed(agent(context, request), settings)
    except BaseException as error:
        return failed(error, failures, settings)


def _read(text: str) -> Any:
    """JSON of a message; raises Rejected where it came from SQL and is more than Python takes (1e999, deep nests)."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Rejected(f"The message cannot be read: {error}.") from None
