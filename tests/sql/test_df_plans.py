"""What people ask of df often reads a few pages, however many instances there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from .df_database import df_database, one

MANY = 20_000


@pytest.fixture(scope="module")
def full(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A database with many instances that have ended, one in ten of them labelled."""
    with df_database(dsn) as there, psycopg.connect(there, autocommit=True) as conn:
        version = one(conn, "select version from df.runs where id = %s", one(conn, "select df.start('select 1')"))
        conn.execute(
            """with made as (
                   insert into durable.instances (id, workflow, version, status, input, output, started_at, finished_at)
                   select durable.id_at(now() - n * interval '1 s'), 'df', %s, 'completed', '{}', '{}', now(), now()
                     from generate_series(1, %s) n returning id)
               insert into df.runs (instance_id, created_at, id, version, submitted_by, label)
               select id, durable.id_time(id), lpad(to_hex(1000000 + row_number() over ()), 8, '0'), %s, current_user,
                      case when random() < 0.1 then 'nightly' end from made""",
            (version, MANY, version),
        )
        conn.execute(
            """insert into durable.history (instance_id, event_id, kind, name, payload)
               select id, 1, 'step', '00000000', '{"rows": [], "columns": [], "row_count": 0}' from durable.instances"""
        )
        conn.execute("vacuum analyze df.runs")
        conn.execute("vacuum analyze durable.instances")
        yield conn


def pages(conn: psycopg.Connection[Any], query: str) -> int:
    """How many pages a query reads."""
    conn.execute(query.encode())  # so that what is prepared once is
    (plan,) = one(conn, f"explain (analyze, buffers, format json) {query}")
    return int(plan["Plan"]["Shared Hit Blocks"]) + int(plan["Plan"]["Shared Read Blocks"])


@pytest.mark.parametrize(
    ("query", "most"),
    [
        ("select df.status('000f4250')", 40),
        ("select df.result('000f4250')", 60),
        ("select * from df.instances where id = '000f4250'", 60),
        ("select * from df.nodes where instance_id = '000f4250'", 400),
        ("select * from df.list_instances(null, 10)", 400),
        ("select * from df.list_instances('completed', 10, 'nightly')", 800),
        ("select df.start('select 1')", 400),
    ],
)
def test_it_reads_a_few_pages(full: psycopg.Connection[Any], query: str, most: int) -> None:
    assert pages(full, query) < most
