-- Child workflows: who started an instance, what is to become of it when that one ends, and the telling of ends.

alter table @extschema@.instances add column parent_seq int;
alter table @extschema@.instances add column parent_close text check (parent_close in ('cancel', 'abandon'));
alter table @extschema@.instances add column has_children boolean not null default false;
comment on column @extschema@.instances.parent is 'The instance that started this one as its child.';
comment on column @extschema@.instances.parent_seq is 'The number of the parent''s command that started it.';
comment on column @extschema@.instances.parent_close is 'When the parent ends first: cancel, or abandon (it goes on).';
comment on column @extschema@.instances.has_children is 'Whether it has ever started a child.';

create index instances_parent on @extschema@.instances (parent) where parent is not null;

-- Its body comes with the functions.
create or replace function @extschema@.instance_ended() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return null;
end
$$;

create trigger instance_ended after update of status on @extschema@.instances
    for each row
    when (new.status in ('completed', 'failed', 'cancelled', 'timed_out')
          and old.status not in ('completed', 'failed', 'cancelled', 'timed_out')
          and (new.parent is not null or new.has_children))
    execute function @extschema@.instance_ended();
