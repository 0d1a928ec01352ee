-- That the schema is there; there is nothing to wait for.
create or replace view df._worker_ready as
select 1 as schema_version;
