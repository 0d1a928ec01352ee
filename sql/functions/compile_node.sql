-- The instructions of one node of a definition and of all in it, for compile_program.
--
-- Arguments: `n`: its number (pre-order, the root 0); `pc`: where its first instruction will stand; `names`: the name of
-- every node, by number; `path`: the search_path of its statements; `about`: workflow and version, for
-- the comments in them.
-- Returns: the instructions, a JSON array, and the number of the next node.
-- Raises: PGD05 an `op` that is none.
--
-- An instruction is an object: `o` what it does, `n` and `name` the node it stands for; run_instance says what each does.
-- Children are numbered in the order: steps or branches; when, then, else; body, while; body, handler; body, undo.
create or replace function @extschema@.compile_node(
    node jsonb, n int, pc int, names text[], path text, about text, out code jsonb, out next_n int)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    op text := node ->> 'op';
    me jsonb := jsonb_build_object('n', n, 'name', names[n + 1]);
    -- What is wrapped around the node stands before it.
    before jsonb := '[]';
    at int;
    part record;
    child jsonb;
    places jsonb := '[]';
    inner_code jsonb;
    tag text := format('/* pgdurable %s step=%s */ ', about, replace(replace(names[n + 1], '*/', '* /'), '/*', '/ *'));
    is_task boolean := op in ('sql', 'call', 'http', 'python', 'external', 'atomic');
begin
    next_n := n + 1;
    if coalesce((node ->> 'continue_on_error')::boolean, false) then
        before := before || jsonb_build_object('o', 'try', 'k', 'continue');
    end if;
    if not is_task and node ? 'retry' then
        before := before || (me || jsonb_build_object('o', 'try', 'k', 'retry', 'retry', node -> 'retry'));
    end if;
    if not is_task and op <> 'wait_signal' and node ? 'timeout' then
        before := before || (me || jsonb_build_object('o', 'try', 'k', 'limit', 'seconds', node -> 'timeout'));
    end if;
    at := pc + jsonb_array_length(before);
    code := '[]';
    case op
    when 'sql', 'call' then
        code := jsonb_build_array(jsonb_strip_nulls(me || jsonb_build_object(
            'o', 'sql', 'retry', node -> 'retry', 'timeout', node -> 'timeout', 'into', node -> 'into')
            || @extschema@.compile_statement(
                case op when 'sql' then node ->> 'query' else @extschema@.call_text(node, path) end, path, tag)));
    when 'seq', 'atomic' then
        if op = 'atomic' then
            code := code || (me || jsonb_strip_nulls(jsonb_build_object(
                'o', 'atomic', 'retry', node -> 'retry', 'timeout', node -> 'timeout')));
        end if;
        for child in select c.value from jsonb_array_elements(node -> 'steps') c loop
            select * into part
              from @extschema@.compile_node(child, next_n, at + jsonb_array_length(code), names, path, about);
            code := code || part.code;
            next_n := part.next_n;
        end loop;
        if op = 'atomic' then
            code := code || jsonb_build_object('o', 'unatomic');
        end if;
    when 'value' then
        code := jsonb_build_array(me || jsonb_build_object('o', 'value', 'v', coalesce(node -> 'value', 'null')));
    when 'if' then
        if node #>> '{when,op}' = 'rows' then
            code := jsonb_build_array(jsonb_build_object('o', 'rows', 'of', node #> '{when,of}'));
            next_n := next_n + 1;
        else
            select * into part from @extschema@.compile_node(node -> 'when', next_n, at, names, path, about);
            code := part.code;
            next_n := part.next_n;
        end if;
        select * into part
          from @extschema@.compile_node(node -> 'then', next_n, at + jsonb_array_length(code) + 1, names, path, about);
        next_n := part.next_n;
        code := code || jsonb_build_object('o', 'jf', 'to', at + jsonb_array_length(code) + jsonb_array_length(part.code) + 2)
                     || part.code;
        if node ? 'else' and jsonb_typeof(node -> 'else') <> 'null' then
            select * into part
              from @extschema@.compile_node(node -> 'else', next_n, at + jsonb_array_length(code) + 1, names, path, about);
            next_n := part.next_n;
        else
            part.code := jsonb_build_array(jsonb_build_object('o', 'value', 'v', null));
        end if;
        code := code || jsonb_build_object('o', 'jmp', 'to', at + jsonb_array_length(code) + jsonb_array_length(part.code) + 1)
                     || part.code;
    when 'loop' then
        -- loop, body, [push, while, jf-and-pop], jmp, unloop
        select * into part from @extschema@.compile_node(node -> 'body', next_n, at + 1, names, path, about);
        inner_code := part.code;
        next_n := part.next_n;
        if node ? 'while' and jsonb_typeof(node -> 'while') <> 'null' then
            inner_code := inner_code || jsonb_build_object('o', 'push');
            if node #>> '{while,op}' = 'rows' then
                part.code := jsonb_build_array(jsonb_build_object('o', 'rows', 'of', node #> '{while,of}'));
                part.next_n := next_n + 1;
            else
                select * into part
                  from @extschema@.compile_node(
                    node -> 'while', next_n, at + 1 + jsonb_array_length(inner_code), names, path, about);
            end if;
            next_n := part.next_n;
            inner_code := inner_code || part.code;
            inner_code := inner_code || jsonb_build_object(
                'o', 'jf', 'pop', true, 'to', at + 1 + jsonb_array_length(inner_code) + 2);
        end if;
        inner_code := inner_code || jsonb_build_object('o', 'jmp', 'to', at + 1);
        code := jsonb_build_array(me || jsonb_build_object('o', 'loop', 'x', at + 1 + jsonb_array_length(inner_code) + 1))
                || inner_code || jsonb_build_object('o', 'unloop');
    when 'break' then
        if node ? 'value' then
            code := code || jsonb_build_object('o', 'value', 'v', node -> 'value');
        end if;
        code := code || (me || jsonb_build_object('o', 'break'));
    when 'sleep', 'wait_until', 'wait_for_schedule', 'wait_signal', 'start_child', 'http', 'python', 'external' then
        code := jsonb_build_array(me || jsonb_build_object(
            'o', op, 'a', node - '{op,name,into,label,retry,continue_on_error}'::text[])
            || jsonb_strip_nulls(jsonb_build_object('retry', node -> 'retry')));
    when 'parallel', 'race' then
        at := at + 1;
        inner_code := '[]';
        for child in select c.value from jsonb_array_elements(node -> 'branches') c loop
            places := places || to_jsonb(at + jsonb_array_length(inner_code));
            select * into part
              from @extschema@.compile_node(child, next_n, at + jsonb_array_length(inner_code), names, path, about);
            inner_code := inner_code || part.code || jsonb_build_object('o', 'end');
            next_n := part.next_n;
        end loop;
        code := jsonb_build_array(me || jsonb_strip_nulls(jsonb_build_object(
            'o', 'fork', 'k', op, 'b', places, 'j', at + jsonb_array_length(inner_code), 'limit', node -> 'limit')))
            || inner_code;
    when 'for_each' then
        if node ? 'query' then
            code := jsonb_build_array(me || jsonb_build_object('o', 'sql')
                || @extschema@.compile_statement(node ->> 'query', path, tag));
        else
            code := jsonb_build_array(me || jsonb_build_object('o', 'value', 'v', node -> 'in'));
        end if;
        select * into part from @extschema@.compile_node(node -> 'body', next_n, at + 2, names, path, about);
        next_n := part.next_n;
        code := code || (me || jsonb_strip_nulls(jsonb_build_object(
            'o', 'fork', 'k', 'for_each', 'b', at + 2, 'j', at + 3 + jsonb_array_length(part.code), 'limit', node -> 'limit',
            'as', coalesce(node ->> 'as', 'item'))))
            || part.code || jsonb_build_object('o', 'end');
    when 'on_error' then
        select * into part from @extschema@.compile_node(node -> 'body', next_n, at + 1, names, path, about);
        inner_code := part.code;
        next_n := part.next_n;
        select * into part
          from @extschema@.compile_node(node -> 'handler', next_n, at + jsonb_array_length(inner_code) + 3, names, path, about);
        next_n := part.next_n;
        code := jsonb_build_array(me || jsonb_build_object(
                'o', 'try', 'k', 'catch', 'h', at + jsonb_array_length(inner_code) + 3))
            || inner_code || jsonb_build_object('o', 'untry')
            || jsonb_build_object('o', 'jmp', 'to', at + jsonb_array_length(inner_code) + 3 + jsonb_array_length(part.code))
            || part.code;
    when 'compensate' then
        select * into part from @extschema@.compile_node(node -> 'body', next_n, at, names, path, about);
        inner_code := part.code;
        next_n := part.next_n;
        select * into part
          from @extschema@.compile_node(node -> 'undo', next_n, at + jsonb_array_length(inner_code) + 2, names, path, about);
        next_n := part.next_n;
        code := inner_code
            || (me || jsonb_build_object('o', 'undo', 'u', at + jsonb_array_length(inner_code) + 2))
            || jsonb_build_object('o', 'jmp', 'to', at + jsonb_array_length(inner_code) + 3 + jsonb_array_length(part.code))
            || part.code || jsonb_build_object('o', 'undone');
    else
        raise exception using errcode = 'PGD05',
            message = format('%s has an op that is none: %s', names[n + 1], coalesce(quote_literal(op), 'missing')),
            hint = 'select * from @extschema@.validate(definition) says what is wrong with a definition.';
    end case;
    -- A statement keeps its result itself; another node's is kept where it ends.
    if node ? 'into' and op not in ('sql', 'call') then
        code := code || jsonb_build_object('o', 'into', 'v', node -> 'into');
    end if;
    -- Innermost wrapper last: each `try` is closed behind the node, `continue` with its place to go on.
    for i in reverse jsonb_array_length(before) - 1 .. 0 loop
        code := code || jsonb_build_object('o', 'untry');
        if before -> i ->> 'k' = 'continue' then
            before := jsonb_set(before, array[i::text, 'h'], to_jsonb(pc + jsonb_array_length(before) + jsonb_array_length(code)));
            if node ? 'into' then
                before := jsonb_set(before, array[i::text, 'into'], node -> 'into');
            end if;
        end if;
    end loop;
    code := before || code;
end
$$;
