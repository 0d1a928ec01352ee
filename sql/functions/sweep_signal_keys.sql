-- Deletes up to `most` keys of signals that were sent over an hour ago. Returns how many.
create or replace function @extschema@.sweep_signal_keys(most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    delete from @extschema@.signal_keys k
     where k.key = any (array(
        select o.key from @extschema@.signal_keys o
         where o.sent_at < now() - interval '1 hour'
         order by o.sent_at
         limit most
           for update skip locked));
    get diagnostics n = row_count;
    return n;
end
$$;
