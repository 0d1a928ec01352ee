"""Tasks that lose a cancellation end all the same."""

from __future__ import annotations

import asyncio

from pgdurable._engine.tasks import end_tasks


async def test_a_task_that_loses_one_cancellation() -> None:
    lost = 0

    async def loop() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost += 1  # what wait_for does before Python 3.12 when its work ends in the same turn

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await asyncio.wait_for(end_tasks(task, None), 20)
    assert task.cancelled()
    assert lost == 1
