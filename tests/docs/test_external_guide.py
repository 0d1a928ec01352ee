"""docs/guides/external-workers.md: its SQL runs as printed, in a database of its own with the schema `durable`."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
from databases import database

from pgdurable._store.migrations import migrate

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guides" / "external-workers.md").read_text(encoding="utf-8")


def test_the_sql_of_the_page_runs(dsn: str) -> None:
    blocks = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    with database(dsn) as own:
        migrate(own, "durable")
        with psycopg.connect(own, autocommit=True) as conn:
            conn.execute("create table contracts (id int primary key, signed_by text)")
            conn.execute("insert into contracts values (7, null)")
            conn.execute("create table labels (order_id text primary key, text text not null)")
            found = []
            for block in blocks:
                cursor = conn.execute(re.sub(r"^\\watch .*$", "", block, flags=re.MULTILINE))
                found.append([])
                while True:
                    if cursor.description is not None:
                        found[-1].append(cursor.fetchall())
                    if not cursor.nextset():
                        break
                conn.execute("call durable.work('2 s')")
            # Completed by the first, so the second call found it done; and nobody waits for a heartbeat.
            assert found[1] == [[(True,)], [(False,)]]
            assert found[4] == [[(False,)]]
            assert conn.execute("select durable.status('contract/7')").fetchone() == ("completed",)
            assert conn.execute("select signed_by from contracts").fetchone() == ("ann",)


def test_the_worker_in_psql_is_the_one_that_is_shipped() -> None:
    shipped = (ROOT / "examples" / "external" / "worker.sql").read_text(encoding="utf-8")
    (printed,) = re.findall(r"^```sql\n(with job as.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert printed in shipped
