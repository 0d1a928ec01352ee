"""Tasks that lose a cancellation end all the same."""

from __future__ import annotations

import asyncio

import pytest

from pgdurable._engine.tasks import Bell, end_tasks, within


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


async def test_a_bell_rung_before_the_wait_is_not_missed() -> None:
    bell = Bell()
    assert not await bell.wait(0.0)
    bell.ring()
    assert await bell.wait(60)
    bell.clear()
    asyncio.get_running_loop().call_soon(bell.ring)
    assert await bell.wait(60)


async def test_within_gives_up_or_gives_the_result() -> None:
    assert await within(None, asyncio.sleep(0, 1)) == 1
    assert await within(60, asyncio.sleep(0, 2)) == 2
    with pytest.raises(asyncio.TimeoutError):
        await within(0.0, asyncio.Event().wait())
