"""kill -9 of workers around a tick: each tick has one instance, none is lost, none is doubled."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from datetime import datetime, timedelta

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate

from .driver import ROOT

EVERY_S = 0.25


@pgd.workflow(name="crash_tick")
async def tick() -> None:
    return None


async def worker(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[tick], lease=3, poll_interval=0.1):
        await asyncio.Event().wait()


async def begin(dsn: str, schema: str, probe: str | None) -> asyncio.subprocess.Process:
    env = {key: value for key, value in os.environ.items() if key != "PGDURABLE_PROBE"}
    if probe is not None:
        env["PGDURABLE_PROBE"] = probe
    package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"{package}.test_schedules",
        dsn,
        schema,
        env=env,
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("point", ["schedule.computed", "schedule.committed"])
async def test_a_tick_fires_once_whoever_is_killed(dsn: str, schema: str, point: str) -> None:
    migrate(dsn, schema)
    lives: list[asyncio.subprocess.Process] = []
    async with pgd.Client(dsn, schema=schema) as client:
        made = await client.schedule("beat", tick, every=EVERY_S, overlap="allow", catch_up=timedelta(hours=1))
        for count in (1, 3, 2, 4):
            lives.append(await begin(dsn, schema, f"{point}:{count}"))
            assert await asyncio.wait_for(lives[-1].wait(), 60) == -signal.SIGKILL
        lives.append(await begin(dsn, schema, None))
        lives.append(await begin(dsn, schema, None))
        until = await client._database.one("time", None)
        try:
            for _ in range(3000):
                found = await client.schedules.get("beat")
                if found.last_at is not None and found.last_at.timestamp() * 1e6 > until + 1e6:
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail(f"it does not go on: {found}")
            await client.schedules.pause("beat")
        finally:
            for life in lives[-2:]:
                life.kill()
                await life.wait()
    with psycopg.connect(dsn, autocommit=True) as conn:
        rows = conn.execute(
            f"select i.labels ->> 'scheduled_at', k.id from {schema}.instances i"
            f" join {schema}.instance_keys k on k.instance_id = i.id order by 1"
        ).fetchall()
        counted = conn.execute(f"select started, missed, skipped from {schema}.schedules").fetchone()
    assert made.anchor is not None
    assert len(rows) > 8
    for n, (at, _) in enumerate(rows, 1):
        assert datetime.fromisoformat(at) == made.anchor + n * timedelta(seconds=EVERY_S)
    assert counted == (len(rows), 0, 0)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with whoever started it
    asyncio.run(worker(sys.argv[1], sys.argv[2]))
