"""The pytest plugin as its users meet it: with pytest-asyncio, with anyio, with neither; and unused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOWS = """
import asyncio
import pgdurable as pgd

@pgd.step
async def greet(name: str) -> str:
    return "hello " + name

@pgd.workflow(name="plugin.greeting")
async def greeting(name: str) -> str:
    await asyncio.sleep(0.01)
    return await greet(name)
"""

ASYNC = """
import asyncio
import pytest
import pgdurable
from pgdurable.testing import Simulation
from workflows import greet, greeting

{mark}

async def test_a_simulation(simulation):
    assert type(simulation) is Simulation
    simulation.mock(greet, returns="mocked")
    handle = await simulation.start(greeting, "ann")
    assert await handle.result() == "mocked"

async def test_an_engine(durable_engine, durable_database):
    assert type(durable_engine) is pgdurable.Engine
    handle = await durable_engine.start(greeting, "ann", id="the same in both tests")
    assert await handle.result(timeout=20) == "hello ann"
    async with pgdurable.Client(durable_database.dsn, schema=durable_database.schema) as client:
        assert [info.id async for info in client.list()] == ["the same in both tests"]

class TestInAClass:
    async def test_another_engine_has_another_schema(self, durable_engine, simulation):
        handle = await durable_engine.start(greeting, "bob", id="the same in both tests")
        assert await handle.result(timeout=20) == "hello bob"
        assert await (await simulation.start(greeting, "cid")).result() == "hello cid"

@pytest.mark.simulation(seed=7)
@pytest.mark.durable_engine(name="by a marker")
async def test_options(simulation, durable_engine):
    assert durable_engine._settings.name == "by a marker"
    first = (await simulation.start(greeting, "ann")).id
    async with Simulation(seed=7) as other:
        assert (await other.start(greeting, "ann")).id == first

@pytest.fixture
async def engine(durable_database):
    async with pgdurable.Engine(durable_database.dsn, schema=durable_database.schema) as engine:
        yield engine

async def test_a_fixture_of_ones_own(engine):
    assert await (await engine.start(greeting, "dan")).result(timeout=20) == "hello dan"
"""

BLOCKING = """
import pgdurable
import pytest
from workflows import greet, greeting

def test_a_simulation(simulation):
    simulation.mock(greet, returns="mocked")
    handle = simulation.start(greeting, "ann", id="g-1")
    simulation.advance(days=1)
    assert handle.status() == "completed"
    assert handle.result() == "mocked"
    assert [entry.kind for entry in handle.history()] == ["started", "timer", "step", "completed"]
    assert [info.id for info in simulation.list()] == ["g-1"]
    assert len(simulation.calls(greet)) == 1
    many = simulation.start_many(greeting, ["ann", "bob"])
    assert [handle.result() for handle in many] == ["mocked", "mocked"]
    assert "pgdurable.history" in simulation.export(handle)
    simulation.crash()
    with pytest.raises(pgdurable.InstanceNotFound):
        simulation.get("nobody")

def test_an_engine(durable_engine):
    assert type(durable_engine) is pgdurable.sync.Engine
    assert durable_engine.start(greeting, "ann").result(timeout=20) == "hello ann"
"""

LIGHT = """
import sys

def test_nothing_was_imported():
    assert "pytest_pgdurable" in sys.modules
    assert not [name for name in sys.modules if name.startswith(("pgdurable", "psycopg", "msgspec"))]
"""


@pytest.fixture
def run(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs a test file with these plugins and no others of ours; returns its output."""
    monkeypatch.setenv("PGDURABLE_TEST_DSN", dsn)
    (tmp_path / "workflows.py").write_text(WORKFLOWS)

    def go(text: str, *plugins: str) -> str:
        (tmp_path / "test_it.py").write_text(text)
        without = {"asyncio", "anyio", "benchmark", "xdist", "timeout", "hypothesispytest"} - set(plugins)
        words = [word for name in sorted(without) for word in ("-p", f"no:{name}")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *words, "test_it.py"],
            cwd=tmp_path, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        return done.stdout + done.stderr

    return go


def test_with_pytest_asyncio(run: object, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    output = run(ASYNC.format(mark=""), "asyncio")  # type: ignore[operator]
    assert "5 passed" in output, output


def test_with_anyio(run: object) -> None:
    mark = "pytestmark = pytest.mark.anyio\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    output = run(ASYNC.format(mark=mark), "anyio")  # type: ignore[operator]
    assert "5 passed" in output, output


def test_with_neither(run: object) -> None:
    output = run(BLOCKING)  # type: ignore[operator]
    assert "2 passed" in output, output


def test_unused_it_imports_nothing(run: object) -> None:
    output = run(LIGHT)  # type: ignore[operator]
    assert "1 passed" in output, output


def test_its_fixtures_are_told(run: object, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    for name in ("simulation", "durable_engine", "durable_database", "durable_server"):
        assert f"{name} " in done.stdout
