"""The tests that docs/guides/testing.md shows are tests: all of them pass as printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgdurable.testing import Simulation
from tests.docs.test_docs import blocks

PAGE = "docs/guides/testing.md"


def test_the_tests_of_the_page_pass(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDURABLE_TEST_DSN", dsn)
    code = "\n\n".join(blocks(PAGE, "python"))
    names = [line for line in code.splitlines() if line.startswith(("async def test_", "def test_"))]
    made = "\n\nimport pathlib\n\nHISTORIES = pathlib.Path(__file__).parent / 'histories.jsonl'\n"
    export = (
        "\n\nasync def test_a_first(simulation):\n"
        "    simulation.mock(charge, returns='paid')\n"
        "    handle = await simulation.start(subscription, 'ada')\n"
        "    await simulation.advance(days=40)\n"
        "    HISTORIES.write_text(simulation.export(handle))\n\n\n"
    )
    head, _, rest = code.partition("async def test_a_year")
    (tmp_path / "test_page.py").write_text(head + made + export + "async def test_a_year" + rest)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "test_page.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert f"{len(names) + 1} passed" in done.stdout, done.stdout + done.stderr
    assert len(names) >= 9


def test_the_page_names_what_there_is() -> None:
    text = (Path(__file__).resolve().parents[2] / PAGE).read_text(encoding="utf-8")
    for name in (
        "advance",
        "advance_to",
        "settle",
        "run",
        "now",
        "crash",
        "crash_at",
        "fail",
        "calls",
        "export",
        "sleep",
    ):
        assert f"simulation.{name}" in text or f"sim.{name}" in text
        assert hasattr(Simulation, name)
