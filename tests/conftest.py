"""Fixtures every test may use: a server, a private server to crash, a schema of one's own, a patient wait.

The tests run on an embedded server, or on the one that PGDURABLE_TEST_DSN names.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgdurable
from pgdurable.embedded import EmbeddedServer

TEST_DSN = os.environ.get("PGDURABLE_TEST_DSN")
# Many short-lived engines at once, each with a few connections of its own.
_ROOM_BYTES = 4 << 30
SETTINGS = {"max_connections": "200"}

# A flush waits for the disk, so examples have no deadline of hypothesis; pytest-timeout catches a hang.
hypothesis.settings.register_profile("pgdurable", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pgdurable")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Chooses the seeds, so that the header can print them before anything has a chance to hang."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))
    refuse_stale_builds()
    keep_servers_in_memory()


def keep_servers_in_memory() -> None:
    """Puts the tests' servers where their data is in memory, if there is room and nobody has said where.

    They begin in a third of the time there, and no commit waits for a disk that a dozen of them share. `fsync` is on as
    ever: what the tests break is processes and connections, never the power.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < _ROOM_BYTES:
        return
    os.environ["TMPDIR"] = str(memory)
    tempfile.tempdir = None  # looked for anew


def refuse_stale_builds() -> None:
    """Ends the run when a compiled part is older than its source: the tests would pass or fail for another text."""
    package = Path(pgdurable.__file__).parent
    for built in package.rglob("*.so"):
        source = built.with_name(built.name.split(".")[0])
        texts = [source.with_suffix(end) for end in (".pyx", ".py", ".pxd")]
        if any(text.is_file() and text.stat().st_mtime > built.stat().st_mtime for text in texts):
            pytest.exit(f"{built.name} is older than its source: run `make core` first", returncode=4)


def pytest_report_header(config: pytest.Config) -> list[str]:
    server = "embedded"
    if TEST_DSN:
        server = make_conninfo("", **{k: v for k, v in conninfo_to_dict(TEST_DSN).items() if k != "password"})
    seed = config.option.hypothesis_seed
    return [f"server: {server}", f"seed: {seed} (the same again: --hypothesis-seed={seed})"]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The session's seed, for tests that draw their own random numbers: `random.Random(seed)`."""
    return int(request.config.option.hypothesis_seed)


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The server all tests share. Do not stop it; use `schema` to be alone on it."""
    if TEST_DSN:
        yield TEST_DSN
        return
    with EmbeddedServer(settings=SETTINGS) as server:
        yield server.dsn


@pytest.fixture
def schema(dsn: str) -> Iterator[str]:
    """The name of a schema that no other test uses. It does not exist yet, and is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    with psycopg.connect(dsn, autocommit=True) as conn:
        # A test that leaves a transaction open fails here, rather than hanging the run.
        conn.execute("set lock_timeout = '10s'")
        conn.execute("set client_min_messages = warning")
        drop = sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name))
        try:
            conn.execute(drop)
        except psycopg.errors.DeadlockDetected:
            # With a statement that still ran for a client that has gone. It has been let go first, so it is over.
            conn.execute(drop)


@pytest.fixture(scope="module")
def _module_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=SETTINGS) as server:
        yield server


@pytest.fixture
def private_server(_module_server: EmbeddedServer) -> EmbeddedServer:
    """A running embedded server that only this module's tests use: crash and restart it at will."""
    _module_server.start()
    return _module_server


@pytest.fixture
def private_schema(private_server: EmbeddedServer) -> str:
    """The name of a fresh schema on `private_server`; it goes when the server goes."""
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits until a condition holds, and fails naming it when it does not within the timeout (seconds)."""

    def wait(condition: Callable[[], object], what: str, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout:g} s: {what}")
            time.sleep(0.01)

    return wait


# Files that take longest begin first: with two processes and files kept whole, one of them last would run alone.
_SLOW = ("property", "crash", "conformance", "chaos", "net")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = len(Path(__file__).parent.parts)

    def place(item: pytest.Item) -> int:
        name = item.path.parts[folder]
        return _SLOW.index(name) if name in _SLOW else len(_SLOW)

    items.sort(key=place)  # stable: within a folder all stays as it was
