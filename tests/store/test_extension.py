"""The schema as an extension: created, updated, dumped and restored, adopted, dropped. On every server found here."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from e2e.namespace import until
from psycopg import sql
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

import pgdurable as pgd
from pgdurable._store import extension_files, migrations
from pgdurable._store.extension_files import scripts
from pgdurable._store.migrations import adopt, check, latest_version, migrate, uninstall
from pgdurable.cli.app import app
from pgdurable.errors import SchemaError

from .catalog import describe
from .relocated import found, name_of, relocate, serving

SERVERS = found()
LATEST = str(latest_version())


@dataclass
class Server:
    """A server into which a test may install; a new database for each test."""

    dsn: str
    pg_config: Path
    original: Path  # its programs where they really are: pg_dump, psql
    crash: Callable[[], None]  # at once, and up again

    @property
    def folder(self) -> Path:
        done = subprocess.run([self.pg_config, "--sharedir"], capture_output=True, text=True, check=True)
        return Path(done.stdout.strip()) / "extension"

    def install(self, *words: str) -> str:
        """`pgdurable extension` for this server; returns what it printed."""
        done = CliRunner().invoke(app, ["extension", "--pg-config", str(self.pg_config), *words])
        assert done.exit_code == 0, done.output
        return done.output

    def remove(self) -> None:
        for file in self.folder.glob("pgdurable*"):
            file.unlink()

    def run(self, program: str, *words: str, **options: Any) -> str:
        """A program of the server's version; what it printed."""
        path = self.original / program
        done = subprocess.run([path, *words], capture_output=True, text=True, timeout=100, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=SERVERS, ids=map(name_of, SERVERS))
def _server(request: pytest.FixtureRequest) -> Iterator[Server]:
    # Not in pytest's folder, which another run closes to the server's account again.
    with tempfile.TemporaryDirectory(prefix="pgdurable-server-") as folder:
        bin_dir = relocate(request.param, Path(folder))
        with serving(bin_dir) as (dsn, crash):
            yield Server(dsn, bin_dir / "pg_config", request.param, crash)


@pytest.fixture
def server(_server: Server) -> Iterator[Server]:
    _server.install()
    yield _server
    _server.remove()


class Database:
    """A database of a test's own."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.dsn = make_conninfo(server.dsn, dbname=name)
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        self.conn = psycopg.connect(self.dsn, autocommit=True)

    def rows(self, text: str, *args: Any) -> list[tuple[Any, ...]]:
        cursor = self.conn.execute(text.encode(), args or None)
        return cursor.fetchall() if cursor.description else []

    def left(self) -> list[tuple[Any, ...]]:
        """What of ours is in the database."""
        return self.rows(
            """
            select 'schema', nspname::text from pg_namespace where nspname not in ('public', 'information_schema')
               and nspname !~ '^pg_'
            union all select 'relation', relname::text from pg_class where relname ~ '^(history|instances)'
            union all select 'extension', extname::text from pg_extension where extname <> 'plpgsql'
            union all select 'function', p.proname::text from pg_proc p where p.prosrc ~ 'durable'
            union all select 'lock', l.objid::text from pg_locks l where l.locktype = 'advisory'
                and l.database = (select d.oid from pg_database d where d.datname = current_database())
            union all select 'setting', r.setconfig::text from pg_db_role_setting r
            """
        )


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    one = Database(server, "one")
    yield one
    one.conn.close()


@pytest.fixture
def other(server: Server) -> Iterator[Database]:
    two = Database(server, "two")
    yield two
    two.conn.close()


@pgd.workflow(name="extension_waits")
async def waits(text: str) -> str:
    first = await say(text)
    return first + await pgd.wait_signal("go", type=str)


@pgd.step
async def say(text: str) -> str:
    return f"{text}, "


async def begin(dsn: str) -> None:
    async with pgd.Engine(dsn, workflows=[waits]) as engine:
        await engine.start(waits, "one", id="one")
        await until(lambda: engine_steps(dsn) == 1, "its step is recorded")


def engine_steps(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select count(*) from durable.history where kind = 'step'").fetchone()
    assert row is not None
    return int(row[0])


async def finish(dsn: str) -> None:
    """What was begun before the dump goes on behind it, and does not begin anew."""
    async with pgd.Engine(dsn, workflows=[waits]) as engine:
        handle = await engine.get("one")
        await handle.signal("go", "two")
        assert await handle.result(timeout=30) == "one, two"
        assert engine_steps(dsn) == 1
        later = await engine.start(waits, "more")
        await later.signal("go", "still")
        assert await later.result(timeout=30) == "more, still"


# -- one schema, two ways


def test_it_makes_the_schema_that_migrate_makes(database: Database, other: Database) -> None:
    database.rows("create extension pgdurable")
    migrate(other.dsn)
    database.rows("select durable.make_partitions()")  # which whoever works does first
    assert describe(database.conn, "durable") == describe(other.conn, "durable")
    assert database.rows("select extversion from pg_extension where extname = 'pgdurable'") == [(LATEST,)]
    check(database.conn)
    report = migrate(database.dsn)
    assert (report.extension, report.changed, report.after) == (True, False, latest_version())
    report = migrate(database.dsn, roles=True, row_security=True)
    migrate(other.dsn, roles=True, row_security=True)
    assert describe(database.conn, "durable") == describe(other.conn, "durable")
    for kind in report.roles:
        for one in (database, other):
            one.rows(f"drop owned by {kind}")
        database.rows(f"drop role {kind}")


def test_the_comparison_would_tell(database: Database, other: Database) -> None:
    database.rows("create extension pgdurable")
    database.rows("select durable.make_partitions()")
    migrate(other.dsn)
    for change in (
        "alter table durable.queues alter column paused set default true",
        "comment on table durable.queues is 'something else'",
        "drop index durable.signal_keys_sent",
        "grant select on durable.queues to public",
        "alter table durable.instances disable trigger all; drop trigger instance_ended on durable.instances",
        "create or replace function durable.channel() returns text language sql as 'select null'",
    ):
        other.rows("begin")
        for command in change.split("; "):
            other.rows(command)
        assert describe(database.conn, "durable") != describe(other.conn, "durable"), change
        other.rows("rollback")


def test_drop_extension_leaves_nothing(database: Database) -> None:
    database.rows("create extension pgdurable")
    asyncio.run(begin(database.dsn))
    assert database.rows("select count(*) > 3 from durable.history_partitions") == [(True,)]
    database.rows("create role extension_user")
    database.rows("select durable.admit_submitter('extension_user')")
    try:
        database.rows("drop extension pgdurable")
        assert database.left() == []
    finally:
        database.rows("drop role extension_user")  # on which nothing depends any more
    database.rows("create extension pgdurable")
    assert database.rows("select count(*) from durable.instances") == [(0,)]


def test_uninstall_leaves_nothing(database: Database) -> None:
    for make in (lambda: database.rows("create extension pgdurable"), lambda: migrate(database.dsn)):
        make()
        asyncio.run(begin(database.dsn))
        migrate(database.dsn, roles=True)
        assert uninstall(database.dsn, roles=True)
        assert database.left() == []
        assert database.rows("select rolname from pg_roles where rolname ~ '^durable'") == []
        assert not uninstall(database.dsn)


def test_workflows_in_sql_need_no_python(database: Database) -> None:
    database.rows("create extension pgdurable")
    database.rows("create table paid (who text)")
    database.rows(
        """select durable.define('pay', durable.seq(
               durable.sql('insert into paid values ($who) returning who', "into" => 'row'),
               durable.sql('select count(*) as n from paid')))"""
    )
    database.rows("select durable.start('pay', '{\"who\": \"ann\"}', 'p-1')")
    database.rows("call durable.work(max_time => '10 s')")
    assert database.rows("select durable.status('p-1'), (select count(*) from paid)") == [("completed", 1)]


# -- dumps


@pytest.mark.parametrize("way", ["plain", "custom", "parallel"])
def test_a_dump_is_restored_whole(
    server: Server, database: Database, other: Database, way: str, tmp_path: Path
) -> None:
    database.rows("create extension pgdurable")
    asyncio.run(begin(database.dsn))
    database.rows("update durable.settings set value = '90 days' where name = 'retention'")
    database.rows("select durable.set_queue('mail', concurrency => 3)")
    migrate(database.dsn, roles=True, row_security=True)
    database.rows("grant select on durable.instances to pg_monitor")
    try:
        file = str(tmp_path / "dump")
        if way == "plain":
            server.run("pg_dump", "-f", file, database.dsn)
            server.run("psql", "-qX", "-1", "-v", "ON_ERROR_STOP=1", "-f", file, other.dsn)
        else:
            server.run("pg_dump", "-Fc", "-f", file, database.dsn)
            how = ["-j", "2"] if way == "parallel" else ["--exit-on-error", "--single-transaction"]
            path = server.original / "pg_restore"
            done = subprocess.run([path, *how, "-d", other.dsn, file], capture_output=True, text=True, timeout=100)
            # In parallel the keys of partitions may come before the row of history_key; make_partitions sees to that.
            assert done.returncode == 0 or (way == "parallel" and "history_pkey" in done.stderr), done.stderr
        migrate(other.dsn)
        assert describe(other.conn, "durable") == describe(database.conn, "durable")
        tables = database.rows(
            "select c.relname::text from pg_class c where c.relnamespace = 'durable'::regnamespace"
            " and c.relkind in ('r', 'p') and not c.relispartition"
            " and c.relname not in ('migrations', 'history_key') order by 1"
        )
        for (table,) in tables:
            text = f"select t::text from durable.{table} t order by 1"
            assert other.rows(text) == database.rows(text), table
        assert other.rows("select last_value from durable.workers_id_seq") == database.rows(
            "select last_value from durable.workers_id_seq"
        )
        asyncio.run(finish(other.dsn))
    finally:
        for one in (database, other):
            uninstall(one.dsn, roles=True)
    assert other.left() == []


def test_row_security_without_its_roles_shows_nobody_anything(
    server: Server, database: Database, other: Database, tmp_path: Path
) -> None:
    """A dump restored in a cluster that has no such roles: shut, until they are made."""
    database.rows("create extension pgdurable")
    database.rows("select durable.start('w')")
    migrate(database.dsn, roles=True, row_security=True)
    file = str(tmp_path / "dump")
    server.run("pg_dump", "--no-acl", "-f", file, database.dsn)
    uninstall(database.dsn, roles=True)
    server.run("psql", "-qX", "-1", "-v", "ON_ERROR_STOP=1", "-f", file, other.dsn)
    other.rows("create role extension_curious")
    try:
        other.rows("grant usage on schema durable to extension_curious")
        other.rows("grant select on durable.instances to extension_curious")
        other.rows("set role extension_curious")
        assert other.rows("select count(*) from durable.instances") == [(0,)]
        other.rows("reset role")
        assert other.rows("select count(*) from durable.instances") == [(1,)]
        assert migrate(other.dsn, roles=True).row_security
        migrate(other.dsn, roles=True, row_security=True)
        assert other.rows("select count(*) from pg_policies where schemaname = 'durable'") == [(36,)]
    finally:
        other.rows("reset role")
        uninstall(other.dsn, roles=True)
        other.rows("drop role extension_curious")


# -- versions


def _more(monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """A library one version ahead of this one."""
    number = latest_version() + 1
    more = (*migrations._migrations(), (number, f"{number:04}_more.sql", text))
    monkeypatch.setattr(migrations, "_migrations", lambda: more)
    return str(number)


MORE = (
    "create table @extschema@.more (id int primary key, note text);\n"
    "comment on table @extschema@.more is 'more';\n"
    "drop function if exists @extschema@.setting_problem(text, text)"
)


@pytest.mark.parametrize("by", ["alter extension", "migrate"])
def test_it_is_updated(
    server: Server, database: Database, other: Database, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.rows("create extension pgdurable")
    asyncio.run(begin(database.dsn))
    migrate(database.dsn, roles=True)
    monkeypatch.setattr(extension_files, "FIRST", latest_version())
    newer = _more(monkeypatch, MORE)
    try:
        with pytest.raises(SchemaError, match=f"at version {LATEST}, and the server has no script") as refused:
            migrate(database.dsn)
        assert "pgdurable extension" in (refused.value.hint or "")
        server.install()
        if by == "alter extension":
            database.rows("alter extension pgdurable update")
        report = migrate(database.dsn)
        assert report.extension
        assert report.applied == (() if by == "alter extension" else (f"{newer:0>4}_more.sql",))
        assert database.rows("select extversion from pg_extension where extname = 'pgdurable'") == [(newer,)]
        migrate(database.dsn, roles=True)
        migrate(other.dsn, roles=True)
        assert describe(database.conn, "durable") == describe(other.conn, "durable")
        assert ("durable.more",) in database.rows(
            "select unnest(extconfig)::regclass::text from pg_extension where extname = 'pgdurable'"
        )
        asyncio.run(finish(database.dsn))
    finally:
        for one in (database, other):
            uninstall(one.dsn, roles=True)
    assert database.left() == []


def test_a_crash_in_the_middle_of_an_update_leaves_the_old_version(
    server: Server, database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.rows("create extension pgdurable")
    asyncio.run(begin(database.dsn))
    before = describe(database.conn, "durable")
    monkeypatch.setattr(extension_files, "FIRST", latest_version())
    newer = _more(monkeypatch, MORE)
    server.install()
    database.rows("begin")
    database.rows("alter extension pgdurable update")
    other.rows("begin")
    other.rows("create extension pgdurable")
    server.crash()
    for one, version in ((database, [(LATEST,)]), (other, [])):
        one.conn.close()
        one.conn = psycopg.connect(one.dsn, autocommit=True)
        assert one.rows("select extversion from pg_extension where extname = 'pgdurable'") == version
    assert describe(database.conn, "durable") == before
    assert other.left() == []
    database.rows("alter extension pgdurable update")
    assert database.rows("select extversion from pg_extension where extname = 'pgdurable'") == [(newer,)]
    asyncio.run(finish(database.dsn))


def test_a_script_is_for_one_version(server: Server, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.rows("create extension pgdurable")
    monkeypatch.setattr(extension_files, "FIRST", latest_version())
    _more(monkeypatch, MORE)
    server.install()
    database.rows("update durable.migrations set version = 1000 where version = %s", int(LATEST))
    with pytest.raises(psycopg.Error, match=f"at version 1000, this script is for version {LATEST}"):
        database.rows("alter extension pgdurable update")


def test_functions_that_differ_are_renewed_within_it(database: Database) -> None:
    database.rows("create extension pgdurable")
    database.rows("update durable.migrations set routines = 'another text' where routines is not null")
    database.rows("alter extension pgdurable drop function durable.channel()")
    report = migrate(database.dsn)
    assert (report.extension, report.routines) == (True, True)
    database.rows("drop extension pgdurable")
    assert database.left() == []


# -- from a schema that was migrated


def test_a_migrated_schema_is_adopted(server: Server, database: Database, other: Database, tmp_path: Path) -> None:
    migrate(database.dsn, roles=True)
    asyncio.run(begin(database.dsn))
    before = describe(database.conn, "durable")
    with pytest.raises(psycopg.Error, match="was made by pgdurable migrate") as refused:
        database.rows("create extension pgdurable")
    assert "pgdurable extension --adopt" in (refused.value.diag.message_hint or "")

    done = CliRunner().invoke(app, ["extension", "--adopt", "--dsn", database.dsn])
    assert done.exit_code == 0, done.output
    assert "is the extension pgdurable now" in done.output
    try:
        assert describe(database.conn, "durable") == before
        with pytest.raises(SchemaError, match="is an extension already"):
            adopt(database.dsn)
        file = str(tmp_path / "dump")
        server.run("pg_dump", "-f", file, database.dsn)
        text = Path(file).read_text()
        assert "CREATE TABLE durable.instances" not in text
        assert "CREATE FUNCTION" not in text
        server.run("psql", "-qX", "-1", "-v", "ON_ERROR_STOP=1", "-f", file, other.dsn)
        assert describe(other.conn, "durable") == before  # the roles' rights too
        asyncio.run(finish(other.dsn))
    finally:
        for one in (database, other):
            uninstall(one.dsn, roles=True)
    assert database.left() == []


def test_adopted_in_sql(database: Database) -> None:
    migrate(database.dsn)
    database.rows("create extension pgdurable version 'unpackaged'")
    database.rows("alter extension pgdurable update")
    assert migrate(database.dsn).extension
    database.rows("drop extension pgdurable")
    assert database.left() == []


def test_nothing_to_adopt(server: Server, database: Database) -> None:
    with pytest.raises(SchemaError, match="is not migrated"):
        adopt(database.dsn)
    with pytest.raises(psycopg.Error, match="there is no schema durable"):
        database.rows("create extension pgdurable version 'unpackaged'")
    migrate(database.dsn)
    server.remove()
    with pytest.raises(SchemaError, match=f"no extension pgdurable of version {LATEST}") as refused:
        adopt(database.dsn)
    assert "pgdurable extension" in (refused.value.hint or "")
    server.install("--schema", "elsewhere")
    with pytest.raises(SchemaError, match="there is no schema elsewhere"):
        adopt(database.dsn)


def test_alter_system_takes_a_setting(database: Database) -> None:
    migrate(database.dsn)
    database.rows("set pgdurable.step_timeout = '1 s'")  # before 17 the server has to know it
    database.rows("alter system set pgdurable.step_timeout = '5min'")
    try:
        database.rows("select pg_reload_conf()")
        text = "select value, source from durable.settings where name = 'step_timeout'"

        def seen() -> tuple[str, str]:
            with psycopg.connect(database.dsn) as conn:
                row = conn.execute(text).fetchone()
            assert row is not None
            return row

        asyncio.run(until(lambda: seen()[0] == "5min", "the file is read"))
        assert "postgresql.auto.conf:" in seen()[1]
    finally:
        database.rows("alter system reset pgdurable.step_timeout")
        database.rows("select pg_reload_conf()")


# -- by whom, and where


def test_a_role_that_may_create_a_schema_is_enough(database: Database) -> None:
    role = "extension_maker"
    database.rows(f"create role {role} login")
    try:
        as_role = make_conninfo(database.dsn, user=role)
        with psycopg.connect(as_role, autocommit=True) as conn:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("create extension pgdurable")
            database.rows(f"grant create on database one to {role}")
            conn.execute("create extension pgdurable")
            conn.execute("select durable.start('w')")
            conn.execute("select durable.make_partitions()")
            conn.execute("drop extension pgdurable")
            database.rows(f"create schema durable authorization {role}")  # empty: it is taken
            conn.execute("create extension pgdurable")
            assert migrate(as_role).extension
            assert uninstall(as_role)
        assert database.left() == []
    finally:
        database.rows(f"drop owned by {role} cascade")
        database.rows(f"drop role {role}")


def test_a_schema_of_somebody_else_is_left_alone(database: Database) -> None:
    database.rows("create schema durable")
    database.rows("create table durable.theirs ()")
    with pytest.raises(psycopg.Error, match="is in use for something else"):
        database.rows("create extension pgdurable")
    assert database.rows("select count(*) from durable.theirs") == [(0,)]


def test_another_schema(server: Server, database: Database) -> None:
    assert "makes schema jobs" in server.install("--schema", "jobs")
    database.rows("create extension pgdurable")
    database.rows("select jobs.start('w')")
    assert migrate(database.dsn, "jobs").extension
    assert not migrate(database.dsn).extension  # a second namespace, beside it
    database.rows("drop extension pgdurable")
    assert {row[1] for row in database.left() if row[0] == "schema"} == {"durable"}


# -- the files


def test_the_command_says_what_migrate_does_with_it(database: Database) -> None:
    database.rows("create extension pgdurable")
    done = CliRunner().invoke(app, ["migrate", "--dsn", database.dsn])
    assert done.exit_code == 0
    assert "is the extension pgdurable" in done.output
    assert f"up to date, version {LATEST}" in done.output


def test_pgxs_installs_them(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "files"
    done = CliRunner().invoke(app, ["extension", "--out", str(out)])
    assert done.exit_code == 0, done.output
    make = shutil.which("make")
    assert make is not None
    stage = tmp_path / "stage"
    words = [make, "-C", str(out), "install", f"PG_CONFIG={server.pg_config}", f"DESTDIR={stage}"]
    done_make = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done_make.returncode == 0, done_make.stderr
    put = {file.name: file.read_text() for file in stage.rglob("pgdurable*") if file.is_file()}
    assert put == {name: text for name, text in scripts().items() if name != "Makefile"}


def test_without_a_pg_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["extension", "--pg-config", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "--pg-config" in done.output
    if os.geteuid() != 0:
        return
    refuses = tmp_path / "pg_config"
    refuses.write_text("#!/bin/sh\nexit 3\n")
    refuses.chmod(0o755)
    done = CliRunner().invoke(app, ["extension", "--pg-config", str(refuses)])
    assert done.exit_code == 1
    assert "--sharedir" in done.output


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["extension", "--out", str(tmp_path / "file" / "below")])
    assert done.exit_code == 1
    assert "cannot be written" in done.output


def test_the_schemas_name_is_checked(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["extension", "--out", str(tmp_path), "--schema", 'x"; drop'])
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="a schema name has"):
        scripts("No Good")


def test_no_placeholder_is_left() -> None:
    for name, text in scripts().items():
        assert "@extschema@" not in text, name
        assert re.findall(r"@(?:version|package|number|digest|before|commands)@", text) == [], name
