-- `start` takes the new instance's uuid.
drop function if exists @extschema@.start(text, jsonb, text, text, text, int, interval, jsonb);
