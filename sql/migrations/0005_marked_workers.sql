-- A worker behind a pooler has no session to mark its presence with.
alter table @extschema@.workers add column marked boolean not null default true;
comment on column @extschema@.workers.marked is 'Whether a session marks its presence: false behind a pooler, where only the lease tells.';
drop function if exists @extschema@.join_worker(text, jsonb, interval);
