-- The settings there are: each can be set as pgdurable.<name>. `kind` is int, number, interval, or span (an interval
-- without months); `word` is what may stand instead of a value, and means none.
create or replace function @extschema@.setting_kinds()
returns table (name text, kind text, usual text, low text, high text, word text, meaning text)
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    values
    ('max_attempts', 'int', '5', '1', '32767', null,
     'How often a step is tried, the first time included, where its own retry policy does not say.'),
    ('retry_initial', 'interval', '100 ms', '0', '366 days', null, 'The wait before a step''s second attempt.'),
    ('retry_multiplier', 'number', '2', '1', '1000', null, 'By how much that wait grows from one attempt to the next.'),
    ('retry_max_interval', 'interval', '60 s', '0', '366 days', null, 'The longest wait between two attempts.'),
    ('retry_jitter', 'number', '0.1', '0', '1', null, 'Which share of the wait is random.'),
    ('step_timeout', 'interval', 'off', '1 ms', '366 days', 'off',
     'How long one attempt of a step in SQL may take, where the step does not say.'),
    ('workflow_timeout', 'interval', 'off', '1 ms', '3660 days', 'off',
     'How long after its start an instance of a SQL workflow is timed out, where neither start nor the workflow says.'),
    ('max_parallel', 'int', '10', '1', '10000', null,
     'How many branches of one parallel or for_each run at once, where it has no limit of its own.'),
    ('poll_interval', 'interval', '1 s', '10 ms', '1 hour', null, 'How often a pump that waits for work looks for it.'),
    ('retention', 'interval', '30 days', '0', '36600 days', 'forever',
     'How long ended instances are kept, where their workflow does not say.'),
    ('history_grace', 'interval', '7 days', '0', '3660 days', null,
     'How long the history of removed instances waits for its whole partition to be dropped, before it is deleted row by row.'),
    ('partition_width', 'span', '7 days', '1 minute', '366 days', null,
     'The span of starts whose history shares a partition. Holds for partitions made from now on.'),
    ('partition_ahead', 'interval', '28 days', '90 minutes', '366 days', null, 'How far ahead of now partitions are made.'),
    ('payload_aside', 'int', '32768', '4096', '1073741824', null,
     'Payloads of more bytes (as JSON text) are kept in the table payloads.')
$$;
