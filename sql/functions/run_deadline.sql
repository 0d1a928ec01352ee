-- Sets the deadline of an instance that has none, where its workflow or the settings give it one, and returns it.
create or replace function @extschema@.run_deadline(
    worker bigint, target uuid, started_at timestamptz, own_s float8, usual jsonb)
returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    seconds float8 := coalesce(own_s, (usual ->> 'workflow_timeout')::float8);
    at timestamptz;
begin
    if seconds is not null then
        at := started_at + make_interval(secs => seconds);
        update @extschema@.instances i set deadline = at where i.id = target and i.owner = worker;
    end if;
    return at;
end
$$;
