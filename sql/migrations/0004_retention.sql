-- How long the history of removed instances may wait for its partition to go as a whole.
alter table @extschema@.settings
    add column history_grace interval not null default '7 days' check (history_grace >= '0');
comment on column @extschema@.settings.history_grace is 'How long the history of removed instances waits for its whole partition to be dropped, before it is deleted row by row.';
comment on column @extschema@.workflows.policies is 'retention: seconds for which ended instances are kept, null: for ever; not there: as settings.retention says.';
