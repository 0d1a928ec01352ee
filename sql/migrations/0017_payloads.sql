-- Large payloads are kept once, beside the rows that workers read and write all the time.

create table @extschema@.payloads (
    instance_id  uuid not null,
    hash         text not null,
    data         jsonb not null,
    primary key (instance_id, hash)
) with (autovacuum_vacuum_insert_scale_factor = 0.1);
comment on table @extschema@.payloads is 'Payloads over settings.payload_aside bytes: where one belongs there is {"$pgdurable:aside": {"hash", "size"}}.';

alter table @extschema@.settings
    add column payload_aside int not null default 32768 check (payload_aside between 4096 and 1073741824);
comment on column @extschema@.settings.payload_aside is 'Payloads of more bytes (as JSON text) are kept in the table payloads.';

comment on column @extschema@.instances.format is 'How this instance''s payloads are written. 1: JSON; what is not plain JSON says so itself, an object with one key that begins with $pgdurable:';
