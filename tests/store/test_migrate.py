"""Migrating a schema: at once, again, by whom, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgdurable._store import migrations
from pgdurable._store.migrations import (
    check,
    check_async,
    current_version,
    latest_version,
    migrate,
    split_commands,
    uninstall,
)
from pgdurable._store.sql import sql_files
from pgdurable.errors import ConnectionFailed, SchemaError


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def role(conn: psycopg.Connection) -> Iterator[str]:
    """A role that may do nothing yet; the test's connection can become it with `set role`."""
    name = f"pgdurable_test_{uuid.uuid4().hex[:12]}"
    try:
        conn.execute(f"create role {name}")
        conn.execute(f"grant {name} to current_user")
    except psycopg.errors.InsufficientPrivilege:
        pytest.skip("needs a role that may create roles")
    yield name
    conn.execute("reset role")
    conn.execute(f"drop owned by {name} cascade")
    conn.execute(f"drop role {name}")


def objects(conn: psycopg.Connection, schema: str) -> list[tuple]:
    """Every object of the schema with its catalog row's version: equal lists mean that nothing was touched."""
    return conn.execute(
        """
        select 'relation', relname::text, xmin::text from pg_class where relnamespace = to_regnamespace(%(s)s)
        union all
        select 'function', proname::text, xmin::text from pg_proc where pronamespace = to_regnamespace(%(s)s)
        order by 1, 2
        """,
        {"s": schema},
    ).fetchall()


def add_migration(monkeypatch: pytest.MonkeyPatch, text: str) -> int:
    """A library one version ahead of this one."""
    number = latest_version() + 1
    more = (*migrations._migrations(), (number, f"{number:04}_more.sql", text))
    monkeypatch.setattr(migrations, "_migrations", lambda: more)
    return number


# -- what it does


def test_a_new_schema_gets_every_table_function_and_view(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    report = migrate(dsn, schema)

    assert report.changed
    assert (report.before, report.after) == (None, latest_version())
    assert report.applied == tuple(name for name, _ in sql_files("migrations"))
    assert current_version(conn, schema) == latest_version()
    check(conn, schema)
    there = {(kind, name) for kind, name, _ in objects(conn, schema)}
    assert {("function", name.removesuffix(".sql")) for name, _ in sql_files("functions")} <= there
    assert {("relation", name.removesuffix(".sql")) for name, _ in sql_files("views")} <= there
    tables = {"workflows", "instances", "instance_keys", "history", "events", "workers", "queues", "schedules"}
    assert {("relation", name) for name in tables} <= there


def test_migrating_again_touches_nothing(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    migrate(dsn, schema)
    before = objects(conn, schema)

    report = migrate(dsn, schema)

    assert not report.changed
    assert report.before == report.after == latest_version()
    assert objects(conn, schema) == before


def test_changed_functions_are_installed_again(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    migrate(dsn, schema)
    conn.execute(f"update {schema}.migrations set routines = 'another text'")
    conn.execute(f"create or replace function {schema}.status(id text) returns text language sql as 'select null'")

    report = migrate(dsn, schema)

    assert report.routines
    assert report.applied == ()
    with pytest.raises(psycopg.Error, match="no instance has the id"):
        conn.execute(f"select {schema}.status('nobody')")


def test_an_old_schema_is_brought_forward(
    dsn: str, conn: psycopg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(dsn, schema)
    start = f"select {schema}.start('w', '{{}}', 'kept')"
    conn.execute(start)
    number = add_migration(
        monkeypatch, "-- one\ncreate table @extschema@.more (id int); insert into @extschema@.more values (1)"
    )

    with pytest.raises(SchemaError, match=f"is at version {number - 1}, older") as refused:
        check(conn, schema)
    assert refused.value.hint == f"Run: pgdurable migrate --schema {schema}"
    report = migrate(dsn, schema)

    assert (report.before, report.after, report.applied) == (number - 1, number, (f"{number:04}_more.sql",))
    check(conn, schema)
    assert conn.execute(f"select id from {schema}.more").fetchall() == [(1,)]
    assert conn.execute(f"select {schema}.status('kept')").fetchone() == ("pending",)


def test_a_migration_that_fails_leaves_nothing(
    dsn: str, conn: psycopg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_migration(monkeypatch, "create table @extschema@.more (id int); select 1 / 0")

    with pytest.raises(SchemaError, match=f"schema {schema}: division by zero"):
        migrate(dsn, schema)

    assert conn.execute("select to_regnamespace(%s)", (schema,)).fetchone() == (None,)


def test_within_the_callers_transaction_it_is_the_callers_to_commit(
    dsn: str, conn: psycopg.Connection, schema: str
) -> None:
    with psycopg.connect(dsn) as mine:
        mine.execute("select 1")
        before = mine.execute("show check_function_bodies").fetchone()
        assert migrate(mine, schema).changed
        assert mine.execute("show check_function_bodies").fetchone() == before
        assert current_version(conn, schema) is None
        mine.rollback()
    assert conn.execute("select to_regnamespace(%s)", (schema,)).fetchone() == (None,)


def test_the_callers_row_factory_does_not_matter(dsn: str, schema: str) -> None:
    with psycopg.connect(dsn, autocommit=True, row_factory=psycopg.rows.dict_row) as mine:
        assert migrate(mine, schema).changed
        check(mine, schema)


def test_ten_processes_at_once(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    code = (
        "import sys; from pgdurable._store.migrations import migrate\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(migrate(sys.argv[1], sys.argv[2]).changed)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ten = [
        subprocess.Popen(
            [sys.executable, "-c", code, dsn, schema],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for _ in range(10)
    ]
    try:
        for process in ten:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in ten:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outcomes = [process.communicate(timeout=60) for process in ten]
    finally:
        for process in ten:
            process.kill()
            process.communicate()

    assert [err for _, err in outcomes if err] == []
    assert sorted(out.strip() for out, _ in outcomes) == ["False"] * 9 + ["True"]
    rows = conn.execute(f"select version from {schema}.migrations order by 1").fetchall()
    assert rows == [(number,) for number in range(1, latest_version() + 1)]


# -- by whom


def test_a_role_that_may_create_schemas_is_enough(conn: psycopg.Connection, role: str, schema: str) -> None:
    database = conn.info.dbname
    conn.execute(f'grant create on database "{database}" to {role}')
    conn.execute(f"set role {role}")

    migrate(conn, schema)
    assert not migrate(conn, schema).changed
    check(conn, schema)
    conn.execute(f"select {schema}.start('w', '{{}}', 'a')")
    assert conn.execute(f"select {schema}.status('a')").fetchone() == ("pending",)


def test_a_schema_made_for_the_role_is_enough(conn: psycopg.Connection, role: str, schema: str) -> None:
    conn.execute(f"create schema {schema} authorization {role}")
    conn.execute(f"set role {role}")

    assert migrate(conn, schema).changed
    assert not migrate(conn, schema).changed


def test_a_role_that_may_not_is_told_what_it_needs(conn: psycopg.Connection, role: str, schema: str) -> None:
    conn.execute(f"set role {role}")
    with pytest.raises(SchemaError, match="permission denied for database") as refused:
        migrate(conn, schema)
    assert "create on the database" in (refused.value.hint or "")

    conn.execute("reset role")
    migrate(conn, schema)
    conn.execute(f"set role {role}")
    with pytest.raises(SchemaError, match=f"permission denied for schema {schema}") as refused:
        check(conn, schema)
    assert f"usage on schema {schema}" in (refused.value.hint or "")


def test_a_read_only_server(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    read_only = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    with pytest.raises(ConnectionFailed, match="the server is read-only") as refused:
        migrate(read_only, schema)
    assert "primary" in (refused.value.hint or "")

    migrate(dsn, schema)
    assert not migrate(read_only, schema).changed


def test_no_server(schema: str) -> None:
    with pytest.raises(ConnectionFailed, match="connecting to the server failed") as refused:
        migrate("host=127.0.0.1 port=1 dbname=none user=none connect_timeout=5", schema)
    assert "DSN" in (refused.value.hint or "")


# -- what is refused


def test_a_newer_schema_is_refused(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    migrate(dsn, schema)
    newer = latest_version() + 7
    conn.execute(f"insert into {schema}.migrations (version, library) values ({newer}, 'of tomorrow')")
    before = objects(conn, schema)

    for refuse in (lambda: migrate(dsn, schema), lambda: check(conn, schema)):
        with pytest.raises(SchemaError, match=f"is at version {newer}, newer") as refused:
            refuse()
        assert refused.value.detail == f"Expected version {latest_version()}, found {newer}."
        assert "pip install --upgrade pgdurable" in (refused.value.hint or "")
    assert objects(conn, schema) == before


def test_check_of_a_missing_schema_says_the_command(conn: psycopg.Connection, schema: str) -> None:
    with pytest.raises(SchemaError, match=f"schema {schema} is not migrated") as refused:
        check(conn, schema)
    assert refused.value.hint == f"Run: pgdurable migrate --schema {schema}"
    assert current_version(conn, schema) is None


async def test_check_async(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as aconn:
        with pytest.raises(SchemaError, match="is not migrated"):
            await check_async(aconn, schema)
        migrate(dsn, schema)
        await check_async(aconn, schema)
        assert aconn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        conn.execute(f"update {schema}.migrations set version = 97 + version")
        with pytest.raises(SchemaError, match="newer"):
            await check_async(aconn, schema)


def test_check_within_a_transaction_leaves_it_usable(dsn: str, schema: str) -> None:
    with psycopg.connect(dsn) as mine:
        mine.execute("create temp table t (id int) on commit drop")
        with pytest.raises(SchemaError, match="is not migrated"):
            check(mine, schema)
        assert mine.execute("select count(*) from t").fetchone() == (0,)


def test_somebody_elses_schema_is_left_alone(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    conn.execute(f"create schema {schema}")
    conn.execute(f"create table {schema}.migrations (id int, name text)")

    assert current_version(conn, schema) is None
    with pytest.raises(SchemaError, match=f"schema {schema} is in use") as refused:
        migrate(dsn, schema)
    assert f"{schema}.migrations" in (refused.value.detail or "")
    with pytest.raises(SchemaError, match="was not made by pgdurable"):
        uninstall(dsn, schema)
    assert conn.execute(f"select count(*) from {schema}.migrations").fetchone() == (0,)


def test_uninstall(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    migrate(dsn, schema)
    assert uninstall(dsn, schema)
    assert conn.execute("select to_regnamespace(%s)", (schema,)).fetchone() == (None,)
    assert not uninstall(dsn, schema)
    assert migrate(dsn, schema).before is None


@pytest.mark.parametrize("name", ["", "Durable", "a b", "a;drop", 'a"b', "1a", "x" * 51, "a\0b", "é"])
def test_names_that_no_schema_has(dsn: str, conn: psycopg.Connection, name: str) -> None:
    for call in (migrate, uninstall):
        with pytest.raises(ValueError, match="a schema name has"):
            call(dsn, name)
    with pytest.raises(ValueError, match="a schema name has"):
        check(conn, name)


@pytest.mark.parametrize("name", ["select", "user", "table"])
def test_reserved_words(dsn: str, name: str) -> None:
    with pytest.raises(SchemaError, match=f"{name} is a reserved word"):
        migrate(dsn, name)


def test_two_schemas_do_not_wait_for_each_other(dsn: str, schema: str) -> None:
    other = f"{schema}_b"
    with psycopg.connect(dsn) as mine:
        migrate(mine, schema)
        with psycopg.connect(dsn, options="-c lock_timeout=5s") as theirs:
            assert migrate(theirs, other).changed
            theirs.rollback()
        mine.rollback()


def test_the_migration_lock_is_lock_class_2(dsn: str, conn: psycopg.Connection, schema: str) -> None:
    with psycopg.connect(dsn) as mine:
        mine.execute("select 1")
        migrate(mine, schema)
        (expected,) = mine.execute(f"select {schema}.lock_class(2)").fetchone() or ()
        held = mine.execute(
            "select classid::int8, objid::int8 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        )
        assert (expected, 0) in held.fetchall()
        mine.rollback()


# -- cutting scripts into commands


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("", []),
        (" ; ;\n-- only a comment;\n/* and; this */", []),
        ("select 1", ["select 1"]),
        ("select 1; select 2;", ["select 1", "select 2"]),
        ("-- head; of it\nselect 1; -- tail", ["-- head; of it\nselect 1"]),
        ("select 1 /* a ; /* nested ; */ still ; */ + 1; x", ["select 1 /* a ; /* nested ; */ still ; */ + 1", "x"]),
        ("select ';', 'it''s;' ; x", ["select ';', 'it''s;'", "x"]),
        (r"select 'a\'; x", [r"select 'a\'", "x"]),
        (r"select e'a\';b', E'''\\;'; x", [r"select e'a\';b', E'''\\;'", "x"]),
        ("select type'a;'; x", ["select type'a;'", "x"]),
        (r"select date'a\'; x", [r"select date'a\'", "x"]),
        ('select ";""; --"; x', ['select ";""; --"', "x"]),
        ("do $$ begin; end; $$; x", ["do $$ begin; end; $$", "x"]),
        ("do $a$ ; $b$ ; $$ ; ' $a$; x", ["do $a$ ; $b$ ; $$ ; ' $a$", "x"]),
        ("select a$b$, 1; select c$b$", ["select a$b$, 1", "select c$b$"]),
        ("prepare p as select $1; execute p($2)", ["prepare p as select $1", "execute p($2)"]),
        ("select '--'; select '/*'; select $$'$$;", ["select '--'", "select '/*'", "select $$'$$"]),
        ("select 5 - 3 / 2; x", ["select 5 - 3 / 2", "x"]),
        ("select 'é;' -- ü;\n; x", ["select 'é;' -- ü;", "x"]),
    ],
)
def test_split_commands(text: str, commands: list[str]) -> None:
    assert list(split_commands(text)) == commands


@pytest.mark.parametrize("text", ["select 'a", r"select e'a\'", 'select "a', "do $x$ ; $y$", "select 1 /* /* */"])
def test_split_commands_refuses_what_is_not_closed(text: str) -> None:
    with pytest.raises(ValueError, match="not closed"):
        split_commands(text)


def test_every_function_and_view_file_makes_what_it_is_named_after() -> None:
    """One view, or one function with all of its kinds of arguments."""
    for folder, kind in (("functions", "(function|procedure)"), ("views", "view")):
        for name, text in sql_files(folder):
            commands = split_commands(text)
            assert len(commands) == 1 or (commands and folder == "functions"), name
            for command in commands:
                assert re.search(rf"create or replace {kind} @extschema@\.{name.removesuffix('.sql')}\b", command), name


def test_sql_is_ascii() -> None:
    """A database may be in any encoding, SQL_ASCII included."""
    for folder in ("migrations", "functions", "views", "queries"):
        for name, text in sql_files(folder):
            assert text.isascii(), name
