-- Invariants: rules that hold in every database at every moment, whatever was done to it and whichever process died.
--
-- Each view of the files 91 to 93 finds the exceptions to some rules; the list of its rules is at its end. The view
-- treadle.violations has them all. It reads everything from one snapshot without a lock, which takes a few seconds for
-- each hundred thousand messages. Use it in tests and after an incident:  treadle check --invariants

-- All exceptions. A function and not only a view, because a view cannot switch JIT off: with jit = on, the default of
-- PostgreSQL 15 to 17, to compile this query takes a hundred times as long as to run it.
create or replace function treadle._violations() returns table (rule text, subject text, detail jsonb)
language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
#variable_conflict use_column
begin
    return query
        select v.rule, v.subject, v.detail
        from treadle._log_violations v
        union all
        select v.rule, v.subject, v.detail
        from treadle._lane_violations v
        union all
        select v.rule, v.subject, v.detail
        from treadle._message_violations v
        union all
        select v.rule, v.subject, v.detail
        from treadle._thread_violations v
        union all
        select v.rule, v.subject, v.detail
        from treadle._tenant_violations v
        union all
        select v.rule, v.subject, v.detail
        from treadle._topic_violations v
        union all
        select v.rule, v.subject, v.detail
        from treadle._subscription_violations v;
end $$;

create or replace view treadle.violations with (security_invoker) as
select v.rule, v.subject, v.detail
from treadle._violations() v;
comment on view treadle.violations
    is 'Exceptions to the invariants: empty in a healthy database. Reads everything, so it takes its time';
