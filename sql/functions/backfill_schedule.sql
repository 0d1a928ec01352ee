-- Asks for the ticks of a range of time that have not been started: those after `since` up to `until`. A worker starts
-- them, one after the other (`buffer_all`) or all at once (`allow`, the default where the schedule's overlap is that).
-- A tick that has its instance already gets no other.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Raises: PGD10 no such schedule; PGD05 the range is empty or lies ahead.
create or replace function @extschema@.backfill_schedule(
    name text, since timestamptz, until timestamptz default now(), overlap text default null)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target text := @extschema@.need_schedule(name);
    asked jsonb;
begin
    if since >= until or until > now() or since is null or until is null then
        raise exception using errcode = 'PGD05',
            message = format('schedule %L: a backfill goes from one time to a later one that is past', name),
            hint = 'Ticks ahead come by themselves.';
    end if;
    if overlap not in ('buffer_all', 'allow') then
        raise exception using errcode = 'PGD05',
            message = format('schedule %L: a backfill''s overlap is buffer_all or allow, found %L', name, overlap);
    end if;
    asked := jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
        'since', to_char(since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
        'until', to_char(until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'), 'overlap', overlap)));
    update @extschema@.schedules s
       set requests = s.requests || asked, next_at = now(), revision = s.revision + 1
     where s.name = target and not s.requests @> asked;
    perform pg_notify(@extschema@.channel(), 'due');
end
$$;
