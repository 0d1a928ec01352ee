"""docs/reliability.md is what its script makes of the results, and explains every fault and promise there is."""

from __future__ import annotations

import importlib.util
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
