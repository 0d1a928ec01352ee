-- Writes that are seldom ride in the flush: functions `apply_writes` and `write_event`, which come with this version.

comment on table @extschema@.signal_keys is
    'Keys of the signals, and of the events between instances, sent in the last hour: the same key again sends nothing.';
