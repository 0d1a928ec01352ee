from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgdurable.cli import checks

from .conftest import Run

Sql = Callable[..., list[tuple]]
GOOD_SERVER = {
    "version_num": 150004, "version": "15.4", "in_recovery": False, "read_only": False, "fsync": True,
    "synchronous_commit": "on", "full_page_writes": True, "autovacuum": True, "slots": 97, "connections": 5,
    "role": "ann",
}  # fmt: skip


def marks(text: str, mark: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(mark)]


def test_all_is_well(run: Run, sql: Sql) -> None:
    sql("""select @.join_worker('w-1', '[{"name": "checkout", "version": "1"}]', interval '1 minute')""")
    run("start", "checkout")
    result = run("doctor")
    assert result.exit_code == 0
    assert marks(result.stdout, "!") == marks(result.stdout, "✗") == []
    text = result.stdout
    for said in (
        "✓ server reachable: ", "✓ PostgreSQL ", "✓ writable",
        "✓ fsync, synchronous_commit and full_page_writes are on",
        " connections are in use", "✓ autovacuum is on", "✓ clocks agree", " is migrated, version ",
        "✓ worker w-1 lives (lease runs ", " and has checkout v1", "✓ every instance that is due has a worker",
        "✓ no instance is paused or failed", "✓ no event has waited",
    ):  # fmt: skip
        assert said in text


def test_unreachable(bare_run: Run, tmp_path: Path) -> None:
    result = bare_run("doctor", "--dsn", f"host={tmp_path}")
    assert result.exit_code == 1
    (line,) = marks(result.stdout, "✗")
    assert str(tmp_path) in line
    assert marks(result.stdout, "✓") == []


def test_not_migrated(new_run: Run, schema: str) -> None:
    result = new_run("doctor")
    assert result.exit_code == 1
    assert f"✗ schema {schema} is not migrated" in result.stdout
    assert f"Run: pgdurable migrate --schema {schema}" in result.stdout
    assert "✓ PostgreSQL " in result.stdout


def test_read_only(run: Run, dsn: str) -> None:
    result = run("doctor", "--dsn", psycopg.conninfo.make_conninfo(dsn, options="-c default_transaction_read_only=on"))
    assert result.exit_code == 1
    assert "✗ default_transaction_read_only is on" in result.stdout
    assert "✓ writable" not in result.stdout


def test_synchronous_commit_off(run: Run, dsn: str) -> None:
    result = run("doctor", "--dsn", psycopg.conninfo.make_conninfo(dsn, options="-c synchronous_commit=off"))
    assert result.exit_code == 0
    assert "! synchronous_commit is off" in result.stdout
    assert "Set synchronous_commit = on." in result.stdout


@pytest.mark.parametrize(
    ("change", "level", "said"),
    [
        ({}, "fine", "PostgreSQL 15.4"),
        ({"version_num": 130009, "version": "13.9"}, "broken", "PostgreSQL 13.9 is too old"),
        ({"version_num": 190000, "version": "19.0"}, "warning", "PostgreSQL 19.0 is newer than what was tested"),
        ({"in_recovery": True}, "broken", "the server is a standby"),
        ({"fsync": False}, "warning", "fsync is off"),
        ({"full_page_writes": False}, "warning", "full_page_writes is off"),
        ({"autovacuum": False}, "warning", "autovacuum is off"),
        ({"connections": 90}, "warning", "90 of 97 connections are in use"),
    ],
)
@pytest.mark.parametrize("skew", [0.0])
def test_what_a_server_can_be_like(change: dict, level: str, said: str, skew: float, monkeypatch) -> None:
    class Stub:
        def row(self, query: str) -> dict:
            return GOOD_SERVER | change

    monkeypatch.setattr(checks, "_skew", lambda session: skew)
    found = list(checks._server(Stub()))
    assert [finding.level for finding in found if finding.text.startswith(said)] == [level]
    others = [finding.level for finding in found if not finding.text.startswith(said)]
    assert set(others) <= {"fine"}


@pytest.mark.parametrize(("skew", "said"), [(5.0, "5.0 s ahead of the"), (-90.0, "1 min 30 s behind the")])
def test_clocks_apart(skew: float, said: str, monkeypatch) -> None:
    class Stub:
        def row(self, query: str) -> dict:
            return GOOD_SERVER

    monkeypatch.setattr(checks, "_skew", lambda session: skew)
    (finding,) = [finding for finding in checks._server(Stub()) if finding.level != "fine"]
    assert said in finding.text


def test_nobody_has_the_workflow(run: Run, sql: Sql, schema: str) -> None:
    run("start", "checkout")
    run("start", "checkout")
    result = run("doctor")
    assert result.exit_code == 1
    assert "! no worker lives" in result.stdout
    assert "✗ workflow checkout: 2 instances are due, and no living worker has the workflow" in result.stdout
    assert f"pgdurable worker --schema {schema} MODULE" in result.stdout
    sql("update @.instances set wake_at = now() + interval '1 hour'")
    assert run("doctor").exit_code == 0


@pytest.mark.parametrize("rescued", [False, True])
def test_instances_of_a_worker_that_is_gone(run: Run, sql: Sql, rescued: bool) -> None:
    has = Jsonb([{"name": "checkout", "version": "1"}])
    ((gone,),) = sql("select @.join_worker('gone', %s, interval '-5 minutes')", has)
    if rescued:
        sql("select @.join_worker('other', %s, interval '5 minutes')", has)
    run("start", "checkout")
    sql("update @.instances set status = 'running', version = '1', owner = %s", gone)
    result = run("doctor")
    assert result.exit_code == (0 if rescued else 1)
    assert "! worker gone went silent: its lease ran out 5 min" in result.stdout
    mark = "!" if rescued else "✗"
    assert f"{mark} workflow checkout version 1: 1 instance is still held by a worker that is gone" in result.stdout


def test_a_worker_that_is_behind(run: Run, sql: Sql) -> None:
    ((worker,),) = sql("select @.join_worker('slow', '[]', interval '5 minutes')")
    assert "slow" in run("doctor").stdout
    stats = Jsonb({"trouble": "disk full", "callers_waiting": 1200, "backlog": 20000})
    sql("update @.workers set stats = %s where id = %s", stats, worker)
    result = run("doctor")
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert "! worker slow cannot write: disk full" in told
    assert "! worker slow holds back 1200 calls: the server is behind with 20000 transitions" in told


def test_troubled_instances(run: Run, sql: Sql, schema: str) -> None:
    for status in ("paused", "failed", "failed", "cancelled", "completed"):
        sql("insert into @.instances (id, workflow, status, input) values (@.new_id(), 'w', %s, '{}')", status)
    result = run("doctor")
    assert result.exit_code == 0
    assert "! 1 instance paused" in result.stdout
    assert "! 2 instances failed" in result.stdout
    assert f"pgdurable list --schema {schema} --status failed" in result.stdout
    assert "cancelled" not in result.stdout


def test_old_events(run: Run, sql: Sql) -> None:
    run("start", "checkout", "--id", "o-1", "--delay", "3600")
    run("signal", "o-1", "a")
    run("signal", "o-1", "b")
    assert "✓ no event has waited" in run("doctor").stdout
    sql("update @.events set created_at = now() - interval '2 minutes'")
    result = run("doctor")
    assert result.exit_code == 0
    assert "! 2 events for 1 instance waited for over a minute, the oldest for 2 min" in result.stdout


def test_role_without_rights(run: Run, sql: Sql, dsn: str, schema: str) -> None:
    sql("drop role if exists pgdurable_onlooker")
    sql("create role pgdurable_onlooker")
    try:
        as_onlooker = psycopg.conninfo.make_conninfo(dsn, options="-c role=pgdurable_onlooker")
        result = run("doctor", "--dsn", as_onlooker)
        assert result.exit_code == 1
        assert f"permission denied for schema {schema}" in result.stdout
        sql("grant usage on schema @ to pgdurable_onlooker")
        sql("grant select on all tables in schema @ to pgdurable_onlooker")
        result = run("doctor", "--dsn", as_onlooker)
        assert result.exit_code == 1
        assert "✗ role pgdurable_onlooker may not insert on workflows, insert on instances" in result.stdout
    finally:
        sql("drop owned by pgdurable_onlooker")
        sql("drop role pgdurable_onlooker")


@pytest.mark.parametrize(("rows", "warned"), [(9_999, False), (10_000, True)])
def test_doctor_names_the_longest_history(run: Run, sql: Sql, rows: int, warned: bool) -> None:
    for n, status in ((5, "waiting"), (rows, "waiting"), (20_000, "completed")):
        sql("select @.start('ticks', id => %s)", f"n-{n}")
        sql("update @.instances set status = %s, started_at = now() where id = @.find_instance(%s)", status, f"n-{n}")
        sql(
            "insert into @.history (instance_id, event_id, kind) values (@.find_instance(%s), %s, 'timer')", f"n-{n}", n
        )
    out = run("doctor").stdout
    assert f"the longest history of a living instance has {rows:,} rows" in out
    assert ("continue_as_new" in out) == warned


def test_settings_that_mean_nothing(run: Run, sql: Sql, dsn: str, schema: str) -> None:
    assert "✓ every setting has its default" in run("doctor").stdout
    sql("update @.settings set value = '90 days' where name = 'retention'")
    assert "✓ settings: retention 90 days (namespace)" in run("doctor").stdout
    sql("update @.settings set value = null where name = 'retention'")
    bad = psycopg.conninfo.make_conninfo(dsn, options="-c pgdurable.retention=soon -c pgdurable.max_attempts=3")
    result = run("doctor", "--dsn", bad)
    assert result.exit_code == 1
    assert "✗ setting pgdurable.retention is 'soon': expected an interval from 0 to 36600 days" in result.stdout
    assert "It comes from: session" in result.stdout
    assert "✓ settings: max_attempts 3 (session)" in result.stdout
