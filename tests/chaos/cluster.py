"""A PostgreSQL server of the run's own, on a TCP port of this machine: it can be crashed, filled up, promoted, rebuilt.

Two of them make a primary and its standby. Where we are root, they run under the account of the embedded server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

from pgdurable.embedded import _find_bin_dir, _let_through, _server_account

__all__ = ["Cluster", "CommandFailed", "free_port"]

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "120",
    "wal_level": "replica",
    "max_wal_senders": "6",
    "hot_standby": "on",
    "max_wal_size": "96MB",
    "min_wal_size": "8MB",
    "wal_keep_size": "32MB",
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "20s",
    "wal_retrieve_retry_interval": "200ms",
    "log_line_prefix": "%m [%p] %a ",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
}
_PATIENCE_S = 60.0


class CommandFailed(Exception):
    """A program of PostgreSQL's failed; the message has what it said."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Cluster:
    """One server.

    Args:
        folder: of this server alone; its data goes to `folder/disk/data`.
        disk_mb: its data is on a filesystem of so many megabytes, in memory. None: on the folder's own. Needs root.
    """

    def __init__(self, name: str, folder: Path, *, disk_mb: int | None = None) -> None:
        self.name = name
        self.port = free_port()
        chosen = os.environ.get("PGDURABLE_CHAOS_BIN")  # another PostgreSQL than the embedded one
        self._bin = Path(chosen) if chosen else _find_bin_dir()
        self._account = _server_account() if os.geteuid() == 0 else None
        self.folder = folder
        self.disk = folder / "disk"
        self.data = self.disk / "data"
        self.log = folder / "server.log"
        self._mounted = False
        self._disk_mb = disk_mb
        self.disk.mkdir(parents=True)
        self._own(folder, self.disk)
        if self._account is not None:
            _let_through(self._bin, self._account)
            _let_through(self.disk, self._account)
        if disk_mb is not None:
            self._mount(disk_mb)

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5"

    # -- life ---------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """An empty primary, not started."""
        self._run(
            "initdb", "-D", self.data, "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale",
            "--no-instructions", "--no-sync", "--wal-segsize=4",
        )  # fmt: skip
        with open(self.data / "pg_hba.conf", "a") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")
        self.write_settings()

    def write_settings(self, **settings: str) -> None:
        every = {**_SETTINGS, "port": str(self.port), "cluster_name": self.name, **settings}
        lines = [f"{name} = '{value}'\n" for name, value in every.items()]
        path = self.data / "chaos.conf"
        path.write_text("".join(lines))
        self._own(path)
        main = self.data / "postgresql.conf"
        if "chaos.conf" not in main.read_text():
            with open(main, "a") as file:
                file.write("include 'chaos.conf'\n")

    def start(self) -> None:
        """Returns once it takes connections."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._run("pg_ctl", "start", "--silent", "-w", "-t", "60", "-D", self.data, "-l", self.log)
                return
            except CommandFailed as failure:
                # Children of a killed postmaster hold its shared memory until they notice.
                if "shared memory block" not in str(failure) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self, mode: str = "immediate") -> None:
        if self.pid is not None:
            with contextlib.suppress(CommandFailed):
                self._run("pg_ctl", "stop", "--silent", "-w", "-m", mode, "-D", self.data)

    def kill(self) -> None:
        """kill -9 of the postmaster and all its children."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGSTOP)  # so that it makes no more of them
        for child in _children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        while _alive(pid):
            time.sleep(0.01)
        # While nobody has asked for its exit status, its pid would count as a server that runs.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        self.stop()
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    @property
    def pid(self) -> int | None:
        """Of the postmaster; None while none runs."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if _alive(pid) else None

    # -- replication --------------------------------------------------------------------------------------------

    def follow(self, primary: Cluster) -> None:
        """Becomes, from nothing, the standby of another; started and streaming when this returns."""
        if self.data.exists():
            shutil.rmtree(self.data)
        self._run(
            "pg_basebackup", "-D", self.data, "-d", f"{primary.dsn} application_name={self.name}", "-R", "-X", "stream",
            "-c", "fast", "--no-sync",
        )  # fmt: skip
        self.write_settings(synchronous_standby_names="*")
        self.start()
        with psycopg.connect(primary.dsn, autocommit=True) as conn:
            conn.execute("alter system set synchronous_standby_names = '*'")
            conn.execute("select pg_reload_conf()")
            deadline = time.monotonic() + _PATIENCE_S
            while not conn.execute("select 1 from pg_stat_replication where sync_state = 'sync'").fetchone():
                if time.monotonic() > deadline:
                    raise CommandFailed(f"{self.name} does not follow {primary.name}:\n{self.said()}")
                time.sleep(0.05)

    def promote(self) -> None:
        """From a standby to a primary."""
        self._run("pg_ctl", "promote", "--silent", "-w", "-t", "60", "-D", self.data)

    # -- disk ---------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Leaves no room on its disk, not even for itself as root might have."""
        assert self._mounted, "only a disk of its own is filled"
        ballast = self.disk / "ballast"
        with open(ballast, "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        (self.disk / "ballast").unlink(missing_ok=True)

    def _mount(self, megabytes: int) -> None:
        options = f"size={megabytes}m,mode=700"
        if self._account is not None:
            options += f",uid={self._account.pw_uid},gid={self._account.pw_gid}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, f"chaos-{self.name}", str(self.disk)],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise CommandFailed(f"no filesystem can be mounted here, which filling a disk needs: {done.stderr.strip()}")
        self._mounted = True

    # -- inside -------------------------------------------------------------------------------------------------

    def said(self, since: int = 0) -> str:
        """The server's log, from a position in it."""
        try:
            with open(self.log, "rb") as file:
                file.seek(since)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _own(self, *paths: Path) -> None:
        if self._account is not None:
            for path in paths:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _run(self, program: str, *arguments: object) -> None:
        account: dict[str, Any] = {}
        if self._account is not None:
            account = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        # To a file: a server that is started would keep a pipe open.
        with open(self.folder / "said", "w+b") as said:
            done = subprocess.run(
                [str(self._bin / program), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, cwd=self.folder, umask=0o077, start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")}, **account,
            )  # fmt: skip
            if done.returncode != 0:
                said.seek(0)
                text = said.read().decode(errors="replace")
                raise CommandFailed(f"{program} of {self.name} failed: {text}\n{self.said()[-3000:]}")


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
