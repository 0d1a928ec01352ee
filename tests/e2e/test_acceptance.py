"""Behaviours that people have come to look for in engines like this one, each with a crash where that matters.

Those that have a home with their feature are listed, with these, in docs/capabilities.md.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pgdurable as pgd

from .namespace import Namespace, until

RAN: list[str] = []


@pgd.step(name="acceptance_note")
async def note(text: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    RAN.append(text)
    return text


@pgd.workflow(name="acceptance_once")
async def once(text: str) -> str:
    await note(text)
    await pgd.wait_signal("go")
    return f"{text} done"


@pgd.workflow(name="acceptance_race")
async def race() -> list[str]:
    tasks = {name: asyncio.ensure_future(note(name, seconds)) for name, seconds in (("slow", 0.4), ("quick", 0.05))}
    done, _ = await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    first = [task.result() for task in done]
    await pgd.wait_signal("go")
    return [*first, *sorted([await task for task in tasks.values()])]


@pgd.workflow(name="acceptance_waits")
async def waits() -> str:
    return str(await pgd.wait_signal("go"))


ALL = (once, race, waits)


async def test_two_starts_of_one_id_at_once_are_one_body_with_two_equal_results(ns: Namespace) -> None:
    RAN.clear()
    async with ns.engine(*ALL) as one, ns.engine(*ALL) as other:
        handles = await asyncio.gather(*(engine.start(once, "x", id="same") for engine in (one, other) * 10))
        assert len({handle.instance_id for handle in handles}) == 1
        await handles[0].signal("go")
        assert {await handle.result(timeout=20) for handle in handles} == {"x done"}
    assert RAN == ["x"]


async def test_who_won_a_race_is_the_same_after_a_crash(ns: Namespace) -> None:
    RAN.clear()
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(race)
        await until(lambda: ns.history(handle, "name") == [("acceptance_note",)] * 2, "both have ended")
    # Replayed, both results are there at once: the first in history is first again.
    async with ns.engine(*ALL) as engine:
        handle = pgd.Handle(engine, handle.instance_id)
        await handle.signal("go")
        assert await handle.result(timeout=20) == ["quick", "quick", "slow"]
    assert RAN == ["quick", "slow"]


async def test_a_thousand_waiting_instances_hold_no_threads(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        before = threading.active_count()
        handles = await engine.start_many(waits, [()] * 1000)
        await until(lambda: engine.metrics()["instances"] == 1000, "they are here")
        results = [asyncio.ensure_future(handle.result(timeout=60)) for handle in handles]
        await asyncio.sleep(0)
        assert threading.active_count() <= before + 2  # psycopg's pools may have added theirs
        await asyncio.gather(*(handle.signal("go", n) for n, handle in enumerate(handles)))
        assert await asyncio.gather(*results) == [str(n) for n in range(1000)]


async def test_an_instance_that_nobody_refers_to_survives_the_garbage_collector(ns: Namespace) -> None:
    async with ns.engine(*ALL, park_after=3600) as engine:
        ids: list[Any] = [(await engine.start(waits)).instance_id for _ in range(20)]
        for _ in range(3):
            gc.collect()
        for id in ids:
            await pgd.Handle(engine, id).signal("go", "on")
        for id in ids:
            assert await pgd.Handle(engine, id).result(timeout=20) == "on"
