-- Due chores: what a janitor would find if it ran its chores now. One cheap question a second stands for all of
-- them, so that an idle installation costs little.

create or replace function treadle.chores_due(janitor text, out names text[], out activity bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    v_now constant timestamptz := treadle.clock();
    v_due_mark constant timestamptz := treadle._due_mark(v_now);
    v_passed constant boolean := exists (select from treadle.low_water w where w.passed <> '{}');
begin
    activity := (select s.last_value + s.is_called::integer from treadle.counters_id_seq s);
    select array_agg(c.name)
        into names
        from (
            values
                ('admit_due', treadle._sharing()
                    or exists (select from treadle.messages m where m.hold = 'share')
                    or exists (
                        select
                        from treadle.messages m
                        where m.hold in ('delay', 'backoff') and m.run_at >= v_due_mark and m.run_at <= v_now
                        order by m.run_at
                        limit 1)),
                ('route', v_passed
                    or exists (select from treadle.subscriptions)
                    or exists (
                        select
                        from pgmq.q_treadle_inbox q
                        where q.msg_id >= treadle._low_water_mark('inbox'))),
                ('tend_all_parents', exists (select from treadle.parked)),
                ('reap', exists (select from treadle.workers w where w.worker_id <> chores_due.janitor)
                    or exists (select from treadle.leases l where l.id >= treadle._low_water_mark('leases'))),
                ('fold_counters', v_passed
                    or exists (select from treadle.subscriptions)
                    or exists (
                        select
                        from treadle.counters c
                        where c.id >= treadle._low_water_mark('counters')
                            and c.slot <> treadle._folded_slot(c.slot, v_now))),
                ('sweep', v_passed
                    or exists (select from treadle.lost_rows)
                    or exists (select from treadle.messages m where m.hold in ('delay', 'backoff'))),
                ('delete_tenants', exists (select from treadle.tenants t where t.deleted_at is not null)),
                ('end_tenant_sessions', exists (select from treadle.sql_roles))
        ) c (name, due)
        where c.due;
    names := coalesce(names, '{}');
end $$;
comment on function treadle.chores_due
    is 'The chores that would find something to do, and a number that grows whenever messages change their state';
