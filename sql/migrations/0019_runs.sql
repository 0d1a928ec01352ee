-- An instance that continues as new counts its commands anew: what it publishes and streams says of which run it is.

alter table @extschema@.states add column run int not null default 0;
comment on column @extschema@.states.run is 'The event_id of the history row `continued` that began the run which set it; 0: the first.';
alter table @extschema@.stream_items add column run int not null default 0;
comment on column @extschema@.stream_items.run is 'The event_id of the history row `continued` that began the writer''s run; 0: the first.';
drop index if exists @extschema@.stream_items_writer;
create unique index stream_items_writer on @extschema@.stream_items (instance_id, run, writer, stream, n);
