-- Whether row-level security is on, as a row: a dump of an extension leaves out policies, and brings rows. So where one is
-- restored, the row's trigger makes the policies again.

create table @extschema@.row_security (
    only_row  boolean primary key default true check (only_row),
    prefix    text not null
);
comment on table @extschema@.row_security is 'One row: row-level security by submitter is on. Its trigger makes the policies, and takes them away with the row.';
comment on column @extschema@.row_security.prefix is 'With what the names of the group roles begin.';

-- Its body is in sql/functions.
create or replace function @extschema@.apply_row_security() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return null;
end
$$;

create trigger apply_row_security after insert or update or delete on @extschema@.row_security
    for each statement execute function @extschema@.apply_row_security();

-- A parameter of it has another name since.
drop function if exists @extschema@.task_request(jsonb, jsonb);
