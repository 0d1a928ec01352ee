"""Settings: where PostgreSQL keeps them, which one holds, what the view says of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgdurable._store import migrations
from pgdurable._store.migrations import migrate

Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def ask(dsn: str, schema: str) -> Iterator[Ask]:
    """Runs a statement in which `@` is a migrated schema, and gives its rows."""
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield lambda text, *args: _rows(conn, text.replace("@", schema), *args)


def _rows(conn: psycopg.Connection[Any], text: str, *args: Any) -> list[tuple[Any, ...]]:
    cursor = conn.execute(text.encode(), args or None)
    return cursor.fetchall() if cursor.description else []


def shown(ask: Ask, name: str) -> tuple[str, str]:
    ((value, source),) = ask("select value, source from @.settings where name = %s", name)
    return value, source


def test_every_setting_has_a_default_that_fits_and_says_what_it_means(ask: Ask) -> None:
    rows = ask("select name, value, source, default_value, meaning, problem from @.settings")
    assert {"max_attempts", "step_timeout", "workflow_timeout", "max_parallel", "retention"} <= {row[0] for row in rows}
    for name, value, source, usual, meaning, problem in rows:
        assert (value, source, problem) == (usual, "default", None), name
        assert len(meaning) > 20
    for name, low, high, usual in ask("select name, low, high, usual from @.setting_kinds()"):
        for edge in (low, high):
            assert ask("select @.setting_problem(%s, %s)", name, edge) == [(None,)], name
        ask(f"set pgdurable.{name} = '{low}'")
        assert ask("select @.setting(%s)", name) == [(low,)]
        ask(f"reset pgdurable.{name}")
        assert ask("select @.setting(%s)", name) == [(None if usual in ("off", "forever") else usual,)]


def test_set_holds_for_the_session_or_the_transaction(ask: Ask) -> None:
    ask("set pgdurable.max_attempts = 7")
    assert ask("select @.setting('max_attempts')") == [("7",)]
    assert shown(ask, "max_attempts") == ("7", "session")
    ask("begin")
    ask("set local pgdurable.max_attempts = 8")
    assert ask("select @.setting('max_attempts')::int") == [(8,)]
    ask("rollback")
    assert ask("select @.setting('max_attempts')::int") == [(7,)]
    ask("reset pgdurable.max_attempts")
    assert shown(ask, "max_attempts") == ("5", "default")


def test_off_and_forever_are_null(ask: Ask) -> None:
    assert ask("select @.setting('step_timeout')::interval is null, @.setting('retention')::interval = '30 days'") == [
        (True, True)
    ]
    ask("set pgdurable.step_timeout = '1500ms'")
    ask("set pgdurable.retention = 'forever'")
    assert ask("select @.setting('step_timeout')::interval = '1.5 s', @.setting('retention')::interval is null") == [
        (True, True)
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_attempts", "0", "a whole number from 1 to 32767"),
        ("max_attempts", "many", "a whole number from 1 to 32767"),
        ("max_attempts", "99999999999999999999", "a whole number from 1 to 32767"),
        ("retry_jitter", "1.1", "a number from 0 to 1"),
        ("retry_jitter", "NaN", "a number from 0 to 1"),
        ("step_timeout", "soon", "an interval from 1 ms to 366 days, or off"),
        ("step_timeout", "-1 s", "an interval from 1 ms to 366 days, or off"),
        ("retention", "2 parsecs", "an interval from 0 to 36600 days, or forever"),
        ("partition_width", "1 month", "an interval from 1 minute to 366 days, without months"),
        ("partition_width", "30 s", "an interval from 1 minute to 366 days, without months"),
        ("payload_aside", "-5", "a whole number from 4096 to 1073741824"),
    ],
)
def test_a_value_without_sense_is_refused_by_name(ask: Ask, name: str, value: str, expected: str) -> None:
    ask("select set_config('pgdurable.' || %s, %s, false)", name, value)
    with pytest.raises(psycopg.Error) as refused:
        ask("select @.setting(%s)", name)
    assert refused.value.sqlstate == "PGD05"
    assert refused.value.diag.message_primary == f"setting pgdurable.{name} is '{value}'"
    assert refused.value.diag.message_detail == f"Expected {expected}."
    assert "source" in (refused.value.diag.message_hint or "")
    # The view goes on showing all of them, and says what is wrong with this one.
    assert ask("select value, source, problem from @.settings where problem is not null") == [
        (value, "session", f"expected {expected}")
    ]
    with pytest.raises(psycopg.Error) as refused:
        ask("update @.settings set value = %s where name = %s", value, name)
    assert refused.value.sqlstate == "PGD05"
    assert refused.value.diag.message_detail == f"Expected {expected}."
    assert ask("select count(*) from @.kept_settings") == [(0,)]


def test_a_setting_that_is_none(ask: Ask) -> None:
    with pytest.raises(psycopg.Error, match=r"there is no setting pgdurable\.max_attemps") as refused:
        ask("select @.setting('max_attemps')")
    assert refused.value.sqlstate == "PGD05"
    assert "max_attempts, " in (refused.value.diag.message_detail or "")


def test_what_is_kept_for_the_namespace_goes_before_the_rest(ask: Ask) -> None:
    ask("set pgdurable.retention = '3 days'")
    ask("update @.settings set value = '90 days' where name = 'retention'")
    assert shown(ask, "retention") == ("90 days", "namespace")
    assert ask("select @.setting('retention')::interval = '90 days'") == [(True,)]
    ask("update @.settings set value = '91 days' where name = 'retention'")
    assert ask("select name, value, set_by = current_user from @.kept_settings") == [("retention", "91 days", True)]
    ask("update @.settings set value = null where name = 'retention'")
    assert shown(ask, "retention") == ("3 days", "session")
    with pytest.raises(psycopg.Error, match="cannot become") as refused:
        ask("update @.settings set name = 'other' where name = 'retention'")
    assert refused.value.sqlstate == "PGD05"


@pytest.fixture
def login(dsn: str, schema: str) -> Iterator[str]:
    """A role that can log in, and may read the schema."""
    name = f"{schema}_someone"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login password 'x'").format(sql.Identifier(name)))
        yield name
        conn.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_the_source_of_each(dsn: str, ask: Ask, schema: str, login: str) -> None:
    """Set for the database, a role, a role in a database: the nearest holds, and the view names it."""
    database = f"{schema}_db"
    ask(f"create database {database}")
    where = psycopg.conninfo.make_conninfo(dsn, dbname=database, user=login, password="x")
    try:
        migrate(psycopg.conninfo.make_conninfo(dsn, dbname=database), schema)
        with psycopg.connect(dsn, dbname=database, autocommit=True) as conn:
            _rows(conn, f"grant usage on schema {schema} to {login}")
            _rows(conn, f"grant select on all tables in schema {schema} to {login}")
            _rows(conn, f"grant execute on all functions in schema {schema} to {login}")
        seen = []
        for command in (
            f"alter database {database} set pgdurable.max_parallel = 20",
            f"alter role {login} set pgdurable.max_parallel = 21",
            f"alter role {login} in database {database} set pgdurable.max_parallel = 22",
        ):
            ask(command)
            with psycopg.connect(where, autocommit=True) as conn:
                seen += _rows(conn, f"select value, source from {schema}.settings where name = 'max_parallel'")
                conn.execute("set pgdurable.max_parallel = 23")
                seen += _rows(conn, f"select value, source from {schema}.settings where name = 'max_parallel'")
        assert seen[::2] == [("20", "database"), ("21", "role"), ("22", "role in database")]
        assert seen[1::2] == [("23", "session")] * 3
        with psycopg.connect(where, options="-c pgdurable.max_attempts=2") as conn:
            # It may not read pg_file_settings, so it cannot tell.
            assert _rows(conn, f"select value, source from {schema}.settings where name = 'max_attempts'") == [
                ("2", "session or file")
            ]
    finally:
        ask(f"drop database {database} with (force)")


def test_a_setting_of_the_servers_file(private_server: Any, private_schema: str) -> None:
    migrate(private_server.dsn, private_schema)
    auto = private_server.path / "pgdata" / "postgresql.conf"
    with auto.open("a") as file:
        file.write("\npgdurable.max_attempts = 4\n")
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        conn.execute("alter system set pgdurable.step_timeout = '5min'")
        conn.execute("select pg_reload_conf()")
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        text = f"select name, value, source from {private_schema}.settings where source <> 'default' order by name"
        (attempts, timeout) = _rows(conn, text)
        assert attempts[:2] == ("max_attempts", "4")
        assert "postgresql.conf:" in attempts[2]
        assert timeout[:2] == ("step_timeout", "5min")
        assert "postgresql.auto.conf:" in timeout[2]
        conn.execute("alter system reset pgdurable.step_timeout")


def test_what_the_old_table_held_is_kept(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tuple(m for m in migrations._migrations() if m[1] < "0022")
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "_migrations", lambda: before)
        for name in ("_install_routines", "_make_partitions"):
            patched.setattr(migrations, name, lambda *_: False)
        patched.setattr(migrations, "_settle_rights", lambda _, report, *__: report)
        migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        _rows(conn, f"update {schema}.settings set retention = null, partition_width = '1 day', payload_aside = 5000")
        migrate(dsn, schema)
        assert _rows(conn, f"select name, value from {schema}.kept_settings order by 1") == [
            ("partition_width", "1 day"),
            ("payload_aside", "5000"),
            ("retention", "forever"),
        ]
        assert _rows(conn, f"select {schema}.setting('retention')") == [(None,)]
