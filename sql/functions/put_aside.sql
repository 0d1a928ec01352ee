-- Puts a payload into its own table if it is large. Callers look first whether it could be, by pg_column_size.
--
-- Arguments: the instance it belongs to: nobody else's row can lead to it, and it leaves with the instance.
-- Locks: the payload's row: what sweeps payloads nobody refers to any more must not take it from under a new reference.
-- Returns: what stands in the row: the payload, or an object that says where it is.
create or replace function @extschema@.put_aside(instance uuid, payload jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    written text := payload::text;
    mark text;
begin
    if octet_length(written) <= @extschema@.setting('payload_aside')::int then
        return payload;
    end if;
    mark := left(encode(sha256(convert_to(written, 'UTF8')), 'hex'), 32);
    insert into @extschema@.payloads (instance_id, hash, data) values (instance, mark, payload)
        on conflict (instance_id, hash) do update set written_at = now();
    return jsonb_build_object('$pgdurable:aside', jsonb_build_object('hash', mark, 'size', octet_length(written)));
end
$$;
