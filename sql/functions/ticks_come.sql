-- Of a schedule's ticks from `tick` on: those to start now, the one to look at next, and how many were missed.
--
-- Those within `catch_up` are made good, and the last one whatever it says if it is on time (a takeover of its worker takes 15
-- seconds); without a window, the last one however old. At most a hundred; then the next one has come too. A thousand are
-- walked over one by one; what lies behind them is jumped over, and not counted.
create or replace function @extschema@.ticks_come(
    name text, definition jsonb, tick timestamptz, at timestamptz,
    out wanted timestamptz[], out following timestamptz, out missed int)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    catch_up interval := make_interval(secs => (definition ->> 'catch_up_s')::float8);
    late timestamptz;
    there timestamptz;
    walked int := 0;
begin
    wanted := '{}';
    missed := 0;
    following := tick;
    while @extschema@.tick_fires(name, definition, following) <= at and cardinality(wanted) < 100 loop
        if at - following <= catch_up then
            wanted := wanted || following;
        else
            missed := missed + (late is not null)::int;
            late := following;
            walked := walked + 1;
            if walked = 1000 then
                there := @extschema@.tick_latest(definition, at - coalesce(catch_up, '0'), following);
                if there > following then
                    missed := missed + 1;
                    late := there;
                    following := there;
                end if;
            end if;
        end if;
        following := @extschema@.tick_next(definition, following);
    end loop;
    if late is not null then
        if wanted = '{}' and (catch_up is null or at - late <= interval '15 seconds') then
            wanted := wanted || late;
        else
            missed := missed + 1;
        end if;
    end if;
end
$$;
