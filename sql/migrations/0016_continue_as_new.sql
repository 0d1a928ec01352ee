-- Instances that continue as new: where the history of their present run begins.

alter table @extschema@.instances add column first_event int not null default 0;
comment on column @extschema@.instances.first_event is
    'The event_id of the history row `continued` that began its present run; 0: it is in its first.';
create index instances_continued on @extschema@.instances (id) where first_event > 0;
