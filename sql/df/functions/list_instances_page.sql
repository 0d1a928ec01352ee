-- The instances of the caller, the newest first, page by page.
--
-- Arguments: as of the other df.list_instances; `label_filter`: null: any; `after_cursor`: `next_cursor` of the page before.
-- Returns: with `next_cursor`, the same in every row; null on the last page. Raises: 22023 for a limit or cursor that is none.
create or replace function df.list_instances(
    status_filter text, limit_count int, label_filter text, after_cursor text default null)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text,
    created_at timestamptz, completed_at timestamptz, next_cursor text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    place text[];
    rows record;
begin
    perform df._list_limit(limit_count);
    if after_cursor is not null then
        begin
            place := string_to_array(convert_from(decode(after_cursor, 'hex'), 'UTF8'), '|');
            perform place[2]::timestamptz;
        exception when others then
            place := null;
        end;
        if cardinality(place) is distinct from 3 or place[1] <> 'v1' or place[2] is null then
            raise exception using errcode = '22023', message = 'df.list_instances: invalid after_cursor',
                hint = 'Give next_cursor of the page before as it came.';
        end if;
    end if;
    return query
    with page as materialized (
        select l.*, row_number() over (order by l.created_at desc, l.instance_id) as n
          from df._list(status_filter, limit_count + 1, label_filter, place[2]::timestamptz, place[3]) l
    )
    select p.instance_id, p.label, p.function_name, p.status, p.execution_count, p.output, p.created_at, p.completed_at,
           (select encode(convert_to(concat_ws('|', 'v1', to_char(z.created_at at time zone 'UTC',
                       'YYYY-MM-DD"T"HH24:MI:SS.US"+00"'), z.instance_id), 'UTF8'), 'hex')
              from page z where z.n = limit_count and exists (select from page y where y.n > limit_count))
      from page p where p.n <= limit_count order by p.n;
end
$$;
