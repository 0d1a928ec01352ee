"""What a run is put down as: JSON for docs/reliability, and a few lines for the screen."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pgdurable

from . import checker
from .run import Result

__all__ = ["of", "summary", "write"]


def of(result: Result, kinds: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "seconds of faults": given.seconds,
        "seconds": round(result.seconds),
        "faults": {kind: result.faults[kind] for kind in kinds},
        "faults that came in another's way": {kind: count for kind, count in result.without.items() if count},
        "checked": result.checked,
        "promises": list(checker.PROMISES),
        "violations": [str(violation) for violation in result.violations],
        "postgresql": result.server,
        "python": platform.python_version(),
        "pgdurable": getattr(pgdurable, "__version__", "?"),
        "commit": _commit(),
        "cores": os.cpu_count(),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip()


def summary(result: Result) -> str:
    counts = ", ".join(f"{count:,} {what}" for what, count in result.checked.items())
    return (
        f"{sum(result.faults.values())} faults of {len(result.faults)} kinds took effect in {result.seconds:.0f} s, "
        f"{sum(result.without.values())} came in another's way\nchecked: {counts}\n{len(result.violations)} violations"
    )


def write(found: dict[str, Any], folder: Path) -> Path:
    """One file a run, named by the day and the seed."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(timezone.utc)
    path = folder / f"chaos-{now:%Y%m%d}-{found['seed']}.json"
    path.write_text(json.dumps({"at": f"{now:%Y-%m-%d %H:%M} UTC", **found}, indent=1) + "\n")
    return path
