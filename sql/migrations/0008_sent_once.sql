-- A signal whose answer was lost can be sent again: it may carry a key that the sender chose.

create table @extschema@.signal_keys (
    key      uuid primary key,
    sent_at  timestamptz not null default now()
);
comment on table @extschema@.signal_keys is
    'Keys of the signals sent in the last hour, consumed or not: the same key again sends nothing.';
create index signal_keys_sent on @extschema@.signal_keys (sent_at);

drop function if exists @extschema@.signal(text, text, jsonb);
