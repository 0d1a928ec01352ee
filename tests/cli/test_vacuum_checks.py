"""What `doctor` and metrics say of dead rows, and of who keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine import upkeep
from pgdurable.cli import table_checks
from pgdurable.cli.finding import Finding
from tests.e2e.namespace import until

from .conftest import Run

Sql = Callable[..., list[tuple]]


@pytest.fixture
def holder(dsn: str, run: Run) -> Iterator[psycopg.Connection]:
    """A session with an old snapshot."""
    with psycopg.connect(dsn, application_name="forgotten") as conn:
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select 1")
        yield conn
        conn.rollback()


class Stub:
    """Answers the named queries."""

    def __init__(self, **answers: list[dict[str, Any]]) -> None:
        self.answers = answers

    def rows(self, query: str) -> list[dict[str, Any]]:
        return self.answers[query]


class Where:
    schema = "durable"


def findings(held: list[dict[str, Any]], dead: list[dict[str, Any]]) -> list[Finding]:
    return list(table_checks.vacuum(Stub(held_back=held, dead_rows=dead), Where()))  # type: ignore[arg-type]


def table(dead: int, *, live: int = 1000, since: float | None = 30.0, autovacuum: bool = True) -> dict[str, Any]:
    return {"name": "instances", "live": live, "dead": dead, "since": since, "autovacuum": autovacuum}


def test_the_view_tells_who_holds_back_vacuum_and_how_to_end_it(sql: Sql, holder: psycopg.Connection, dsn: str) -> None:
    mine = (
        "select name, seconds >= 0, xids >= 0, hint from @.held_back"
        " where kind = 'session' and name like '%%forgotten%%'"
    )
    ((name, *known, hint),) = sql(mine)
    assert name == f"{holder.info.backend_pid} (forgotten)"
    assert known == [True, True]
    before = sql("select xids from @.held_back where name = %s", name)
    sql("create table @.t (n int)")  # a transaction
    assert sql("select xids from @.held_back where name = %s", name) > before
    assert hint == f"select pg_terminate_backend({holder.info.backend_pid})"
    holder.rollback()
    assert sql(mine) == []


def test_the_view_tells_of_a_session_that_has_written_and_sits_idle(sql: Sql, run: Run, dsn: str) -> None:
    with psycopg.connect(dsn, application_name="sits") as conn:
        conn.execute("select txid_current()")
        assert sql("select count(*) from @.held_back where name like '%%(sits)'") == [(1,)]
        conn.rollback()


def test_dead_rows_are_told_by_table(sql: Sql, run: Run) -> None:
    sql("alter table @.events set (autovacuum_enabled = false)")
    known = dict(sql("select name, autovacuum from @.dead_rows"))
    assert known == {"instances": True, "events": False, "workers": True, "instance_keys": True, "fences": True}
    told = run("doctor").stdout
    assert "! table events has 0 dead rows, and autovacuum does not come to it" in told
    sql("alter table @.events reset (autovacuum_enabled)")
    assert "autovacuum does not come" not in run("doctor").stdout


def test_doctor_names_who_holds_back_vacuum_for_long(run: Run, sql: Sql, holder: psycopg.Connection) -> None:
    assert "(forgotten)" not in run("doctor").stdout
    held = {"kind": "session", "name": "12 (psql)", "seconds": 3700.0, "xids": 1_234_567, "hint": "select f(12)"}
    (finding,) = findings([held], [table(10)])
    assert finding.level == "warning"
    assert finding.text == (
        "session 12 (psql) has kept vacuum from removing dead rows for 1 h 1 min (1,234,567 transactions)"
    )
    assert "End it: select f(12);" in (finding.hint or "")
    slot = {**held, "kind": "replication slot", "name": "s", "seconds": None}
    assert "replication slot s has kept vacuum from removing dead rows (1,234,567" in findings([slot], [])[0].text


def test_doctor_tells_of_a_table_that_vacuum_does_not_get_clean(run: Run) -> None:
    assert [finding.level for finding in findings([], [table(49_999), table(60_000, live=100_000)])] == ["fine"]
    late, fine = findings([], [table(60_000, since=7200.0)])
    assert (late.level, fine.level) == ("warning", "fine")
    assert late.text == "table instances has 60000 dead rows, 1,000 live ones, and was last vacuumed 2 h 0 min ago"
    assert "never" in findings([], [table(60_000, since=None)])[0].text
    assert "could not remove" in findings([], [table(60_000, since=20.0)])[0].text


async def test_metrics_and_log_tell_of_it(
    dsn: str, schema: str, run: Run, holder: psycopg.Connection, sql: Sql, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(upkeep, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(upkeep, "_HELD_LONG_S", 0.1)
    async with pgd.Engine(dsn, schema=schema, workflows=[]) as engine:
        await until(lambda: (engine.metrics()["held_back_s"] or 0.0) > 0.2, "the engine has noticed")
        assert (engine.metrics()["held_back_xids"] or 0) > 0
        assert engine.metrics()["dead_rows"] is not None
        told = [record for record in caplog.records if "keeps dead rows from being removed" in record.getMessage()]
        assert len(told) == 1
        stats = "select (stats ->> 'held_back_s')::float8 > 0.2 from @.workers"
        await until(lambda: sql(stats) == [(True,)], "it is in workers.stats")
