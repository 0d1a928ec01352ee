-- An instance that ends its worker each time it runs is set aside.

alter table @extschema@.instances add column strikes smallint not null default 0;
alter table @extschema@.instances add column taken_at timestamptz;
comment on column @extschema@.instances.takeovers is 'How often a worker died that held the instance.';
comment on column @extschema@.instances.strikes is
    'Workers that died in a row while they held the instance, without its getting on in between.';
comment on column @extschema@.instances.taken_at is 'When the instance was last claimed.';
comment on column @extschema@.instances.owner is
    'workers.id of the incarnation that holds the instance in memory, null when nobody does; negative: of a worker that ended, from which nobody has claimed the instance since judge() looked at it.';

-- Those with strikes are looked for by themselves.
drop index @extschema@.instances_owned;
create index instances_owned on @extschema@.instances (owner, strikes) where owner is not null;

drop function if exists @extschema@.claim(bigint, text[], text[], boolean[], int);
