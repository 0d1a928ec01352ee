-- The state of an instance that begins: its input as variables, and one thread at the first instruction.
--
-- State, a JSON object: `seq`: the number of the next command; `env`: variables by name, as env_entry gives them;
-- `threads`: by number, each with `pc`, `last` (the latest result), `fr` (frames of try, loop and push, outermost first),
-- `env` (variables of its own), `att` and `seq` (of the step under way), `wait` (what for; `got`: it came), `up` and `ix`
-- (which join it belongs to, at which place); `joins`: by number, of forks under way; `next`: the next number of either;
-- `inbox`: signals nobody has waited for yet; `undo`: compensations, the latest last; `ending`: how it ends once what is
-- `left` to run has run.
create or replace function @extschema@.run_start(input jsonb) returns jsonb
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('seq', 0, 'next', 1, 'threads', jsonb_build_object('0', jsonb_build_object('pc', 0)), 'env',
        jsonb_build_object('input', @extschema@.env_entry(input))
        || case when jsonb_typeof(input) = 'object' and input <> '{}' then
            (select jsonb_object_agg(e.key, @extschema@.env_entry(e.value)) from jsonb_each(input) e) else '{}' end)
$$;
