"""Call the agent once: decode its input, and turn its return or exception into an outcome.

The same in the worker and in an agent's own process.
"""

import asyncio
from typing import Any

import msgspec

from service.agents.contract import Rejected
from service.agents.definition import Agent
from service.agents.os_threads import Threads
from service.agents.thread_bridge import ThreadBridge
from service.config import Settings
from service.leases.model import Claim, Outcome
from service.worker.context.attempt_context import AttemptContext
from service.worker.context.backend import ContextBackend
from service.worker.outcome import completed, failed
from service.worker.sync_agents import SyncContext


async def invoke(agent: Agent, claim: Claim, backend: ContextBackend, settings: Settings, threads: Threads) -> Outcome:
    """Run the agent to its end. An exception of the agent, SystemExit included, becomes an outcome; only a
    CancelledError of a stopped attempt is raised."""
    try:
        context = AttemptContext(
            claim,
            _read(claim.metadata),
            backend,
            max_event_bytes=settings.max_event_bytes,
            in_thread=not agent.is_async,
            client_state=agent.limits.client_state,
        )
        request = agent.decode(_read(claim.body))
        if agent.is_async:
            return context.complete(completed(await agent(context, request), settings))
        bridge = ThreadBridge()
        try:
            outcome = await threads.run_agent(
                _invoke_sync, agent, SyncContext(context, bridge), request, claim, settings
            )
        finally:
            bridge.close()
        return context.complete(outcome) if outcome.kind == "completed" else outcome
    except asyncio.CancelledError as error:
        if backend.stopped:
            raise
        return failed(error, claim, settings)
    except BaseException as error:
        return failed(error, claim, settings)


def _invoke_sync(agent: Agent, context: SyncContext, request: Any, claim: Claim, settings: Settings) -> Outcome:
    """In a thread. Exceptions become outcomes here, because a future cannot carry StopIteration."""
    try:
        return completed(agent(context, request), settings)
    except BaseException as error:
        return failed(error, claim, settings)


def _read(text: str) -> Any:
    """JSON of a message; raises Rejected for JSON that SQL accepted and Python does not (1e999, deep nesting)."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Rejected(f"The message cannot be read: {error}.") from None
