"""`update`, `query`, `state` and `stream`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pgdurable as pgd
from pgdurable._store.migrations import migrate


@pgd.workflow(name="cli_talk")
async def talks() -> int:
    total = 0

    @pgd.on_update
    def add(n: int) -> int:
        nonlocal total
        total += n
        pgd.set_state("total", total)
        pgd.stream("log").write({"added": n})
        return total

    @pgd.on_query
    def tell(factor: int = 1) -> int:
        return total * factor

    await pgd.wait_signal("end")
    return total


def test_asking_from_a_shell(dsn: str, schema: str) -> None:
    migrate(dsn, schema)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pgdurable.cli", words[0], "--dsn", dsn, "--schema", schema, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def told(*words: str) -> Any:
        done = run(*words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with pgd.sync.Engine(dsn, schema=schema, workflows=[talks]) as engine:
        handle = engine.start(talks, id="c")
        assert told("update", "c", "add", "3") == [3]
        assert told("update", "c", "add", '{"n": 4}', "--timeout", "30") == [7]
        assert told("query", "c", "tell") == [7]
        assert told("query", "c", "tell", "2") == [14]
        assert told("state", "c") == [{"total": 7}]
        assert told("state", "c", "total") == [7]
        assert told("stream", "c", "log") == [{"added": 3}, {"added": 4}]
        refused = run("update", "c", "add", "many")
        assert refused.returncode != 0
        assert "was rejected" in refused.stderr
        assert "publishes nothing under 'x'" in run("state", "c", "x").stderr
        assert "--key is a UUID" in run("update", "c", "add", "1", "--key", "x").stderr
        handle.signal("end")
        assert told("stream", "c", "log", "--follow", "--offset", "1") == [{"added": 4}]
