-- Only where the views ask with the rights of whoever asks them.
grant select on
    @extschema@.steps, @extschema@.running, @extschema@.failures, @extschema@.timed_out, @extschema@.queue_stats,
    @extschema@.history_partitions, @extschema@.running_steps,
    @extschema@.step_status, @extschema@.step_errors, @extschema@.timed_out_steps, @extschema@.waiting_on,
    @extschema@.task_stats, @extschema@.throughput_per_minute
    to @client@;
