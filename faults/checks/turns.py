"""Whether a thread ran one turn at a time and each attempt ran once, by the log and by the journal of the agents."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from faults.agents import Note
from faults.checks.fault_times import FaultTimes
from faults.checks.outcomes import WELL_BEHAVED_AGENTS
from faults.history import Sent


def order(steps: Sequence[Any], sent: Iterable[Sent]) -> list[str]:
    """`steps`: thread, message, ord, and the places in the thread's log of its first `started` event and of its
    final event; sorted by thread and ord."""
    wrong = []
    places = {row["message_id"]: row["ord"] for row in steps}
    steps = [row for row in steps if row["began"] is not None]  # without those cancelled before they ran
    for before, after in itertools.pairwise(steps):
        if before["thread_id"] == after["thread_id"]:
            if after["began"] < before["began"]:
                wrong.append(f"{after['thread_id']}: {after['message_id']} began before {before['message_id']}")
            elif before["ended"] is None or after["began"] < before["ended"]:
                wrong.append(f"{after['thread_id']}: {after['message_id']} began while {before['message_id']} ran")
    threads = defaultdict(list)
    for one in sent:
        if one.thread_id and one.acknowledged is not None and one.message_id in places:
            threads[one.thread_id].append(one)
    for name, ours in threads.items():
        # A message that was submitted after the acknowledgement of another one comes after it.
        ours.sort(key=lambda one: one.began)
        acknowledged = sorted(ours, key=lambda one: one.acknowledged or 0)
        highest, done = 0, 0
        for one in ours:
            while done < len(acknowledged) and (acknowledged[done].acknowledged or 0) < one.began:
                highest = max(highest, places[acknowledged[done].message_id])
                done += 1
            if places[one.message_id] < highest:
                wrong.append(f"{name}: {one.key} was submitted after a message that comes behind it")
    return wrong


class Execution(NamedTuple):
    """One run of an agent. Without a noted end only its first moment is known."""

    began: float
    ended: float
    name: str  # of the message and attempt
    pid: int


def executions(notes: Sequence[Note], messages: Mapping[str, Any]) -> list[str]:
    wrong = []
    begun = Counter((note.message_id, note.attempt) for note in notes if note.what == "begin")
    for (message_id, attempt), count in begun.items():
        if count > 1:
            wrong.append(f"{message_id}: attempt {attempt} ran {count} times")
        if message_id in messages and attempt > messages[message_id]["attempt"]:
            wrong.append(f"{message_id}: attempt {attempt} ran, but the database has fewer attempts")
    pids = {(note.message_id, note.attempt): note.pid for note in notes if note.what == "begin"}
    wrong += [
        f"{note.message_id}: attempt {note.attempt} ended in a process in which it did not begin"
        for note in notes
        if note.what != "begin" and pids.get((note.message_id, note.attempt)) != note.pid
    ]
    ended = {(note.message_id, note.attempt) for note in notes if note.what == "end"}
    for row in messages.values():
        answered = row["state"] == "completed" and row["agent"] in WELL_BEHAVED_AGENTS
        if answered and (row["message_id"], row["attempt"]) not in ended:
            wrong.append(f"{row['message_id']} is completed by an attempt that never ended")
    return wrong


def overlaps(notes: Iterable[Note], messages: Mapping[str, Any], times: FaultTimes) -> list[str]:
    """Turns of one thread, or attempts of one message, that overlap although no zombie is possible."""
    runs: dict[tuple[str, int], Execution] = {}
    for note in sorted(notes, key=lambda note: note.at):
        key = (note.message_id, note.attempt)
        if note.what == "begin":
            runs[key] = Execution(note.at, note.at, f"attempt {note.attempt} of {note.message_id}", note.pid)
        elif key in runs:
            runs[key] = runs[key]._replace(ended=note.at)
    places = defaultdict(list)  # runs that must not overlap, by thread or message
    for (message_id, _), run in runs.items():
        row = messages.get(message_id)
        thread = None if row is None or row["aside"] else row["thread_id"]
        places[thread or message_id].append(run)
    wrong = []
    for ours in places.values():
        ours.sort()
        last = ours[0]
        for run in ours[1:]:
            if run.began < last.ended and not times.zombie_possible(run.began):
                wrong.append(f"{run.name} began in process {run.pid} while {last.name} ran in process {last.pid}")
            last = max(last, run, key=lambda one: one.ended)
    return wrong
