"""The public types, as users' type checkers see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_contract_passes_mypy_strict() -> None:
    # An unused ignore is an error too: the deliberate mistake in the file must be found.
    contract = Path(__file__).with_name("contract.py")
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(contract)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
