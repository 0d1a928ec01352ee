-- Registers a version of a workflow written in SQL, and makes it the current one: new instances without a version of their
-- own run it, instances under way keep theirs.
--
-- Arguments: `definition`: a graph as the composing functions return it, or the same as plain JSON. `version` null: the
-- current one where it is the same definition with the same options, else the next number. `deadline`: how long an instance
-- may take from its start on, until it is timed out. `queue`: where its instances wait unless their start says otherwise;
-- `concurrency`: how many of them may run at once (by a queue of their own where `queue` is null). `retention`: how long
-- ended ones are kept. `on_error`: a node that runs when an instance fails, before its end. `search_path`: of its statements;
-- as it is now unless given. Who may execute this may have statements run as whoever starts an instance: workers and administrators.
-- Returns: the version.
-- Raises: PGD05 the name, the definition or an option is none: all that is wrong with the definition is in the detail;
-- PGD04 the version is there with another definition, or the workflow is one of Python's.
create or replace function @extschema@.define(
    name text, definition jsonb, version text default null,
    deadline interval default null, queue text default null, concurrency int default null,
    retention interval default null, on_error jsonb default null,
    search_path text default pg_catalog.current_setting('search_path'))
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    whole jsonb;
    handler jsonb;
    policies jsonb;
    wrong text;
    chosen text := version;
    there record;
begin
    if octet_length(name) not between 1 and 512 or name is null or octet_length(version) not between 1 and 512
       or octet_length(queue) not between 1 and 512 then
        raise exception using errcode = 'PGD05', message = 'define needs a name, a version or queue, of 1 to 512 bytes each',
            hint = 'For example: select @extschema@.define(''greet'', @extschema@.sql(''select 1'')).';
    end if;
    if deadline <= interval '0' or retention < interval '0' or concurrency < 1 then
        raise exception using errcode = 'PGD05',
            message = format('a deadline is positive, a retention not negative, a concurrency at least 1; found %s',
                             concat_ws(', ', 'deadline ' || deadline, 'retention ' || retention, 'concurrency ' || concurrency)),
            hint = 'Leave out what is not meant to be limited.';
    end if;
    select string_agg(format('%s: %s%s', nullif(p.path, ''), p.problem, coalesce(' (' || p.hint || ')', '')), e'\n')
      into wrong
      from (select c.path, c.problem, c.hint from @extschema@.check_definition(definition) c
            union all
            select concat_ws('.', 'on_error', nullif(c.path, '')), c.problem, c.hint
              from @extschema@.check_definition(on_error) c where on_error is not null) p;
    if wrong is not null then
        raise exception using errcode = 'PGD05', message = format('the definition of workflow %L cannot run', name),
            detail = wrong, hint = 'select * from @extschema@.validate(definition) says the same as rows.';
    end if;
    whole := @extschema@.normalize(definition);
    if on_error is not null then
        handler := @extschema@.normalize(on_error);
    end if;
    if queue is null and concurrency is not null then
        queue := 'workflow:' || name;
    end if;
    policies := jsonb_strip_nulls(jsonb_build_object(
        'deadline', extract(epoch from deadline), 'queue', queue, 'concurrency', concurrency,
        'retention', extract(epoch from retention), 'search_path', search_path)) || jsonb_strip_nulls(jsonb_build_object('on_error', handler));
    -- Two that define the same name at once would choose the same number.
    perform pg_advisory_xact_lock(@extschema@.lock_class(3), hashtext('define:' || name) & 1073741823);
    select count(*) filter (where w.kind <> 'sql') as others, max(w.version) filter (where w.kind <> 'sql') as one
      into there from @extschema@.workflows w where w.name = define.name;
    if there.others > 0 then
        raise exception using errcode = 'PGD04',
            message = format('workflow %L is one of Python''s (version %s)', name, there.one), hint = 'Choose another name.';
    end if;
    if chosen is null then
        select w.version into chosen
          from @extschema@.workflows w
         where w.name = define.name and w.definition = whole and w.policies = policies
         order by w.defined_at desc limit 1;
    end if;
    if chosen is null then
        select (coalesce(max(w.version::numeric) filter (where w.version ~ '^\d{1,30}$'), 0) + 1)::text into chosen
          from @extschema@.workflows w where w.name = define.name;
    end if;
    if concurrency is not null then
        perform @extschema@.set_queue(queue, concurrency => concurrency);
    end if;
    insert into @extschema@.workflows as w (name, version, kind, definition, policies, program, defined_at)
    values (name, chosen, 'sql', whole, policies, @extschema@.compile_program(name, chosen, whole, policies), clock_timestamp())
    on conflict on constraint workflows_pkey do update
       set policies = excluded.policies, program = excluded.program, defined_at = excluded.defined_at
     where w.definition = excluded.definition;
    if not found then
        raise exception using errcode = 'PGD04',
            message = format('version %s of workflow %L is there with another definition', chosen, name),
            hint = 'Give another version, or none: instances under way go on with the one they began with.';
    end if;
    return chosen;
end
$$;
