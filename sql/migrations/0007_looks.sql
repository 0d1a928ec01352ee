-- What keeps the hot path as fast as ever while somebody holds an old snapshot, behind which nothing can be cleaned up.
--
-- A worker's row in `workers` has a new version every second, and whoever looks for it meets them all. The fence looks
-- with every commit, so it has a table of its own, which changes only when a worker comes or goes.

create table @extschema@.fences (
    worker  bigint primary key
);
comment on table @extschema@.fences is 'One row per worker that may write. Taking it away, under the lock of its fence, is what ends a worker.';

insert into @extschema@.fences (worker)
select w.id from @extschema@.workers w where w.state in ('alive', 'draining');

-- Ended workers are looked through by every claim.
create index workers_ended on @extschema@.workers (id) where state in ('dead', 'stopped');

drop function if exists @extschema@.claim(bigint, text[], text[], boolean[], int, int, int);

comment on table @extschema@.workers is 'One row per worker incarnation. Whether it may write is in fences.';
