"""The server under the benchmarks, and what must be said about it with every result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg

import pgdurable as pgd

__all__ = ["SETTINGS", "describe", "machine", "server"]

# Those that decide how fast a commit is and how safe.
SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "wal_compression",
    "commit_delay",
    "shared_buffers",
    "wal_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "max_connections",
)


@contextmanager
def server() -> Iterator[str]:
    """The DSN: of the server that PGDURABLE_BENCH_DSN names, else of an embedded one with default settings."""
    given = os.environ.get("PGDURABLE_BENCH_DSN")
    if given:
        yield given
        return
    with pgd.embedded(settings={"max_connections": "200"}) as dsn:
        yield dsn


def describe(dsn: str) -> dict[str, str]:
    """The server's settings."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = {}
        for name in SETTINGS:
            row = conn.execute("select current_setting(%s, true)", (name,)).fetchone()
            found[name] = row[0] if row and row[0] is not None else "?"
        return found


def machine() -> dict[str, Any]:
    """Where and with what this runs."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("pgdurable", "psycopg", "numpy", "dbos", "absurd-sdk")},
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of this clone, with a plus where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def lines(settings: dict[str, str]) -> list[str]:
    """The settings as text of at most 110 columns."""
    text, line = [], "PostgreSQL"
    for name, value in settings.items():
        part = f" {value}" if name == "server_version" else f", {name} {value}"
        if len(line) + len(part) > 110:
            text.append(line + ",")
            line, part = "   ", part.removeprefix(",")
        line += part
    return [*text, line]


if __name__ == "__main__":
    with server() as dsn:
        print("\n".join(lines(describe(dsn))))
        print(machine(), file=sys.stderr)
