-- Gives `history` its primary key where it has none, and makes the keys of its partitions part of it: a trigger of
-- history_key, for make_partitions and for dumps that are restored (migration 23 says why).
-- Locks: history exclusively, where it has no key: nobody can have written to it then.
create or replace function @extschema@.key_history() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    part record;
begin
    if not exists (select from pg_catalog.pg_index i
                    where i.indrelid = '@extschema@.history'::regclass and i.indisprimary) then
        alter table only @extschema@.history add constraint history_pkey primary key (instance_id, event_id);
    end if;
    for part in
        select i.indexrelid::regclass::text as key
          from pg_catalog.pg_inherits p
          join pg_catalog.pg_index i on i.indrelid = p.inhrelid and i.indisprimary
         where p.inhparent = '@extschema@.history'::regclass and not p.inhdetachpending
           and not exists (select from pg_catalog.pg_inherits k where k.inhrelid = i.indexrelid)
    loop
        execute format('alter index @extschema@.history_pkey attach partition %s', part.key);
    end loop;
    return new;
end
$$;
