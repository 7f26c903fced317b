"""Whether every submitted message exists and ended as it must."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from faults.agents import TEAM_MEMBERS, answer, answer_of_team
from faults.checks.fault_times import FaultTimes
from faults.history import Sent

WELL_BEHAVED_AGENTS = (
    "scribe",
    "team",
    "blocks",
    "holds",
    "floods",
    "courier",
)  # their messages complete, whatever happens around them
PROCESS_KILLING_AGENTS = ("exits", "leaks")  # they kill their process in every attempt
MAX_LOSSES = 3


def acknowledged(sent: Iterable[Sent], messages: Mapping[str, Any]) -> list[str]:
    wrong = []
    for one in sent:
        if one.acknowledged is None:
            wrong.append(f"{one.key} was never acknowledged")
        elif (row := messages.get(one.message_id or "")) is None:
            wrong.append(f"{one.key} was acknowledged as {one.message_id}, but does not exist")
        elif row["key"] != one.key:
            wrong.append(f"{one.key} was given the id of {row['key']}")
    return wrong


def once(messages: Iterable[Any]) -> list[str]:
    counts = Counter(row["key"] for row in messages)
    return [f"{key} is there {count} times" for key, count in counts.items() if count > 1]


def open_ends(messages: Iterable[Any]) -> list[str]:
    return [f"{row['key']} is {row['state']}" for row in messages if row["state"] in ("queued", "processing")]


def outcomes(sent: Iterable[Sent], messages: Mapping[str, Any], times: FaultTimes) -> list[str]:
    wrong = []
    for one in sent:
        row = messages.get(one.message_id or "")
        if row is not None and (error := _wrong_end(one, row, times)):
            wrong.append(f"{one.key} ({one.message_id}) {error}")
    return wrong


def _wrong_end(one: Sent, row: Any, times: FaultTimes) -> str | None:
    """The error in a message's end, or None."""
    state = row["state"]
    if one.cancelled in (200, 202):
        return None if state == "cancelled" else f"was cancelled, and is {state}"
    if state == "cancelled":
        return None if one.cancelled == 0 else "is cancelled, but no client asked for it"
    return (
        _wrong_end_of_well_behaved(one, row, times)
        if one.agent in WELL_BEHAVED_AGENTS
        else _wrong_end_of_poison(one, row)
    )


def _wrong_end_of_well_behaved(one: Sent, row: Any, times: FaultTimes) -> str | None:
    """The same for a message of a well-behaved agent."""
    state = row["state"]
    if row["failures"]:
        return f"is charged {row['failures']} failures"
    if state == "failed" and row["losses"] == MAX_LOSSES:
        # A long message may meet so many deaths of workers that it fails. But faults must explain them.
        met = times.deaths(row["submitted"], row["ended"])
        return (
            None
            if met >= MAX_LOSSES
            else f"is charged {MAX_LOSSES} losses, but {met} deaths of workers overlap its life"
        )
    if state != "completed":
        return f"is {state}: {row['error']}"
    answers = answer_of_team if one.agent == "team" else answer
    expected = answers(one.key, one.chunks if one.agent in ("scribe", "team") else 0)
    return None if row["result"] == expected else f"is answered {row['result']!r}"


def _wrong_end_of_poison(one: Sent, row: Any) -> str | None:
    """The same for a message whose agent does harm."""
    if row["state"] != "failed":
        return f"is {row['state']}, but should have failed"
    if one.agent in PROCESS_KILLING_AGENTS and (row["losses"] != MAX_LOSSES or row["failures"]):
        return f"has {row['losses']} losses and {row['failures']} failures"
    return None


def families(messages: Mapping[str, Any]) -> list[str]:
    """A completed team has all its members, each completed before it; a cancelled one has cancelled its members."""
    wrong = []
    members = defaultdict(list)
    for row in messages.values():
        if row["parent"]:
            members[row["parent"]].append(row)
            if messages[row["parent"]]["agent"] != "team":
                wrong.append(f"{row['key']} is the child of {row['parent']}, which sends nothing")
    for row in messages.values():
        if row["agent"] == "team" and row["state"] == "completed":
            ours = members[row["message_id"]]
            if sorted(one["key"] for one in ours) != [f"{row['key']}/{n}" for n in range(TEAM_MEMBERS)]:
                wrong.append(f"{row['key']} has the members {sorted(one['key'] for one in ours)}")
            wrong += [f"{one['key']} is {one['state']}" for one in ours if one["state"] != "completed"]
            wrong += [f"{row['key']} ended before {one['key']}" for one in ours if one["ended"] > row["ended"]]
    return wrong


def texts(ends: Sequence[Any], chunks: Sequence[Any], sent: Iterable[Sent], messages: Mapping[str, Any]) -> list[str]:
    """`ends`: messages with more than one final event; `chunks`: of each message, those of its last attempt."""
    wrong = [f"{row['message_id']} has {row['ends']} final events" for row in ends]
    scribes = {one.message_id: one for one in sent if one.agent == "scribe"}
    for row in chunks:
        one, message = scribes.get(row["message_id"]), messages.get(row["message_id"])
        if one is not None and message is not None and message["state"] == "completed":
            # One event can have several of the pieces that the agent wrote.
            expected = "".join(f"{one.key}:{message['attempt']}:{index} " for index in range(one.chunks))
            if "".join(row["chunks"] or []) != expected:
                wrong.append(f"{one.key} says {row['chunks']}, not {expected}")
    return wrong
