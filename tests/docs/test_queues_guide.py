"""docs/guides/queues.md: every block of Python runs as printed, in order; its SQL and its commands do too."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

import pgdurable as pgd
from pgdurable._store.migrations import migrate
from pgdurable.cli.app import app

PAGE = Path(__file__).resolve().parents[2] / "docs/guides/queues.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@dataclass
class Message:
    to: str
    text: str


@pgd.step
async def deliver(messages: list[Message]) -> int:
    return len(messages)


@pgd.workflow(name="queues_guide_send")
async def send(address: str) -> str:
    return address


@pgd.workflow(name="queues_guide_sync")
async def sync_account(account: str) -> str:
    await pgd.wait_signal("done")
    return account


@pgd.workflow(name="queues_guide_index")
async def index_page(page: str, text: str) -> str:
    return text


async def test_the_python_of_the_page_runs(dsn: str, schema: str) -> None:
    migrate(dsn, schema)
    names: dict[str, Any] = {
        "pgd": pgd, "dsn": dsn, "send": send, "sync_account": sync_account, "index_page": index_page,
        "Message": Message, "deliver": deliver, "text": "the last one", "messages": [Message("a", "b")] * 5,
    }  # fmt: skip
    found = blocks("python")
    (batch,) = [block for block in found if "@pgd.workflow" in block]
    defined, _, _ = batch.partition("\nhandle")
    exec(defined, names)
    workflows = [send, sync_account, index_page, names["send_all"]]
    async with pgd.Engine(dsn, schema=schema, workflows=workflows) as engine:
        names |= {"engine": engine, "client": engine}
        for block in found:
            await run(block.removeprefix(defined), names)
            names["engine"] = engine
        assert await asyncio.wait_for(names["handle"].result(), 30) in (1, 6)
        await names["first"].signal("done")
    assert names["first"].instance_id == names["second"].instance_id


async def run(block: str, names: dict[str, Any]) -> None:
    """Executes a block with `await` at the top level."""
    code = compile(block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if result is not None:
        await result


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
