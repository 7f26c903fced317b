"""The proof: what the clients and the agents wrote down, held against each other and against SQL.

Each check returns sentences, one for each thing that is wrong; a healthy run has none. The delivery contract (see
docs/reliability.md) numbers its promises; the checks are named after them.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from faults.agents import MEMBERS, Note, answer, answer_of_team
from faults.history import History, Reading, Seen, Sent

BEHAVED = ("scribe", "team", "blocks", "floods")  # whatever happens around them, they are answered
LOST = ("exits", "leaks")  # they kill their process each time
MAX_LOSSES = 3

MESSAGES = """
    select m.message_id::text, m.metadata ->> 'key' as key, m.agent, m.state, m.result #>> '{}' as result, m.error,
        m.attempt, m.failures, m.losses, t.thread_id, m.ord, extract(epoch from m.completed_at)::float8 as ended,
        m.parent::text
    from treadle.messages m left join treadle.threads t on t.id = m.thread"""
EVENTS = """
    select e.message_id::text, e.seq, e.thread_pos, e.type, e.data::text from treadle.events e
    where e.message_id = any($1::uuid[]) order by e.message_id, e.seq"""
THREAD_EVENTS = """
    select e.message_id::text, e.seq, e.thread_pos, e.type, e.data::text from treadle.events e
    join treadle.threads t on t.id = e.thread where t.thread_id = $1 order by e.thread_pos"""
STEPS = """
    select t.thread_id, m.message_id::text, m.ord,
        min(e.thread_pos) filter (where e.type = 'started') as began,
        max(e.thread_pos) filter (where e.type in ('done', 'error', 'cancelled')) as ended
    from treadle.messages m join treadle.threads t on t.id = m.thread join treadle.events e using (message_id)
    where not m.aside group by t.thread_id, m.message_id, m.ord order by t.thread_id, m.ord"""
TEXTS = """
    select e.message_id::text, array_agg(e.data ->> 'chunk' order by e.seq) filter (where e.type = 'chunk') as chunks,
        count(*) filter (where e.type in ('done', 'error', 'cancelled')) as ends
    from treadle.events e
    where e.seq > (select coalesce(max(s.seq), 0) from treadle.events s
        where s.message_id = e.message_id and s.type = 'started')
    group by e.message_id"""
TERMINALS = """
    select message_id::text, count(*) as ends from treadle.events where type in ('done', 'error', 'cancelled')
    group by message_id having count(*) > 1"""

Message = Any  # a row of MESSAGES


async def check(history: History, sql: "asyncpg.Connection[Any]", journal: Path) -> dict[str, list[str]]:
    """Everything that is wrong, by promise; only promises that were broken are named."""
    messages = {row["message_id"]: row for row in await sql.fetch(MESSAGES)}
    notes = read_journal(journal)
    found = {
        "no client gets an answer it cannot heal": history.complaints,
        "an acknowledged submit is never lost": acknowledged(history.sent.values(), messages),
        "a submit that is repeated is one message": once(messages.values()),
        "everything comes to its end": [
            f"{row['key']} is {row['state']}" for row in messages.values() if row["state"] in ("queued", "processing")
        ],
        "each message ends as it must": outcomes(history, messages),
        "what a message sends is sent once, and it waits for that": families(messages),
        "one terminal event, and the text of the last attempt is whole": await texts(sql, history, messages),
        "a thread goes one turn at a time, in the order of its submits": order(
            await sql.fetch(STEPS), history.sent.values()
        ),
        "a stream is its log, without gaps or doubles": await streams(sql, history.readings, messages),
        "an attempt runs once, and what is answered did run": executions(notes, messages),
        "nobody who lives is reaped": reaped(history, messages.values()),
        "nothing is violated in the database": [
            f"{row['rule']}: {row['subject']}"
            for row in await sql.fetch("select rule, subject from treadle.violations limit 100")
        ],
    }
    return {promise: wrong for promise, wrong in found.items() if wrong}


def acknowledged(sent: Iterable[Sent], messages: dict[str, Message]) -> list[str]:
    wrong = []
    for one in sent:
        if one.acknowledged is None:
            wrong.append(f"{one.key} was never acknowledged")
        elif one.message_id not in messages:
            wrong.append(f"{one.key} was acknowledged as {one.message_id}, and is gone")
        elif messages[one.message_id]["key"] != one.key:
            wrong.append(f"{one.key} was given the id of {messages[one.message_id]['key']}")
    return wrong


def once(messages: Iterable[Message]) -> list[str]:
    counts = Counter(row["key"] for row in messages)
    return [f"{key} is there {count} times" for key, count in counts.items() if count > 1]


def outcomes(history: History, messages: dict[str, Message]) -> list[str]:
    wrong = []
    for one in history.sent.values():
        row = messages.get(one.message_id or "")
        if row is not None and (fate := _fate(one, row, history)):
            wrong.append(f"{one.key} ({one.message_id}) {fate}")
    return wrong


def _fate(one: Sent, row: Message, history: History) -> str | None:
    """What is wrong with a message's end."""
    state = row["state"]
    if one.cancelled in (200, 202):
        return None if state == "cancelled" else f"was cancelled, and is {state}"
    if state == "cancelled":
        return None if one.cancelled == 0 else "is cancelled, and nobody asked for it"
    return _kept(one, row, history) if one.agent in BEHAVED else _deserved(one, row)


def _kept(one: Sent, row: Message, history: History) -> str | None:
    """The same of a message whose agent behaved."""
    state = row["state"]
    if row["failures"]:
        return f"is charged {row['failures']} failures"
    if state == "failed" and row["losses"] == MAX_LOSSES:
        # One that takes long may meet so many deaths of workers: that is its end. But they must have happened.
        met = [one.began < fault.ended and fault.began < row["ended"] for fault in history.faults if fault.lethal]
        return (
            None if sum(met) >= MAX_LOSSES else f"is charged {MAX_LOSSES} losses, and met {sum(met)} deaths of workers"
        )
    if state != "completed":
        return f"is {state}: {row['error']}"
    answers = answer_of_team if one.agent == "team" else answer
    expected = answers(one.key, one.chunks if one.agent in ("scribe", "team") else 0)
    return None if row["result"] == expected else f"is answered {row['result']!r}"


def _deserved(one: Sent, row: Message) -> str | None:
    """The same of a message that is poison."""
    if row["state"] != "failed":
        return f"is {row['state']}, and should have failed"
    if one.agent in LOST and (row["losses"] != MAX_LOSSES or row["failures"]):
        return f"has {row['losses']} losses and {row['failures']} failures"
    return None


def families(messages: dict[str, Message]) -> list[str]:
    """A completed team has all its members, each completed before it; who is cancelled has cancelled its members."""
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
            if sorted(one["key"] for one in ours) != [f"{row['key']}/{n}" for n in range(MEMBERS)]:
                wrong.append(f"{row['key']} has the members {sorted(one['key'] for one in ours)}")
            wrong += [f"{one['key']} is {one['state']}" for one in ours if one["state"] != "completed"]
            wrong += [f"{row['key']} ended before {one['key']}" for one in ours if one["ended"] > row["ended"]]
    return wrong


async def texts(sql: "asyncpg.Connection[Any]", history: History, messages: dict[str, Message]) -> list[str]:
    wrong = [f"{row['message_id']} has {row['ends']} terminal events" for row in await sql.fetch(TERMINALS)]
    sent = {one.message_id: one for one in history.sent.values() if one.agent == "scribe"}
    for row in await sql.fetch(TEXTS):
        one, message = sent.get(row["message_id"]), messages.get(row["message_id"])
        if one is not None and message is not None and message["state"] == "completed":
            expected = [f"{one.key}:{message['attempt']}:{index} " for index in range(one.chunks)]
            if (row["chunks"] or []) != expected:
                wrong.append(f"{one.key} says {row['chunks']}, not {expected}")
    return wrong


def order(steps: Sequence[Any], sent: Iterable[Sent]) -> list[str]:
    """`steps`: thread, message, ord, and where in the thread's log it first began and at last ended; by thread and
    ord."""
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
        # What was submitted after another's acknowledgement comes after it.
        ours.sort(key=lambda one: one.began)
        acknowledged = sorted(ours, key=lambda one: one.acknowledged or 0)
        highest, done = 0, 0
        for one in ours:
            while done < len(acknowledged) and (acknowledged[done].acknowledged or 0) < one.began:
                highest = max(highest, places[acknowledged[done].message_id])
                done += 1
            if places[one.message_id] < highest:
                wrong.append(f"{name}: {one.key} was submitted after what comes behind it")
    return wrong


async def streams(
    sql: "asyncpg.Connection[Any]", readings: Sequence[Reading], messages: dict[str, Message]
) -> list[str]:
    """What each reader saw, event by event, is the log from its start; and the whole of it where it read to the end."""
    wrong = []
    ids = list({reading.message_id for reading in readings if reading.message_id})
    logs: dict[str, list[Any]] = defaultdict(list)
    for start in range(0, len(ids), 500):
        for row in await sql.fetch(EVENTS, ids[start : start + 500]):
            logs[row["message_id"]].append((row["seq"], row["type"], _data(row, messages)))
    for reading in readings:
        seen = [(event.position, event.type, _comparable(event)) for event in reading.events]
        if reading.message_id:
            log, what = logs[reading.message_id], reading.message_id
            if reading.over and len(seen) != len(log):
                wrong.append(f"{what}: a reader saw {len(seen)} events to the end, and there are {len(log)}")
        else:
            what = str(reading.thread_id)
            log = [
                (
                    row["thread_pos"],
                    row["type"],
                    _data(row, messages) | {"message_id": row["message_id"], "seq": row["seq"]},
                )
                for row in await sql.fetch(THREAD_EVENTS, what)
            ]
        if seen != log[: len(seen)]:
            at = next(n for n, (ours, theirs) in enumerate(zip(seen, [*log, None], strict=False)) if ours != theirs)
            wrong.append(f"{what}: at place {at} a reader saw {str(seen[at])[:200]}, not {str(log[at : at + 1])[:200]}")
    return wrong


# What `queued` and `done` say is kept with the message; of that we compare what the client knows.
SAID = {"queued": {"message", "agent", "thread_id"}, "done": {"state", "result"}}


def _comparable(event: Seen) -> Any:
    kept = SAID.get(event.type)
    if kept is None:
        return event.data
    return {name: value for name, value in event.data.items() if name in kept | {"message_id", "seq"}}


def _data(row: Any, messages: dict[str, Message]) -> Any:
    message = messages.get(row["message_id"])
    if message is not None and row["type"] == "queued":
        return {"message": message["key"], "agent": message["agent"], "thread_id": message["thread_id"]}
    if message is not None and row["type"] == "done":
        return {"state": "completed", "result": message["result"]}
    return msgspec.json.decode(row["data"] or '{"state": "cancelled"}')


def executions(notes: Sequence[Note], messages: dict[str, Message]) -> list[str]:
    wrong = []
    begun = Counter((note.message_id, note.attempt) for note in notes if note.what == "begin")
    for (message_id, attempt), count in begun.items():
        if count > 1:
            wrong.append(f"{message_id}: attempt {attempt} ran {count} times")
        if message_id in messages and attempt > messages[message_id]["attempt"]:
            wrong.append(f"{message_id}: attempt {attempt} ran, and the database knows of fewer")
    ended = {(note.message_id, note.attempt) for note in notes if note.what == "end"}
    for row in messages.values():
        answered = row["state"] == "completed" and (row["key"] or "").startswith("scribe")
        if answered and (row["message_id"], row["attempt"]) not in ended:
            wrong.append(f"{row['message_id']} is completed by an attempt that never came to its end")
    return wrong


def reaped(history: History, messages: Iterable[Message]) -> list[str]:
    """Losses are only charged where a fault can kill workers."""
    if any(fault.lethal for fault in history.faults):
        return []
    return [f"{row['key']} is charged {row['losses']} losses" for row in messages if row["losses"]]


def read_journal(journal: Path) -> list[Note]:
    if not journal.exists():
        return []
    return [msgspec.json.decode(line, type=Note) for line in journal.read_bytes().splitlines()]
