"""Whether a run is evidence at all: without messages, executions, readings and faults it proves nothing."""

from collections.abc import Iterable, Sequence

from faults.agents import Note
from faults.history import Fault, History


def missing(history: History, notes: Sequence[Note]) -> list[str]:
    there = {
        "no client submitted anything": history.sent,
        "no agent noted that it ran": [note for note in notes if note.what == "begin"],
        "no reader of a message saw an event": [one for one in history.readings if one.message_id and one.events],
        "no reader of a thread saw an event": [one for one in history.readings if one.thread_id and one.events],
    }
    return [sentence for sentence, found in there.items() if not found]


def faults_without_effect(faults: Iterable[Fault]) -> list[str]:
    """Types of faults that were tried but never had an effect, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for fault in faults:
        reasons.setdefault(fault.name, []).append(fault.detail)
    return [f"{name}: {'; '.join(dict.fromkeys(ours))}" for name, ours in reasons.items() if all(ours)]
