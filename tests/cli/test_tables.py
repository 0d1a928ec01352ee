"""`migrate`, `uninstall`, `--version`, and the common options."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Run


def test_migrate_says_what_it_did_and_then_that_nothing_is_left(new_run: Run, schema: str) -> None:
    first = new_run("migrate")
    assert first.exit_code == 0
    assert f"created schema {schema}" in first.stdout
    assert "applied 0001_tables.sql" in first.stdout
    second = new_run("migrate")
    assert second.exit_code == 0
    assert "is up to date" in second.stdout
    assert "applied" not in second.stdout


def test_migrate_renews_changed_functions(run: Run, sql: Callable) -> None:
    sql("update @.migrations set routines = 'old'")
    assert "renewed the functions and views" in run("migrate").stdout


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "after it"])
def test_options_win_over_the_environment_wherever_they_stand(
    bare_run: Run, dsn: str, schema: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDURABLE_DSN", "host=/nowhere")
    monkeypatch.setenv("PGDURABLE_SCHEMA", "elsewhere")
    options = ["--dsn", dsn, "--schema", schema]
    result = bare_run(*options, "migrate") if before else bare_run("migrate", *options)
    assert result.exit_code == 0, result.stderr
    assert f"created schema {schema}" in result.stdout


@pytest.mark.parametrize("words", [["migrate", "--schema", "No Good"], ["--schema", "x" * 51, "list"]])
def test_a_bad_schema_name_is_a_usage_error(bare_run: Run, words: list[str]) -> None:
    result = bare_run(*words)
    assert result.exit_code == 2
    assert "schema name" in result.stderr


def test_a_bad_schema_name_in_the_environment_too(bare_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDURABLE_SCHEMA", "No Good")
    result = bare_run("list")
    assert result.exit_code == 2
    assert "PGDURABLE_SCHEMA" in result.stderr


def test_migrate_leaves_a_schema_of_somebody_else_alone(new_run: Run, sql: Callable, schema: str) -> None:
    sql("create schema @")
    sql("create table @.theirs ()")
    for command in (["migrate"], ["uninstall", "--yes"]):
        result = new_run(*command)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: schema {schema} ")
        assert "hint: " in result.stderr
    assert sql("select count(*) from @.theirs") == [(0,)]


def test_uninstall_asks_and_takes_no_for_an_answer(run: Run, sql: Callable) -> None:
    sql("select @.start('w')")
    result = run("uninstall", input="n\n")
    assert result.exit_code == 1
    assert "1 instance, 1 of them not finished" in result.stdout
    assert "nothing was changed" in result.stdout
    assert sql("select count(*) from @.instances") == [(1,)]


@pytest.mark.parametrize(("words", "answer"), [(["--yes"], None), ([], "y\n")])
def test_uninstall_drops_the_schema(run: Run, sql: Callable, schema: str, words: list[str], answer: str | None) -> None:
    result = run("uninstall", *words, input=answer)
    assert result.exit_code == 0
    assert f"dropped schema {schema}" in result.stdout
    assert sql("select to_regnamespace('@')") == [(None,)]
    assert "nothing to drop" in run("uninstall", "--yes").stdout


def test_uninstall_without_an_answer_changes_nothing(run: Run, sql: Callable, schema: str) -> None:
    result = run("uninstall", input="")
    assert result.exit_code == 1
    assert sql("select to_regnamespace('@')::text") == [(schema,)]


def test_version(bare_run: Run) -> None:
    result = bare_run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("pgdurable 0.")


def test_help_lists_every_command_in_the_order_of_use(bare_run: Run) -> None:
    text = bare_run("--help").stdout
    commands = "migrate worker start list show signal resume doctor uninstall".split()
    places = [text.index(f"\n  {command} ") for command in commands]
    assert places == sorted(places)


def test_uninstall_leaves_roles_unless_told(run: Run, sql: Callable, schema: str) -> None:
    names = [f"{schema}_{kind}" for kind in ("admin", "client", "reader", "worker")]
    assert run("migrate", "--roles").exit_code == 0
    result = run("uninstall", "--yes")
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith(f"left, as roles are the whole cluster's: {', '.join(names)}")
    assert run("migrate", "--roles").exit_code == 0
    result = run("uninstall", "--yes", "--roles")
    assert result.exit_code == 0
    assert "left" not in result.stdout
    assert sql("select count(*) from pg_roles where rolname = any (%s)", names) == [(0,)]
