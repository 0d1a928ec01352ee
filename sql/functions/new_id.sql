-- A new instance id: UUIDv7 (RFC 9562), milliseconds then random bits, so that ids ascend with time.
create or replace function @extschema@.new_id() returns uuid
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select encode(
        set_byte(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            6, 112 | (get_byte(uuid_send(gen_random_uuid()), 6) & 15)),
        'hex')::uuid
$$;
