"""kill -9 while large payloads are written: a checkpoint and its payload are there together, or not at all."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate

from .driver import ROOT

SIZE = 100_000


@pgd.step
async def large(n: int, log: str) -> str:
    with open(log, "a") as file:  # noqa: ASYNC230
        file.write(f"{n}\n")
    return chr(ord("a") + n) * SIZE


@pgd.workflow(name="crash_large")
async def many(first: str, log: str) -> list[str]:
    found = [await large(n, log) for n in range(6)]
    return [first[:1], *(text[0] + str(len(text)) for text in found)]


async def worker(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[many], lease=3, poll_interval=0.1):
        await asyncio.Event().wait()


async def begin(dsn: str, schema: str, probe: str | None) -> asyncio.subprocess.Process:
    env = {key: value for key, value in os.environ.items() if key != "PGDURABLE_PROBE"}
    if probe is not None:
        env["PGDURABLE_PROBE"] = probe
    package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"{package}.test_payloads", dsn, schema, env=env, cwd=ROOT
    )


@pytest.mark.parametrize("point", ["step.recorded", "flush.sent", "step.committed"])
async def test_large_payloads_are_as_durable_as_small_ones(dsn: str, schema: str, tmp_path: Path, point: str) -> None:
    migrate(dsn, schema)
    log = tmp_path / "runs"
    async with pgd.Client(dsn, schema=schema) as client:
        handle = await client.start(many, "x" * SIZE, str(log))
        for count in (1, 2, 2):
            life = await begin(dsn, schema, f"{point}:{count}")
            assert await asyncio.wait_for(life.wait(), 60) == -signal.SIGKILL
            with psycopg.connect(dsn, autocommit=True) as conn:
                ((broken,),) = conn.execute(
                    f"select count(*) from {schema}.history h where h.payload ? '$pgdurable:aside'"
                    f"   and not exists (select from {schema}.payloads p where p.instance_id = h.instance_id"
                    "                    and p.hash = h.payload #>> '{$pgdurable:aside,hash}')"
                ).fetchall()
            assert broken == 0
        life = await begin(dsn, schema, None)
        try:
            assert await handle.result(60) == ["x", *(f"{chr(ord('a') + n)}{SIZE}" for n in range(6))]
        finally:
            life.kill()
            await life.wait()
    runs = log.read_text().split()
    assert sorted(set(runs)) == [str(n) for n in range(6)]
    assert len(runs) <= 6 + 3  # each death repeats at most the step whose checkpoint was not acknowledged
    if point == "step.committed":
        assert len(runs) == 6


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with whoever started it
    asyncio.run(worker(sys.argv[1], sys.argv[2]))
