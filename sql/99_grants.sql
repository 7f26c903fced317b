-- Privileges: who may call and read what. PUBLIC may use none of our objects.
--
-- Functions run with their owner's rights (security definer), so no role writes a table itself. A function without a
-- line in the list is for the owner and for other functions; so are all tables and views that no line names. The index
-- of README.md shows the list.

do $$
declare
    -- function and roles (all functions of that name)
    c_functions constant text := '
        submit               app tenant
        submit_many          app tenant
        submit_once          app tenant
        first_answer         app tenant
        submitted_once       app tenant
        delete_thread        app tenant
        cancel               app tenant
        input                app tenant
        input_once           app tenant
        redrive              app tenant
        retry_from           app tenant
        change_message       app tenant
        change_thread        app tenant
        create_thread        app
        begin_thread         app
        interrupt            app
        mark_message         app
        drop_instance        app
        pause                app
        create_queue         app

        create_topic         app
        delete_topic         app
        publish              app tenant
        publish_many         app tenant
        publish_once         app tenant
        first_published      app tenant
        topic_bounds         app tenant
        topic_offset         app tenant
        topic_names          app tenant
        read_records         app tenant
        record_place         app tenant
        create_subscription  app
        pause_subscription   app
        seek_subscription    app
        delete_subscription  app

        sequence_records     worker
        deliver_records      worker
        follow_topics        worker

        read_events          app
        grown_logs           app
        read_log             app tenant
        log_end              app
        queue_position       app tenant
        queue_positions      app
        queue_stops          app
        message_places       app
        queue_lines          app
        thread_lines         app
        explain              app tenant
        find_messages        app tenant
        descendants          app tenant
        count_events         app
        milestones           app
        last_outputs         app
        last_step            app
        use_store            app tenant
        questions            app
        traceback            app
        queued_messages      app
        processing           app
        thread_logs          app
        thread_place         app
        thread_usage         app
        find_threads         app tenant
        read_stats           app tenant
        changed_tenants      app
        _quantile            app tenant
        _bucket_starts       app tenant
        turn_in_progress     app worker
        turn_holder          app
        open_messages        app
        agent_while_busy     app
        dead_letter_page     app tenant
        newest_dead_letters  app tenant
        unclaimed_queues     app worker
        missing_agents       app
        queue_list           app tenant
        health               app
        missing_lanes        app
        vacuum_health        app worker
        pace_vacuum          worker
        notify_health        app worker
        records_waiting_seconds app
        router_health        app

        schema_rule          app
        set_schema_rule      app
        register_schema      app
        schema_references    app
        topic_subject        app worker
        topic_subjects       app worker
        delete_schemas       app

        create_tenant        app
        suspend_tenant       app
        delete_tenant        app
        delete_tenant_chunk  app worker
        limit_tenant         app
        limits_of            app tenant
        store_use            app tenant

        claim                worker
        passed_rows          worker
        append               worker
        append_and_send      worker
        finish               worker
        conclude             worker
        heartbeat            worker
        remote_register      app
        remote_worker        app
        remote_claim         app
        remote_trace_parent  app
        remote_sender        app
        remote_overloaded    app
        remote_earlier       app
        remote_append_step   app
        remote_append_and_send app
        remote_children      app
        remote_end_attempt   app
        remote_conclude_attempt app
        remote_append_events app
        remote_append        app
        remote_end_attempts  app
        remote_finish        app
        remote_heartbeat     app
        remote_sign_off      app

        another_claims       worker
        another_replaces     worker
        trace_parents        app worker
        stand_in             worker
        sign_off             worker
        worker_key           worker
        report_instances     worker
        register_agents      worker
        exchanges            app worker
        take_incoming        worker
        use_store_for        worker
        earlier_results      worker
        children             worker

        chores_due           worker
        reap                 worker
        admit_due            worker
        tend_parents         worker
        sweep                worker
        raise_marks          worker
        mend_lanes           worker
        fold_counters        worker
        fold_subscriptions   worker
        purge                worker
        purge_stats          worker
        purge_records        worker
        ensure_partitions    worker
        drop_partitions      worker

        create_key           app
        list_keys            app
        revoke_key           app
        rotate_key           app
        find_keys            app
        find_tenants         app
        note_key_uses        app
        create_webhook       app
        list_webhooks        app
        change_webhook       app
        delete_webhook       app
        rotate_webhook       app
        test_webhook         app
        callback_secret      app
        offer_webhooks       worker
        delivers_webhooks    app
        set_push_config      app
        list_push_configs    app
        delete_push_config   app
        post_of              worker
        note_post            worker
        drop_push_address    worker
        signing_secret       app
        instance_secret      worker
        note_token           app
        audit_page           app
        purge_audit          worker
        purge_store_items    worker
        fold_stores          worker
        end_tenant_sessions  worker

        clock                app worker tenant
        uuid7                app worker tenant
        uuid_at              app worker tenant
        _clock_shift         app worker tenant
        _session_tenant      app worker tenant
        _hint                app worker
        _notify              app worker
        _keep_hints          app worker
        _keep_hint           app worker
        _kept_hints          app worker
        _claim_is_filled     worker
        _hint_limit          app worker
        _bytes               app tenant
        _preview             app tenant
        _uuid                app
        _dead_letters        app
        _violations          app
        _low_water_mark      app
        _first_counter       app tenant
        _first_lease_mark    app tenant
        _ready_rows          app tenant
        _queue_figures       app tenant
        _sees                app
        _sees_thread         app tenant
        _may_address         app tenant
        _claiming_workers    app tenant
        _topic_end           app tenant
        _position_of         app tenant
        _first_offset_since  app tenant
    ';
    v_manifest constant regprocedure[] := array(
        select f::regprocedure
        from treadle.meta m
        cross join unnest(m.value::text[]) f
        where m.name = 'manifest');
    v record;
begin
    execute format(
        'revoke execute on function %s from public, treadle_app, treadle_worker, treadle_tenant',
        array_to_string(v_manifest, ', '));
    for v in
        select string_agg(f::text, ', ') as functions, r.role
        from regexp_split_to_table(c_functions, '\n') l
        cross join regexp_split_to_array(btrim(l), ' +') w
        cross join unnest(w[2:]) r (role)
        join pg_proc p on p.proname = w[1]
        join unnest(v_manifest) f on f = p.oid
        group by r.role
    loop
        execute format('grant execute on function %s to treadle_%s', v.functions, v.role);
    end loop;
end $$;

grant usage on schema treadle to treadle_app, treadle_worker, treadle_tenant;

-- treadle_app reads everything but secrets and what only the owner needs.
do $$
declare
    c_secrets constant text[] := array['sql_roles', 'keys', 'secrets', 'webhooks', 'callback_secrets', 'push_configs'];
begin
    revoke all on all tables in schema treadle from treadle_app, treadle_worker, treadle_tenant;
    execute format('grant select on %s to treadle_app', (
        select string_agg(c.oid::regclass::text, ', ')
        from pg_class c
        where c.relnamespace = 'treadle'::regnamespace
            and c.relkind in ('r', 'p', 'v')
            and not c.relispartition
            and c.relname !~ '^_'
            and c.relname <> all(c_secrets)));
end $$;

-- A worker reads the release, with which it must agree, the input types of agents, which may be sent messages, and the
-- schemas of records.
grant select on
    treadle.meta, treadle.alembic_version, treadle.agents, treadle.agent_overview,
    treadle.schema_overview, treadle.schema_versions, treadle.schemas
    to treadle_worker;

-- A tenant's login role reads the rows of its tenant, and which agents and queues there are.
grant select on
    treadle.message_overview, treadle.thread_overview, treadle.queue_overview, treadle.queue_counts,
    treadle.agent_overview, treadle.instance_overview, treadle.instances, treadle.stats, treadle.stat_rows,
    treadle.messages, treadle.threads, treadle.thread_turns, treadle.events, treadle.parked,
    treadle.counters, treadle.queues, treadle.agents, treadle.topics, treadle.topic_ends, treadle.topic_log,
    treadle.records, treadle.subscriptions, treadle.subscription_topics, treadle.subscription_positions,
    treadle.held_records, treadle.subscription_counts, treadle.topic_overview, treadle.subscription_overview,
    treadle.schema_overview, treadle.schema_versions, treadle.schemas, treadle.schema_rules,
    treadle.store_overview, treadle.store_items
    to treadle_tenant;
grant select (id, message_id, tenant, thread, cancel_requested, claimed_at) on treadle.leases to treadle_tenant;
