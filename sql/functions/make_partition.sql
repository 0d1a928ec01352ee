-- Makes one partition of `history`, for ids from `lower` (null: from the first) up to below `upper`. For
-- make_partitions, which knows that nobody else makes one and that no other holds these ids.
--
-- Locks: `history` share update exclusive, which no read or write meets. So it is made beside it and then attached;
-- `create table ... partition of` would lock everybody out.
-- Returns: its name, which tells where it begins.
create or replace function @extschema@.make_partition(lower uuid, upper uuid) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    stem text := coalesce('history_' || to_char(@extschema@.id_time(lower) at time zone 'UTC', 'YYYYMMDD"t"HH24MISS'),
                          'history_past');
    name text;
    taken int := 1;
begin
    stem := replace(stem, 't000000', '');
    name := stem;
    while to_regclass('@extschema@.' || name) is not null loop
        taken := taken + 1;
        name := stem || '_' || taken;
    end loop;
    execute format('create table @extschema@.%I (like @extschema@.history including all) with '
        '(autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1)', name);
    execute format('comment on table @extschema@.%I is %L', name, 'pgdurable: partition of history');
    execute format('alter table @extschema@.history attach partition @extschema@.%I for values from (%s) to (%L)',
        name, coalesce(quote_literal(lower), 'minvalue'), upper);
    return name;
end
$$;
