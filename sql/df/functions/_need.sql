-- As df._find. Raises: PGD02 where there is none.
create or replace function df._need(id text) returns uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id uuid := df._find(id);
begin
    if found_id is null then
        raise exception using errcode = 'PGD02', message = format('Instance not found or access denied: %s', id),
            hint = 'select instance_id, label from df.list_instances() shows those you may know of.';
    end if;
    return found_id;
end
$$;
