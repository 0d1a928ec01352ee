-- The steps of the bank's workflows in SQL. `@` is the library's schema, `#` the bank's. Statements are separated by lines of
-- two dashes.

-- Each execution of a step that is still there: under which transaction, by which process, with which worker's fence. What
-- was undone is not, so no step may be here twice.
create table #.runs (
    position bigint, xid xid8, process text, fenced bigint, token text, tag text, nonce text, at timestamptz)
--
-- What tells an instance that somebody else has done its step: under which transaction.
create table #.told (xid xid8, instance_id uuid, seq int)
--
create function #.note_told() returns trigger language plpgsql as $$
begin
    insert into #.told values (pg_current_xact_id(), new.instance_id, (new.payload ->> 'seq')::int);
    return null;
end
$$
--
create trigger chaos_told after insert on @.events
    for each row when (new.kind = 'task') execute function #.note_told()
--
-- Notes that a step runs. What it returns is the step's result.
create function #.run(token text, tag text) returns jsonb language plpgsql as $$
declare
    nonce text := left(md5(random()::text || clock_timestamp()), 12);
    at timestamptz := clock_timestamp();
begin
    insert into #.runs
    values (nextval('#.position'), pg_current_xact_id(), #.process(), #.fence_held(), token, tag, nonce, at);
    return jsonb_build_object('tag', tag, 'nonce', nonce, 'at', extract(epoch from at));
end
$$
--
create function #.note(token text, tag text, nap float8) returns jsonb language plpgsql as $$
begin
    perform pg_sleep(nap);
    return #.run(token, tag);
end
$$
--
create function #.move(token text, entry text, source int, target int, cents int) returns jsonb language plpgsql as $$
declare
    made jsonb := #.run(token, entry);
begin
    insert into #.ledger (token, entry, source, target, cents) values (token, entry, source, target, cents);
    -- In order of account, so that two transfers never wait for each other in a circle.
    update #.accounts set balance = balance - cents where id = source and source < target;
    update #.accounts set balance = balance + cents where id = target;
    update #.accounts set balance = balance - cents where id = source and source > target;
    return made;
end
$$
--
-- Fails at random after what it has done.
create function #.shaky_move(token text, entry text, source int, target int, cents int) returns jsonb language plpgsql as $$
declare
    made jsonb := #.move(token, entry, source, target, cents);
begin
    if random() < 0.3 then
        raise exception 'changed its mind after the statements' using errcode = 'BK001';
    end if;
    return made;
end
$$
--
create function #.hopeless(token text) returns jsonb language plpgsql as $$
begin
    raise exception '% gave up: there is no such bank', token using errcode = 'BK002';
end
$$
