-- The next greater uuid; null after the last.
create or replace function @extschema@.id_after(id uuid) returns uuid
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    bytes bytea := uuid_send(id);
begin
    for place in reverse 15..0 loop
        if get_byte(bytes, place) < 255 then
            return encode(set_byte(bytes, place, get_byte(bytes, place) + 1), 'hex')::uuid;
        end if;
        bytes := set_byte(bytes, place, 0);
    end loop;
    return null;
end
$$;
