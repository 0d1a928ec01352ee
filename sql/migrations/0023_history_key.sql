-- For the dump of an extension. It brings the partitions of history as tables, attaches them, and gives them their keys;
-- where history itself had its key before, it would have given them theirs already, and the dump would be refused. So in a
-- new extension history gets its key with its first partitions, or as the dump brings the row of this table: after it has
-- attached them, before it gives them keys.

create table @extschema@.history_key (
    only_row  boolean primary key default true check (only_row),
    made_at   timestamptz not null default now()
);
comment on table @extschema@.history_key is 'One row: history has its primary key. Its trigger gives it one.';

-- Its body is in sql/functions.
create or replace function @extschema@.key_history() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return new;
end
$$;

create trigger key_history before insert on @extschema@.history_key
    for each row execute function @extschema@.key_history();
