"""The guide from pg_cron and a status table: its statements, in order, do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import split_commands

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "from-cron-and-a-status-table.md"


def test_the_guide_runs_as_printed(dsn: str, schema: str) -> None:
    migrate(dsn, schema)
    blocks = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    said = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        house = f"{schema}_shop"
        conn.execute(f"create schema {house}".encode())
        conn.execute(f"set search_path = {house}".encode())
        try:
            for block in blocks:
                for command in split_commands(re.sub(r"\bdurable\.", f"{schema}.", block)):
                    cursor = conn.execute(command.encode())
                    said.append(cursor.fetchall() if cursor.description else [])
            mails = conn.execute("select invoice, what from mails order by 1, 2").fetchall()
            counts = conn.execute(f"select status, count(*) from {schema}.instances group by 1 order by 1".encode())
            assert counts.fetchall() == [("completed", 1), ("waiting", 3)]
        finally:
            conn.execute(f"drop schema {house} cascade".encode())
    # Invoice 3 had been sent before the move, 7 was paid; nobody is reminded before two weeks are over.
    assert mails == [(1, "invoice"), (2, "invoice"), (3, "invoice"), (7, "invoice")]
    assert [("completed",)] in said  # the status of invoice/7, once it was paid
    assert [(4,)] in said  # those that wait for `paid` after the move
