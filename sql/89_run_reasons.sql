-- Explain: who runs a message, or how it has ended.

-- Who runs a message, and whether that looks right.
create or replace function treadle._running_reasons(m treadle.messages, at timestamptz)
returns table (cause text, sentence text, advice text)
language plpgsql stable as $$
#variable_conflict use_column
declare
    l treadle.leases;
    v_run interval;
    v_silent interval;
begin
    select x.*
    into l
    from treadle.leases x
    where x.message_id = m.message_id;
    select at - w.heartbeat_at
    into v_silent
    from treadle.workers w
    where w.worker_id = m.worker_id;
    v_run := at - coalesce(l.claimed_at, m.started_at);
    if l.cancel_requested then
        return query select 'cancel_requested', 'Its cancellation was requested.',
            'The worker ends the attempt within about a second, also if the agent does not.';
    end if;
    if v_silent is null then
        return query select 'worker_lost', format('The worker %s that runs it is gone.', m.worker_id),
            'Another worker takes it back within seconds, if any lives: GET /workers.';
        return;
    elsif v_silent > interval '5 seconds' then
        return query select 'worker_silent',
            format('The worker %s that runs it has been silent for %s.', m.worker_id, treadle._span(v_silent)),
            'After WORKER_TIMEOUT another worker takes it back. Look at the log of the silent one.';
    end if;
    if v_run > make_interval(secs => m.timeout_seconds) + interval '5 seconds' then
        return query select 'overdue',
            format('Attempt %s has run for %s, beyond its timeout of %s s.', m.attempt, treadle._span(v_run),
                m.timeout_seconds),
            'The agent may hold its worker: restart that worker, and make the agent sync or run it in a process.';
    else
        return query select 'running',
            format('The worker %s has run attempt %s for %s; its timeout is %s s.', m.worker_id, m.attempt,
                treadle._span(v_run), m.timeout_seconds),
            format('treadle tail %s shows its events.', m.message_id);
    end if;
end $$;

-- How a message has ended.
create or replace function treadle._end_reason(
    m treadle.messages, out cause text, out sentence text, out advice text)
language plpgsql stable as $$
begin
    cause := m.state;
    sentence := case m.state
        when 'completed' then format('It completed at %s.', treadle._time_text(m.completed_at))
        when 'cancelled' then format('It was cancelled at %s.', treadle._time_text(m.completed_at))
        else format('It failed at %s, with %s of %s failures and %s losses: %s', treadle._time_text(m.completed_at),
            m.failures, m.max_attempts, m.losses, left(coalesce(m.error, 'no error.'), 300))
    end;
    advice := case m.state
        when 'failed' then format('Fix the cause, then: treadle dead-letters redrive %s', m.message_id)
        else 'Nothing is left to do.'
    end;
end $$;
