"""A step whose task is cancelled from outside, as at the end of an event loop, has not failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pgdurable as pgd


async def cancelled_once(calls: int) -> int:
    if calls == 1:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.Event().wait()
    return calls


async def test_cancelled_from_outside_runs_again(dsn: str, schema: str) -> None:
    calls = {"step": 0, "transaction": 0}

    @pgd.step(retry=pgd.Retry(max_attempts=1))
    async def step() -> int:
        calls["step"] += 1
        return await cancelled_once(calls["step"])

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    async def transaction(tx: Any) -> int:
        calls["transaction"] += 1
        return await cancelled_once(calls["transaction"])

    @pgd.workflow
    async def both() -> list[int]:
        return [await step(), await transaction()]

    async with pgd.Engine(dsn, schema=schema, migrate=True, workflows=[both]) as engine:
        handle = await engine.start(both)
        assert await handle.result(timeout=20) == [2, 2]
        kinds = [(entry.kind, entry.attempt) async for entry in handle.history()]
        assert kinds == [("started", None), ("step", 1), ("step", 1), ("completed", None)]
