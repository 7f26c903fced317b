-- Charges: what an attempt adds to the failures, the losses and the usage of its message.

-- The failures and losses of a message after an attempt with this outcome. Progress (a new step, a park) forgives the
-- earlier ones, which would otherwise pile up over months of waiting. Of losses one is kept, so that a message which
-- may have killed its workers runs in a process of its own. After a thousand attempts nothing is forgiven: a message
-- whose steps have another name in each attempt must end, too.
create or replace function treadle._charge(
    outcome text,
    progressed boolean,
    attempt integer,
    failures integer,
    losses integer)
returns table (new_failures integer, new_losses integer) language sql immutable as $$
    select case when p.made then 0 else _charge.failures end + (_charge.outcome in ('error', 'rejected'))::integer,
        case
            when not p.made then _charge.losses + (_charge.outcome = 'lost')::integer
            when _charge.outcome = 'lost' then 1
            else least(_charge.losses, 1)
        end
    from (
        select _charge.attempt < 1000 and (
            _charge.outcome in ('children', 'input')
            or (_charge.outcome in ('error', 'lost') and coalesce(_charge.progressed, false))) as made
    ) p
$$;

-- What the steps of a message's last attempt used, in numbers: for an attempt whose worker cannot say it any more.
create or replace function treadle._usage_of_steps(id uuid) returns jsonb
language plpgsql stable as $$
begin
    return (
        select jsonb_object_agg(u.key, u.total)
        from (
            select k.key, sum(k.value::numeric) as total
            from treadle.events e
            cross join jsonb_each(e.data -> 'usage') k
            where e.message_id = id
                and e.type = 'step'
                and e.seq > (
                    select max(s.seq)
                    from treadle.events s
                    where s.message_id = id
                        and s.type = 'started')
                and jsonb_typeof(k.value) = 'number'
            group by k.key
        ) u);
end $$;

-- What two attempts used together: numbers are added, of other values the later one holds.
create or replace function treadle._add_usage(earlier jsonb, later jsonb) returns jsonb
language sql immutable as $$
    select earlier || later || coalesce((
        select jsonb_object_agg(u.key, (u.value::numeric + (earlier ->> u.key)::numeric))
        from jsonb_each(later) u
        where jsonb_typeof(u.value) = 'number'
            and jsonb_typeof(earlier -> u.key) = 'number'), '{}')
$$;
