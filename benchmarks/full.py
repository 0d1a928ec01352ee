"""All benchmarks: `make bench`, or `.venv/bin/python -m benchmarks.full [--output FOLDER] [pytest's options]`.

Writes `results.json` (figures, claims, settings, machine, versions, commit) and the pictures into docs/benchmarks, or
into the folder of `--output`. Exits non-zero when a benchmark failed or a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

HERE = Path(__file__).resolve().parent


class Watch:
    """Shows what runs: a bar on a terminal, elsewhere a line for each benchmark that has ended."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.lines = not console.is_terminal
        self.began = time.monotonic()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.bar.start()
        self.total = len(session.items)
        self.done = 0
        self.task = self.bar.add_task("", total=self.total)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.bar.update(self.task, description=_name(nodeid))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":
            self.done += 1
            self.bar.advance(self.task)
            if self.lines:
                spent = time.monotonic() - self.began
                print(f"{spent:5.0f} s  {self.done}/{self.total}  {_name(report.nodeid)}: {report.outcome}", flush=True)

    def pytest_sessionfinish(self) -> None:
        self.bar.stop()


def _name(nodeid: str) -> str:
    return nodeid.rpartition("/")[2].replace(".py::", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description="All benchmarks, with their pictures.")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "benchmarks", metavar="FOLDER")
    options, more = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / "results.json"
    words = [str(HERE), "--rootdir", str(HERE), "-c", str(HERE / "pytest.ini"), "--target", "--figures", str(results)]
    code = pytest.main([*words, "-q", "-p", "no:terminalprogress", "--benchmark-quiet", *more], plugins=[Watch()])
    if results.exists():
        from benchmarks.plots import draw

        for path in draw(json.loads(results.read_text(encoding="utf-8")), options.output):
            print(path)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
