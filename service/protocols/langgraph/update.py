"""Changes the state of a thread: a message to its graph, which makes the change in its turn."""

import asyncio

import msgspec

from service.access.principal import Principal
from service.errors import NotFound, Unprocessable
from service.messages.model import NewMessage
from service.messages.validation import validate_messages
from service.protocols.langgraph.answers import checkpoint_of
from service.protocols.langgraph.checkpoints import find_base, named_checkpoint
from service.protocols.langgraph.lookup.store import ThreadRow
from service.protocols.langgraph.model import Json, Kept, StateUpdate
from service.protocols.langgraph.services import LangGraphServices
from service.queues.model import Agent

ONLY_GRAPHS = "The thread has no graph whose state could change: begin a run of a LangGraph graph in it first."
UPDATE_SECONDS = 30.0  # that the answer waits for the change; it is made in any case


async def update_state(services: LangGraphServices, principal: Principal, thread_id: str, wanted: StateUpdate) -> Json:
    """The checkpoint of the new state. Raises NotFound, Unprocessable, and Conflict while a run is open."""
    row = await services.store.thread(principal, thread_id)
    agent = await _graph_of(services, principal, row)
    update = {"values": wanted.values, "as_node": wanted.as_node}
    base = await find_base(services, row, named_checkpoint(wanted.checkpoint_id, wanted.checkpoint), agent)
    kept = Kept(update=update, graph=True, stream_mode=())
    if base is not None:
        kept = msgspec.structs.replace(kept, checkpoint=base.after, parent=base.named)
    message = NewMessage(
        {},
        thread_id=thread_id,
        agent=agent.agent,
        metadata={"langgraph": msgspec.to_builtins(kept)},
        on_busy="reject",
    )
    validate_messages([message], services.settings, in_batch=False)
    accepted = await services.messages.submit(principal, message, ends_question=base is not None)
    try:
        async with asyncio.timeout(UPDATE_SECONDS):
            async for entries in services.follower.follow(principal, accepted.message_id, 0):
                if entries and entries[-1].last:
                    break
    except TimeoutError:
        pass
    changed = (await services.store.exchange(principal, accepted.message_id)).exchange
    if changed.message.state == "failed":
        raise Unprocessable(f"The graph refuses the change: {changed.message.error}")
    return {"checkpoint": checkpoint_of(row, str(accepted.message_id))}


async def _graph_of(services: LangGraphServices, principal: Principal, row: ThreadRow) -> Agent:
    """The graph of the thread's last run."""
    last = await services.store.exchanges(row.thread, 1, 1)
    named = last[0].exchange.message.agent if last else str(row.metadata.get("graph_id"))
    try:
        agent = await services.agent(principal, named)
    except NotFound:
        raise Unprocessable(ONLY_GRAPHS) from None
    if "graph" not in agent.settings:
        raise Unprocessable(ONLY_GRAPHS)
    return agent
