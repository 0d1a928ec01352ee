"""Workflows in SQL without a Python process: pumped by psql's \\watch, and by pg_cron.

pg_cron: a server of its own, from PGDURABLE_TEST_PG_CRON (a folder of programs), else from .test-servers, where
scripts/setup_pg_cron.sh has put it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from store.namespace import Namespace

from pgdurable._store.migrations import migrate
from pgdurable.embedded import _let_through, _server_account

ROOT = Path(__file__).resolve().parents[2]
Eventually = Callable[..., None]

STEPS = [
    {"op": "sql", "query": "select $n + 1 as m", "into": "next"},
    {"op": "sleep", "seconds": 0.2},
    {"op": "sql", "query": "select $next.m * 10 as result"},
]


def missing(what: str) -> None:
    """Fails in CI where there is none, and says so elsewhere."""
    pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)


def results(conn: psycopg.Connection[Any], schema: str) -> list[int]:
    rows = conn.execute(f"select output #> '{{rows,0,result}}' from {schema}.instances where status = 'completed'")
    return sorted(value for (value,) in rows)


def test_psql_watch(ns: Namespace, eventually: Eventually) -> None:
    psql = shutil.which("psql")
    if psql is None:
        missing("there is no psql here")
        return
    ns.rows("select @.define('watched', %s)", Jsonb(STEPS))
    pump = subprocess.Popen(
        [psql, "-X", "-q", ns.dsn], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert pump.stdin is not None
        pump.stdin.write(f"call {ns.schema}.work()\n\\watch 0.1\n")
        pump.stdin.flush()
        pump.stdin.close()
        for n in range(5):
            ns.rows("select @.start('watched', %s)", Jsonb({"n": n}))
        eventually(lambda: results(ns.main, ns.schema) == [10, 20, 30, 40, 50], "all five have run")
        assert ns.one("select @.wait(@.start('watched', '{\"n\": 9}'), '0')") is not None
        eventually(lambda: 100 in results(ns.main, ns.schema), "and one that was started later")
    finally:
        pump.kill()
        pump.wait(20)
        if pump.stderr is not None:
            pump.stderr.close()


class CronServer:
    """A PostgreSQL with pg_cron in a folder of its own. Use it in a `with` block."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="pgcron-"))
        self._account: pwd.struct_passwd | None = None
        if os.geteuid() == 0:  # it does not run as root
            self._account = _server_account()
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
            _let_through(programs / "postgres", self._account)
        self.dsn = f"host={self._folder} dbname=postgres user=postgres"

    def _run(self, program: str, *words: str) -> None:
        env = dict(os.environ)
        libraries = [str(path) for path in self._programs.parents[2].glob("*-linux-gnu")]
        if ".test-servers" in str(self._programs):
            env["LD_LIBRARY_PATH"] = ":".join(libraries)
        done = subprocess.run(
            [self._programs / program, *words], env=env, capture_output=True, text=True, timeout=60,
            cwd=self._folder, user=None if self._account is None else self._account.pw_uid,
            group=None if self._account is None else self._account.pw_gid,
            extra_groups=None if self._account is None else [],
        )  # fmt: skip
        log = self._folder / "log"
        assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")

    def __enter__(self) -> CronServer:
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        settings = (
            f"listen_addresses = ''\nunix_socket_directories = '{self._folder}'\n"
            "shared_preload_libraries = 'pg_cron'\ncron.database_name = 'postgres'\n"
            f"cron.host = '{self._folder}'\n"
        )
        with open(self._folder / "data" / "postgresql.conf", "a") as file:
            file.write(settings)
        self._run("pg_ctl", "-D", data, "-l", str(self._folder / "log"), "-w", "start")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture
def cron() -> Iterator[psycopg.Connection[Any]]:
    named = os.environ.get("PGDURABLE_TEST_PG_CRON")
    programs = Path(named) if named else ROOT / ".test-servers/pg_cron/usr/lib/postgresql/15/bin"
    if not (programs / "postgres").exists():
        missing("there is no pg_cron here: make test fetches it (scripts/setup_pg_cron.sh)")
    with CronServer(programs) as server, psycopg.connect(server.dsn, autocommit=True) as conn:
        migrate(server.dsn, "durable")
        conn.execute("create extension pg_cron")
        yield conn


@pytest.mark.timeout(300)  # it begins at a full minute
def test_pg_cron(cron: psycopg.Connection[Any], eventually: Eventually) -> None:
    """As docs/operations.md has it: two pumps, and a job that stops what is overdue."""
    cron.execute("select durable.define('by cron', %s)", [Jsonb(STEPS)])
    # Debian's pg_cron counts in minutes: each job lasts nearly one, and is begun again at the next.
    for job, command in (
        ("pump 1", "call durable.work('55 seconds', wait => true)"),
        ("pump 2", "call durable.work('55 seconds', wait => true)"),
        ("watch", "call durable.watch('55 seconds')"),
    ):
        cron.execute("select cron.schedule(%s, '* * * * *', %s)", [job, command])
    for n in range(20):
        cron.execute("select durable.start('by cron', %s)", [Jsonb({"n": n})])
    eventually(lambda: len(results(cron, "durable")) == 20, "all have run", 100)
    assert results(cron, "durable") == [10 * (n + 1) for n in range(20)]
    # A statement that takes too long is stopped by the third job.
    slow = {"op": "sql", "query": "select pg_sleep(600)", "timeout": 0.5, "retry": {"max_attempts": 1}}
    cron.execute("select durable.define('slow', %s)", [Jsonb(slow)])
    cron.execute("select durable.start('slow', id => 'slow')")
    status = "select durable.status('slow')"
    eventually(lambda: cron.execute(status).fetchone() == ("failed",), "it is stopped", 100)
    failed = cron.execute("select distinct command from cron.job_run_details where status = 'failed'").fetchall()
    assert failed == []
