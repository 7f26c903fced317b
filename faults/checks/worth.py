"""Whether a run shows anything at all: where nothing was sent, run, read or broken, no promise was kept either."""

from collections.abc import Iterable, Sequence

from faults.agents import Note
from faults.history import Fault, History


def shows(history: History, notes: Sequence[Note]) -> list[str]:
    there = {
        "no client submitted anything": history.sent,
        "no agent noted that it ran": [note for note in notes if note.what == "begin"],
        "no reader of a message saw an event": [one for one in history.readings if one.message_id and one.events],
        "no reader of a thread saw an event": [one for one in history.readings if one.thread_id and one.events],
    }
    return [sentence for sentence, found in there.items() if not found]


def work(faults: Iterable[Fault]) -> list[str]:
    """Kinds of faults that were tried and never did what they say, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for fault in faults:
        reasons.setdefault(fault.name, []).append(fault.detail)
    return [f"{name}: {'; '.join(dict.fromkeys(ours))}" for name, ours in reasons.items() if all(ours)]
