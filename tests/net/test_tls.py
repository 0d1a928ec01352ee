"""What libpq can do on the way to a server, the engine, the client, transaction steps and the command line can do too:
TLS that proves who the server is, passwords by SCRAM, service files, several hosts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from e2e.namespace import Namespace

import pgdurable as pgd
from pgdurable._core import Flusher
from pgdurable._store.sql import named_queries
from pgdurable.embedded import EmbeddedServer

from .gate import Certificates, Gate

PASSWORD = "correct horse"


@pgd.step
async def plain(n: int) -> int:
    return n + 1


@pgd.transaction
async def in_transaction(tx: psycopg.AsyncConnection, n: int) -> str:
    row = await (await tx.execute("select current_user, %s::int", (n,))).fetchone()
    return f"{row[0]} {row[1]}"


@pgd.transaction
def in_blocking_transaction(tx: psycopg.Connection, n: int) -> int:
    return tx.execute("select %s::int + 1", (n,)).fetchone()[0]


@pgd.workflow
async def all_ways(n: int) -> list:
    return [await plain(n), await in_transaction(n), await in_blocking_transaction(n)]


async def works(dsn: str, schema: str, user: str) -> None:
    """Engine, client, both kinds of transaction step, and the command line, over this DSN."""
    async with pgd.Engine(dsn, schema=schema, workflows=[all_ways]) as engine:
        assert await (await engine.start(all_ways, 1)).result(timeout=20) == [2, f"{user} 1", 2]
        async with pgd.Client(dsn, schema=schema) as client:
            handle = await client.start("all_ways", 2, id="by the client")
            assert await handle.result(timeout=20) == [3, f"{user} 2", 3]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "pgdurable.cli", "list", "--dsn", dsn, "--schema", schema],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("completed") == 2


@pytest.fixture
def secured(ns: Namespace, certificates: Certificates) -> Iterator[Gate]:
    with Gate(ns.dsn, tls=certificates) as gate:
        yield gate


def has_no_tls(gate: Gate) -> bool:
    """Whether the core's libpq is the embedded wheel's, good for one machine only: then its error is all there is."""
    try:
        Flusher({}).connect(gate.dsn(sslmode="require", user="nobody"), None, [])
    except ConnectionError as error:
        return "SSL support is not compiled in" in str(error)
    return False


def user_of(ns: Namespace) -> str:
    return str(ns.one("select current_user"))


async def test_tls_that_proves_the_server(ns: Namespace, secured: Gate, certificates: Certificates) -> None:
    dsn = secured.dsn(sslmode="verify-full", sslrootcert=str(certificates.ca))
    if has_no_tls(secured):
        with pytest.raises(pgd.ConnectionFailed) as failed:
            await works(dsn, ns.schema, user_of(ns))
        assert "SSL support is not compiled in" in str(failed.value)
        return
    await works(dsn, ns.schema, user_of(ns))
    assert secured.tls_sessions >= 5


async def test_a_server_that_cannot_prove_itself_is_refused(
    ns: Namespace, secured: Gate, certificates: Certificates
) -> None:
    wrong_authority = secured.dsn(sslmode="verify-full", sslrootcert=str(certificates.other_ca))
    wrong_name = secured.dsn(sslmode="verify-full", sslrootcert=str(certificates.ca), host="db.example")
    for dsn, text in (
        (wrong_authority, "certificate verify failed"),
        (wrong_name, 'does not match host name "db.exam'),
    ):
        for face in (pgd.Engine(dsn, schema=ns.schema, workflows=[all_ways]), pgd.Client(dsn, schema=ns.schema)):
            with pytest.raises(pgd.ConnectionFailed, match="cannot use PostgreSQL at ") as failed:
                await face.open()
            assert text in (failed.value.detail or "")
            assert "sslrootcert" in (failed.value.hint or "")
        with pytest.raises(ConnectionError, match="SSL support is not compiled in" if has_no_tls(secured) else text):
            Flusher(named_queries("flush", ns.schema)).connect(dsn, None, [])


async def test_several_hosts_and_the_one_that_takes_writes(ns: Namespace, tmp_path: Path) -> None:
    with Gate(ns.dsn, read_only=True) as standby, Gate(ns.dsn) as primary:
        dsn = primary.dsn(
            host=f"{tmp_path},localhost,localhost", hostaddr=None, port=f"5432,{standby.port},{primary.port}",
            target_session_attrs="read-write",
        )  # fmt: skip
        await works(dsn, ns.schema, user_of(ns))
        assert standby.turns > 0
        assert primary.turns > standby.turns


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server that lets nobody in without a password, but its own superuser."""
    folder = tmp_path_factory.mktemp("hba")
    rules = folder / "hba.conf"
    rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    # One folder of pytest's more where several processes share the tests.
    for path in (folder, *(parent for parent in folder.parents if parent.name.startswith(("pytest-", "popen-")))):
        path.chmod(0o755)
    with EmbeddedServer(settings={"hba_file": str(rules), "password_encryption": "scram-sha-256"}) as server:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(f"create role ann login password '{PASSWORD}'")
            conn.execute("grant create on database postgres to ann")
        yield server


async def test_a_password_by_scram_from_a_service_file(
    guarded: EmbeddedServer, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gate(guarded.dsn, tls=certificates) as gate, Gate(guarded.dsn) as plain_gate:
        mode = f"verify-full\nsslrootcert={certificates.ca}"
        if has_no_tls(gate):
            gate, mode = plain_gate, "disable"
        service = tmp_path / "services.conf"
        service.write_text(
            f"[shop]\nhost=localhost\nhostaddr=127.0.0.1\nport={gate.port}\ndbname=postgres\nuser=ann\n"
            f"password={PASSWORD}\nsslmode={mode}\n"
        )
        monkeypatch.setenv("PGSERVICEFILE", str(service))
        with Namespace("service=shop", "shop"):
            await works("service=shop", "shop", "ann")
        for wrong in ("service=shop password=wrong", "service=shop user=bob"):
            with pytest.raises(pgd.ConnectionFailed) as failed:
                await pgd.Client(wrong, schema="shop").open()
            assert "password authentication failed" in (failed.value.detail or "")
            assert PASSWORD not in str(failed.value)
            assert "service shop" in str(failed.value)
            with pytest.raises(ConnectionError, match="password authentication failed"):
                Flusher(named_queries("flush", "shop")).connect(wrong, None, [])
        with pytest.raises(pgd.ConnectionFailed, match="no-such"):
            await pgd.Client("service=no-such").open()
