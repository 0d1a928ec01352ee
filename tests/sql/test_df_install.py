"""The schema df comes with `migrate --df`, is renewed with the namespace, and goes with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from databases import database
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from pgdurable._store import df as df_schema
from pgdurable._store.migrations import migrate, uninstall
from pgdurable._store.sql import split_commands, sql_files
from pgdurable.cli.app import app
from pgdurable.errors import SchemaError

from .df_database import one

OPERATORS = """select count(*) from pg_operator o join pg_proc p on p.oid = o.oprcode
                where p.pronamespace = 'df'::regnamespace"""
THERE = "select to_regnamespace('df') is not null"


@pytest.fixture
def there(dsn: str) -> Iterator[str]:
    with database(dsn) as made:
        yield made


@pytest.fixture
def conn(there: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(there, autocommit=True) as conn:
        yield conn


def test_only_who_asks_gets_it(there: str, conn: psycopg.Connection[Any]) -> None:
    report = migrate(there)
    assert (report.df, report.df_renewed, one(conn, THERE)) == (False, False, False)

    report = migrate(there, df=True)
    assert (report.df, report.df_renewed, report.changed) == (True, True, True)
    assert one(conn, OPERATORS) == 14

    report = migrate(there, df=True)
    assert (report.df, report.df_renewed, report.changed) == (True, False, False)


def test_the_command(there: str) -> None:
    run = CliRunner()
    first = run.invoke(app, ["migrate", "--df", "--dsn", there])
    assert (first.exit_code, "schema df over it is made anew" in first.output) == (0, True)
    again = run.invoke(app, ["migrate", "--df", "--dsn", there])
    assert (again.exit_code, "schema df over it is up to date" in again.output) == (0, True)


def test_it_is_renewed_unasked_and_keeps_what_it_holds(
    there: str, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(there, df=True)
    conn.execute("select df.setvar('color', 'red')")
    conn.execute("create view wall as select 'select 1' ~> 'select 2' as graph")

    def changed(schema: str) -> list[str]:
        return [*commands(schema), "create or replace function df.more() returns int language sql as 'select 7'"]

    commands = df_schema._commands
    monkeypatch.setattr(df_schema, "_commands", changed)
    assert migrate(there).df_renewed
    assert (one(conn, "select df.more()"), one(conn, "select df.getvar('color')")) == (7, "red")
    assert not migrate(there).df_renewed


def test_a_database_has_one(there: str, conn: psycopg.Connection[Any]) -> None:
    migrate(there, df=True)
    with pytest.raises(SchemaError, match="there is a schema df of namespace durable") as refused:
        migrate(there, "other", df=True)
    assert refused.value.hint
    assert one(conn, "select to_regnamespace('other') is null"), "nothing of it is there"
    migrate(there, "other")
    assert not migrate(there, "other").df


def test_somebody_elses_df_is_left_alone(there: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("create schema df")
    conn.execute("create table df.precious (n int)")
    with pytest.raises(SchemaError, match="that pgdurable did not make"):
        migrate(there, df=True)
    migrate(there)
    assert uninstall(there)
    assert one(conn, "select count(*) from df.precious") == 0


def test_it_goes_with_its_namespace(there: str, conn: psycopg.Connection[Any]) -> None:
    migrate(there, df=True)
    migrate(there, "other")
    assert uninstall(there, "other")
    assert one(conn, THERE)
    assert uninstall(there)
    assert not one(conn, THERE)
    left = "select count(*) from pg_operator o join pg_namespace n on n.oid = o.oprnamespace where n.nspname = 'public'"
    assert one(conn, left) == 0
    assert migrate(there, df=True).df_renewed, "and comes again"


def test_its_text_is_ascii_and_a_file_is_a_function() -> None:
    """So it can be installed in a database of any encoding."""
    for folder in ("df", "df/tables", "df/functions", "df/views", "df/operators"):
        for name, text in sql_files(folder):
            assert text.isascii(), name
            if folder == "df/functions":
                assert len(split_commands(text)) == 1, name
                assert f"df.{name.removesuffix('.sql').removesuffix('_page')}(" in text, name


def test_other_encodings(dsn: str) -> None:
    name = f"test_df_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"create database {name} template template0 encoding 'LATIN1' locale_provider libc locale 'C'"
            if conn.info.server_version >= 150000
            else f"create database {name} template template0 encoding 'LATIN1' locale 'C'"
        )
        try:
            there = make_conninfo(dsn, dbname=name)
            migrate(there, df=True)
            with psycopg.connect(there, autocommit=True) as latin:
                drawn = one(latin, "select df.explain(df.race('select 1', df.sleep(1)))")
            assert drawn.splitlines()[1:3] == ["    | branch 1:", "      SQL: select 1"]
        finally:
            conn.execute(f"drop database {name} with (force)")
