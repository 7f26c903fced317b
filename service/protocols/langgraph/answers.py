"""Assistants, threads, runs and states as clients of the dialect read them. Pure functions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.messages.model import Status
from service.protocols.langgraph.checkpoints import BEGIN, input_ids, shown
from service.protocols.langgraph.conversation import (
    OWN_METADATA,
    Exchange,
    input_messages,
    values_after,
    with_messages,
)
from service.protocols.langgraph.find import Found
from service.protocols.langgraph.ids import assistant_id, interrupts_of
from service.protocols.langgraph.lookup.store import ThreadRow
from service.protocols.langgraph.model import Json
from service.queues.model import Agent

START = "__start__"  # LangGraph's name for the place where an input waits


def assistant(agent: Agent) -> Json:
    return {
        "assistant_id": assistant_id(agent.agent),
        "graph_id": agent.agent,
        "name": agent.agent,
        "description": agent.description or None,
        "version": 1,
        "config": {},
        "context": {},
        "metadata": {"created_by": "system"},
        "created_at": agent.registered_at,
        "updated_at": agent.registered_at,
    }


def schemas(agent: Agent) -> Json:
    """Those of its graph; of another agent, those of its messages."""
    state = {"type": "object", "properties": {"messages": {"type": "array", "items": {"type": "object"}}}}
    known = {"input_schema": agent.input or state, "output_schema": state, "state_schema": state}
    known |= {"config_schema": {}, "context_schema": {}}
    graph = agent.settings.get("graph")
    return {"graph_id": agent.agent, **known, **(graph if isinstance(graph, dict) else {})}


def thread(row: ThreadRow, values: Json | None, interrupts: Sequence[Json], turn_id: str | None) -> Json:
    return {
        "thread_id": row.thread_id,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "state_updated_at": row.updated_at,
        "metadata": row.metadata,
        "status": row.status,
        "config": {},
        "values": values,
        "interrupts": {turn_id: list(interrupts)} if interrupts else {},
    }


def run(found: Found) -> Json:
    message, kept = found.message, found.placed.exchange.kept
    kwargs = msgspec.to_builtins(kept)
    kwargs["input"] = message.user_message if kept.input is None else kept.input
    return {
        "run_id": str(found.run_id),
        "thread_id": found.thread_id,
        "assistant_id": assistant_id(message.agent),
        "created_at": message.created_at,
        "updated_at": message.completed_at or message.started_at or message.created_at,
        "status": found.status,
        "metadata": {name: value for name, value in message.metadata.items() if name not in OWN_METADATA},
        "kwargs": kwargs,
        "multitask_strategy": kept.multitask_strategy,
    }


def open_interrupts(exchange: Exchange) -> list[Json]:
    """Of the message that has the turn."""
    asks = exchange.message.asks
    return [] if asks is None else interrupts_of(msgspec.to_builtins(asks), exchange.graph)


def states(
    row: ThreadRow, exchanges: Sequence[Exchange], first: Json | None, earlier: Json | None = None
) -> list[Json]:
    """The states of a thread before and after each of these exchanges, which are in their order; the newest first.
    `first`: the values with which the thread began. `earlier`: those before the exchanges, if there were others."""
    found: list[Json] = []
    begin = values_after((), first)
    values = begin if earlier is None else earlier
    after: dict[str, Json] = {BEGIN: begin}
    parent: Json | None = None
    for exchange in shown(exchanges):
        kept, message_id = exchange.kept, str(exchange.message.message_id)
        if kept.checkpoint is not None:
            values = after.get(kept.checkpoint, begin)
            parent = checkpoint_of(row, kept.parent) if kept.parent else None
        if kept.update is None and not (kept.parent or "").endswith("-1"):  # which shares the input
            found += _input_states(row, exchange, values, parent, len(found))
            parent = found[-1]["checkpoint"]
        values = after[message_id] = (
            _pending_values(exchange, values) if exchange.is_open else values_after([exchange], values)
        )
        checkpoint = checkpoint_of(row, message_id)
        found.append(_state(exchange, values, checkpoint, parent, len(found)))
        parent = checkpoint
    if not found:
        found.append(empty_state(row, values))
    return found[::-1]


def empty_state(row: ThreadRow, values: Json) -> Json:
    """Of a thread without a run."""
    return {
        "values": values,
        "next": [],
        "tasks": [],
        "checkpoint": {"thread_id": row.thread_id, "checkpoint_ns": "", "checkpoint_id": None, "checkpoint_map": None},
        "metadata": row.metadata,
        "created_at": row.created_at,
        "parent_checkpoint": None,
        "interrupts": [],
    }


def _pending_values(exchange: Exchange, values: Json) -> Json:
    state = exchange.graph.get("data") if exchange.graph else None
    return state if isinstance(state, dict) else with_messages(values, input_messages(exchange.message))


def checkpoint_of(row: ThreadRow, checkpoint_id: str) -> Json:
    return {
        "thread_id": row.thread_id,
        "checkpoint_ns": "",
        "checkpoint_id": checkpoint_id,
        "checkpoint_map": None,
    }


def _input_states(row: ThreadRow, exchange: Exchange, values: Json, parent: Json | None, step: int) -> list[Json]:
    """Before an exchange: its input waits; then it is a part of the state, and nothing has run."""
    ids = input_ids(exchange)
    said = [item | {"id": ids.get(str(item.get("content")), item["id"])} for item in input_messages(exchange.message)]
    states: list[Json] = []
    for suffix, source, node in (("-0", "input", START), ("-1", "loop", exchange.message.agent)):
        checkpoint = checkpoint_of(row, f"{exchange.message.message_id}{suffix}")
        told = values if node == START else with_messages(values, said)
        state = _snapshot(exchange, told, checkpoint, parent, source, step + len(states))
        states.append(state | {"next": [node], "tasks": [_task(exchange.message, node, [])]})
        parent = checkpoint
    return states


def _state(exchange: Exchange, values: Json, checkpoint: Json, parent: Json | None, step: int) -> Json:
    """After an exchange, or while it is open."""
    message = exchange.message
    interrupts = open_interrupts(exchange)
    following = exchange.graph.get("next") if exchange.graph else None
    nodes: list[Any] = following if isinstance(following, list) else []
    if exchange.is_open:
        nodes = nodes or [message.agent]
    elif message.state != "completed":
        nodes = []
    source = "loop" if exchange.kept.update is None else "update"
    return _snapshot(exchange, values, checkpoint, parent, source, step) | {
        "next": nodes,
        "tasks": [_task(message, node, interrupts) for node in nodes],
        "created_at": message.completed_at or message.created_at,
        "interrupts": interrupts,
    }


def _snapshot(exchange: Exchange, values: Json, checkpoint: Json, parent: Json | None, source: str, step: int) -> Json:
    message = exchange.message
    return {
        "values": values,
        "next": [],
        "tasks": [],
        "checkpoint": checkpoint,
        "metadata": {
            "run_id": str(message.message_id),
            "thread_id": checkpoint["thread_id"],
            "graph_id": message.agent,
            "assistant_id": assistant_id(message.agent),
            "source": source,
            "step": step,
            "parents": {},
        },
        "created_at": message.created_at,
        "parent_checkpoint": parent,
        "interrupts": [],
    }


def _task(message: Status, node: Any, interrupts: Sequence[Json]) -> Json:
    return {
        "id": str(message.message_id),
        "name": node,
        "path": ["__pregel_pull", node],
        "error": None,
        "interrupts": list(interrupts),
        "checkpoint": None,
        "state": None,
        "result": None,
    }
