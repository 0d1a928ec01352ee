-- Runs workflows in SQL that are due, until nothing is or an end is reached. Stub: the body comes with run_batch.
create or replace procedure @extschema@.work(
    max_time interval default interval '1 minute', max_steps bigint default null, wait boolean default false,
    queues text[] default null)
language plpgsql
as $$
begin
    raise exception using errcode = '0A000', message = 'work comes with run_batch', hint = 'Wait a moment.';
end
$$;
