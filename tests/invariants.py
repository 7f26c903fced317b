"""What must hold in every Treadle database at any moment, whatever was done to it: each statement below finds the
exceptions, and there must be none.

`await assert_consistent(sql)` looks from one snapshot, so it may be called while others work.
"""

from service.db.pool import Connection

# All rows of all lanes and dead letters, as `lanes`; the statements below are prefixed with this.
LANES = """
    select $q${queue}$q$ as queue, $l${lane}$l$ as lane, q.msg_id, q.vt, q.message from pgmq.q_{queue}_{lane} q"""

EXCEPTIONS = {
    "a log is dense from 1, and ends where the message or its lease says": """
        select m.message_id, m.state, e.seqs, coalesce(l.last_seq, m.last_seq) as last_seq
        from treadle.messages m
        left join treadle.leases l using (message_id)
        cross join lateral (select array_agg(e.seq order by e.seq) as seqs from treadle.events e
            where e.message_id = m.message_id) e
        where e.seqs is distinct from
            (select array_agg(s::integer) from generate_series(1, coalesce(l.last_seq, m.last_seq)) s)""",
    "an event belongs to a message, and to that message's thread": """
        select e.message_id, e.seq, e.thread, m.thread as thread_of_message
        from treadle.events e left join treadle.messages m using (message_id)
        where m.message_id is null or e.thread is distinct from m.thread
            or (e.thread is null) <> (e.thread_pos is null)""",
    "a thread's log is dense from 1 to its last_pos": """
        select t.id, t.thread_id, l.last_pos, e.positions
        from treadle.threads t left join treadle.thread_log l on l.thread = t.id
        cross join lateral (select array_agg(e.thread_pos order by e.thread_pos) as positions from treadle.events e
            where e.thread = t.id) e
        where l.last_pos is null
            or e.positions is distinct from (select array_agg(s) from generate_series(1, l.last_pos) s)""",
    "a thread's log belongs to a thread": """
        select l.thread from treadle.thread_log l
        where not exists (select from treadle.threads t where t.id = l.thread)""",
    "in a thread's log, each message's events are in their own order": """
        select o.* from (
            select e.message_id, e.seq, e.thread_pos,
                lag(e.thread_pos) over (partition by e.message_id order by e.seq) as before
            from treadle.events e where e.thread is not null) o
        where o.before >= o.thread_pos""",
    "one terminal event a life, of the message's state, and a message that is over ends with it": """
        select m.message_id, m.state, e.types
        from treadle.messages m
        cross join lateral (select array_agg(e.type order by e.seq) as types from treadle.events e
            where e.message_id = m.message_id and e.type in ('queued', 'done', 'error', 'cancelled')) e
        where array_to_string(e.types, ' ') <>
            repeat('queued error ', cardinality(array_positions(e.types, 'queued')) - 1) || 'queued'
            || case m.state when 'completed' then ' done' when 'failed' then ' error'
                when 'cancelled' then ' cancelled' else '' end
            or m.state in ('completed', 'failed', 'cancelled') and not exists (
                select from treadle.events e where e.message_id = m.message_id and e.seq = m.last_seq
                    and e.type in ('done', 'error', 'cancelled'))""",
    "every attempt has its `started`, and ends with `retry` or with its life": """
        select m.message_id, m.state, m.attempt, e.types
        from treadle.messages m
        cross join lateral (select coalesce(string_agg(e.type, ' ' order by e.seq), '') as types from treadle.events e
            where e.message_id = m.message_id
                and e.type in ('queued', 'started', 'retry', 'done', 'error', 'cancelled')) e
        where m.attempt <>
                (select count(*) from treadle.events e where e.message_id = m.message_id and e.type = 'started')
            or e.types !~ ('^(queued( started retry)* started error )*queued( started retry)*'
                '( started| started done| started error| started cancelled| cancelled)?$')
            or (e.types ~ ' started$') <> (m.state = 'processing')""",
    "every runnable or running message is in its lane, every dead one in the dead letters, once": """
        select m.message_id, m.state, m.queue, m.lane, m.lane_id, r.bodies
        from treadle.messages m left join treadle.threads t on t.id = m.thread
        cross join lateral (select coalesce(jsonb_agg(r.message), '[]') as bodies from lanes r
            where r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id) r
        where m.lane is not null and (jsonb_array_length(r.bodies) <> 1
            or m.lane <> 'dlq' and r.bodies -> 0 <> jsonb_build_object(
                'message_id', m.message_id, 'thread_id', t.thread_id, 'agent', m.agent)
            or m.lane = 'dlq' and not r.bodies -> 0 @> jsonb_build_object('message_id', m.message_id,
                'thread_id', t.thread_id, 'agent', m.agent, 'reason', m.error, 'attempts', m.attempt))""",
    "no lane row is astray (dead letters of foreign rows apart)": """
        select r.* from lanes r
        where not (r.lane = 'dlq' and r.message ->> 'reason' is not distinct from 'foreign') and not exists (
            select from treadle.messages m where m.message_id::text = r.message ->> 'message_id'
                and m.queue = r.queue and m.lane = r.lane and m.lane_id = r.msg_id)""",
    "what may run is visible, what runs is hidden until its lease expires": """
        select m.message_id, m.state, r.vt, l.expires_at
        from treadle.messages m join lanes r on r.queue = m.queue and r.lane = m.lane and r.msg_id = m.lane_id
        left join treadle.leases l using (message_id)
        where m.state = 'queued' and r.vt > treadle.clock() or m.state = 'processing' and r.vt < l.expires_at""",
    "leases are there for what is processing, and for nothing else": """
        select m.message_id, m.state, m.worker_id, m.thread, l.*
        from treadle.messages m full join treadle.leases l using (message_id)
        where (m.state is not distinct from 'processing') <> (l.message_id is not null)
            or l.message_id is not null and (l.worker_id, l.thread) is distinct from (m.worker_id, m.thread)""",
    "a result is there for what is completed; started_at for what runs or ran": """
        select m.message_id, m.state, m.result, m.error, m.started_at, m.worker_id from treadle.messages m
        where m.result is not null and m.state <> 'completed' or m.state = 'failed' and m.error is null
            or m.state = 'processing' and (m.started_at is null or m.worker_id is null)
            or m.state = 'completed' and m.started_at is null
            or m.state = 'queued' and (m.started_at is not null or m.worker_id is not null)""",
    "counters add up to the messages there are": """
        select * from (
            select c.queue, sum(c.queued) as queued, sum(c.processing) as processing, sum(c.completed) as completed,
                sum(c.failed) as failed, sum(c.cancelled) as cancelled
            from treadle.counters c group by c.queue) c
        full join (
            select m.queue, count(*) filter (where m.state = 'queued') as queued,
                count(*) filter (where m.state = 'processing') as processing,
                count(*) filter (where m.state = 'completed') as completed,
                count(*) filter (where m.state = 'failed') as failed,
                count(*) filter (where m.state = 'cancelled') as cancelled
            from treadle.messages m group by m.queue) m using (queue)
        where coalesce(c.queued, 0) <> coalesce(m.queued, 0) or coalesce(c.processing, 0) <> coalesce(m.processing, 0)
            or coalesce(c.completed, 0) <> coalesce(m.completed, 0) or coalesce(c.failed, 0) <> coalesce(m.failed, 0)
            or coalesce(c.cancelled, 0) <> coalesce(m.cancelled, 0)""",
    "a thread's counts are those of its messages, and their places are dense": """
        select t.id, t.thread_id, t.last_ord, t.completed, t.failed, t.cancelled, m.* from treadle.threads t
        cross join lateral (select array_agg(m.ord order by m.ord) as ords,
                count(*) filter (where m.state = 'completed') as completed_,
                count(*) filter (where m.state = 'failed') as failed_,
                count(*) filter (where m.state = 'cancelled') as cancelled_
            from treadle.messages m where m.thread = t.id) m
        where (t.completed, t.failed, t.cancelled) <> (m.completed_, m.failed_, m.cancelled_)
            or m.ords is distinct from (select array_agg(s) from generate_series(1, t.last_ord) s)""",
    "a message's thread is there": """
        select m.message_id, m.thread from treadle.messages m
        where m.thread is not null and not exists (select from treadle.threads t where t.id = m.thread)""",
    "a turn is held by an open message of the thread that may take one": """
        select t.id, t.thread_id, t.turn, m.thread, m.state, m.hold, m.aside from treadle.threads t
        left join treadle.messages m on m.message_id = t.turn
        where t.turn is not null and (m.thread is distinct from t.id or m.aside
            or m.state not in ('queued', 'processing') or m.hold in ('thread', 'delay'))""",
    "in a thread only the message with the turn is under way, and nobody waits where there is none": """
        select t.id, t.thread_id, t.turn, m.message_id, m.state, m.hold from treadle.threads t
        join treadle.messages m on m.thread = t.id and not m.aside and m.message_id is distinct from t.turn
        where m.state = 'processing' or m.state = 'queued' and m.hold is distinct from 'delay'
            and (m.hold is distinct from 'thread' or t.turn is null)""",
    "only messages of a thread that take turns wait for one": """
        select m.message_id, m.thread, m.aside from treadle.messages m
        where m.hold = 'thread' and (m.thread is null or m.aside)""",
    "failures and losses stay within what a life allows": """
        select m.message_id, m.state, m.attempt, m.failures, m.losses, m.max_attempts from treadle.messages m
        where m.failures > m.max_attempts or m.failures + m.losses > m.attempt
            or m.failures = m.max_attempts and m.state in ('queued', 'processing')""",
}


async def exceptions(sql: Connection) -> dict[str, list[str]]:
    """What does not hold: the first few rows found, by the sentence that should."""
    found = {}
    queues = [row["queue"] for row in await sql.fetch("select queue from treadle.queues")]
    lanes = " union all ".join(
        LANES.format(queue=queue, lane=lane) for queue in queues for lane in ("high", "normal", "low", "dlq")
    )
    for sentence, statement in EXCEPTIONS.items():
        if rows := await sql.fetch(f"with lanes as ({lanes}) select * from ({statement}) exceptions limit 5"):
            found[sentence] = [str(dict(row)) for row in rows]
    return found


async def assert_consistent(sql: Connection) -> None:
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        found = await exceptions(sql)
    assert not found, "\n".join(
        f"it does not hold that {sentence}:\n    " + "\n    ".join(rows) for sentence, rows in found.items()
    )
