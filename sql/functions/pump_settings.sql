-- The settings of this session that a step could leave changed, and that what runs after it must not meet so.
create or replace function @extschema@.pump_settings() returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_object_agg(s.name, s.setting)
      from (select n.name, current_setting(n.name, true) as setting
              from unnest(array[
                'role', 'synchronous_commit', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                'transaction_timeout', 'session_replication_role', 'default_transaction_read_only', 'row_security',
                'default_transaction_isolation', 'default_transaction_deferrable', 'constraint_exclusion', 'check_function_bodies',
                'bytea_output', 'datestyle', 'intervalstyle', 'timezone', 'client_min_messages', 'default_tablespace',
                'temp_tablespaces', 'enable_seqscan', 'enable_indexscan', 'enable_nestloop', 'enable_hashjoin', 'enable_mergejoin',
                'enable_sort', 'work_mem', 'jit', 'plan_cache_mode', 'default_table_access_method', 'lc_messages']) as n (name)) s
     where s.setting is not null
$$;
