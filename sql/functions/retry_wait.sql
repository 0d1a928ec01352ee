-- In how many seconds a step is tried again after its attempt `attempt` (from 1) failed; null: it is not.
--
-- Arguments: `policy`: what the node says (max_attempts, null for no end; initial, multiplier, max_interval, jitter; on,
-- never_on: SQLSTATEs, or the first letters of such); `usual`: what holds where it says nothing. Where a node has no policy,
-- mistakes in its text are not tried again (class 42, 0A) nor are references to nothing (PGD20).
create or replace function @extschema@.retry_wait(policy jsonb, usual jsonb, attempt int, sqlstate text) returns float8
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    own jsonb := usual || coalesce(policy, '{"never_on": ["42", "0A", "PGD20"]}');
    wait float8;
begin
    if attempt >= (own ->> 'max_attempts')::int
       or (jsonb_typeof(own -> 'on') = 'array' and not exists (
            select from jsonb_array_elements_text(own -> 'on') as o (code) where starts_with(sqlstate, o.code)))
       or exists (select from jsonb_array_elements_text(coalesce(nullif(own -> 'never_on', 'null'), '[]')) as o (code)
                   where starts_with(sqlstate, o.code)) then
        return null;
    end if;
    wait := least((own ->> 'initial')::float8 * power((own ->> 'multiplier')::float8, least(attempt - 1, 500)),
                  (own ->> 'max_interval')::float8);
    return wait * (1 + (own ->> 'jitter')::float8 * (2 * random() - 1));
end
$$;
