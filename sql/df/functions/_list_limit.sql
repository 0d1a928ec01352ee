-- How many rows one call of df.list_instances may ask for. Raises: 22023 for none, or more.
create or replace function df._list_limit(limit_count int) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    most int := coalesce(nullif(current_setting('pg_durable.list_instances_max_limit', true), ''), '1000');
begin
    if limit_count < 1 then
        raise exception using errcode = '22023', message = 'limit_count must be at least 1', hint = 'Leave it out for 100.';
    elsif limit_count > most then
        raise exception using errcode = '22023',
            message = format('limit_count (%s) exceeds pg_durable.list_instances_max_limit (%s)', limit_count, most),
            hint = 'Ask page by page: df.list_instances(status, limit, label, next_cursor).';
    end if;
end
$$;
