"""A PgBouncer of the test's own in front of a server, to be reloaded, killed and started again.

Which programs there are: PGDURABLE_TEST_PGBOUNCER (paths with ':' between them), else what
scripts/setup_pgbouncer.sh has put into .test-servers, else `pgbouncer` on the PATH.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgdurable.embedded import _let_through, _server_account

ROOT = Path(__file__).resolve().parents[2]
PREPARED_SINCE = (1, 21)  # named prepared statements of the protocol in transaction mode


@cache
def programs() -> dict[tuple[int, int], str]:
    """Every PgBouncer found, by version."""
    named = os.environ.get("PGDURABLE_TEST_PGBOUNCER")
    paths: list[str | None]
    if named:
        paths = list(named.split(os.pathsep))
    else:
        paths = [*map(str, sorted(ROOT.glob(".test-servers/pgbouncer-*/pgbouncer"))), shutil.which("pgbouncer")]
    found: dict[tuple[int, int], str] = {}
    for path in paths:
        if path is not None:
            text = subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stdout
            major, minor = re.match(r"PgBouncer (\d+)\.(\d+)", text).groups()  # type: ignore[union-attr]
            found.setdefault((int(major), int(minor)), path)
    return found


def program(*, prepared: bool) -> str | None:
    """One that knows prepared statements, or one that does not; None: there is none."""
    fitting = [version for version in programs() if (version >= PREPARED_SINCE) == prepared]
    return programs()[max(fitting)] if fitting else None


class PgBouncer:
    """Transaction mode, in front of `dsn`. `settings` go into its [pgbouncer] section. Use it in a `with` block."""

    def __init__(self, path: str, dsn: str, **settings: Any) -> None:
        self._path = path
        self.version = next(version for version, known in programs().items() if known == path)
        self._server = conninfo_to_dict(dsn)
        self._settings = {
            "pool_mode": "transaction", "default_pool_size": 3, "max_client_conn": 500, "server_login_retry": 0.1,
            **settings,
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def __enter__(self) -> PgBouncer:
        self._folder = Path(tempfile.mkdtemp(prefix="pgb-"))
        self._account = None
        if os.geteuid() == 0:  # it does not run as root
            self._account = _server_account()
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
            _let_through(Path(self._path), self._account)
        (self._folder / "users").write_text('"app" ""')
        (self._folder / "pgbouncer.ini").write_text(self._ini())
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ini(self) -> str:
        server = {key: value for key, value in self._server.items() if key in ("host", "port", "password")}
        server["user"] = self._server.get("user") or os.environ.get("PGUSER") or pwd.getpwuid(os.geteuid()).pw_name
        server["dbname"] = self._server.get("dbname") or server["user"]
        target = " ".join(f"{key}='{value}'" for key, value in server.items())
        own = {
            "unix_socket_dir": self._folder, "listen_port": 6432, "auth_type": "trust",
            "auth_file": self._folder / "users", "admin_users": "app",
            "logfile": self._folder / "log", **self._settings,
        }  # fmt: skip
        lines = [f"{key} = {value}" for key, value in own.items()]
        return "\n".join(["[databases]", f"app = {target}", "[pgbouncer]", *lines, ""])

    @property
    def dsn(self) -> str:
        """What leads through it. The same over restarts."""
        return f"postgresql://app@/app?host={quote(str(self._folder))}&port=6432"

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Accepts connections when this returns."""
        account = self._account
        self._process = subprocess.Popen(
            [self._path, "-q", str(self._folder / "pgbouncer.ini")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            user=None if account is None else account.pw_uid, group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                self.admin("show version")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(f"PgBouncer did not start: {self.log}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            # What it had locked its socket with stays behind.
            for left in self._folder.glob(".s.PGSQL.*"):
                left.unlink()

    def admin(self, command: str) -> list[tuple[Any, ...]]:
        """A command of the admin console: RELOAD, RECONNECT, PAUSE, RESUME, SHOW ..."""
        console = self.dsn.replace("/app?", "/pgbouncer?")
        with psycopg.connect(console, autocommit=True, connect_timeout=5) as conn:
            cursor = conn.execute(command)
            return cursor.fetchall() if cursor.description else []

    def set(self, **settings: Any) -> None:
        """Changes settings while it runs."""
        self._settings.update(settings)
        (self._folder / "pgbouncer.ini").write_text(self._ini())
        self.admin("reload")
