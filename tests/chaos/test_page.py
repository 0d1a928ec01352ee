"""docs/reliability.md is what its script makes of the results, and explains every fault and promise there is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import checker
from .outages import KINDS

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "build_reliability.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("build_reliability", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_fault_and_promise_is_explained() -> None:
    page = script()
    assert set(page.FAULTS) == set(KINDS)
    assert set(page.PROMISES) == set(checker.PROMISES)


def test_results_on_the_page_have_passed() -> None:
    for run in script().load():
        assert run["run"]["violations"] == []
        assert all(run["run"]["faults"].values())


def test_a_soak_on_the_page_was_an_hour_and_flat() -> None:
    results = SCRIPT.parent / "reliability" / "soak.json"
    if results.exists():
        found = json.loads(results.read_text())
        assert found["seconds"] >= 3600
        assert found["wrong"] == []


def test_what_grew_in_a_soak_is_said() -> None:
    series = {"title": "table events", "unit": 1024, "of": "KiB", "of_mean": 0.31, "scatter": 0.02, "mean": 2048.0}
    found = {
        "keep": "4 minutes", "width": "2 minutes", "seconds": 3600, "offered": 30_000.0, "peak": 60_000.0,
        "started": 1_000_000, "restarts": 11, "wrong": ["table events grew by 31%"], "when": "2026-01-01",
        "server": {"server_version": "18.1"}, "machine": {"python": "3.11", "cores": 2, "cpu": "?"},
        "growth": {"events_bytes": series, "never_seen": {**series, "mean": None}},
    }  # fmt: skip
    text = "\n".join(script().soak(found))
    assert "1,000,000 instances,\n11 restarts: table events grew by 31%." in text
    assert "| table events | 2.0 KiB | +31.0% | 2.0% |" in text
