"""The group roles: what each may do, and nothing beyond; what PUBLIC may do: nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy
import psycopg
import pytest
from psycopg import errors, sql

import pgdurable as pgd
from pgdurable._store.migrations import MigrationReport, migrate
from pgdurable._store.roles import Roles, statements
from pgdurable._store.sql import sql_files
from pgdurable.errors import InvalidId, PgDurableError, SchemaError

from .conftest import House

VIEWS = {name.removesuffix(".sql") for name, _ in sql_files("views")}
READ = {"select"}
ALL = {"select", "insert", "update", "delete", "truncate", "references", "trigger"}

# table -> what client, worker may do there; readers read everything, administrators do everything.
TABLES: dict[str, tuple[set[str], set[str]]] = {
    "migrations": (READ, READ),
    "workflows": (READ, READ | {"insert"}),
    "instances": (READ, READ | {"insert", "update"}),
    "instance_keys": (READ, READ | {"insert"}),
    "history": (READ, READ | {"insert"}),
    "events": (READ, READ | {"insert", "delete"}),
    "workers": (READ, READ | {"insert", "update", "delete"}),
    "queues": (READ, READ),
    "schedules": (READ, READ | {"update"}),
    "kept_settings": (READ, READ),
    "payloads": (READ, READ | {"insert"}),
    "fences": (READ, READ | {"insert", "update", "delete"}),
    "states": (READ, READ | {"insert", "update"}),
    "updates": (READ, READ | {"insert", "update"}),
    "stream_items": (READ, READ | {"insert", "update"}),
    "queue_partitions": (set(), READ),
    "queue_starts": (set(), READ | {"insert", "delete"}),
    "attempts": (READ, READ | {"insert", "update", "delete"}),
    "step_turns": (READ, READ | {"insert", "update", "delete"}),
    "sql_runs": (READ, READ | {"insert", "update", "delete"}),
    "tasks": (READ, READ | {"insert", "update", "delete"}),
}
READING = set(
    "status result find_instance need_instance hidden caller channel lock_class new_id id_at id_time state"
    " whole step_states throughput setting setting_kinds setting_problem settings_here"
    " cron_next cron_day cron_set wall_time".split()
)
DOCTOR = {"keep_for", "spent_partitions"}
OPERATIONS = {"cancel", "terminate", "pause", "resume", "retry", "fork", "bulk_step", "bulk", "id_after"}
SCHEDULING = {"schedule", "put_schedule", "need_schedule"} | {
    f"{word}_schedule" for word in ("edit", "pause", "resume", "trigger", "backfill", "drop")
}
TALKING = set("start start_many signal resume retry signal_with_start request_update ask answers".split())
OUTSIDE = {"claim_external", "complete_step", "fail_step", "heartbeat"}
WAITING = {"wait", "wait_for_end"}
GATHERING = {"start_debounced", "find_debounced", "start_batched"}
# They touch no table; a step is run by who submitted it, who so has to have what makes its statements.
DEFINING = set(
    "normalize normal_seconds child_nodes nodes check_node check_definition validate truthy resolve no_value"
    " env_entry env_path scan_query check_query query_refs infer_types settle_types type_kind value_type"
    " ref_expression lit_expression rows_expression join_parts bind bind_late fit is_retry node_fields"
    " make_node retries with into sql call seq atomic parallel race if if_rows loop for_each break sleep wait_until"
    " wait_for_schedule wait_signal http start_child python external on_error compensate value explain"
    " draw_nodes node_title node_states".split()
)
CLIENT = {"with_timeout"} | DEFINING | READING | WAITING | OPERATIONS | SCHEDULING | TALKING | OUTSIDE | GATHERING


@pgd.workflow(name="security_greet")
async def greet(name: str) -> str:
    await asyncio.sleep(0.01)
    return await hello(name) + await pgd.wait_signal("rest", type=str)


@pgd.step
async def hello(name: str) -> str:
    return f"hello {name}"


@pgd.transaction
async def note(tx: Any, text: str) -> int:
    await tx.execute("select 1")
    return len(text)


@pgd.workflow(name="security_note")
async def write_down(text: str) -> int:
    return await note(text)


def refused() -> Any:
    return pytest.raises(errors.InsufficientPrivilege)


# -- the matrix


def test_each_role_has_exactly_its_rights(house: House) -> None:
    """A table, view or function that comes later has to be put into this matrix, and into sql/roles/grants.sql."""
    found: dict[str, dict[str, set[str]]] = {}
    for kind in ("reader", "client", "worker", "admin"):
        rows = house.rows(
            "owner",
            """select c.relname, p.name from pg_class c
                cross join unnest(%s::text[]) as p (name)
                where c.relnamespace = '@'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
                  and has_table_privilege(%s, c.oid, p.name)""",
            sorted(ALL),
            house.name(kind),
        )
        found[kind] = {}
        for name, privilege in rows:
            found[kind].setdefault(name, set()).add(privilege)
    views = dict.fromkeys(VIEWS, READ)
    assert found["reader"] == {**dict.fromkeys(TABLES, READ), **views}
    # What concerns the whole database is no client's.
    theirs = dict.fromkeys(VIEWS - {"held_back", "dead_rows"}, READ)
    as_invoker = house.root.info.server_version >= 150000
    assert found["client"] == {
        **{t: client for t, (client, _) in TABLES.items() if client},
        **(theirs if as_invoker else {}),
    }
    assert found["worker"] == {**{t: worker for t, (_, worker) in TABLES.items()}, **views}
    # Of these nobody needs to know: functions with the owner's rights write and sweep them.
    hidden = {"signal_keys", "queries", "batch_inputs", "history_key", "row_security"}
    assert found["admin"] == dict.fromkeys({*TABLES, *VIEWS, *hidden}, ALL)


def test_each_role_has_exactly_its_functions(house: House) -> None:
    functions = {name.removesuffix(".sql") for name, _ in sql_files("functions")}
    working = functions - {"prune", "bulk"}
    for kind, expected in (
        ("reader", READING | WAITING | DOCTOR | DEFINING), ("client", CLIENT), ("worker", working), ("admin", functions)
    ):  # fmt: skip
        rows = house.rows(
            "owner",
            """select proname from pg_proc where pronamespace = '@'::regnamespace
                  and has_function_privilege(%s, oid, 'execute')""",
            house.name(kind),
        )
        assert {name for (name,) in rows} == expected, kind


def test_public_may_do_nothing(house: House) -> None:
    def public_rights() -> list[tuple[Any, ...]]:
        return house.rows(
            "owner",
            """select o.name, a.privilege_type
                 from (select nspname as name, coalesce(nspacl, acldefault('n', nspowner)) as acl
                         from pg_namespace where nspname = '@'
                       union all
                       select relname, coalesce(relacl, acldefault('r', relowner))
                         from pg_class where relnamespace = '@'::regnamespace and relkind in ('r', 'p', 'v', 'S')
                       union all
                       select proname, coalesce(proacl, acldefault('f', proowner))
                         from pg_proc where pronamespace = '@'::regnamespace) as o
                cross join lateral aclexplode(o.acl) a
                where a.grantee = 0""",
        )

    assert public_rights() == []
    # A function that a later release adds gets the same.
    house.rows("owner", "drop function @.status(text)")
    house.rows("owner", "update @.migrations set routines = 'old'")
    house.rows("owner", "grant execute on function @.start_many to public")
    assert migrate(house.dsn_of("owner"), house.schema).routines
    assert public_rights() == []
    assert house.one("owner", "select has_function_privilege('@client', '@.status(text)', 'execute')")
    for text in ("select @.status('x')", "select * from @.instances", "select @.start('w')"):
        with refused():
            house.rows("eve", text)


def test_the_roles_are_groups_that_nobody_logs_in_as(house: House) -> None:
    rows = house.rows(
        "owner",
        """select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication
             from pg_roles where rolname = any (%s)""",
        list(Roles(house.schema).names),
    )
    assert rows == [(False,)] * 4


# -- what members do


async def test_a_client_and_a_worker_need_no_more(house: House) -> None:
    async with house.engine("wes", greet, write_down, park_after=0.0) as engine, house.client("ann") as client:
        handle = await client.start(greet, "ann", id="security/1", labels={"a": 1}, priority=3)
        again = await client.start("security_greet", "ann", id="security/1")
        assert again.instance_id == handle.instance_id
        await handle.signal("rest", "!")
        assert await handle.result(timeout=30) == "hello ann!"
        kinds = [entry.kind async for entry in handle.history()]
        assert sorted(kinds) == ["completed", "signal", "started", "step", "timer"]
        by_list = await client.start_many(write_down, ["a", "bb"])
        by_stream = await client.start_many("security_note", iter([("ccc",)]), queue="later")
        by_columns = await client.start_many(write_down, {"text": numpy.array(["d", "ee", "fff", "gggg"])})
        results = [await h.result(timeout=30) for h in (*by_list, *by_stream)]
        assert results == [1, 2, 3]
        assert len(by_columns) == 4
        own = await engine.start(greet, "wes", id="security/2")
        await own.signal("rest", "?")
        assert await own.result(timeout=30) == "hello wes?"
        listed = [info async for info in client.list()]
        assert len(listed) == 9
        assert {info.queue for info in listed} == {"default", "later"}
    who = dict(house.rows("rex", "select submitted_by, count(*) from @.instances group by 1"))
    assert who == {house.name("ann"): 8, house.name("wes"): 1}
    # Who starts inside a transaction of one's own does it by the same function.
    async with house.client("ann") as client:
        async with await psycopg.AsyncConnection.connect(house.dsn_of("ann")) as conn:
            await client.start(greet, "later", connection=conn)
    assert house.one("rex", "select count(*) from @.instances where submitted_by = '@ann'") == 9


async def test_a_client_resumes(house: House) -> None:
    async with house.client("ann") as client:
        handle = await client.start("nobody_runs_this", 1)
        house.rows("ada", "update @.instances set status = 'paused'")
        assert await handle.resume()
        assert await handle.status() == "pending"


@pytest.mark.parametrize(
    "text",
    [
        "insert into @.instances (id, workflow, input, submitted_by) values (@.new_id(), 'w', '{}', '@bob')",
        "insert into @.events (instance_id, kind) values (@.new_id(), 'signal')",
        "insert into @.history (instance_id, event_id, kind) values (@.new_id(), 1, 'step')",
        "update @.instances set submitted_by = '@ann'",
        "delete from @.instance_keys",
        "truncate @.history",
        "select @.join_worker('w', '[]', '1 h')",
        "select @.take_over(1, 0, 2)",
        "select @.leave_worker(1)",
        "select @.fence(1)",
        "select @.claim(1, '{w}', '{1}', '{t}', 1)",
        "select @.start_keyed(null, '{k}', array[@.new_id()], '{w}', '{1}', '{[]}', '{q}', '{0}')",
        "create table @.mine ()",
        "create function @.mine() returns int language sql return 1",
        "alter table @.instances disable row level security",
        "drop table @.instances",
    ],
)
@pytest.mark.parametrize("who", ["ann", "rex"])
def test_clients_and_readers_write_nothing_themselves(house: House, who: str, text: str) -> None:
    with refused():
        house.rows(who, text)


@pytest.mark.parametrize(
    "call", ["start('w')", "start_many('{}', 'w', '1', 'q', '{}')", "signal('x', 'y')", "resume('x')", "retry('x')",
             "cancel('x')", "terminate('x')", "pause('x')", "fork('x')", "delete('x')",
             "bulk_step('cancel', @.new_id(), @.new_id())"]
)  # fmt: skip
def test_readers_neither_start_nor_signal_nor_operate(house: House, call: str) -> None:
    with refused():
        house.rows("rex", f"select @.{call}")


def test_workers_cannot_rewrite_history(house: House) -> None:
    for text in ("update @.history set payload = '1'", "delete from @.history", "truncate @.instances",
                 "delete from @.instances", "create table @.mine ()"):  # fmt: skip
        with refused():
            house.rows("wes", text)


# -- who submitted it


def test_the_submitter_is_who_logged_in_or_the_role_that_was_set(house: House) -> None:
    def submitter(who: str, start: str) -> str:
        id = house.one(who, start)
        return house.one("rex", "select submitted_by from @.instances where id = @.find_instance(%s)", id)

    start = "select @.start('w', '{}')"
    assert submitter("ann", start) == house.name("ann")
    assert submitter("ada", start) == house.name("ada")
    house.rows("ann", "set role @client")
    assert submitter("ann", start) == house.name("client")
    house.rows("ann", "reset role")
    # Ann calls what another has written: she is the one who starts.
    house.rows("owner", "grant create on schema @ to @ada")
    house.rows(
        "ada", "create function @.order_it() returns text language sql security definer as $$ select @.start('w') $$"
    )
    house.rows("ada", "grant execute on function @.order_it to @ann")
    assert submitter("ann", "select @.order_it()") == house.name("ann")


def test_the_sender_of_a_signal_is_the_caller_too(house: House) -> None:
    id = house.one("ann", "select @.start('w', '{}')")
    house.rows("bob", "select @.signal(%s, 'go')", id)
    assert house.one("rex", "select sent_by from @.events") == house.name("bob")


@pytest.mark.parametrize(
    "attempt",
    [
        "set role @bob",
        "set session authorization @bob",
        "select set_config('role', '@bob', false)",
        "create function pg_temp.f() returns text language sql set role = '@bob' as $$ select @.start('w') $$;"
        "select pg_temp.f()",
    ],
)
def test_nobody_submits_as_somebody_else(house: House, attempt: str) -> None:
    with psycopg.connect(house.dsn_of("ann"), autocommit=True) as conn:
        with pytest.raises(psycopg.Error):
            conn.execute(house.text(attempt))
        conn.execute(house.text("select @.start('w')"))
    assert {who for (who,) in house.rows("rex", "select distinct submitted_by from @.instances")} == {house.name("ann")}


# -- making them


def test_it_may_be_done_again_and_again(house: House) -> None:
    def acl() -> Any:
        return sorted(
            house.rows("owner", "select relname, relacl::text from pg_class where relnamespace = '@'::regnamespace"),
            key=str,
        )

    before = acl()
    for _ in range(2):
        report = migrate(house.dsn_of("owner"), house.schema, roles=True)
        assert report.roles == Roles(house.schema).names
        assert not report.changed
    assert acl() == before
    # What was granted by hand goes: the roles have their rights, no more.
    house.rows("owner", "grant delete on @.history to @client")
    migrate(house.dsn_of("owner"), house.schema, roles=True)
    assert acl() == before


def test_a_migration_renews_the_grants_unasked(house: House) -> None:
    house.rows("owner", "revoke select on @.history from @reader")
    house.rows("owner", "update @.migrations set routines = 'old'")
    assert migrate(house.dsn_of("owner"), house.schema).roles == Roles(house.schema).names
    assert house.rows("rex", "select * from @.history") == []


def test_without_roles_nothing_is_granted(lot: House) -> None:
    assert migrate(lot.dsn_of("owner"), lot.schema).roles == ()
    assert lot.one("owner", "select count(*) from pg_roles where starts_with(rolname, '@')") == 1


def test_who_may_not_create_roles_is_told_the_other_way(lot: House) -> None:
    lot.root.execute(lot.text("alter role @owner nocreaterole"))
    with pytest.raises(SchemaError, match="may not create roles") as failed:
        migrate(lot.dsn_of("owner"), lot.schema, roles=True)
    assert "--roles --print" in str(failed.value)
    assert lot.one("owner", "select to_regnamespace('@')") is None  # all or nothing
    # The other way: somebody else makes the roles, or all of it.
    created = [text for text in statements(lot.schema) if text.lower().lstrip("-").find("create role") >= 0]
    assert len(created) == 4
    for text in created:
        lot.root.execute(text)
    assert migrate(lot.dsn_of("owner"), lot.schema, roles=True).roles == Roles(lot.schema).names


def test_the_printed_sql_does_the_same(lot: House) -> None:
    def rights() -> Any:
        return lot.rows(
            "owner",
            """select c.relname, g.rolname, a.privilege_type from pg_class c
                cross join lateral aclexplode(c.relacl) a join pg_roles g on g.oid = a.grantee
                where c.relnamespace = '@'::regnamespace
                union all
               select p.proname, g.rolname, a.privilege_type from pg_proc p
                cross join lateral aclexplode(p.proacl) a join pg_roles g on g.oid = a.grantee
                where p.pronamespace = '@'::regnamespace order by 1, 2, 3""",
        )

    migrate(lot.dsn_of("owner"), lot.schema)
    printed = statements(lot.schema, row_security=True)
    if lot.root.info.server_version < 150000:
        printed = [text for text in printed if not text.startswith("-- PostgreSQL 15")]
    for text in printed:
        lot.root.execute(text)
    by_hand = rights()
    report = migrate(lot.dsn_of("owner"), lot.schema, roles=True)
    assert report.roles == Roles(lot.schema).names
    assert report.row_security
    assert rights() == by_hand


ODD = ['od"d', "a b", "größe", "x'; drop table t; --", "@client@", "a" * 56, "UPPER", "%s"]


@pytest.mark.parametrize("prefix", ODD)
def test_any_prefix_that_is_a_name(lot: House, prefix: str) -> None:
    names = Roles(prefix).names
    try:
        report = migrate(lot.dsn_of("owner"), lot.schema, roles=True, role_prefix=prefix, row_security=True)
        assert report.roles == names
        assert migrate(lot.dsn_of("owner"), lot.schema, roles=True).roles == names  # found by itself
        with pytest.raises(SchemaError, match="is set up for the roles"):
            migrate(lot.dsn_of("owner"), lot.schema, roles=True, role_prefix="other")
        lot.login("ann")
        lot.root.execute(sql.SQL("grant {} to {}").format(sql.Identifier(names[1]), sql.Identifier(lot.name("ann"))))
        assert lot.one("ann", "select @.start('w')")
    finally:
        lot.root.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(lot.schema)))
        for name in names:
            lot.root.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(name)))


@pytest.mark.parametrize("prefix", ["", "a" * 57, "ü" * 29, "a\0b", "\ud800", "pg_x"])
def test_prefixes_that_no_role_has(dsn: str, schema: str, prefix: str) -> None:
    with pytest.raises(ValueError, match=r"role prefix|roles that begin"):
        migrate(dsn, schema, roles=True, role_prefix=prefix)


def test_two_namespaces_have_roles_of_their_own(house: House) -> None:
    other = f"{house.schema}_b"
    try:
        report: MigrationReport = migrate(house.dsn_of("owner"), other, roles=True)
        assert report.roles == Roles(other).names
        with refused():
            house.rows("ann", f"select {other}.start('w')")
    finally:
        house.root.execute(f"drop schema if exists {other} cascade")


async def test_the_python_client_says_what_is_missing(house: House) -> None:
    """A reader that starts gets an error of ours, and nothing has happened."""
    async with house.client("rex") as client:
        for start in (lambda: client.start("w", 1), lambda: client.start_many("w", [1, 2])):
            with pytest.raises(PgDurableError, match="permission denied"):
                await start()
    assert house.one("rex", "select count(*) from @.instances") == 0


def test_a_schema_with_somebody_elses_functions_is_not_taken(lot: House) -> None:
    """Its owner could replace what we put there."""
    lot.login("eve")
    lot.root.execute(lot.text("create schema @ authorization @eve"))
    lot.rows("eve", "create function @.fence(worker bigint) returns int language sql as 'select 1'")
    lot.rows("eve", "grant all on schema @ to @owner")
    with pytest.raises(SchemaError, match="in use for something else"):
        migrate(lot.dsn_of("owner"), lot.schema)


async def test_an_id_of_another_workflow_is_refused_as_before(house: House) -> None:
    async with house.client("ann") as client:
        await client.start("w", 1, id="taken")
        with pytest.raises(InvalidId, match="is an instance of workflow 'w'"):
            await client.start("v", 1, id="taken")
