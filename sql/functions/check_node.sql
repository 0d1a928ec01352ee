-- What is wrong with one node of a normalized definition, its children apart.
create or replace function @extschema@.check_node(node jsonb)
returns table (problem text, hint text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    op constant text := node ->> 'op';
begin
    if op not in ('sql', 'call', 'seq', 'atomic', 'parallel', 'race', 'if', 'rows', 'loop', 'for_each', 'break', 'sleep', 'wait_until',
                  'wait_for_schedule', 'wait_signal', 'http', 'start_child', 'python', 'external', 'on_error', 'compensate', 'value') then
        return query select format('there is no op %L', op), 'docs/sql.md lists them.';
    end if;
end
$$;
