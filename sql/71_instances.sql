-- Warm instances: what agents keep in their worker from one message of a thread to the next, as the workers report it.
-- The instances are a cache in the workers' memory; these rows are for people.

-- The warm instances that this worker has now, zipped: key of the thread, agent, and age. What it does not name is
-- forgotten; an instance of a thread that is deleted, or of a worker that is declared dead, is left out.
create or replace function treadle.report_instances(
    worker text, threads bigint[], agents text[], ages double precision[])
returns void language plpgsql security definer
set search_path = pg_catalog, pg_temp set timezone = 'UTC' set jit = off as $$
declare
    v_now constant timestamptz := treadle.clock();
begin
    delete from treadle.instances i
        where i.worker_id = report_instances.worker
            and not exists (
                select
                from unnest(threads, agents) g (thread, agent)
                where g.thread = i.thread and g.agent = i.agent);
    insert into treadle.instances as i (worker_id, thread, agent, tenant, made_at)
        select w.worker_id, t.id, g.agent, t.tenant, v_now - g.age * interval '1 second'
        from unnest(threads, agents, ages) g (thread, agent, age)
        join treadle.threads t on t.id = g.thread
        join treadle.workers w on w.worker_id = report_instances.worker
        order by t.id, g.agent
        on conflict (worker_id, thread, agent) do update
            set made_at = excluded.made_at
            where abs(extract(epoch from excluded.made_at - i.made_at)) > 1;  -- it was made again
end $$;
comment on function treadle.report_instances is 'These are the warm instances of a worker';
