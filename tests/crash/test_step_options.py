"""Steps that ask for more than retries, and workers that are killed in the middle of them with SIGKILL."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate

from .option_workflows import one_step

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class House:
    """A schema, a log of what ran, and workers to kill."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.schema = f"crash_{uuid.uuid4().hex[:12]}"
        self.log = folder / "ran"
        self.workers: list[asyncio.subprocess.Process] = []

    async def worker(self, probe: str | None = None) -> asyncio.subprocess.Process:
        package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
        env = {**os.environ, "CRASH_LOG": str(self.log)}
        env.pop("PGDURABLE_PROBE", None)
        if probe is not None:
            env["PGDURABLE_PROBE"] = probe
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"{package}.option_workflows", self.dsn, self.schema, env=env, cwd=ROOT
        )
        self.workers.append(process)
        return process

    def let_go(self) -> None:
        """From now on no step hangs."""
        Path(f"{self.log}.go").touch()

    def ran(self, step: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["step"] == step]

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return conn.execute(text.replace("@", self.schema)).fetchall()

    async def until(self, condition: Any, what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def house(dsn: str, tmp_path: Path) -> AsyncIterator[House]:
    place = House(dsn, tmp_path)
    await asyncio.to_thread(migrate, dsn, place.schema)
    try:
        yield place
    finally:
        for worker in place.workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("set client_min_messages = warning")
            conn.execute("set lock_timeout = '10s'")
            conn.execute(f"drop schema {place.schema} cascade")


async def killed(house: House, name: str, when: Any = None) -> Any:
    """The result of a step whose first worker is killed in the middle of it, and that a second one takes over."""
    async with pgd.Client(house.dsn, schema=house.schema) as client:
        first = await house.worker()
        handle = await client.start(one_step, name)
        await house.until(lambda: house.ran(name), "the step runs")
        if when is not None:
            await house.until(when, "what is waited for before the kill")
        first.kill()
        await first.wait()
        house.let_go()
        await house.worker()
        return await handle.result(timeout=PATIENCE_S)


@pytest.mark.parametrize("name", ["fax", "fax_in_thread", "fax_in_process"])
async def test_an_at_most_once_step_is_not_repeated(house: House, name: str) -> None:
    assert await killed(house, name) == f"interrupted: {name} 1"
    assert len(house.ran(name)) == 1
    kinds = house.sql("select kind from @.history order by event_id")
    assert kinds == [("pending",), ("step",)]


async def test_a_step_that_is_only_recorded_is_repeated(house: House) -> None:
    assert await killed(house, "letter") == "sent"
    assert len(house.ran("letter")) == 2
    assert house.sql("select kind, attempt from @.history order by event_id") == [
        ("pending", 1), ("pending", 1), ("step", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "result"), [("fax", "interrupted: fax 1"), ("letter", "sent")])
async def test_killed_between_the_record_and_the_attempt(house: House, name: str, result: str) -> None:
    """The record says that it may have begun, so an at_most_once step counts as begun."""
    house.let_go()
    async with pgd.Client(house.dsn, schema=house.schema) as client:
        first = await house.worker(probe="pending.committed")
        handle = await client.start(one_step, name)
        assert await asyncio.wait_for(first.wait(), PATIENCE_S) == -9
        assert house.ran(name) == []
        await house.worker()
        assert await handle.result(timeout=PATIENCE_S) == result
    assert len(house.ran(name)) == (0 if name == "fax" else 1)


@pytest.mark.parametrize("name", ["copies", "copies_in_process"])
async def test_details_of_a_heartbeat_outlive_the_worker(house: House, name: str) -> None:
    def kept() -> Any:
        return house.sql("select 1 from @.attempts where details is not null")

    assert await killed(house, name, kept) == {"rows": 1}
    assert [entry["before"] for entry in house.ran(name)] == [None, {"rows": 1}]


async def test_a_process_ends_with_its_worker(house: House) -> None:
    assert await killed(house, "counts") == 1
    pid = house.ran("counts")[0]["pid"]
    assert pid not in {worker.pid for worker in house.workers}

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await house.until(gone, "the process of the killed worker is gone")
    assert len(house.ran("counts")) == 2


async def test_a_rate_holds_over_workers_that_are_killed(house: House) -> None:
    house.let_go()
    async with pgd.Client(house.dsn, schema=house.schema) as client:
        first, _ = await house.worker(), await house.worker()
        handles = [await client.start(one_step, "limited", 10) for _ in range(8)]
        await house.until(lambda: len(house.ran("limited")) >= 15, "some of them ran")
        first.kill()
        await first.wait()
        await house.worker()
        for handle in handles:
            await handle.result(timeout=PATIENCE_S)
    times = sorted(entry["at"] for entry in house.ran("limited"))
    assert len(times) >= 80
    for begin, end in zip(times, times[10:], strict=False):
        assert end - begin > 0.5


async def test_places_of_a_killed_worker_are_free_elsewhere(house: House) -> None:
    async with pgd.Client(house.dsn, schema=house.schema) as client:
        first = await house.worker()
        handle = await client.start(one_step, "narrow", 4)
        await house.until(lambda: len(house.ran("narrow")) == 2, "as many run as may")
        first.kill()
        await first.wait()
        house.let_go()
        await house.worker()
        await handle.result(timeout=PATIENCE_S)
    assert len(house.ran("narrow")) == 6
