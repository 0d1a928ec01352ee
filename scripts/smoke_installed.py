"""Smoke test of the pgdurable that is installed here: a crash-safe workflow runs, with the libpq from inside the wheel.

    python scripts/smoke_installed.py [--tls-dsn DSN] [--no-server] [--core-only]

Run it with the Python of an environment into which the wheel was installed, from a folder that is no checkout. The
workflow runs on an embedded server, and with --tls-dsn on that one too, whose connections must be encrypted.
--no-server is for platforms that have no embedded server; --core-only for those where not even psycopg has wheels.
Exits non-zero, saying why, when something is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib
import importlib.util
import platform
import re
import subprocess
import sys
import types
from pathlib import Path

# Extras and tools: the package must run without them, so nothing of it may import them.
NOT_NEEDED = ("numpy", "matplotlib", "scipy", "pandas", "pytest", "dbos", "absurd_sdk", "Cython", "setuptools")


def check(condition: object, complaint: str) -> None:
    if not condition:
        sys.exit(f"smoke: {complaint}")


def say(line: str) -> None:
    print(f"smoke: {line}", flush=True)


def mapped(pattern: str) -> set[Path]:
    """The files in this process's memory whose names match."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    paths = {Path(fields[5]) for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    return {path for path in paths if re.match(pattern, path.name)}


def check_libpq_is_inside() -> None:
    import pgdurable._core as core

    module = Path(core.__file__)
    check(Path(sys.prefix) in module.parents, f"the core that was imported is not this environment's: {module}")
    if sys.platform.startswith("linux"):
        site = module.parent.parent
        inside = {path.name for path in mapped("libpq[-.]") if path.parent == site / "pgdurable.libs"}
        check(inside, "the core's libpq does not come from pgdurable.libs")
        strangers = {path for path in mapped("libpq[-.]") if site not in path.parents}
        check(not strangers, f"a libpq of the machine was loaded: {', '.join(map(str, strangers))}")
        say(f"libpq is {inside.pop()} from inside the wheel")
    flusher = core.Flusher({})
    try:
        # A socket that is not there: how it fails shows how this libpq was built.
        flusher.connect("host=/nowhere user=nobody dbname=none sslmode=require", None, [])
    except Exception as error:
        failure = str(error)
    else:
        failure = ""
    check("/nowhere" in failure, f"the refusal of a missing socket was expected, not: {failure!r}")
    say(f"libpq {core.libpq_version()} has TLS")


def stand_in_for_the_package() -> None:
    """Makes `import pgdurable._core` import that one module, and not the package with its dependencies first."""
    spec = importlib.util.find_spec("pgdurable")
    assert spec is not None
    package = types.ModuleType("pgdurable")
    package.__path__ = spec.submodule_search_locations
    sys.modules["pgdurable"] = package


def check_nothing_more_is_needed(core_only: bool) -> None:
    importlib.import_module("pgdurable._core")
    if not core_only:
        importlib.import_module("pgdurable.cli")
        help_text = subprocess.run(
            [Path(sys.executable).with_name("pgdurable"), "--help"], check=True, capture_output=True, text=True
        ).stdout
        check("worker" in help_text, f"pgdurable --help says {help_text!r}")
    imported = [name for name in NOT_NEEDED if name in sys.modules]
    check(not imported, f"importing pgdurable imports {', '.join(imported)}")


def is_hidden(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return True
    return False


async def run_workflow(dsn: str, *, expect_tls: bool) -> None:
    import psycopg

    import pgdurable as pgd

    @pgd.step
    async def double(n: int) -> int:
        return 2 * n

    @pgd.transaction
    async def note(tx: psycopg.AsyncConnection, n: int) -> int:
        await tx.execute("insert into smoke values (%s)", (n,))
        cursor = await tx.execute("select count(*) from pg_stat_ssl where ssl and pid = pg_backend_pid()")
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    @pgd.workflow(name="smoke", version="1")
    async def smoke(n: int) -> list[int]:
        doubled = await asyncio.gather(*(double(i) for i in range(n)))
        await asyncio.sleep(0.05)
        encrypted = await note(sum(doubled))
        more = await pgd.wait_signal("more", timeout=30)
        return [sum(doubled), more, encrypted]

    # Closed of itself neither by commit nor by the end of the block, in psycopg: so closed here.
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with connection:
        await connection.execute("create table smoke (n int)")
        async with pgd.Engine(dsn, migrate=True) as engine:
            handle = await engine.start(smoke, 100, id="smoke/1")
            await handle.signal("more", 7)
            result = await handle.result(timeout=60)
            check(result == [9900, 7, int(expect_tls)], f"the workflow's result is {result}")
            cursor = await connection.execute(
                "select count(*) filter (where s.ssl), count(*), min(s.version)"
                " from pg_stat_activity a join pg_stat_ssl s using (pid)"
                " where a.backend_type = 'client backend' and a.datname = current_database()"
            )
            row = await cursor.fetchone()
            assert row is not None
            encrypted, connections, version = row
        cursor = await connection.execute("select n from smoke")
        check(await cursor.fetchall() == [(9900,)], "the transaction step left no row, or several")
    check(connections >= 3, f"only {connections} connections were seen")
    check(encrypted == (connections if expect_tls else 0), f"{encrypted} of {connections} connections are encrypted")
    say(f"the workflow ran over {connections} connections, {version or 'a local socket'}")


def check_core_is_encrypted(dsn: str) -> None:
    """The core's own connection, by its process id on the server; the others are psycopg's and have its libpq."""
    import psycopg

    import pgdurable._core as core

    flusher = core.Flusher({})
    flusher.connect(dsn, None, [])
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select ssl, version, cipher from pg_stat_ssl where pid = %s", (flusher.backend_pid,)
        ).fetchone()
    flusher.close()
    check(row is not None and row[0], f"the core's connection is not encrypted: {row}")
    assert row is not None
    say(f"the core's connection is encrypted: {row[1]}, {row[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Smoke test of the pgdurable that is installed here.")
    parser.add_argument("--tls-dsn", help="a server that speaks TLS, and a database in which anything may be made")
    parser.add_argument("--no-server", action="store_true", help="run no workflow on an embedded server")
    parser.add_argument("--core-only", action="store_true", help="import the compiled core and nothing else")
    parser.add_argument(
        "--libpq-is-hidden", action="store_true", help="fail unless the machine's libpq is out of reach"
    )
    options = parser.parse_args()

    say(f"Python {platform.python_version()} on {platform.platform()}")
    check(importlib.util.find_spec("pgdurable"), "pgdurable is not installed here")
    if options.core_only:
        stand_in_for_the_package()
    if options.libpq_is_hidden:
        check(is_hidden("libpq.so.5"), "the machine's libpq.so.5 can still be loaded")
    check_nothing_more_is_needed(options.core_only)
    if not options.no_server and not options.core_only:
        import pgdurable as pgd

        with pgd.embedded() as dsn:
            asyncio.run(run_workflow(dsn, expect_tls=False))
    if options.tls_dsn:
        asyncio.run(run_workflow(options.tls_dsn, expect_tls=True))
        check_core_is_encrypted(options.tls_dsn)
    check_libpq_is_inside()
    say("all well")


if __name__ == "__main__":
    main()
