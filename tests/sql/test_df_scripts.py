"""Scripts in the names of the schema df run unchanged: ours in `scripts/`, and a folder of others that is given.

PGDURABLE_DF_SCRIPTS names a folder of the other extension's scripts; what the page says of each is then looked at too.
They want a server of their own, with a superuser `postgres`: never the one that PGDURABLE_TEST_DSN names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer

from . import df_harness
from .df_database import df_database, one
from .df_reasons import REASONS

OURS = sorted((Path(__file__).parent / "scripts").glob("*.sql"))
FOLDER = os.environ.get("PGDURABLE_DF_SCRIPTS")
THEIRS = sorted(Path(FOLDER).glob("*.sql")) if FOLDER else []
PAGE = (Path(__file__).parents[2] / "docs" / "df.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def places(dsn: str) -> Iterator[dict[bool, str]]:
    """Where scripts run, by whether they are ours: databases with pumps."""
    with df_database(dsn) as ours, df_harness.pumping(ours):
        if not THEIRS:
            yield {True: ours}
            return
        with EmbeddedServer(settings=df_harness.SERVER) as server:
            df_harness.listen(server)
            migrate(server.dsn, df=True)
            with df_harness.pumping(server.dsn):
                yield {True: ours, False: server.dsn}


@pytest.mark.timeout(df_harness.LONGEST + 30)
@pytest.mark.parametrize("script", [*OURS, *THEIRS], ids=lambda script: script.stem)
def test_a_script_does_what_the_page_says(places: dict[bool, str], script: Path) -> None:
    passes = script in OURS or df_harness.expected(PAGE)[script.stem]
    outcome = df_harness.run(script, places[script in OURS])
    assert (outcome.error is None) == passes, outcome.error


def test_the_sql_of_the_page_runs(places: dict[bool, str]) -> None:
    (block,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with psycopg.connect(places[True], autocommit=True) as conn:
        id = one(conn, block.rstrip().removesuffix(";"))
        assert one(conn, "select df.await_instance(%s)", id) == "completed"
        assert one(conn, "select df.result(%s)::jsonb #>> '{rows,0,says}'", id) == "much"
        # And those that the page names are there.
        there = {
            name for (name,) in conn.execute("select proname from pg_proc where pronamespace = 'df'::regnamespace")
        }
        there |= {"instances", "nodes"}
        assert set(re.findall(r"`df\.(\w+)", PAGE)) <= there
        public = {name for name in there if not name.startswith("_")}
        untold = {"run", "version", "target_database", "duroxide_schema", "wait_for_completion"}
        assert public - set(re.findall(r"`df\.(\w+)", PAGE)) == untold


def test_whatever_does_not_pass_has_a_reason_on_the_page() -> None:
    told = df_harness.expected(PAGE)
    assert len(told) > 50
    assert {script for script, passes in told.items() if not passes} == set(REASONS)
    assert all(f"| {REASONS[script]} |" in PAGE for script in REASONS)


def test_the_table_is_made_of_outcomes() -> None:
    made = df_harness.table([df_harness.Outcome("01_a", None, 1.0), df_harness.Outcome("02_b", "broken", 1.0)])
    assert made.splitlines()[0] == "1 of 2 scripts pass."
    page = df_harness.written(f"before {df_harness.BEGIN} old {df_harness.END} after", [])
    assert (page.startswith("before "), page.endswith(" after"), " old " in page) == (True, True, False)
    assert df_harness.expected(f"{df_harness.BEGIN}\n{made}\n{df_harness.END}") == {"01_a": True, "02_b": False}


def test_a_script_that_fails_says_with_what(places: dict[bool, str], tmp_path: Path) -> None:
    script = tmp_path / "99_broken.sql"
    script.write_text("select 1;\nselect no_such_column;\nselect 2;\n", encoding="utf-8")
    assert "no_such_column" in str(df_harness.run(script, places[True]).error)
