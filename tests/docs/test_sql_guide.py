"""docs/guides/sql-workflows.md: its SQL runs as printed, in order, and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import split_commands
from pgdurable.embedded import EmbeddedServer

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "sql-workflows.md"


def test_the_sql_of_the_guide_runs_and_does_what_it_says(private_server: EmbeddedServer) -> None:
    migrate(private_server.dsn, "durable")
    blocks = re.findall(r"^```sql\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    said: list[str] = []
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        for block in blocks:
            for command in split_commands(block):
                cursor = conn.execute(command)  # type: ignore[arg-type]
                if cursor.description:
                    said += [str(value) for row in cursor.fetchall() for value in row]
        ends = conn.execute("select status, count(*) from durable.instances group by 1").fetchall()
        assert ends == [("completed", 6)]
        assert conn.execute("select id, state from orders order by id").fetchall() == [
            (1, "approved"),
            (2, "refused"),
            (3, "paid"),
        ]
    text = "\n".join(said)
    assert "stock_pieces_check" in text  # why order 2 was refused
    assert "Thank you for your desk" in text
    assert "handler: sql" in text
    assert "it needs seconds" in text
