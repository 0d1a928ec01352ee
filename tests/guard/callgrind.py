"""Counts a workload's instructions with valgrind's callgrind: the same on any machine, in whatever mood it is.

Start-up is not counted: callgrind runs with its instrumentation off until the workload says that it is ready.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["available", "instructions"]


def available() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None and shutil.which("callgrind_control") is not None


def instructions(*command: str) -> int:
    """Instructions between the program's line `ready` and its line `done`; after each it waits for a line on stdin.

    Args:
        command: a Python program and its arguments.
    """
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        child = subprocess.Popen(
            [
                "valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out",
                f"--log-file={folder}/log", sys.executable, *command,
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            for expected, switch in (("ready", "on"), ("done", "off")):
                said = child.stdout.readline().strip()
                if said != expected:
                    raise RuntimeError(f"expected {expected!r}, the program said {said!r}: {child.communicate()[1]}")
                subprocess.run(["callgrind_control", "-i", switch, str(child.pid)], check=True, capture_output=True)
                child.stdin.write("\n")
                child.stdin.flush()
            _, errors = child.communicate(timeout=60)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        log = (Path(folder) / "log").read_text()
        found = re.search(r"Collected : (\d+)", log)
        if child.returncode != 0 or found is None:
            raise RuntimeError(f"valgrind ended with {child.returncode}: {errors}{log}")
        return int(found[1])
