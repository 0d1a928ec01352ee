"""A history of 10,000 rows: a warning says so, once, with advice; and doctor names the instance."""

from __future__ import annotations

import logging

import pytest

import pgdurable as pgd

from .namespace import Namespace, until


@pgd.step
async def tick(n: int) -> int:
    return n


@pgd.workflow(name="long_history")
async def ticks(n: int) -> str:
    for i in range(n):
        await tick(i)
    return await pgd.wait_signal("enough", type=str)


@pytest.mark.parametrize(("rows", "warnings"), [(9_990, 0), (10_050, 1)])
async def test_a_long_history_is_warned_of_once(
    ns: Namespace, caplog: pytest.LogCaptureFixture, rows: int, warnings: int
) -> None:
    async with ns.engine(ticks) as engine:
        handle = await engine.start(ticks, rows, id="long")
        await until(lambda: ns.one("select count(*) from @.history") == rows, "all steps are recorded", 120)
    async with ns.engine(ticks) as engine:  # replayed, it is not said again
        again = await engine.get("long")
        await again.signal("enough", "done")
        assert await again.result(60) == "done"
        assert handle.id == "long"
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    said = [text for text in messages if "rows of history" in text]
    assert len(said) == warnings
    assert all("instance long (workflow long_history v1) has 10,000 rows" in text for text in said)
    assert all("continue_as_new" in text for text in said)
