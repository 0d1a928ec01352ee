-- What each role may do; run after every migration, by the owner of the schema. Each statement stands alone and may run
-- any number of times. Tables are named one by one: a partition, which row-level security of its parent would not
-- cover, is nobody's but the owner's and the administrators'.

revoke all on all tables in schema @extschema@ from @reader@, @client@, @worker@, @admin@;
revoke all on all routines in schema @extschema@ from @reader@, @client@, @worker@, @admin@;
grant usage on schema @extschema@ to @reader@, @client@, @worker@, @admin@;

-- Everybody reads; row-level security, where it is on, leaves a client its own instances.
grant select on
    @extschema@.migrations, @extschema@.workflows, @extschema@.instances, @extschema@.instance_keys,
    @extschema@.history, @extschema@.events, @extschema@.workers, @extschema@.queues, @extschema@.schedules,
    @extschema@.payloads,
    @extschema@.settings, @extschema@.kept_settings, @extschema@.fences, @extschema@.states, @extschema@.updates, @extschema@.stream_items,
    @extschema@.sql_runs, @extschema@.tasks
    to @reader@, @client@, @worker@, @admin@;
grant select on
    @extschema@.steps, @extschema@.running, @extschema@.failures, @extschema@.timed_out, @extschema@.queue_stats,
    @extschema@.history_partitions, @extschema@.held_back, @extschema@.dead_rows, @extschema@.running_steps,
    @extschema@.step_status, @extschema@.step_errors, @extschema@.timed_out_steps, @extschema@.waiting_on,
    @extschema@.task_stats, @extschema@.throughput_per_minute
    to @reader@, @worker@, @admin@;
-- Partitions are tenants, whose names are no other client's business.
grant select on @extschema@.queue_partitions, @extschema@.queue_starts to @reader@, @worker@, @admin@;
grant execute on function @extschema@.with_timeout to @client@;
grant select on @extschema@.attempts, @extschema@.step_turns to @reader@, @client@, @worker@, @admin@;
grant execute on function
    @extschema@.status, @extschema@.result, @extschema@.find_instance, @extschema@.need_instance,
    @extschema@.hidden, @extschema@.caller, @extschema@.channel, @extschema@.lock_class, @extschema@.new_id,
    @extschema@.id_at, @extschema@.id_time, @extschema@.state, @extschema@.whole,
    @extschema@.step_states, @extschema@.throughput,
    @extschema@.setting, @extschema@.setting_kinds, @extschema@.setting_problem, @extschema@.settings_here,
    @extschema@.cron_next, @extschema@.cron_day, @extschema@.cron_set, @extschema@.wall_time
    to @reader@, @client@;

-- What doctor asks.
grant execute on function @extschema@.spent_partitions, @extschema@.keep_for to @reader@;

-- A client writes through functions only, which say who submitted what.
grant execute on function
    @extschema@.start, @extschema@.start_many, @extschema@.start_debounced, @extschema@.find_debounced,
    @extschema@.start_batched, @extschema@.signal, @extschema@.resume,
    @extschema@.retry, @extschema@.signal_with_start, @extschema@.request_update, @extschema@.ask, @extschema@.answers,
    @extschema@.cancel, @extschema@.terminate, @extschema@.pause, @extschema@.fork,
    @extschema@.bulk_step, @extschema@.id_after
    to @client@;
grant execute on procedure @extschema@.bulk to @client@;
grant execute on function
    @extschema@.claim_external, @extschema@.complete_step, @extschema@.fail_step, @extschema@.heartbeat
    to @client@;
grant execute on function @extschema@.wait to @reader@, @client@;
grant execute on procedure @extschema@.wait_for_end to @reader@, @client@, @worker@;
grant execute on function
    @extschema@.schedule, @extschema@.put_schedule, @extschema@.need_schedule, @extschema@.edit_schedule,
    @extschema@.pause_schedule, @extschema@.resume_schedule, @extschema@.trigger_schedule,
    @extschema@.backfill_schedule, @extschema@.drop_schedule
    to @client@;

-- What makes and reads definitions of SQL workflows: it touches no table. A step runs as who submitted it, and so does `bind`.
grant execute on function
    @extschema@.normalize, @extschema@.normal_seconds, @extschema@.child_nodes, @extschema@.nodes, @extschema@.check_node,
    @extschema@.check_definition, @extschema@.validate, @extschema@.truthy, @extschema@.resolve, @extschema@.no_value,
    @extschema@.env_entry, @extschema@.env_path, @extschema@.scan_query, @extschema@.check_query, @extschema@.query_refs,
    @extschema@.infer_types, @extschema@.settle_types, @extschema@.type_kind, @extschema@.value_type,
    @extschema@.ref_expression, @extschema@.lit_expression, @extschema@.rows_expression, @extschema@.join_parts,
    @extschema@.bind, @extschema@.bind_late, @extschema@.fit,
    @extschema@.explain(jsonb), @extschema@.explain(text), @extschema@.draw_nodes, @extschema@.node_title, @extschema@.node_states,
    @extschema@.make_node,
    @extschema@.is_retry,
    @extschema@.node_fields,
    @extschema@.retries,
    @extschema@.with,
    @extschema@.into,
    @extschema@.sql,
    @extschema@.call,
    @extschema@.seq(variadic jsonb[]),
    @extschema@.seq(variadic text[]),
    @extschema@.atomic(variadic jsonb[]),
    @extschema@.atomic(variadic text[]),
    @extschema@.parallel(variadic jsonb[]),
    @extschema@.parallel(variadic text[]),
    @extschema@.parallel(jsonb[], int),
    @extschema@.race(variadic jsonb[]),
    @extschema@.race(variadic text[]),
    @extschema@.if(anycompatible, jsonb, jsonb),
    @extschema@.if(anycompatible, text, text),
    @extschema@.if(anycompatible, jsonb, text),
    @extschema@.if(anycompatible, text, jsonb),
    @extschema@.if_rows(text, jsonb, jsonb),
    @extschema@.if_rows(text, text, text),
    @extschema@.if_rows(text, jsonb, text),
    @extschema@.if_rows(text, text, jsonb),
    @extschema@.loop(jsonb),
    @extschema@.loop(text),
    @extschema@.loop(jsonb, anycompatible),
    @extschema@.loop(text, anycompatible),
    @extschema@.for_each(text, jsonb, text, int),
    @extschema@.for_each(text, text, text, int),
    @extschema@.break,
    @extschema@.sleep(interval),
    @extschema@.sleep(double precision),
    @extschema@.sleep(text),
    @extschema@.wait_until(timestamptz),
    @extschema@.wait_until(text),
    @extschema@.wait_for_schedule,
    @extschema@.wait_signal,
    @extschema@.http,
    @extschema@.start_child,
    @extschema@.python,
    @extschema@.external,
    @extschema@.on_error(jsonb, anycompatible),
    @extschema@.on_error(text, anycompatible),
    @extschema@.compensate(jsonb, anycompatible),
    @extschema@.compensate(text, anycompatible),
    @extschema@.value
    to @reader@, @client@;

-- A worker writes what running an instance takes. It never changes history, and removes it by sweep's functions only.
grant insert on
    @extschema@.workflows, @extschema@.instances, @extschema@.instance_keys, @extschema@.history,
    @extschema@.events, @extschema@.workers, @extschema@.payloads
    to @worker@;
grant update on @extschema@.instances, @extschema@.workers, @extschema@.schedules to @worker@;
grant select, insert, update, delete on @extschema@.fences to @worker@;
grant insert, update on @extschema@.states, @extschema@.updates, @extschema@.stream_items to @worker@;
grant insert, delete on @extschema@.queue_starts to @worker@;
grant select, insert, update, delete on @extschema@.attempts, @extschema@.step_turns to @worker@;
grant select, insert, update, delete on @extschema@.sql_runs, @extschema@.tasks to @worker@;
grant update (policies, definition, program, defined_at) on @extschema@.workflows to @worker@;
grant delete on @extschema@.events, @extschema@.workers to @worker@;
grant execute on all functions in schema @extschema@ to @worker@;
grant execute on procedure @extschema@.apply_writes, @extschema@.work, @extschema@.watch to @worker@;

grant all on all tables in schema @extschema@ to @admin@;
grant execute on all routines in schema @extschema@ to @admin@;
