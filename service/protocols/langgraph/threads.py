"""/threads: a conversation, and its values."""

from typing import Any

import msgspec
import uuid_utils.compat as uuid
from litestar.params import FromPath, JSONBody

from service.access.authenticator import require
from service.access.principal import Principal
from service.errors import Conflict, NotFound, Unprocessable
from service.limits import HISTORY_EXCHANGES, JSON_PAGE_BYTES, MAX_BEGUN_MEMORY_BYTES
from service.messages.validation import validate_metadata
from service.params import parse_thread_id
from service.protocols.langgraph.answers import open_interrupts, states, thread
from service.protocols.langgraph.calls import Asked, Caller, Services, delete, get, page, patch, post
from service.protocols.langgraph.conversation import Exchange, graph_values, values_after
from service.protocols.langgraph.lookup.store import ThreadRow, check_size
from service.protocols.langgraph.model import (
    CheckpointChoice,
    HistorySearch,
    Json,
    NewThread,
    StateUpdate,
    ThreadChanges,
    ThreadSearch,
)
from service.protocols.langgraph.services import COPIED, LangGraphServices, copied_history, first_values
from service.protocols.langgraph.update import update_state

NO_SUPERSTEPS = "supersteps are not supported: begin a thread with a run."
NO_VALUES = "Threads cannot be found by their values: search by metadata, status or ids."
TOO_LARGE = "The values of the thread are too large to be copied."
MAX_WITH_VALUES = 100  # threads of one search: the values of each are read
STATES = "langgraph"  # in the memory of a thread: those of its graphs, as the adapter keeps them (thread_state.py)
NEEDS_VALUES = frozenset({"values", "interrupts"})


@post("/threads", scope="submit")
async def create_thread(data: JSONBody[NewThread | None], principal: Caller, langgraph: Services) -> Json:
    wanted = data or NewThread()
    if wanted.supersteps:
        raise Unprocessable(NO_SUPERSTEPS)
    given = wanted.thread_id or principal.thread_id
    thread_id = str(uuid.uuid7()) if given is None else parse_thread_id(given)
    validate_metadata(wanted.metadata)
    is_new = await langgraph.threads.create(principal, thread_id, wanted.metadata or {})
    if not is_new and wanted.if_exists != "do_nothing":
        raise Conflict(f"The thread {thread_id[:100]!r} exists already.")
    if not is_new:
        require(principal, "read")
    return await _whole(langgraph, principal, thread_id)


@post("/threads/search", scope="read")
async def search_threads(data: JSONBody[ThreadSearch], principal: Caller, langgraph: Services) -> list[Json]:
    needs_values = not data.select or not NEEDS_VALUES.isdisjoint(data.select)
    if needs_values and (data.limit or 0) > MAX_WITH_VALUES:
        raise Unprocessable(f"limit must be at most {MAX_WITH_VALUES}, unless select leaves out values and interrupts.")
    rows = await langgraph.store.threads(principal, _searchable(data))
    if not needs_values:
        return page([thread(row, None, [], None) for row in rows], data.select)
    found: list[Json] = []
    size_bytes = 0
    for row in rows:
        found.append(await _with_values(langgraph, row))
        size_bytes += len(msgspec.json.encode(found[-1]))
        check_size(len(found), size_bytes)
    return page(found, data.select)


@post("/threads/count", scope="read")
async def count_threads(data: JSONBody[ThreadSearch], principal: Caller, langgraph: Services) -> int:
    return await langgraph.store.count_threads(principal, _searchable(data))


@get("/threads/{thread_id:str}", scope="read")
async def get_thread(thread_id: FromPath[str], principal: Caller, langgraph: Services) -> Json:
    return await _whole(langgraph, principal, thread_id)


@patch("/threads/{thread_id:str}", scope="submit")
async def change_thread(
    thread_id: FromPath[str], data: JSONBody[ThreadChanges], principal: Caller, langgraph: Services
) -> Json:
    """It adds to the metadata of the thread."""
    require(principal, "read")
    if data.metadata:
        row = await langgraph.store.thread(principal, thread_id)
        validate_metadata(data.metadata)
        await langgraph.threads.change(principal, thread_id, {**row.metadata, **data.metadata})
    return await _whole(langgraph, principal, thread_id)


@delete("/threads/{thread_id:str}", scope="operate")
async def delete_thread(thread_id: FromPath[str], principal: Caller, langgraph: Services) -> None:
    await langgraph.threads.delete(principal, thread_id)


@post("/threads/{thread_id:str}/copy", scope="submit")
async def copy_thread(thread_id: FromPath[str], principal: Caller, langgraph: Services) -> Json:
    """The new thread begins with the values of this one, and with the memory of its agents."""
    require(principal, "read")
    row = await langgraph.store.thread(principal, thread_id)
    exchanges, before = await _exchanges(langgraph, row)
    earlier = copied_history(row)
    completed = await langgraph.threads.exchanges(row.thread, 2**62, HISTORY_EXCHANGES, False, JSON_PAGE_BYTES)
    history = [*earlier, *({"message": one.message, "result": one.result} for one in completed)]
    values = values_after(exchanges, before or first_values(row))
    max_bytes = min(langgraph.settings.max_event_bytes, MAX_BEGUN_MEMORY_BYTES) // 2
    memory = _copied(await _own_memory(langgraph, row), values, history[-HISTORY_EXCHANGES:], max_bytes)
    new = str(uuid.uuid7())
    await langgraph.threads.create(principal, new, row.metadata, memory)
    return await _whole(langgraph, principal, new)


@get("/threads/{thread_id:str}/state", scope="read")
async def get_state(thread_id: FromPath[str], principal: Caller, langgraph: Services) -> Json:
    return (await _states(langgraph, principal, thread_id, needs_oldest=False))[0]


@post("/threads/{thread_id:str}/state", scope="submit", stays_open=True)
async def change_state(
    thread_id: FromPath[str], data: JSONBody[StateUpdate], principal: Caller, langgraph: Services
) -> Json:
    return await update_state(langgraph, principal, thread_id, data)


@get("/threads/{thread_id:str}/state/{checkpoint_id:str}", scope="read")
async def get_earlier_state(
    thread_id: FromPath[str], checkpoint_id: FromPath[str], principal: Caller, langgraph: Services
) -> Json:
    return await _state_at(langgraph, principal, thread_id, checkpoint_id)


@post("/threads/{thread_id:str}/state/checkpoint", scope="read")
async def get_state_at_checkpoint(
    thread_id: FromPath[str], data: JSONBody[CheckpointChoice], principal: Caller, langgraph: Services
) -> Json:
    return await _state_at(langgraph, principal, thread_id, str(data.checkpoint.get("checkpoint_id")))


@post("/threads/{thread_id:str}/history", scope="read")
async def search_history(
    thread_id: FromPath[str], data: JSONBody[HistorySearch], principal: Caller, langgraph: Services
) -> list[Json]:
    """The states of the thread, the newest first."""
    return await _history(langgraph, principal, thread_id, data)


@get("/threads/{thread_id:str}/history", scope="read")
async def get_history(request: Asked, thread_id: FromPath[str], principal: Caller, langgraph: Services) -> list[Json]:
    wanted = HistorySearch(limit=10, before=request.query_params.get("before"))
    return await _history(langgraph, principal, thread_id, wanted)


HANDLERS = [
    *(create_thread, search_threads, count_threads, get_thread, change_thread, delete_thread, copy_thread),
    *(get_state, change_state, get_earlier_state, get_state_at_checkpoint, search_history, get_history),
]


async def _own_memory(langgraph: LangGraphServices, row: ThreadRow) -> Json:
    """The memory of a thread, with the states of its graphs in place of the messages that have them."""
    states = row.memory.get(STATES)
    if not isinstance(states, dict):
        return row.memory
    found = {
        agent: await langgraph.store.state_after(row.thread, str(kept.get("after"))) if isinstance(kept, dict) else kept
        for agent, kept in states.items()
    }
    return {**row.memory, STATES: {agent: state for agent, state in found.items() if state is not None}}


def _copied(memory: Json, values: Json, history: list[Any], max_bytes: int) -> Json:
    """The memory of a copy, with as much of the history as leaves its agents room. Raises Unprocessable."""
    while True:
        found = {**memory, COPIED: {"values": values, "history": history}}
        if len(msgspec.json.encode(found)) <= max_bytes:
            return found
        if not history:
            raise Unprocessable(TOO_LARGE)
        history = history[(len(history) + 1) // 2 :]


def _searchable(wanted: ThreadSearch) -> ThreadSearch:
    if wanted.values:
        raise Unprocessable(NO_VALUES)
    return wanted


async def _exchanges(
    langgraph: LangGraphServices, row: ThreadRow, *, needs_oldest: bool = False
) -> tuple[list[Exchange], Json | None]:
    """The last exchanges in their order, and the values of a graph before them. These are read where no exchange has
    values of a graph, and for the state before the oldest exchange (`needs_oldest`); else they are None."""
    found = await langgraph.store.exchanges(row.thread, HISTORY_EXCHANGES, JSON_PAGE_BYTES)
    exchanges = [one.exchange for one in found]
    before = None
    if found and found[-1].ord > 1 and (needs_oldest or graph_values(exchanges) is None):
        earlier = await langgraph.store.exchanges(row.thread, HISTORY_EXCHANGES, JSON_PAGE_BYTES, found[-1].ord)
        before = graph_values(one.exchange for one in earlier)
    return exchanges[::-1], before


async def _whole(langgraph: LangGraphServices, principal: Principal, thread_id: str) -> Json:
    return await _with_values(langgraph, await langgraph.store.thread(principal, thread_id))


async def _with_values(langgraph: LangGraphServices, row: ThreadRow) -> Json:
    exchanges, before = await _exchanges(langgraph, row)
    state = states(row, exchanges, first_values(row), before)[0]
    waiting = next((exchange for exchange in exchanges if exchange.message.message_id == row.turn), None)
    interrupts = open_interrupts(waiting) if waiting is not None else []
    has_values = (
        any(exchange.counts or exchange.graph for exchange in exchanges) or (before or first_values(row)) is not None
    )
    return thread(row, state["values"] if has_values else None, interrupts, str(row.turn))


async def _states(
    langgraph: LangGraphServices, principal: Principal, thread_id: str, *, needs_oldest: bool = True
) -> list[Json]:
    row = await langgraph.store.thread(principal, thread_id)
    exchanges, before = await _exchanges(langgraph, row, needs_oldest=needs_oldest)
    return states(row, exchanges, first_values(row), before)


async def _state_at(langgraph: LangGraphServices, principal: Principal, thread_id: str, checkpoint_id: str) -> Json:
    for state in await _states(langgraph, principal, thread_id):
        if state["checkpoint"]["checkpoint_id"] == checkpoint_id:
            return state
    raise NotFound(f"There is no checkpoint {checkpoint_id[:100]!r} among the last states of the thread.")


async def _history(
    langgraph: LangGraphServices, principal: Principal, thread_id: str, wanted: HistorySearch
) -> list[Json]:
    found = [state for state in await _states(langgraph, principal, thread_id) if state["checkpoint"]["checkpoint_id"]]
    before = wanted.before.get("configurable", wanted.before) if isinstance(wanted.before, dict) else wanted.before
    before_id = before.get("checkpoint_id") if isinstance(before, dict) else before
    ids = [state["checkpoint"]["checkpoint_id"] for state in found]
    if before_id is not None:  # of one that is not among the last states, those before it are not either
        found = found[ids.index(before_id) + 1 :] if before_id in ids else []
    found = [state for state in found if (wanted.metadata or {}).items() <= state["metadata"].items()]
    return found[: wanted.limit or 10]
