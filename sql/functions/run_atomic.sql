-- Runs what is in a node `atomic`, from the instruction behind `pc` on: statements, values and conditions.
--
-- Returns: `rows`: what history is to hold of each step; `env`: the variables it named; `last` and `pc`: where to go on.
-- Raises: what its steps raise; nothing of them is left then, for the caller has a subtransaction around this.
create or replace function @extschema@.run_atomic(
    target uuid, code jsonb, pc int, last jsonb, env jsonb, path text, runner text, workflow text)
returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    ins jsonb;
    named jsonb := '{}';
    rows jsonb := '[]';
    began timestamptz;
    into_name text;
begin
    loop
        pc := pc + 1;
        ins := code -> pc;
        into_name := null;
        case ins ->> 'o'
        when 'sql' then
            began := clock_timestamp();
            last := case when ins ? 'given' then ins -> 'given'
                         else @extschema@.run_step(target, ins, env || named, path, runner, workflow) end;
            rows := rows || jsonb_build_object('n', ins -> 'n', 'name', ins -> 'name', 'result', last,
                                               'ms', extract(epoch from clock_timestamp() - began) * 1000);
            into_name := ins ->> 'into';
        when 'value' then
            last := @extschema@.resolve(ins -> 'v', env || named);
        when 'rows' then
            last := to_jsonb(coalesce(jsonb_array_length(nullif(
                (env || named) #> array[ins ->> 'of', 'r'], 'null')) > 0, false));
        when 'into' then
            into_name := ins ->> 'v';
        when 'jf' then
            if not @extschema@.truthy(last) then
                pc := (ins ->> 'to')::int - 1;
            end if;
        when 'jmp' then
            pc := (ins ->> 'to')::int - 1;
        when 'unatomic' then
            return jsonb_build_object('rows', rows, 'env', named, 'last', last, 'pc', pc + 1);
        else
            raise exception using errcode = 'PGD05',
                message = format('%s cannot be in a node atomic', ins ->> 'o'),
                hint = 'Only sql, call, if and value can.';
        end case;
        if into_name is not null then
            named := named || jsonb_build_object(into_name, @extschema@.env_entry(last));
        end if;
    end loop;
end
$$;
