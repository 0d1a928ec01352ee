-- Raises PGD05 for a reason of a cancellation that is too long to be kept.
create or replace function @extschema@.check_reason(reason text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if octet_length(reason) > 4096 then
        raise exception using errcode = 'PGD05',
            message = format('a reason has at most 4096 bytes, this one has %s', octet_length(reason)),
            hint = 'Say it shorter, and keep the rest elsewhere.';
    end if;
end
$$;
