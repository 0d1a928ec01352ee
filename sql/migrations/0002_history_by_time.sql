-- History in partitions by time, and the settings of the namespace.
--
-- Ids are UUIDv7, so a range of ids is a range of time: one partition holds the history of the instances that were
-- started in one week. What is there already becomes the first partition as it is: it is read once, to prove that it
-- holds nothing younger than its bound, and not written. There is no default partition, with which none could be
-- detached concurrently; `make_partitions` sees to it that no id is without one.

create table @extschema@.settings (
    only_row         boolean primary key default true check (only_row),
    partition_width  interval not null default '7 days'
        check (partition_width >= '1 hour' and extract(year from partition_width) = 0
               and extract(month from partition_width) = 0),
    partition_ahead  interval not null default '28 days' check (partition_ahead between '1 day' and '366 days'),
    retention        interval default '30 days' check (retention >= '0')
);
comment on table @extschema@.settings is 'Settings of this namespace, one row. Changed by update; workers see it within minutes.';
comment on column @extschema@.settings.partition_width is 'The span of starts whose history shares a partition. Holds for partitions made from now on.';
comment on column @extschema@.settings.partition_ahead is 'How far ahead of now partitions are made.';
comment on column @extschema@.settings.retention is 'How long ended instances are kept where their workflow does not say; null: for ever.';

insert into @extschema@.settings default values;

alter table @extschema@.history rename to history_past;

alter table @extschema@.history_past rename constraint history_pkey to history_past_pkey;

create table @extschema@.history (like @extschema@.history_past including all) partition by range (instance_id);

comment on table @extschema@.history is 'Append-only: one row per transition of an instance, in the order its workflow met them. Partitioned by range of instance_id, which is time.';

comment on table @extschema@.history_past is 'pgdurable: partition of history';

-- What had been granted on the table is granted on the one that has its name now. Whoever reads past it reads past
-- its row-level security.
do $$
declare
    granted record;
begin
    for granted in
        select a.grantee, a.privilege_type, a.is_grantable
          from pg_catalog.pg_class c cross join lateral pg_catalog.aclexplode(c.relacl) a
         where c.oid = '@extschema@.history_past'::regclass and a.grantee <> c.relowner
    loop
        execute format('grant %s on @extschema@.history to %s%s', granted.privilege_type,
            case when granted.grantee = 0 then 'public' else granted.grantee::regrole::text end,
            case when granted.is_grantable then ' with grant option' else '' end);
        execute format('revoke %s on @extschema@.history_past from %s cascade', granted.privilege_type,
            case when granted.grantee = 0 then 'public' else granted.grantee::regrole::text end);
    end loop;
end
$$;

-- The first partition ends with the week in which the youngest instance was started. Instances whose ids lie more than a
-- year ahead (a client's clock was wrong) get one of their own, or the first would hold everything for years.
do $$
declare
    origin constant timestamptz := '2001-01-01 00:00:00+00';
    edge timestamptz := date_bin('7 days', now(), origin) + '7 days';
    sane uuid := (lpad(to_hex(floor(extract(epoch from edge + interval '1 year') * 1000)::bigint), 12, '0')
                  || repeat('0', 20))::uuid;
    youngest uuid;
    far uuid;
begin
    select greatest(
        (select h.instance_id from @extschema@.history_past h where h.instance_id < sane order by 1 desc limit 1),
        (select i.id from @extschema@.instances i where i.id < sane order by 1 desc limit 1)) into youngest;
    if youngest is not null then
        edge := greatest(edge, date_bin('7 days',
            to_timestamp((('x' || left(replace(youngest::text, '-', ''), 12))::bit(48)::bigint) / 1000.0), origin) + '7 days');
    end if;
    select h.instance_id into far from @extschema@.history_past h where h.instance_id >= sane order by 1 limit 1;
    if far is not null then
        far := (left(far::text, 13) || '-0000-0000-000000000000')::uuid;
        create table @extschema@.history_far (like @extschema@.history including all)
            with (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
        comment on table @extschema@.history_far is 'pgdurable: partition of history';
        with moved as (
            delete from @extschema@.history_past h where h.instance_id >= sane returning h.*
        )
        insert into @extschema@.history_far select m.* from moved m;
        execute format('alter table @extschema@.history attach partition @extschema@.history_far '
            'for values from (%L) to (maxvalue)', far);
    end if;
    execute format('alter table @extschema@.history attach partition @extschema@.history_past '
        'for values from (minvalue) to (%L)',
        (lpad(to_hex(floor(extract(epoch from edge) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid);
end
$$;
