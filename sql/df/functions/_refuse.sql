-- Raises what it is given: the step that calls it fails with that.
create or replace function df._refuse(message text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = '22023', message = message, hint = 'select df.explain(...) shows the graph.';
end
$$;
