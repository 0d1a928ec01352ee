"""docs/guides/queues.md: every block of Python runs as printed, in order; its SQL and its commands do too."""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

import pgdurable as pgd
from pgdurable._store.migrations import migrate
from pgdurable.cli.app import app
from pgdurable.workflow import Registry

PAGE = Path(__file__).resolve().parents[2] / "docs/guides/queues.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


async def test_the_python_of_the_page_runs(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions, in the order of the page."""
    # Other tests have workflows of these names too.
    monkeypatch.setattr(sys.modules["pgdurable.workflow"], "registry", Registry())
    migrate(dsn, schema)
    names: dict[str, Any] = {"__name__": "queues_guide"}
    exec("\n".join(blocks("python")), names)
    workflows = [value for value in names.values() if isinstance(value, pgd.Workflow)]
    assert len(workflows) == 4
    assert names["listening"](dsn)._settings.queues == ("mail", "default")
    async with pgd.Engine(dsn, schema=schema, workflows=workflows) as engine:
        assert await (await names["start_one"](engine)).result(30) == "posted to ann@example.org"
        for name in ("limit", "by_priority", "for_a_tenant", "share", "never_two"):
            await names[name](engine)
        await names["page_changed"](engine, "page-3", "the first")
        await names["page_changed"](engine, "page-3", "the last one")
        assert await (await names["one_and_many"](engine)).result(30) == 3
        (mail,) = [info for info in await engine.queues.list() if info.name == "mail"]
        assert {own.partition: own.weight for own in mail.partitions} == {"acme": 3, "zeta": 1}


def test_the_sql_of_the_page_runs(dsn: str, schema: str) -> None:
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for block in blocks("sql"):
            conn.execute(re.sub(r"\bdurable\b", schema, block))
        assert conn.execute(f"select concurrency, rate_count from {schema}.queues").fetchone() == (10, 100)


def test_the_commands_of_the_page_do_what_it_says(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(dsn, schema)
    monkeypatch.setenv("PGDURABLE_DSN", dsn)
    monkeypatch.setenv("PGDURABLE_SCHEMA", schema)
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^    (?:\$ )?pgdurable (queues.*)$", text, re.MULTILINE)
    commands += re.findall(r"`pgdurable (queues .*?)`", text.replace("\n", " "))
    assert len(commands) >= 3
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command), prog_name="pgdurable")
        assert result.exit_code == 0, f"{command}: {result.output}"
    shown = CliRunner().invoke(app, ["queues"]).output
    head = next(line for line in textwrap.dedent(text).splitlines() if line.strip().startswith("QUEUE"))
    assert shown.split("\n")[0].split() == head.split()
    assert "concurrency 10, rate 100/60s" in shown
    assert "acme (weight 3)" in shown
