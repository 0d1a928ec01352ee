"""A primary and a streaming standby on this machine, to kill the one and promote the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgdurable.embedded import _find_bin_dir, _let_through, _server_account

SETTINGS = """
listen_addresses = ''
unix_socket_permissions = 0777
max_connections = 100
wal_keep_size = '64MB'
autovacuum = off
"""


class Node:
    """One server of a pair: its folder, its socket, the commands that act on it."""

    def __init__(self, home: Path, account: tuple[int, int] | None) -> None:
        self.home = home
        self.data = home / "data"
        self._account = account
        self._bin = _find_bin_dir()
        home.mkdir()
        if account is not None:
            os.chown(home, *account)

    @property
    def dsn(self) -> str:
        return make_conninfo("", host=str(self.home), port=5432, user="postgres", dbname="postgres")

    def run(self, command: str, *arguments: str) -> None:
        user: dict[str, Any] = {}
        if self._account is not None:
            user = {"user": self._account[0], "group": self._account[1], "extra_groups": []}
        done = subprocess.run(
            [str(self._bin / command), *arguments], cwd="/", capture_output=True, text=True, timeout=60, **user
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def initialise(self) -> None:
        self.run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"
        )
        self._configure()

    def copy_of(self, primary: Node) -> None:
        """Becomes a streaming standby of a running server."""
        self.run(
            "pg_basebackup", "-D", str(self.data), "-N", "-c", "fast", "-R", "-X", "stream",
            "-d", make_conninfo(primary.dsn, application_name="standby"),
        )  # fmt: skip
        self._configure()

    def _configure(self) -> None:
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"{SETTINGS}unix_socket_directories = '{self.home}'\n")

    def start(self) -> None:
        self.run("pg_ctl", "start", "-D", str(self.data), "-w", "-l", str(self.home / "log"))

    def stop(self, mode: str = "immediate") -> None:
        if (self.data / "postmaster.pid").exists():
            self.run("pg_ctl", "stop", "-D", str(self.data), "-w", "-m", mode)

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-D", str(self.data), "-w")

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            cursor = conn.execute(text)
            return cursor.fetchall() if cursor.description else []

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self.sql(f"alter system set {name} = '{value}'")
        self.sql("select pg_reload_conf()")


class Pair:
    """A primary and its standby. A context manager.

    Attributes:
        dsn: of both, for whichever takes writes.
    """

    def __enter__(self) -> Pair:
        account = None
        if os.geteuid() == 0:
            entry = _server_account()
            account = (entry.pw_uid, entry.pw_gid)
            _let_through(_find_bin_dir(), entry)
        self._folder = Path(tempfile.mkdtemp(prefix="pgdurable-pair-"))
        self._folder.chmod(0o711)
        self.primary = Node(self._folder / "a", account)
        self.standby = Node(self._folder / "b", account)
        try:
            self.primary.initialise()
            self.primary.start()
            self.standby.copy_of(self.primary)
            self.standby.start()
            self.wait("select 1 from pg_stat_replication where state = 'streaming'", self.primary)
        except BaseException:
            self.__exit__()
            raise
        self.dsn = make_conninfo(
            "", host=f"{self.primary.home},{self.standby.home}", port="5432,5432", user="postgres", dbname="postgres",
            target_session_attrs="read-write",
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        for node in (self.standby, self.primary):
            node.stop()
        shutil.rmtree(self._folder)

    def wait(self, query: str, node: Node) -> None:
        """Until a query gives a row."""
        deadline = time.monotonic() + 30
        while not node.sql(query):
            assert time.monotonic() < deadline, query
            time.sleep(0.02)

    def synchronous(self) -> None:
        """From now on a commit is acknowledged when the standby has it."""
        self.primary.set(synchronous_standby_names="standby")
        self.wait("select 1 from pg_stat_replication where sync_state = 'sync'", self.primary)

    def cut_off(self) -> None:
        """What the primary commits from now on never gets to the standby."""
        self.standby.set(primary_conninfo="")
        self.wait("select 1 where not exists (select from pg_stat_replication)", self.primary)

    def fail_over(self) -> None:
        """Kills the primary and promotes the standby."""
        self.primary.stop()
        self.standby.promote()
