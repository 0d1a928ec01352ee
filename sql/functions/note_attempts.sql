-- Keeps what a worker says of its long attempts: that they run, heartbeats and progress; and forgets those that ended.
--
-- Arguments are parallel arrays, one element per attempt, ordered by instance and seq by the caller (one lock order).
-- `ran` is how many seconds it has run; `beat` that many ago it last gave a sign. `gone` are attempts that have ended.
-- Locks: the fence, then the rows.
-- Raises: PGD01 when the worker was taken over: what a successor knows of the same step is not overwritten.
create or replace function @extschema@.note_attempts(
    worker bigint, ids uuid[], seqs int[], attempts int[], names text[], ran float8[], beat float8[],
    done float8[], total float8[], details text[], gone_ids uuid[], gone_seqs int[])
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.fence(worker);
    delete from @extschema@.attempts a
     using (select unnest(gone_ids) as id, unnest(gone_seqs) as seq) g
     where a.instance_id = g.id and a.seq = g.seq and a.worker = note_attempts.worker;
    insert into @extschema@.attempts as a
        (instance_id, seq, attempt, worker, name, started_at, beat_at, done, total, details)
    select u.id, u.seq, u.attempt, note_attempts.worker, u.name, now() - make_interval(secs => u.ran),
           now() - make_interval(secs => u.beat), u.done, u.total, u.details::jsonb
      from (select unnest(ids) as id, unnest(seqs) as seq, unnest(attempts) as attempt, unnest(names) as name,
                   unnest(ran) as ran, unnest(beat) as beat, unnest(note_attempts.done) as done,
                   unnest(note_attempts.total) as total, unnest(note_attempts.details) as details) u
    on conflict (instance_id, seq) do update
       set attempt = excluded.attempt, worker = excluded.worker, name = excluded.name,
           started_at = excluded.started_at, beat_at = excluded.beat_at, done = excluded.done,
           total = excluded.total, details = excluded.details;
end
$$;
