-- An external worker in psql: prints labels, three lines and no more. Run it with
--
--     psql -X -v ON_ERROR_STOP=1 -f examples/external/worker.sql
--
-- Claim, work and end are one transaction, so no lease is needed: whatever happens, a label is printed once or not at all.
create table if not exists labels (order_id text primary key, text text not null, printed_at timestamptz default now());

with job as materialized (
    select * from durable.claim_external('labels', 10)
), printed as (
    insert into labels (order_id, text) select id, input ->> 'text' from job returning order_id
)
select durable.complete_step(job.id, job.step, jsonb_build_object('label', p.order_id), job.attempt, job.seq)
  from job join printed p on p.order_id = job.id
\watch 0.2
