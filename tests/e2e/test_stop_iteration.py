"""A step that raises StopIteration fails like any other."""

from __future__ import annotations

import pgdurable as pgd


@pgd.step(retry=pgd.Retry(max_attempts=1))
def exhausted() -> int:
    return next(iter([]))


@pgd.workflow(name="takes_the_next")
async def takes_the_next() -> str:
    try:
        await exhausted()
    except RuntimeError as error:
        return str(error)
    return "went on"


async def test_stop_iteration_in_a_thread_step(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, migrate=True, workflows=[takes_the_next]) as engine:
        handle = await engine.start(takes_the_next)
        assert await handle.result(timeout=20) == "a step raised StopIteration"
