-- Registers what a graph became as a version of workflow df, unless it is there. Waits for nobody.
--
-- Returns: the version: another one where a transaction that has not ended registers the same.
create or replace function df._define(version text, graph jsonb, definition jsonb, policies jsonb) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    wrong text;
begin
    -- Locked against df.sweep, together with whoever else starts it.
    perform from df.graphs g where g.version = version for key share;
    if found then
        return version;
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('df ' || version, 0)) then
        version := version || '-' || replace(gen_random_uuid()::text, '-', '');
    end if;
    select string_agg(format('%s: %s%s', nullif(p.path, ''), p.problem, coalesce(' (' || p.hint || ')', '')), e'\n')
      into wrong from @extschema@.check_definition(definition) p;
    if wrong is not null then
        raise exception using errcode = 'PGD05', message = format('this graph cannot run: %s', split_part(wrong, e'\n', 1)),
            detail = wrong, hint = 'select df.explain(...) shows a graph, df.translate(...) what is made of it.';
    end if;
    insert into @extschema@.workflows (name, version, kind, definition, policies, program, defined_at)
    values ('df', version, 'sql', definition, policies, @extschema@.compile_program('df', version, definition, policies),
            clock_timestamp())
    on conflict do nothing;
    insert into df.graphs (version, graph) values (version, graph) on conflict do nothing;
    return version;
end
$$;
