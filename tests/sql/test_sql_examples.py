"""The example scripts in examples/sql: each runs as printed, and checks in its last block what it claims."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import split_commands
from pgdurable.embedded import EmbeddedServer

SCRIPTS = sorted((Path(__file__).parent.parent.parent / "examples" / "sql").glob("*.sql"))


def test_there_is_one_for_each_use() -> None:
    assert {script.stem for script in SCRIPTS} == set(
        "order_processing subscription etl onboarding settlement sign_off telemetry monthly_reports".split()
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_it_runs_and_what_it_claims_holds(private_server: EmbeddedServer, script: Path) -> None:
    migrate(private_server.dsn, "durable")
    commands = split_commands(script.read_text())
    assert commands[-1].startswith("do $$")
    assert commands[-1].count("assert ") >= 3
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        for command in commands:
            conn.execute(command)  # type: ignore[arg-type]
