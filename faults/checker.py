"""The proof: compares the records of clients and agents with each other and with the database.

Each check (see `checks`) returns one sentence for each thing that is wrong, and no sentence after a healthy run. The
checks are named after the promises of the delivery contract (see docs/reliability.md).
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from faults.agents import Note
from faults.checks import evidence, fault_times, outcomes, records, streams, turns
from faults.checks.fault_times import FaultTimes
from faults.history import History, Reading
from faults.publishers import COPIES, RECORDS, SUBSCRIPTIONS

MESSAGES = """
    select m.message_id::text, m.metadata ->> 'key' as key, m.agent, m.state, m.result #>> '{}' as result, m.error,
        m.attempt, m.failures, m.losses, t.thread_id, m.ord, m.aside,
        extract(epoch from m.created_at)::float8 as submitted, extract(epoch from m.completed_at)::float8 as ended,
        m.parent::text
    from treadle.messages m left join treadle.threads t on t.id = m.thread
    where m.subscription is null"""
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
    select e.message_id::text, array_agg(e.data ->> 'chunk' order by e.seq) filter (where e.type = 'chunk') as chunks
    from treadle.events e
    where e.seq > (select coalesce(max(s.seq), 0) from treadle.events s
        where s.message_id = e.message_id and s.type = 'started')
    group by e.message_id"""
FINAL_EVENTS = """
    select message_id::text, count(*) as ends from treadle.events where type in ('done', 'error', 'cancelled')
    group by message_id having count(*) > 1"""


async def check(history: History, sql: "asyncpg.Connection[Any]", journal: Path) -> dict[str, list[str]]:
    """The sentences of all checks, by promise; promises that were kept are left out."""
    messages = {
        row["message_id"]: fault_times.by_the_real_clock(row, history.faults) for row in await sql.fetch(MESSAGES)
    }
    sent = history.sent.values()
    notes = read_journal(journal)
    times = FaultTimes(history.faults, messages)
    log = await sql.fetch(records.LOGGED)
    found = {
        "the run shows something": evidence.missing(history, notes),
        "the faults work": evidence.faults_without_effect(history.faults),
        "no client gets an answer that no retry helps": history.client_errors,
        "everything recovers from a fault": history.not_recovered,
        "a worker's death is noticed within seconds": fault_times.deaths_noticed(times),
        "an acknowledged submit is never lost": outcomes.acknowledged(sent, messages),
        "a submit that is repeated is one message": outcomes.once(messages.values()),
        "every message ends": outcomes.open_ends(messages.values()),
        "each message ends as it must": outcomes.outcomes(sent, messages, times),
        "children are sent once, and their parent waits for them": outcomes.families(messages),
        "one final event, and the text of the last attempt is whole": outcomes.texts(
            await sql.fetch(FINAL_EVENTS), await sql.fetch(TEXTS), sent, messages
        ),
        "a thread runs one turn at a time, in the order of its submits": turns.order(await sql.fetch(STEPS), sent),
        "turns of a thread do not overlap": turns.overlaps(notes, messages, times),
        "a stream is its log, without gaps or doubles": streams.streams(
            history.readings, await _logs(sql, history.readings), messages
        ),
        "an attempt runs once, and a completed message did run": turns.executions(notes, messages),
        "an acknowledged record has one offset, in the order of its key": records.logged(
            history.published, log, RECORDS
        ),
        "a record is handled once by each subscription, and copied once": records.handled(
            await sql.fetch(records.HANDLED), log, {"in": RECORDS, "out": COPIES}, SUBSCRIPTIONS
        ),
        "no living worker is reaped": fault_times.losses(messages.values(), times, outcomes.PROCESS_KILLING_AGENTS),
        "no rule is violated in the database": [
            f"{row['rule']}: {row['subject']}"
            for row in await sql.fetch("select rule, subject from treadle.violations limit 100")
        ],
    }
    return {promise: wrong for promise, wrong in found.items() if wrong}


async def _logs(sql: "asyncpg.Connection[Any]", readings: Sequence[Reading]) -> dict[str, list[Any]]:
    """The stored logs of the messages and threads that clients read, by their id."""
    logs: dict[str, list[Any]] = defaultdict(list)
    ids = list({reading.message_id for reading in readings if reading.message_id})
    for start in range(0, len(ids), 500):
        for row in await sql.fetch(EVENTS, ids[start : start + 500]):
            logs[row["message_id"]].append(row)
    for thread in {reading.thread_id for reading in readings if reading.thread_id}:
        logs[thread] = await sql.fetch(THREAD_EVENTS, thread)
    return logs


def read_journal(journal: Path) -> list[Note]:
    if not journal.exists():
        return []
    return [msgspec.json.decode(line, type=Note) for line in journal.read_bytes().splitlines()]
