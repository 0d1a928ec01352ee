"""Operations on instances from a shell: by id, and by filter with a preview and a question; without a worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from .conftest import Run

Sql = Callable[..., list[tuple]]
OPERATIONS = ["cancel", "terminate", "pause", "resume", "retry", "fork", "delete"]


def states(sql: Sql) -> dict[str, int]:
    return dict(sql("select status, count(*)::int from @.instances group by 1"))


@pytest.fixture
def five(run: Run, sql: Sql) -> list[str]:
    """Three instances of `mail` and two of `order`, all pending."""
    ids = [f"{workflow}-{n}" for workflow, n in [("mail", 1), ("mail", 2), ("mail", 3), ("order", 1), ("order", 2)]]
    for id in ids:
        sql("select @.start(%s, id => %s, labels => jsonb_build_object('n', %s::int))", id[:-2], id, int(id[-1]))
    sql("select pg_sleep(0.01)")
    return ids


def test_by_id_each_is_said_of(run: Run, sql: Sql, five: list[str]) -> None:
    result = run("cancel", "mail-1", "order-2", "--reason", "no stock")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "instance mail-1: asked to end\ninstance order-2: asked to end\n"
    assert states(sql) == {"cancelled": 2, "pending": 3}
    assert sql("select distinct error ->> 'reason' from @.instances where error is not null") == [("no stock",)]
    again = run("cancel", "mail-1", "mail-2")
    assert again.exit_code == 1
    assert "instance mail-1 is not asked to end: it has ended (cancelled). See: pgdurable show" in again.stderr
    assert states(sql) == {"cancelled": 3, "pending": 2}


def test_pause_resume_terminate_delete_by_id(run: Run, sql: Sql, five: list[str]) -> None:
    for operation, state in (("pause", "paused"), ("resume", "pending"), ("terminate", "cancelled")):
        assert run(operation, "mail-1").exit_code == 0
        assert sql("select @.status('mail-1')") == [(state,)]
    assert run("delete", "mail-1").stdout == "instance mail-1: deleted\n"
    assert states(sql) == {"pending": 4}
    refused = run("delete", "mail-2")
    assert refused.exit_code == 1
    assert "only instances that have ended can be deleted" in refused.stderr


def test_retry_by_id(run: Run, sql: Sql, five: list[str]) -> None:
    sql("update @.instances set status = 'failed' where workflow = 'order'")
    assert run("retry", "order-1").stdout == "instance order-1: retried\n"
    assert run("retry", "mail-1").exit_code == 1
    assert sql("select kind from @.history") == [("retry",)]


def test_fork_prints_the_copys_id(run: Run, sql: Sql, five: list[str]) -> None:
    words = ["--new-version", "2", "--input", '{"n": 1}', "--new-id", "copy", "--from-event", "1"]
    result = run("fork", "mail-1", *words)
    assert result.stdout == "copy\n"
    assert "no living worker has workflow mail" in result.stderr
    assert sql("select version, input from @.instances order by id desc limit 1") == [("2", {"n": 1})]
    assert uuid.UUID(run("fork", "mail-1").stdout.strip())
    assert run("fork", "mail-1", "--input", "5").exit_code == 1


def test_by_filter_it_says_how_many_and_asks(run: Run, sql: Sql, five: list[str]) -> None:
    refused = run("cancel", "--workflow", "mail", input="n\n")
    assert refused.exit_code == 1
    assert "3 instances would be asked to end" in refused.stderr
    assert "mail-3  mail  pending" in refused.stderr
    assert "cancel 3 instances? [y/N]" in refused.stderr
    assert states(sql) == {"pending": 5}
    done = run("cancel", "--workflow", "mail", input="y\n")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith("3 instances asked to end\n")
    assert states(sql) == {"cancelled": 3, "pending": 2}


@pytest.mark.parametrize(
    ("words", "n"),
    [
        (["--workflow", "order"], 2), (["--status", "pending"], 5), (["--status", "failed", "--status", "paused"], 0),
        (["--label", "n=1"], 2), (["--older", "1h"], 0), (["--newer", "1h"], 5), (["--everything"], 5),
        (["--queue", "default", "--workflow", "mail"], 3), (["mail-1", "--workflow", "order"], 0),
    ],
)  # fmt: skip
def test_dry_run_only_counts(run: Run, sql: Sql, five: list[str], words: list[str], n: int) -> None:
    result = run("terminate", *words, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{n} instances would be terminated\n"
    assert states(sql) == {"pending": 5}


@pytest.mark.parametrize(
    ("operation", "before", "after", "said"),
    [
        ("terminate", "waiting", {"cancelled": 5}, "5 instances terminated\n"),
        ("pause", "pending", {"paused": 5}, "5 instances asked to pause\n"),
        ("resume", "paused", {"pending": 5}, "5 instances resumed\n"),
        ("retry", "failed", {"pending": 5}, "5 instances retried\n"),
        ("fork", "completed", {"completed": 5, "pending": 5}, "5 instances forked\n"),
        ("delete", "completed", {}, "5 instances deleted\n"),
    ],
)
def test_many_at_once(
    run: Run, sql: Sql, five: list[str], operation: str, before: str, after: dict[str, int], said: str
) -> None:
    sql("update @.instances set status = %s", before)
    result = run(operation, "--everything", "--yes")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == said
    assert states(sql) == after


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_given_means_nothing(run: Run, sql: Sql, five: list[str], operation: str) -> None:
    result = run(operation, "--yes")
    assert result.exit_code == 1
    assert "neither ids nor a filter were given" in result.stderr
    assert states(sql) == {"pending": 5}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_id_that_nobody_has(run: Run, operation: str) -> None:
    result = run(operation, "gone")
    assert result.exit_code == 1
    assert "no instance has the id 'gone'" in result.stderr


def test_a_label_has_a_name(run: Run) -> None:
    result = run("cancel", "--label", "red")
    assert result.exit_code == 2
    assert "'red' is not KEY=VALUE" in result.stderr
