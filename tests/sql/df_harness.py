"""Runs a folder of SQL scripts, written for the extension whose names `df` has, against our schema `df`.

As that extension's own suite does: one after another in one database, each by psql in a session of its own, ended by
the first error. Beside them run pumps. `python -m tests.sql.df_harness FOLDER` runs them on a server of its own and
prints what became of each; with `--write docs/df.md` the table there is made anew.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer, _find_bin_dir

from .df_reasons import OPTIONS, REASONS

BEGIN, END = "<!-- made by tests/sql/df_harness.py: begin -->", "<!-- end -->"
SERVER = {"max_connections": "100"}
# So many branches that wait in a statement may run at once.
PUMPS = 4
# Seconds one script may take; the longest waits for two full minutes of the clock.
LONGEST = 300


@dataclass(frozen=True)
class Outcome:
    """What became of a script: its first error, or None; and how long it took."""

    script: str
    error: str | None
    seconds: float


def psql() -> str:
    """The psql of the embedded server, else the one on the path."""
    own = _find_bin_dir() / "psql"
    return str(own) if own.exists() else shutil.which("psql") or "psql"


@contextmanager
def pumping(dsn: str, pumps: int = PUMPS) -> Iterator[None]:
    """Runs so many pumps until the block is left, each in a session of its own that is made again when it breaks."""
    stop = threading.Event()
    sessions: list[psycopg.Connection] = []

    def pump() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(dsn, autocommit=True, application_name="df pump") as conn:
                    sessions.append(conn)
                    while not stop.is_set():
                        conn.execute("call durable.work(max_time => '10 minutes', wait => true)")
            except psycopg.Error:
                stop.wait(0.2)

    threads = [threading.Thread(target=pump) for _ in range(pumps)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid = any (%s)",
                             ([s.info.backend_pid for s in sessions if not s.closed],))  # fmt: skip
            for thread in threads:
                thread.join(0.2)


def run(script: Path, dsn: str) -> Outcome:
    """Runs one script. What it leaves running is cancelled, so that it does not run beside the next."""
    began = time.monotonic()
    command = [psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-f", str(script), dsn]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST, env={"PGOPTIONS": OPTIONS.get(script.stem, "")}
        )
        error = _first_error(done.stderr) if done.returncode else None
    except subprocess.TimeoutExpired:
        error = f"not done after {LONGEST} s"
    with psycopg.connect(dsn, autocommit=True) as conn:
        if conn.execute("select to_regclass('df.instances')").fetchone() != (None,):
            conn.execute(
                "select durable.cancel(k.instance_id::text)"
                " from df.runs k join durable.instances i on i.id = k.instance_id"
                " where i.status in ('pending', 'running', 'waiting', 'paused')"
            )
    return Outcome(script.stem, error, time.monotonic() - began)


def _first_error(stderr: str) -> str:
    found = re.search(r"ERROR:\s*(.*(?:\n(?!psql:).*){0,12})", stderr)
    return found[1].strip() if found else stderr.strip().splitlines()[-1] if stderr.strip() else "psql ended in error"


def run_all(folder: Path, dsn: str, only: str = "") -> list[Outcome]:
    """Runs the scripts of a folder in order; the first two digits are the order."""
    scripts = [
        script for script in sorted(folder.glob("*.sql")) if re.search(only, script.stem) or "setup" in script.stem
    ]
    with pumping(dsn):
        return [_told(run(script, dsn)) for script in scripts]


def _told(outcome: Outcome) -> Outcome:
    print(f"{outcome.seconds:6.1f} s  {outcome.script}: {outcome.error or 'passed'}", flush=True)
    return outcome


def table(outcomes: list[Outcome]) -> str:
    """The outcomes for the page, with the reasons why some do not pass."""
    passed = sum(outcome.error is None for outcome in outcomes)
    rows = [
        f"| `{outcome.script}` | {'passes' if outcome.error is None else 'no'} | "
        f"{'' if outcome.error is None else REASONS.get(outcome.script, outcome.error)} |"
        for outcome in outcomes
    ]
    return "\n".join(
        [f"{passed} of {len(outcomes)} scripts pass.", "", "| script | | why not |", "| --- | --- | --- |", *rows]
    )


def written(page: str, outcomes: list[Outcome]) -> str:
    """The page with its table made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table(outcomes)}\n{END}{rest.split(END)[1]}"


def expected(page: str) -> dict[str, bool]:
    """Which scripts pass, as the page says."""
    made = page.split(BEGIN)[1].split(END)[0]
    return {row[1]: row[2] == "passes" for row in re.finditer(r"^\| `(\w+)` \| (\w+) \|", made, re.MULTILINE)}


def listen(server: EmbeddedServer) -> None:
    """Some scripts connect to localhost, which an embedded server does not listen on."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("alter system set listen_addresses = '127.0.0.1'")
    server.restart()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="a regular expression of names")
    parser.add_argument("--write", type=Path, help="the page whose table is made anew")
    arguments = parser.parse_args()
    with EmbeddedServer(settings=SERVER) as server:
        listen(server)
        migrate(server.dsn, df=True)
        outcomes = run_all(arguments.folder, server.dsn, arguments.only)
    print(table(outcomes).splitlines()[0])
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(written(page, outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
