"""What every command says when the database is not there, not ours, or not ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgdurable.embedded import EmbeddedServer

from .conftest import Run

COMMANDS = [
    ["start", "w"],
    ["list"],
    ["show", "x"],
    ["signal", "x", "go"],
    ["resume", "x"],
]


@pytest.mark.parametrize("words", [["migrate"], ["uninstall", "--yes"], *COMMANDS], ids=lambda words: words[0])
def test_unreachable_server(bare_run: Run, tmp_path: Path, words: list[str]) -> None:
    result = bare_run(*words, "--dsn", f"host={tmp_path} dbname=shop user=ann password=hush-hush")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert str(tmp_path) in result.stderr
    assert "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "hush-hush" not in result.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_not_migrated(new_run: Run, schema: str, words: list[str]) -> None:
    result = new_run(*words)
    assert result.exit_code == 1
    assert f"schema {schema} is not migrated" in result.stderr
    assert f"hint: Run: pgdurable migrate --schema {schema}" in result.stderr


def test_schema_of_a_newer_library(run: Run, sql: Callable, schema: str) -> None:
    sql("insert into @.migrations (version, library) values (999, 'of tomorrow')")
    result = run("list")
    assert result.exit_code == 1
    assert "newer than this library knows" in result.stderr
    assert run("migrate").exit_code == 1


def test_unreadable_dsn(bare_run: Run) -> None:
    result = bare_run("list", "--dsn", "colour=blue")
    assert result.exit_code == 1
    assert "the DSN cannot be read" in result.stderr


def test_database_that_does_not_exist(bare_run: Run, dsn: str) -> None:
    result = bare_run("list", "--dsn", psycopg.conninfo.make_conninfo(dsn, dbname="no_such_database"))
    assert result.exit_code == 1
    assert "createdb" in result.stderr


@pytest.fixture
def locked(private_server: EmbeddedServer) -> Iterator[str]:
    """A DSN whose user has to give a password."""
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        conn.execute("drop role if exists locked")
        conn.execute("create role locked login password 'right'")
        hba = Path(conn.execute("show hba_file").fetchone()[0])
        before = hba.read_text()
        hba.write_text("local all locked scram-sha-256\n" + before)
        conn.execute("select pg_reload_conf()")
        yield psycopg.conninfo.make_conninfo(private_server.dsn, user="locked")
        hba.write_text(before)
        conn.execute("select pg_reload_conf()")


def test_wrong_password(bare_run: Run, locked: str, eventually: Callable[..., None]) -> None:
    def refused() -> bool:  # the server rereads its rules a moment after it was told to
        return "password" in bare_run("list", "--dsn", f"{locked} password=wrong-one").stderr

    eventually(refused, "the password is asked for")
    for words in (["list"], ["migrate"], ["doctor"]):
        result = bare_run(*words, "--dsn", f"{locked} password=wrong-one")
        assert result.exit_code == 1
        assert "password authentication failed" in result.output
        assert "user and password" in result.output or "password of the DSN" in result.output
        assert "wrong-one" not in result.output
    assert "is not migrated" in bare_run("list", "--dsn", f"{locked} password=right").stderr
