"""LangGraph's store for graphs: the store of the subject whose message runs, or of its tenant, in PostgreSQL.

Imported only when a graph runs.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchItem,
    SearchOp,
)

from service.agents.thread_bridge import ThreadBridge
from service.agents.tool_events import plain

BATCH_CALLS = 100  # at once, each group in one transaction (sql/78_store.sql)
NOT_HERE = "An async node awaits the store: aput, aget, asearch, adelete, alist_namespaces."


@runtime_checkable
class UsesStore(Protocol):
    """A context that has a store."""

    async def use_store(self, calls: Sequence[dict[str, Any]]) -> list[Any]: ...


class ItemStore(BaseStore):
    """Values are JSON. A search finds by namespace and filter, not by meaning (`query`). A change is stored at once; it
    stays if the attempt fails later, and a later attempt makes it again."""

    def __init__(self, context: UsesStore, bridge: ThreadBridge) -> None:
        """`bridge`: for sync nodes; it ends with the attempt."""
        self._context = context
        self._bridge = bridge

    supports_ttl = True

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        asked = list(ops)
        calls = [_call(op) for op in asked]
        answers: list[Any] = []
        for begin in range(0, len(calls), BATCH_CALLS):
            answers += await self._context.use_store(calls[begin : begin + BATCH_CALLS])
        return [_answer(op, answer) for op, answer in zip(asked, answers, strict=True)]

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """For sync nodes, which run in threads. Raises asyncio.CancelledError once the attempt has ended."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._bridge.wait(self.abatch(ops))
        raise RuntimeError(NOT_HERE)


def _call(op: Op) -> dict[str, Any]:
    wanted: dict[str, Any]
    match op:
        case GetOp():
            return {"op": "get", "namespace": list(op.namespace), "key": op.key, "refresh": op.refresh_ttl}
        case PutOp(value=None):
            return {"op": "delete", "namespace": list(op.namespace), "key": op.key}
        case PutOp():
            place = {"namespace": list(op.namespace), "key": op.key}
            return {"op": "put", **place, "value": plain(op.value), "ttl": op.ttl}
        case SearchOp():
            wanted = {"prefix": list(op.namespace_prefix), "filter": plain(op.filter)}
            return {"op": "search", **wanted, "limit": op.limit, "offset": op.offset, "refresh": op.refresh_ttl}
        case ListNamespacesOp():
            wanted = {**_conditions(op.match_conditions or ()), "max_depth": op.max_depth}
            return {"op": "namespaces", **wanted, "limit": op.limit, "offset": op.offset}
    raise TypeError(f"a store does not know {type(op).__name__}")


def _conditions(given: Iterable[MatchCondition]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for condition in given:
        if condition.match_type in found:
            raise ValueError("namespaces are listed by one prefix and one suffix")
        found[condition.match_type] = list(condition.path)
    return found


def _answer(op: Op, answer: Any) -> Any:
    match op:
        case GetOp():
            return None if answer is None else Item(**{**answer, "namespace": tuple(answer["namespace"])})
        case SearchOp():
            return [SearchItem(**{**item, "namespace": tuple(item["namespace"])}) for item in answer]
        case ListNamespacesOp():
            return [tuple(labels) for labels in answer]
    return None
