"""Compares wheels with the list of those that are meant: one for each of these Pythons and platforms.

    python scripts/check_matrix.py                what cibuildwheel would build
    python scripts/check_matrix.py dist/*.whl     what has been built

The first asks `cibuildwheel --print-build-identifiers`, which needs no containers and runs anywhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314", "cp314t")
PLATFORMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
}
MEANT = {f"{python}-{platform}" for python in PYTHONS for platforms in PLATFORMS.values() for platform in platforms}


def would_be_built() -> list[str]:
    """The identifiers that cibuildwheel gives for this project."""
    found = []
    for system in PLATFORMS:
        command = ["cibuildwheel", "--print-build-identifiers", "--platform", system, str(ROOT)]
        found += subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return found


def identifier_of(wheel: str) -> str:
    """cp311-manylinux_x86_64 for pgdurable-1.0-cp311-cp311-manylinux_2_28_x86_64.whl."""
    *_, abi, platform = Path(wheel).stem.split("-")
    kind = re.match(r"(manylinux|musllinux|macosx).*_(x86_64|aarch64|arm64)$", platform.split(".")[0])
    return f"{abi}-{kind[1]}_{kind[2]}" if kind else f"{abi}-{platform}"


def main() -> int:
    found = list(map(identifier_of, sys.argv[1:])) or would_be_built()
    wrong = [f"{identifier} is not meant" for identifier in sorted(set(found) - MEANT)]
    wrong += [f"{identifier} is missing" for identifier in sorted(MEANT - set(found))]
    wrong += [f"{identifier} is there twice" for identifier in sorted(MEANT) if found.count(identifier) > 1]
    print("\n".join(wrong) or f"matrix: the {len(MEANT)} wheels that are meant, and no others")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
