"""The process beside an embedded server that starts it, stops it, and outlives whoever asked for it.

`pgdurable.embedded` runs this file as a script, in a session of its own, one per handle on a server. Requests
come as JSON lines on stdin, answers go to stdout. End of file on stdin means that the process at the other end
is gone, SIGKILL included; so no way of dying leaves a server behind. Nothing here imports pgdurable: the script
starts in 20 ms because it needs the standard library alone.

Several processes may hold one data directory. Each one's supervisor keeps a shared lock on `holders.lock`; every
change is made under an exclusive lock on `start.lock`, taken first. The kernel gives both back whatever happens,
so the last holder is known without a list of process ids that could be stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, TypedDict

# A crash recovery may replay a lot of WAL before the server answers.
START_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60
# A killed postmaster's children let go of its shared memory when they notice, within seconds.
ORPHANS_TIMEOUT_S = 15


class Plan(TypedDict):
    """What the supervisor is told about its server, as the script's one argument."""

    home: str  # holds pgdata/, server.log, the locks and, where its name is short enough, the socket
    socket_dir: str
    bin_dir: str
    account: list[int] | None  # uid and gid the server runs under; None: our own
    temporary: bool  # remove the home after the last stop
    settings: dict[str, str]


class CommandFailed(Exception):
    """initdb or pg_ctl ended in error; the arguments are a message and what they and the server said."""


class Supervisor:
    """Does what the requests say to the server of one home."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.home = plan["home"]
        self.pgdata = os.path.join(self.home, "pgdata")
        self.log = os.path.join(self.home, "server.log")
        self.start_lock = self._open_lock("start.lock")
        self.holders_lock = self._open_lock("holders.lock")

    def start(self) -> None:
        """Joins the holders, and starts the server unless it already accepts connections."""
        with self._alone():
            fcntl.flock(self.holders_lock, fcntl.LOCK_SH)
            if self._listening():
                return
            if not os.path.exists(self.pgdata):
                self._initdb()
            self._write_settings()
            self._start()

    def stop(self, mode: str) -> None:
        """Stops the server, for every holder; nothing happens where it is not running."""
        with self._alone():
            self._stop(mode)

    def close(self) -> None:
        """Leaves the holders; the last one to leave stops the server, and removes a temporary home."""
        with self._alone():
            try:
                fcntl.flock(self.holders_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            temporary = self.plan["temporary"]
            try:
                self._stop("immediate" if temporary else "fast")
            except CommandFailed:
                self._stop("immediate")
            if self.plan["socket_dir"] != self.home:
                shutil.rmtree(self.plan["socket_dir"], ignore_errors=True)
            if temporary:
                shutil.rmtree(self.home, ignore_errors=True)

    def _open_lock(self, name: str) -> int:
        return os.open(os.path.join(self.home, name), os.O_RDWR | os.O_CREAT, 0o600)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        fcntl.flock(self.start_lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.start_lock, fcntl.LOCK_UN)

    def _listening(self) -> bool:
        # The pid in postmaster.pid may by now be anyone's; a socket that accepts is proof.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(os.path.join(self.plan["socket_dir"], ".s.PGSQL.5432"))
            except OSError:
                return False
        return True

    def _initdb(self) -> None:
        # Made under another name and renamed when whole, so that an interrupted initdb is not taken for a cluster.
        unfinished = self.pgdata + ".new"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if self.plan["temporary"]:
            options.append("--no-sync")  # of initdb's own files only; the server's fsync stays on
        self._run("initdb", "-D", unfinished, *options)
        os.rename(unfinished, self.pgdata)

    def _write_settings(self) -> None:
        ours = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": self.plan["socket_dir"],
        }
        lines = ["# Written anew at every start by pgdurable.embedded.\n"]
        for name, value in {**self.plan["settings"], **ours}.items():
            quoted = value.replace("\\", "\\\\").replace("'", "''")
            lines.append(f"{name} = '{quoted}'\n")
        conf = os.path.join(self.pgdata, "pgdurable.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.writelines(lines)
        os.chmod(conf, 0o644)  # where we are root, the server's account must read it
        with open(os.path.join(self.pgdata, "postgresql.conf"), "r+", encoding="utf-8") as file:
            if "include 'pgdurable.conf'" not in file.read():
                file.write("include 'pgdurable.conf'\n")

    def _start(self) -> None:
        deadline = time.monotonic() + ORPHANS_TIMEOUT_S
        while True:
            try:
                self._pg_ctl("start", "-l", self.log, "-t", str(START_TIMEOUT_S))
                return
            except CommandFailed as failure:
                if "pre-existing shared memory block" not in failure.args[1] or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _stop(self, mode: str) -> None:
        if os.path.exists(os.path.join(self.pgdata, "postmaster.pid")):
            try:
                self._pg_ctl("stop", "-m", mode, "-t", str(STOP_TIMEOUT_S))
            except CommandFailed:
                # A postmaster that was killed leaves its file behind: then there is nothing left to stop.
                if self._listening():
                    raise

    def _pg_ctl(self, action: str, *options: str) -> None:
        self._run("pg_ctl", action, "--silent", "-w", "-D", self.pgdata, *options)

    def _run(self, program: str, *arguments: str) -> None:
        log_start = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        account: dict[str, Any] = {}
        if self.plan["account"] is not None:
            uid, gid = self.plan["account"]
            account = {"user": uid, "group": gid, "extra_groups": []}
        done = subprocess.run(
            [os.path.join(self.plan["bin_dir"], program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.home,
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            umask=0o077,
            text=True,
            errors="replace",
            **account,
        )
        if done.returncode != 0:
            said = done.stdout
            if os.path.exists(self.log):
                with open(self.log, encoding="utf-8", errors="replace") as log:
                    log.seek(log_start)
                    said += log.read()
            raise CommandFailed(f"{program} failed with exit status {done.returncode}", said.strip()[-2000:])


def main() -> int:
    """Serves requests until `close` or end of file; the exit status says whether closing went well."""
    supervisor = Supervisor(json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        try:
            if request["do"] == "start":
                supervisor.start()
            elif request["do"] == "stop":
                supervisor.stop(request["mode"])
            else:
                break
        except CommandFailed as failure:
            answer = {"error": failure.args[0], "detail": failure.args[1]}
        except OSError as error:
            answer = {"error": str(error), "detail": ""}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:
            break
    try:
        supervisor.close()
    except CommandFailed:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
