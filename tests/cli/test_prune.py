"""`prune`, and what `doctor` says of retention and partitions."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from pgdurable._engine import sweeper
from pgdurable.cli.text import nbytes

from .conftest import Run

Sql = Callable[..., list[tuple]]


@pytest.fixture
def old(sql: Sql, run: Run) -> None:
    """Four instances of 60 days ago, of which three have ended, 50, 20 and 10 days ago."""
    for (name,) in sql("select name from @.history_partitions"):
        sql(f"drop table @.{name}")
    sql("select @.make_partition(null, @.id_at(date_bin('7 days', now() - interval '70 days', '2001-01-01Z')))")
    sql("select @.make_partitions()")
    for n, ended in enumerate(("50 days", "20 days", "10 days", None)):
        sql(
            "with i as (insert into @.instances (id, workflow, status, finished_at, input) values"
            " (@.id_at(now() - interval '60 days' + %s * interval '1 second'), 'w', %s, now() - %s::interval, '{}')"
            " returning id)"
            " insert into @.history (instance_id, event_id, kind)"
            " select i.id, e, 'step' from i, generate_series(1, 5) e",
            n,
            "waiting" if ended is None else "completed",
            ended,
        )


def lines(run: Run, *words: str) -> list[str]:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_prune_removes_what_is_past_its_retention(run: Run, sql: Sql, old: None) -> None:
    assert lines(run, "prune", "--dry-run") == ["1 instance of 4 old enough to look at would be removed"]
    assert sql("select count(*) from @.instances") == [(4,)]
    removed, dropped = lines(run, "prune")
    assert removed == "removed 1 instance"
    assert dropped.endswith("and 5 rows of others")
    assert sql("select count(*) from @.instances") == [(3,)]


def test_prune_older_than(run: Run, sql: Sql, old: None) -> None:
    assert lines(run, "prune", "--older-than", "15d", "--dry-run")[0].startswith("2 instances of 4")
    assert lines(run, "prune", "--older-than", "2w")[0] == "removed 2 instances"
    assert lines(run, "prune", "--older-than", "12h")[0] == "removed 1 instance"
    assert sql("select status from @.instances") == [("waiting",)]
    assert sql("select count(*) from @.history") == [(5,)]
    result = run("prune", "--older-than", "soon")
    assert result.exit_code == 2
    assert "write 30d" in result.stderr


def test_prune_beside_somebody_who_prunes(
    run: Run, sql: Sql, old: None, dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_TRIES", 3)
    with psycopg.connect(dsn) as other:
        other.execute(f"select pg_advisory_xact_lock({schema}.lock_class(3), 1)")
        result = run("prune")
    assert result.exit_code == 1
    assert "somebody else keeps removing" in result.stderr
    assert sql("select count(*) from @.instances") == [(4,)]


def test_prune_needs_a_schema(new_run: Run) -> None:
    result = new_run("prune")
    assert result.exit_code == 1
    assert "is not migrated" in result.stderr


def test_doctor_tells_of_retention_and_partitions(run: Run, sql: Sql) -> None:
    told = run("doctor").stdout
    assert "✓ ended instances are kept for 30 d 0 h\n" in told
    assert "✓ history has 5 partitions, " in told

    sql("update @.settings set value = 'forever' where name = 'retention'")
    sql("""insert into @.workflows (name, version, policies) values ('w', '1', '{"retention": 60}')""")
    assert "✓ ended instances are kept for ever, those of 1 workflow version as they say\n" in run("doctor").stdout


def test_doctor_tells_when_what_should_have_left_is_there(run: Run, old: None) -> None:
    told = run("doctor").stdout
    assert (
        "! ended instances are kept for 30 d 0 h; the oldest ended 50 d 0 h ago, so some should have left 20 d" in told
    )
    run("prune", "--older-than", "15d")
    assert "✓ ended instances are kept for 30 d 0 h; the oldest ended 10 d 0 h ago\n" in run("doctor").stdout


def test_doctor_tells_of_partitions_that_lack_or_can_go(run: Run, sql: Sql, old: None) -> None:
    sql("delete from @.instances")
    told = run("doctor").stdout
    assert "of history can be dropped" in told
    assert "pgdurable prune" in told
    run("prune")
    assert "can be dropped" not in run("doctor").stdout

    last = sql("select name from @.history_partitions order by lower nulls first")
    for (name,) in last[-4:]:
        sql(f"drop table @.{name}")
    assert "! history has " in run("doctor").stdout
    sql(f"drop table @.{last[-5][0]}")
    result = run("doctor")
    assert "and none for instances that are started now" in result.stdout
    assert result.exit_code == 1
    run("migrate")
    assert "✓ history has " in run("doctor").stdout


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KB"),
        (1048063, "1023 KB"),
        (1048575, "1 MB"),
        (3 << 29, "1.5 GB"),
        (5e12, "4.5 TB"),
    ],
)
def test_nbytes(number: float, text: str) -> None:
    assert nbytes(number) == text
