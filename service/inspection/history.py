"""The attempts and the marks of a message, made from the milestones of its log."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from service.inspection.model import Attempt, Mark, Outcome

ENDS: dict[str, Outcome] = {
    "done": "completed",
    "error": "failed",
    "cancelled": "cancelled",
    "retry": "retry",
    "parked": "parked",
}
MARKS = frozenset({"step", "tool", "parked", "input"})


class Milestone(NamedTuple):
    """A row of treadle.milestones."""

    seq: int
    type: str
    data: dict[str, Any]
    at: datetime


def read_history(milestones: Sequence[Milestone]) -> tuple[list[Attempt], list[Mark]]:
    attempts: list[Attempt] = []
    marks: list[Mark] = []
    ready = last = None
    calls: dict[Any, datetime] = {}  # of tools that have not answered yet
    for found in milestones:
        data = found.data or {}
        if found.type == "started":
            waited = 0.0 if ready is None else max(0.0, (found.at - ready).total_seconds())
            attempts.append(Attempt(data.get("attempt", 0), found.at, None, None, None, waited))
        elif attempts and attempts[-1].ended_at is None and found.type in ENDS:
            running = attempts.pop()
            outcome = ENDS[found.type]
            attempts.append(
                Attempt(
                    running.attempt, running.started_at, found.at, outcome, data.get("error"), running.waited_seconds
                )
            )
        if found.type in MARKS:
            attempt = attempts[-1].attempt if attempts else 0
            began = last or found.at
            if found.type == "tool" and isinstance(data.get("id"), str):
                key = (attempt, data["id"])
                began = calls.pop(key, found.at)
                if began == found.at:
                    calls[key] = found.at
            marks.append(
                Mark(
                    found.seq,
                    found.type,  # type: ignore[arg-type]  # one of MARKS
                    data.get("name"),
                    attempt,
                    began,
                    found.at,
                    data.get("shown"),
                    data.get("usage"),
                )
            )
        if found.type in ("queued", "retry", "parked", "input"):
            ready = found.at
        last = found.at
    return attempts, marks
