"""kill -9 of the worker while it is talked to: replies, published state and streams come out as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate

POINTS = [
    "update.recorded", "update.committed", "update.rejected", "reply.committed", "state.committed", "stream.committed",
]  # fmt: skip


async def worker(dsn: str, schema: str, probe: str | None) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PGDURABLE_PROBE": probe} if probe else dict(os.environ)
    return await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("talker.py")), dsn, schema, env=environment
    )


@pytest.mark.parametrize("point", POINTS)
async def test_killed_while_it_is_talked_to(dsn: str, schema: str, point: str) -> None:
    migrate(dsn, schema)
    first = await worker(dsn, schema, f"{point}:1")
    second = None
    try:
        async with pgd.Client(dsn, schema=schema) as client:
            h = await client.start("talker")
            asked = [asyncio.ensure_future(h.update("add", n, timeout=60)) for n in (1, 2, -1, 3)]
            assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL
            second = await worker(dsn, schema, None)
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(found[2], pgd.UpdateRejected)
            replies = [each for each in found if not isinstance(each, BaseException)]
            assert len(replies) == 3
            assert max(replies) == 6
            assert await h.wait_state("total", 6, timeout=60) == 6
            await h.signal("end")
            assert await h.result(timeout=60) == 6
            log = [item async for item in h.stream("log")]
            assert sorted(item for item in log if item.startswith("step")) == ["step 1", "step 2", "step 3"]
            totals = [item for item in log if item.startswith("total")]
            assert len(totals) == 3
            assert totals[-1] == "total 6"
            kinds = [entry.kind async for entry in h.history()]
            assert (kinds.count("update"), kinds.count("reply")) == (3, 3)
    finally:
        for process in (first, second):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
