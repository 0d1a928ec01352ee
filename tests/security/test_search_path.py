"""A hostile role plants functions, operators and tables where a search_path might lead; none of them is ever called."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate
from pgdurable._store.sql import named_queries, sql_files

from .conftest import House

TYPES = "int2 int4 int8 float8 numeric bool text varchar name jsonb uuid timestamptz interval oid text[] uuid[]".split()

# A trap is sprung for ever: a sequence does not roll back. It also fails whoever called it, saying what it is.
PLANT = """
do $do$
declare
    one record;
    l text;
    r text;
begin
    create sequence @evil.sprung;
    create function @evil.spring(what text) returns void language plpgsql as $$
    begin
        perform pg_catalog.nextval('@evil.sprung');
        raise exception 'trap: %', what;
    end $$;
    for one in select p.proname, pg_catalog.format_type((array_agg(p.prorettype order by p.oid))[1], null) as result
                 from pg_catalog.pg_proc p
                where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind in ('f', 'a')
                  and p.proname = any ({functions}::text[])
                  and p.prorettype not in ('record'::regtype, 'trigger'::regtype, 'internal'::regtype)
                  and p.prorettype not in (select t.oid from pg_catalog.pg_type t where t.typtype = 'p')
                group by p.proname loop
        foreach l in array {types}::text[] loop
            execute format('create function @evil.%I(%s) returns %s language plpgsql as %L', one.proname, l, one.result,
                           format('begin perform @evil.spring(%L); end', one.proname || ' ' || l));
        end loop;
        foreach l in array {types}::text[] loop
            foreach r in array '{{int4,int8,text,jsonb,interval,timestamptz}}'::text[] loop
                execute format('create function @evil.%I(%s, %s) returns %s language plpgsql as %L',
                               one.proname, l, r, one.result,
                               format('begin perform @evil.spring(%L); end', one.proname || ' ' || l || ' ' || r));
            end loop;
        end loop;
    end loop;
    for one in select o.oprname, min(pg_catalog.format_type(o.oprresult, null)) as result
                 from pg_catalog.pg_operator o
                where o.oprname = any ('{{=,<>,<,>,<=,>=,+,-,*,/,&,||,->,->>,~,~*}}'::text[]) and o.oprkind = 'b'
                group by o.oprname loop
        foreach l in array {types}::text[] loop
            foreach r in array {types}::text[] loop
                execute format('create function @evil.%I(%s, %s) returns bool language plpgsql as %L',
                               'operator ' || one.oprname, l, r,
                               format('begin perform @evil.spring(%L); end', one.oprname || ' ' || l || ' ' || r));
                execute format('create operator @evil.%s (leftarg = %s, rightarg = %s, function = @evil.%I)',
                               one.oprname, l, r, 'operator ' || one.oprname);
            end loop;
        end loop;
    end loop;
end
$do$
"""
RELATIONS = """pg_class pg_proc pg_locks pg_database pg_roles pg_namespace pg_attribute pg_settings instances
    instance_keys history events workers workflows migrations steps""".split()


# Those that make tables.
BUILD_DDL = {"make_partition", "key_history", "apply_row_security", "detach_spent", "drop_detached", "admit_submitter"}
# What executes what a workflow's author wrote, as the author: these may execute texts of their own making.
RUN_QUERIES = {"infer_types": {"format(", "text", "single"}, "run_statement": {"statement"}, "run_step": {"runner"}}


def called() -> list[str]:
    """The names of everything that is called like a function in our SQL."""
    folders = ("functions", "views", "migrations", "queries", "roles")
    texts = [text for folder in folders for _, text in sql_files(folder)]
    return sorted({name for text in texts for name in re.findall(r"(?<![.@\w])([a-z_]\w*)\s*\(", text)})


@contextmanager
def planted(lot: House) -> Iterator[str]:
    """Mallory's schema full of traps, in everybody's way; none may have been sprung in the end."""
    lot.login("mallory")
    evil = f"{lot.schema}_evil"
    lot.root.execute(f"create schema {evil} authorization {lot.name('mallory')}")
    try:
        text = PLANT.format(functions=psycopg.sql.Literal(called()).as_string(lot.root),
                            types=psycopg.sql.Literal(TYPES).as_string(lot.root))  # fmt: skip
        with lot.root.transaction():
            lot.root.execute(f"set local role {lot.name('mallory')}; {text.replace('@evil', evil)}")
            for name in RELATIONS:
                lot.root.execute(f"create table {evil}.{name} ()")
            lot.root.execute(f"grant usage on schema {evil} to public")
        count = "select count(*) from pg_proc where pronamespace = %s::regnamespace"
        assert lot.root.execute(count, (evil,)).fetchone()[0] > 3000  # type: ignore[index]
        # The traps are good: a call whose types pg_catalog only nearly has goes into one.
        with pytest.raises(psycopg.Error, match="trap: format text int8"):
            lot.root.execute(f"set search_path = {evil}, public; select format('%s'::text, 1::bigint)")
        lot.root.execute("reset search_path")
        lot.root.execute(f"select setval('{evil}.sprung', 1, false)")
        yield evil
        assert lot.root.execute(f"select is_called from {evil}.sprung").fetchone() == (False,)
    finally:
        lot.root.execute("set client_min_messages = warning")
        lot.root.execute(f"drop schema {evil} cascade")


@pgd.step
async def flaky(n: int) -> int:
    flaky_tries.append(n)
    if len(flaky_tries) < 2:
        raise ValueError("once more")
    return n


flaky_tries: list[int] = []


@pgd.transaction
async def note(tx: Any, n: int) -> int:
    await tx.execute("select 1")
    return n


@pgd.transaction
def note_in_thread(tx: Any, n: int) -> int:
    tx.execute("select 1")
    return n


@pgd.workflow(name="security_everything")
async def everything(n: int) -> list[Any]:
    await asyncio.sleep(0.01)
    return [
        await flaky.options(retry=pgd.Retry(initial=0.01))(n), await note(n), await note_in_thread(n),
        await pgd.wait_signal("go"),
    ]  # fmt: skip


async def test_traps_in_everybodys_way_are_never_called(lot: House) -> None:
    """pg_catalog is looked into first, so a trap would be sprung where its argument types fit better than ours do."""
    flaky_tries.clear()
    with planted(lot) as evil:
        owner = lot.name("owner")
        lot.root.execute(f"alter role {owner} set search_path = {evil}, public")
        migrate(lot.dsn_of("owner"), lot.schema, roles=True, row_security=True)
        lot.admit()
        for who in ("ann", "wes", "ada"):
            lot.root.execute(f"alter role {lot.name(who)} set search_path = {evil}, public")
        async with lot.engine("wes", everything, park_after=0.0) as engine, lot.client("ann") as client:
            mine = await client.start(everything, 1, id="one", delay=0.01, labels={"a": 1})
            own = await engine.start(everything, 2, id="two")
            many = await client.start_many(everything, [3, 4])
            for handle in (mine, own, *many):
                await handle.signal("go", {"n": 1})
            for n, handle in ((1, mine), (2, own), (3, many[0]), (4, many[1])):
                assert await handle.result(timeout=60) == [n, n, n, {"n": 1}]
            assert len([entry async for entry in mine.history()]) > 5
            assert len([info async for info in client.list()]) == 3  # of her own
            other = await client.start("nobody_has_it", 1)
            lot.root.execute(f"update {lot.schema}.instances set status = 'paused' where id = %s", (other.instance_id,))
            assert await other.resume()
        # What the doctor and the command line ask.
        with psycopg.connect(lot.dsn_of("ada"), autocommit=True) as conn:
            for name, query in named_queries("doctor", lot.schema).items():
                marks = query.count("%s")
                conn.execute(query, [1] * marks if name == "worker" else ["x"] * marks or None)
        assert migrate(lot.dsn_of("owner"), lot.schema, row_security=False).row_security is False


def test_functions_ignore_a_path_that_puts_traps_before_the_servers_own_names(house: House) -> None:
    with planted(house) as evil:
        for who in ("ann", "wes"):
            with psycopg.connect(house.dsn_of(who), autocommit=True) as conn:
                conn.execute(f"set search_path = {evil}, pg_catalog")
                at = house.schema

                def one(text: str, at: str = at, conn: Any = conn) -> Any:
                    return conn.execute(text.replace("@", at)).fetchone()[0]

                id = one("select @.start('w', '{}', 'an id of ' operator(pg_catalog.||) @.caller())")
                assert one(f"select @.find_instance('{id}')")
                assert one(f"select @.status('{id}')") == "pending"
                assert one(f"select @.result('{id}')") is None
                assert one(f"select @.signal('{id}', 'go')")
                assert one(f"select @.resume('{id}')") is False
                assert one("select @.start_many(array[@.new_id()], 'w', '1', 'q', '{[]}')") == 1
                if who == "wes":
                    worker = one("select @.join_worker('w', '[]', '1 hour')")
                    assert one(f"select @.fence({worker})")
                    conn.execute(f"select {at}.beat({worker}, '1 hour')")
                    conn.execute(f"select {at}.claim({worker}, '{{w}}', '{{1}}', '{{t}}', 10)")
                    other = one("select @.join_worker('v', '[]', '1 hour')")
                    assert one(f"select @.take_over({other}, 0, {worker})")
                    one(f"select @.leave_worker({worker})")


def test_temporary_tables_hide_nothing_from_the_functions(guarded: House) -> None:
    """The temporary schema comes first for tables, before pg_catalog, where search_path does not name it."""
    theirs = guarded.one("bob", "select @.start('w', '{}', 'theirs')")
    with psycopg.connect(guarded.dsn_of("ann"), autocommit=True) as conn:
        conn.execute("create temp table pg_class (oid oid, relrowsecurity bool)")
        conn.execute(
            "insert into pg_temp.pg_class select oid, false from pg_catalog.pg_class where relname = 'instances'"
        )
        conn.execute("create temp table instances (id uuid, submitted_by text)")
        conn.execute("set search_path = pg_temp, pg_catalog")
        for call in ("signal(%s, 'x')", "resume(%s)"):
            with pytest.raises(psycopg.Error) as refused:
                conn.execute(f"select {guarded.schema}.{call}", (theirs,))
            assert refused.value.sqlstate == "PGD02"


def test_every_function_has_a_path_of_its_own_and_builds_no_sql(house: House) -> None:
    rows = house.rows(
        "owner",
        "select p.proname, p.prosecdef, p.proconfig, p.prosrc, l.lanname = 'plpgsql'"
        "  from pg_proc p join pg_language l on l.oid = p.prolang where pronamespace = '@'::regnamespace",
    )
    assert {name for name, *_ in rows} == {name.removesuffix(".sql") for name, _ in sql_files("functions")}
    for name, _, config, source, plpgsql in rows:
        if name not in (
            "prune",
            "bulk",
            "work",
            "watch",
            "wait_for_end",
        ):  # which commit, and so may have none; they name everything in full
            assert "search_path=pg_catalog, pg_temp" in config, name
        code = re.sub(r"--[^\n]*|'[^']*'", "", source)
        # DDL takes no parameters: there `format` quotes what is put in.
        builds = re.findall(r"\bexecute\b\s*(\w+\(?)", code, re.IGNORECASE) if plpgsql else []
        allowed = {"format("} if name in BUILD_DDL else RUN_QUERIES.get(name, set())
        assert set(builds) <= allowed, f"{name} builds SQL from texts"
    # Whoever adds one says in sql/roles/grants.sql who may call it.
    assert {name for name, definer, *_ in rows if definer} == set(
        "start start_many signal resume make_partitions sweep sweep_history sweep_orphans sweep_events"
        " start_debounced find_debounced start_batched batch_input sweep_batch_inputs"
        " sweep_signal_keys detach_spent drop_detached last_event write_event put_schedule need_schedule edit_schedule"
        " pause_schedule resume_schedule trigger_schedule backfill_schedule drop_schedule"
        " signal_with_start request_update ask answers state take_queries answer_query sweep_talk"
        " instance_ended sweep_runs"
        " cancel terminate pause retry fork delete bulk_step hear undo settle_requests with_timeout"
        " claim_external complete_step fail_step heartbeat".split()
    )


def test_every_query_means_the_servers_own_names_whatever_the_path(house: House) -> None:
    """Of each named query a function is made under the hostile path, which the server then knows the dependencies of.

    Outside functions no path is pinned: sessions may be a pooler's or the user's. So the types of each operator and
    call in sql/queries must be those of one in pg_catalog to the letter, casts included.
    """
    names = ("client", "doctor", "export", "flush", "roles", "schedules", "session", "tasks", "upkeep", "worker")
    assert {name.removesuffix(".sql") for name, _ in sql_files("queries")} == set(names)
    wrong = []
    with planted(house) as evil:
        with psycopg.connect(house.dsn, autocommit=True) as conn:
            conn.execute(f"set search_path = {evil}, public")
            for file in names:
                for name, text in named_queries(file, house.schema).items():
                    text = re.sub(r"--[^\n]*", "", text)
                    if text.lstrip().startswith("copy"):
                        continue  # names no operator and calls nothing
                    # A procedure, named with its schema, is no part of such a function: the same call of one is.
                    text = re.sub(r"^\s*call\b.*\.(?:apply_writes|work)\(", "select num_nulls(", text)
                    body = re.sub(r"%s|%\(\w+\)s|\$\d+", "null", text)
                    probe = f'{house.schema}."probe {file} {name}"'
                    try:
                        conn.execute(f"create function {probe}() returns void begin atomic {body}; end")
                    except psycopg.Error as error:
                        wrong.append(f"{file}.{name}: {error}")
                        continue
                    rows = conn.execute(
                        """select pg_describe_object(d.refclassid, d.refobjid, 0) from pg_depend d
                            left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
                            left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
                            left join pg_class c on d.refclassid = 'pg_class'::regclass and c.oid = d.refobjid
                            where d.objid = %s::regprocedure and d.classid = 'pg_proc'::regclass
                              and coalesce(p.pronamespace, o.oprnamespace, c.relnamespace) = %s::regnamespace""",
                        (f"{probe}()", evil),
                    ).fetchall()
                    wrong += [f"{file}.{name}: {found}" for (found,) in rows]
    assert not wrong, "\n".join(wrong)
