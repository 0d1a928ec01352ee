-- Sees to it that `history` has a partition for every id: from the first one to those of the setting partition_ahead from
-- now. Workers call it when they join and every hour after that; any number may at once, of which one does it.
--
-- `covering`: an id that lies further ahead (a client's clock is wrong) and needs a partition all the same.
-- Locks: `history` share update exclusive, which no read or write meets; gives up after 2 s where another holds it.
-- Returns: up to when there are partitions without a gap.
-- Raises: PGD07 when too many partitions lie ahead; 55P03 when it gave up.
--
-- It runs with the rights of the tables' owner, since attaching a partition is the owner's to do.
create or replace function @extschema@.make_partitions(covering uuid default null) returns timestamptz
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
    origin constant timestamptz := '2001-01-01 00:00:00+00';
    most_at_once constant int := 60;
    most_ahead constant int := 20;
    width interval;
    ahead interval;
    current_start timestamptz;
    horizon uuid;
    edge uuid;
    stop uuid;
    next_edge uuid;
    before_it uuid;
    part record;
    mine boolean := pg_try_advisory_xact_lock(@extschema@.lock_class(3), 0);
begin
    width := @extschema@.setting('partition_width')::interval;
    ahead := @extschema@.setting('partition_ahead')::interval;
    if mine and (not exists (select from @extschema@.history_key)
                 or not exists (select from pg_catalog.pg_index i
                                 where i.indrelid = '@extschema@.history'::regclass and i.indisprimary and i.indisvalid)) then
        delete from @extschema@.history_key;
        insert into @extschema@.history_key default values;
    end if;
    current_start := date_bin(width, now(), origin);
    horizon := @extschema@.id_at(date_bin(width, now() + ahead, origin) + width);
    for part in
        select p.lower, p.upper from @extschema@.history_partitions p
        union all
        select horizon, horizon
         order by 1 nulls first
    loop
        if part.lower is not null and (edge is null or edge < part.lower) and (edge is null or edge < horizon) then
            exit when not mine;
            stop := least(part.lower, horizon);
            if edge is null then
                -- Before the first: one for all that is past, or what was there has been dropped.
                next_edge := least(stop, @extschema@.id_at(current_start));
                perform @extschema@.make_partition(null, next_edge);
                edge := next_edge;
            elsif stop <= @extschema@.id_at(current_start) then
                perform @extschema@.make_partition(edge, stop);
                edge := stop;
            elsif @extschema@.id_time(edge) < current_start - most_at_once * width then
                -- Nobody was here for a year and longer.
                next_edge := @extschema@.id_at(current_start - most_at_once * width);
                perform @extschema@.make_partition(edge, next_edge);
                edge := next_edge;
            end if;
            while edge < stop loop
                next_edge := least(stop, @extschema@.id_at(date_bin(width, @extschema@.id_time(edge), origin) + width));
                perform @extschema@.make_partition(edge, next_edge);
                edge := next_edge;
            end loop;
        end if;
        exit when part.lower > edge;  -- one that lies ahead
        edge := greatest(edge, part.upper);
    end loop;
    if mine and covering >= edge
       and not exists (select from @extschema@.history_partitions p where covering >= p.lower and covering < p.upper)
    then
        if (select count(*) from @extschema@.history_partitions p where p.lower >= horizon) >= most_ahead then
            raise exception using errcode = 'PGD07',
                message = format('the id %s would be of %s, for which there is no partition', covering,
                                 @extschema@.id_time(covering)),
                detail = format('Already %s partitions lie further ahead than %s.', most_ahead, ahead),
                hint = 'Set the clock of whoever made this id: ids begin with the time.';
        end if;
        select p.upper into before_it from @extschema@.history_partitions p where p.upper <= covering order by 1 desc limit 1;
        select p.lower into stop from @extschema@.history_partitions p where p.lower > covering order by 1 limit 1;
        perform @extschema@.make_partition(
            greatest(before_it, @extschema@.id_at(date_bin(width, @extschema@.id_time(covering), origin))),
            least(stop, @extschema@.id_at(date_bin(width, @extschema@.id_time(covering), origin) + width)));
    end if;
    return @extschema@.id_time(edge);
end
$$;
