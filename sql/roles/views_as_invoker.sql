-- From PostgreSQL 15 on a view can ask with the rights of whoever asks it, so that row-level security holds in it.
-- Before, it asks as its owner, and clients do not get it.
alter view if exists @extschema@.steps set (security_invoker = true);
alter view if exists @extschema@.running set (security_invoker = true);
alter view if exists @extschema@.running_steps set (security_invoker = true);
alter view if exists @extschema@.failures set (security_invoker = true);
alter view if exists @extschema@.timed_out set (security_invoker = true);
alter view if exists @extschema@.queue_stats set (security_invoker = true);
alter view if exists @extschema@.history_partitions set (security_invoker = true);
alter view if exists @extschema@.settings set (security_invoker = true);
alter view if exists @extschema@.step_status set (security_invoker = true);
alter view if exists @extschema@.step_errors set (security_invoker = true);
alter view if exists @extschema@.timed_out_steps set (security_invoker = true);
alter view if exists @extschema@.waiting_on set (security_invoker = true);
alter view if exists @extschema@.task_stats set (security_invoker = true);
alter view if exists @extschema@.throughput_per_minute set (security_invoker = true);
