-- Draws a definition as a tree: a line per node, with its name, what it does and its policies.
--
-- Example: select * from @extschema@.explain(@extschema@.seq('select 1', 'select 2')).
create or replace function @extschema@.explain(definition jsonb)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select d from @extschema@.draw_nodes(definition) as d
$$;

-- Draws an instance of a SQL workflow as the tree of its definition, with what became of each node so far: done, how often,
-- how long it took, how it failed, waiting, skipped. The first line is its own state.
--
-- Also of the name of a SQL workflow (its current version), or of a definition as text: then nothing has happened yet.
-- Raises: PGD02 nothing has this id or name; PGD05 an instance of another kind of workflow.
create or replace function @extschema@.explain(id text)
returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid;
    one record;
begin
    if id ~ '^\s*[\[{"]' then
        return query select d from @extschema@.draw_nodes(id::jsonb) as d;
        return;
    end if;
    target := @extschema@.find_instance(id);
    if target is null then
        select w.definition into one from @extschema@.workflows w
         where w.name = explain.id and w.kind = 'sql' order by w.defined_at desc limit 1;
        if found then
            return query select d from @extschema@.draw_nodes(one.definition) as d;
            return;
        end if;
        target := @extschema@.need_instance(id);
    end if;
    select i.workflow, i.version, i.status, i.error ->> 'message' as error, w.definition
      into one
      from @extschema@.instances i left join @extschema@.workflows w
           on w.name = i.workflow and w.version = coalesce(i.version, (
               select c.version from @extschema@.workflows c where c.name = i.workflow and c.kind = 'sql'
                order by c.defined_at desc limit 1)) and w.kind = 'sql'
     where i.id = target;
    if one.definition is null then
        raise exception using errcode = 'PGD05',
            message = format('instance %L is of workflow %L, which is not one in SQL', id, one.workflow),
            hint = 'Its steps are in @extschema@.steps; pgdurable show draws them.';
    end if;
    return query select concat(one.workflow, ' version ' || one.version, ': ', one.status, ': ' || one.error);
    return query select d from @extschema@.draw_nodes(one.definition, @extschema@.node_states(target)) as d;
end
$$;
