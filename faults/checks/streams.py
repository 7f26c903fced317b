"""Whether the events that readers saw are the log."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from faults.history import Reading, Seen


def streams(readings: Iterable[Reading], logs: Mapping[str, Sequence[Any]], messages: Mapping[str, Any]) -> list[str]:
    """Each reader saw the log from its start, event by event, and all of it if its stream ended or is a thread's.

    `logs` are rows of events by the id of their message or thread."""
    wrong = []
    for reading in readings:
        what = reading.message_id or str(reading.thread_id)
        if reading.message_id:
            log = [(row["seq"], row["type"], _data(row, messages)) for row in logs.get(what, ())]
        else:
            log = [(row["thread_pos"], row["type"], _of_thread(row, messages)) for row in logs.get(what, ())]
        seen = [(event.position, event.type, _comparable(event)) for event in reading.events]
        if (reading.over or reading.thread_id) and len(seen) != len(log):
            wrong.append(f"{what}: a reader saw {len(seen)} events to the end, and there are {len(log)}")
        if seen != log[: len(seen)]:
            at = next(n for n, (ours, theirs) in enumerate(zip(seen, [*log, None], strict=False)) if ours != theirs)
            wrong.append(f"{what}: at place {at} a reader saw {str(seen[at])[:200]}, not {str(log[at : at + 1])[:200]}")
    return wrong


# The data of `queued` and `done` come from the message; only the fields that the client knows are compared.
KEPT_FIELDS = {"queued": {"message", "agent", "thread_id"}, "done": {"state", "result"}}


def _comparable(event: Seen) -> Any:
    kept = KEPT_FIELDS.get(event.type)
    if kept is None:
        return event.data
    return {name: value for name, value in event.data.items() if name in kept | {"message_id", "seq"}}


def _data(row: Any, messages: Mapping[str, Any]) -> Any:
    message = messages.get(row["message_id"])
    if message is not None and row["type"] == "queued":
        return {"message": message["key"], "agent": message["agent"], "thread_id": message["thread_id"]}
    if message is not None and row["type"] == "done":
        return {"state": "completed", "result": message["result"]}
    return msgspec.json.decode(row["data"] or '{"state": "cancelled"}')


def _of_thread(row: Any, messages: Mapping[str, Any]) -> Any:
    return _data(row, messages) | {"message_id": row["message_id"], "seq": row["seq"]}
