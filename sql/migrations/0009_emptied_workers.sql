-- A claim looks at the workers that ended and have left something behind, not at all that ever were.
alter table @extschema@.workers add column emptied boolean not null default false;
comment on column @extschema@.workers.emptied is 'Ended, and nothing it held is left: claims pass it over.';
drop index if exists @extschema@.workers_ended;
create index workers_ended on @extschema@.workers (id) where state in ('dead', 'stopped') and not emptied;
