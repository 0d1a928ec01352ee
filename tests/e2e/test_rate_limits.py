"""Rate limits of steps: never more than so many begin within any span, whoever runs them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, until


def most_within(times: Sequence[float], span: float) -> int:
    """How many of them fit into a span, wherever it begins."""
    ordered = sorted(times)
    most = first = 0
    for last, at in enumerate(ordered):
        while ordered[first] <= at - span:
            first += 1
        most = max(most, last - first + 1)
    return most


def test_the_measure_finds_a_burst() -> None:
    assert most_within([0, 0.1, 0.9, 1.0, 1.05], 1.0) == 4
    assert most_within([0.0, 1.0, 2.0], 1.0) == 1


@pytest.mark.parametrize("in_thread", [False, True])
async def test_never_more_than_n_within_any_span_over_two_workers(ns: Namespace, in_thread: bool) -> None:
    began: list[float] = []

    @pgd.step(rate_limit=(20, 0.4))
    async def call() -> None:
        began.append(time.monotonic())

    @pgd.step(name="call", rate_limit=(20, 0.4))
    def call_in_thread() -> None:
        began.append(time.monotonic())

    step = call_in_thread if in_thread else call

    @pgd.workflow
    async def calls() -> None:
        await asyncio.gather(*(step() for _ in range(10)))

    async with ns.engine(calls, name="a") as one, ns.engine(calls, name="b") as two:
        handles = [await engine.start(calls) for engine, _ in itertools.product((one, two), range(8))]
        await asyncio.gather(*(h.result(timeout=60) for h in handles))
    assert len(began) == 160
    assert most_within(began, 0.4) <= 20
    # Turns are claimed many at a time: 160 of them leave few rows.
    assert ns.one("select count(*) from @.step_turns") <= 40


async def test_a_rate_goes_on_after_a_crash_of_its_holder(ns: Namespace) -> None:
    """What another engine had taken counts until its span is over; then there are turns again."""
    began: list[float] = []
    hang = [True]

    @pgd.step(rate_limit=(2, 1.0))
    async def call() -> None:
        began.append(time.monotonic())
        if hang[0]:
            await asyncio.sleep(60)

    @pgd.workflow
    async def calls() -> None:
        await asyncio.gather(*(call() for _ in range(2)))

    engine = ns.engine(calls)
    await engine.open()
    h = await engine.start(calls)
    await until(lambda: len(began) == 2, "both run")
    await engine.stop(drain=0)
    await engine.close()
    hang[0] = False
    async with ns.engine(calls) as engine:
        await (await engine.get(h.id)).result(timeout=30)
    assert len(began) == 4
    assert most_within(began, 1.0) <= 2


async def test_attempts_count_and_a_waiting_one_can_be_cancelled(ns: Namespace) -> None:
    began: list[float] = []

    @pgd.step(rate_limit=(1, 0.3), retry=pgd.Retry(max_attempts=3, initial=0.0))
    async def call() -> None:
        began.append(time.monotonic())
        if len(began) < 3:
            raise OSError("again")

    @pgd.step(name="slow", rate_limit=(1, 60))
    async def rare(n: int) -> int:
        return n

    @pgd.workflow
    async def calls() -> list[Any]:
        await call()
        first = await rare(1)
        try:
            await asyncio.wait_for(rare(2), 0.1)
        except asyncio.TimeoutError:
            return [first, "waited"]
        return []

    async with ns.engine(calls) as engine:
        assert await (await engine.start(calls)).result(timeout=30) == [1, "waited"]
    assert len(began) == 3
    assert most_within(began, 0.3) == 1


def test_the_database_gives_out_no_more_turns_than_there_are(ns: Namespace) -> None:
    take = "select given, wait from @.take_turns('s', 5, 1000, %s)"
    assert ns.sql(take, 3)[0] == (3, None)
    given, wait = ns.sql(take, 3)[0]
    assert given == 2
    assert 990 < wait <= 1000
    assert ns.sql(take, 1)[0][0] == 0
    assert ns.sql("select given from @.take_turns('other', 5, 1000, 9)") == [(5,)]
    ns.sql("update @.step_turns set free_at = now() where step = 's'")
    assert ns.sql(take, 9)[0][0] == 5
    assert ns.one("select count(*) from @.step_turns where step = 's'") == 1
