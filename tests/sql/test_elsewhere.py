"""Looking from elsewhere: on a hot standby, and in pg_stat_statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from net.cluster import Pair
from typer.testing import CliRunner

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import sql_files
from pgdurable.cli.app import app
from pgdurable.embedded import EmbeddedServer

WORKFLOW = """select durable.define('elsewhere', '[
    {"op": "sql", "query": "insert into public.seen (n) values ($n) returning n", "name": "note", "into": "row"},
    {"op": "call", "function": "public.twice", "args": ["$n"], "name": "double"},
    {"op": "if", "when": "select $n % 2 = 0", "then": {"op": "sql", "query": "select $row.n + 1 as m", "name": "even"}},
    {"op": "if", "when": "select $n = 1", "then": {"op": "wait_signal", "signal": "go", "name": "wait"}}
]')"""


def prepare(dsn: str, instances: int) -> None:
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table if not exists public.seen (n int)")
        conn.execute("create or replace function public.twice(n int) returns int language sql as 'select 2 * n'")
        conn.execute(WORKFLOW.encode())
        conn.execute(
            "select durable.start('elsewhere', jsonb_build_object('n', n), 'e/' || n) from generate_series(1, %s) n",
            (instances,),
        )
        conn.execute("call durable.work(max_time => '30 s')")


def test_everything_can_be_read_on_a_hot_standby() -> None:
    with Pair() as pair:
        prepare(pair.primary.dsn, 3)
        pair.standby.sql("select 1")
        ((end,),) = pair.primary.sql("select pg_current_wal_flush_lsn()::text")
        for _ in range(1000):
            if pair.standby.sql(f"select pg_last_wal_replay_lsn() >= '{end}'") == [(True,)]:
                break
            pair.standby.sql("select pg_sleep(0.02)")
        assert pair.standby.sql("select pg_is_in_recovery()") == [(True,)]
        for name, _ in sql_files("views"):
            view = name.removesuffix(".sql")
            text = f"select count(*) from durable.{view}"
            assert pair.standby.sql(text)[0][0] >= 0, view
        for call, expected in (
            ("status('e/2')", "completed"),
            ("status('e/1')", "waiting"),
            ("result('e/2') is not null", True),
            ("setting('retention')", "30 days"),
            ("cron_next('0 3 * * *', 'UTC', '2026-01-01 00:00Z')::text > ''", True),
        ):
            assert pair.standby.sql(f"select durable.{call}") == [(expected,)], call
        assert pair.standby.sql("select what, name from durable.waiting_on") == [("signal", "go")]
        states = "select name, status from durable.step_status where instance_id = durable.find_instance('e/1')"
        assert ("wait", "waiting") in pair.standby.sql(states)
        for words in (["list"], ["show", "e/1"]):
            done = CliRunner().invoke(app, [*words, "--dsn", pair.standby.dsn])
            assert done.exit_code == 0, done.output
            assert "elsewhere" in done.output


@pytest.fixture(scope="module")
def watched() -> Iterator[str]:
    settings = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all"}
    with EmbeddedServer(settings=settings) as server:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute("create extension pg_stat_statements")
        yield server.dsn


def test_each_step_is_one_statement_of_pg_stat_statements(watched: str, tmp_path: Path) -> None:
    """However many instances run it, under the comment that says of which workflow and step it is."""
    with psycopg.connect(watched, autocommit=True) as conn:
        prepare(watched, 1)
        conn.execute("select pg_stat_statements_reset()")
        prepare(watched, 60)  # of which the first is there already
        text = r"""select substring(query from 'step=(\S+)') as step, count(*)::int, sum(calls)::int
                     from pg_stat_statements where query ~ '/\* pgdurable workflow=elsewhere version=1 step='
                    group by 1 order by 1"""
        rows: list[tuple[Any, ...]] = conn.execute(text.encode()).fetchall()
        assert rows == [("3.when", 1, 59), ("4.when", 1, 59), ("double", 1, 59), ("even", 1, 30), ("note", 1, 59)]
        # And all the rest of a pump is a few hundred statements, not one more for each instance.
        (total,) = conn.execute("select count(*)::int from pg_stat_statements").fetchone() or (0,)
        prepare(watched, 160)
        (after,) = conn.execute("select count(*)::int from pg_stat_statements").fetchone() or (0,)
        assert after - total < 40
