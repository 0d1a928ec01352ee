"""Checks the formal model in docs/model with spin, and that each of its mutations is found to be wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODEL", "MUTATIONS", "Checked", "check", "lacking"]

MODEL = Path(__file__).resolve().parents[2] / "docs" / "model" / "fence.pml"

MUTATIONS = {
    "NO_FENCE": "the fence is neither locked nor looked at",
    "NO_LOCK": "the worker's row is looked at, without the lock",
    "LOOK_FIRST": "the worker's row is looked at before the lock is had",
    "NO_PK": "history rows have no primary key",
    "NOT_IDEMPOTENT": "a batch whose answer was lost is sent again as if it were new",
    "KEEPS_MEMORY": "a worker that was taken over joins anew and keeps what it held",
    "CLAIMS_ANY": "instances of living workers are claimed too",
}


@dataclass(frozen=True)
class Checked:
    """What spin said: the assertion that fails, or None; and how many states it has seen."""

    fails: str | None
    states: int
    seconds: float


def lacking() -> str | None:
    """What has to be installed before the model can be checked; None: nothing."""
    programs = [program for program in ("spin", "gcc") if shutil.which(program) is None]
    return f"not installed: {', '.join(programs)} (Debian: apt-get install {' '.join(programs)})" if programs else None


def check(*options: str, text: str | None = None) -> Checked:
    """Goes through every order of events. `options` are macros of the model."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pgdurable-model-") as folder:
        (Path(folder) / "model.pml").write_text(MODEL.read_text() if text is None else text)
        _run(folder, "spin", *(f"-D{option}" for option in options), "-a", "model.pml")
        _run(folder, "gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4000", "-o", "pan", "pan.c")
        said = _run(folder, "./pan", "-m500000")
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"(\d+) states, stored", said)
    assert errors is not None, said
    assert states is not None, said
    assert "max search depth too small" not in said, said
    assert "out of memory" not in said, said
    wrong = re.search(r"pan:1: (?:assertion violated )?(.*?) \(at depth", said)
    fails = None if errors[1] == "0" else (wrong[1] if wrong else said)
    return Checked(fails, int(states[1]), time.monotonic() - began)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
