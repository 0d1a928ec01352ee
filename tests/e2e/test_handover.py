"""A worker that stops in good order: what runs no step goes on elsewhere at once, the rest after its running steps."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, until

ran: Counter[str] = Counter()
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()
    gates.clear()


@pgd.step
async def gated(name: str) -> str:
    ran[name] += 1
    await gates.setdefault(name, asyncio.Event()).wait()
    return name


@pgd.step
async def quick(name: str) -> str:
    ran[name] += 1
    return name


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=60.0, max_interval=60.0, jitter=0.0))
async def fails(name: str) -> str:
    ran[name] += 1
    raise ValueError("not yet")


async def waiter() -> Any:
    return await pgd.wait_signal("go")


async def two_steps(name: str) -> list[str]:
    return [await gated(name), await quick(name + "/after")]


async def impatient(name: str) -> str:
    try:
        return await asyncio.wait_for(gated(name), 1.0)
    except asyncio.TimeoutError:
        return "too slow, " + str(await pgd.wait_signal("why"))


async def stubborn(name: str) -> str:
    return await fails(name)


async def stream(n: int) -> int:
    for i in range(5):
        await quick(f"{n}/{i}")
        await asyncio.sleep(0.05)
    return n


WORKFLOWS = [pgd.Workflow(fn) for fn in (waiter, two_steps, impatient, stubborn, stream)]


def state(ns: Namespace, worker: int) -> str:
    return str(ns.one("select state from @.workers where id = %s", worker))


async def test_what_only_waits_goes_on_elsewhere_while_a_step_still_runs(ns: Namespace) -> None:
    async with ns.engine(*WORKFLOWS, poll_interval=20, park_after=60) as one:
        waiters = [await one.start("waiter") for _ in range(300)]
        busy = await one.start("two_steps", "long")
        await until(lambda: ran["long"] == 1, "the long step runs")
        worker = one._worker.membership.worker  # type: ignore[union-attr]
        async with ns.engine(*WORKFLOWS, poll_interval=20, park_after=60) as other:
            began = time.monotonic()
            stopping = asyncio.ensure_future(one.stop(drain=None))
            for handle in waiters:
                await (await other.get(handle.id)).signal("go", "on")
            results = [await (await other.get(handle.id)).result(timeout=20) for handle in waiters]
            assert results == ["on"] * 300
            assert time.monotonic() - began < 10
            assert state(ns, worker) == "draining"
            assert not stopping.done()
            assert ns.instance(busy, "owner") == worker

            gates["long"].set()
            assert await stopping is True
            assert await (await other.get(busy.id)).result(timeout=20) == ["long", "long/after"]
            assert state(ns, worker) == "stopped"
            assert (ran["long"], ran["long/after"]) == (1, 1)  # its checkpoint went with it
            assert ns.one("select max(takeovers) from @.instances") == 0


async def test_the_next_worker_goes_on_within_a_second(ns: Namespace) -> None:
    """Polling alone would take 20 s here: the hint is what wakes it."""
    async with ns.engine(*WORKFLOWS, poll_interval=20) as one, ns.engine(*WORKFLOWS, poll_interval=20) as other:
        handle = await one.start("two_steps", "x")
        await until(lambda: ran["x"] == 1, "the step runs")
        stopping = asyncio.ensure_future(one.stop(drain=None))
        await until(lambda: state(ns, 1) == "draining", "it drains")
        gates["x"].set()
        began = time.monotonic()
        await until(lambda: ran["x/after"] == 1, "the next step runs elsewhere")
        assert time.monotonic() - began < 1.0
        assert await stopping is True
        assert await (await other.get(handle.id)).result(timeout=20) == ["x", "x/after"]


async def test_timers_and_signals_are_served_beside_a_running_step(ns: Namespace) -> None:
    """The step is given up by its workflow while the worker drains; the workflow goes on elsewhere."""
    async with ns.engine(*WORKFLOWS) as one:
        handle = await one.start("impatient", "late")
        await until(lambda: ran["late"] == 1, "the step runs")
        assert await one.stop(drain=None) is True
    assert ns.history(handle, "kind") == [("timer",)]
    assert ns.instance(handle, "status") == "waiting"
    async with ns.engine(*WORKFLOWS) as other:
        handle = await other.get(handle.id)
        await handle.signal("why", "drained")
        assert await handle.result(timeout=20) == "too slow, drained"


async def test_a_retry_that_waits_is_handed_over_with_its_count(ns: Namespace) -> None:
    async with ns.engine(*WORKFLOWS) as one:
        handle = await one.start("stubborn", "s")
        await until(lambda: ns.history(handle) == [("attempt", "fails", 1)], "the first attempt has failed")
        began = time.monotonic()
        assert await one.stop(drain=None) is True
        assert time.monotonic() - began < 10  # not the 60 s of the wait
    assert ns.instance(handle, "status") == "waiting"
    async with ns.engine(*WORKFLOWS) as other:
        await until(lambda: ns.instance(handle, "owner") == 2, "claimed")
        await until(lambda: other.metrics()["instances"] == 1, "replayed")
        assert ran["s"] == 1
        await other.stop(drain=0)


async def test_steps_that_do_not_end_in_time_are_given_up(ns: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pgdurable.engine")
    async with ns.engine(*WORKFLOWS) as one:
        handle = await one.start("two_steps", "x")
        await until(lambda: ran["x"] == 1, "the step runs")
        assert await one.stop(drain=0.1) is False
    assert "1 steps still run after 0.1 s" in caplog.text
    caplog.clear()
    assert state(ns, 1) == "stopped"
    async with ns.engine(*WORKFLOWS) as other:
        gates["x"].set()
        assert await (await other.get(handle.id)).result(timeout=20) == ["x", "x/after"]
    assert ran["x"] == 2


async def test_taken_over_while_it_drains_it_drops_what_it_held(
    ns: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pgdurable.engine")
    async with ns.engine(*WORKFLOWS) as one:
        await one.start("two_steps", "x")
        await until(lambda: ran["x"] == 1, "the step runs")
        stopping = asyncio.ensure_future(one.stop(drain=None))
        await until(lambda: state(ns, 1) == "draining", "it drains")
        ns.sql("update @.workers set state = 'dead', ended_at = now() where id = 1")
        ns.sql("delete from @.fences where worker = 1")
        assert await asyncio.wait_for(stopping, 20) is False
    assert "was taken over while it was stopping" in caplog.text
    caplog.clear()
    assert ns.one("select count(*) from @.workers") == 1  # it has not joined anew
    assert ns.one("select count(*) from @.history") == 0


async def test_a_rolling_restart_runs_nothing_twice_and_delays_nobody(ns: Namespace) -> None:
    """Three workers, each replaced in turn while workflows come in and run all the time."""
    fleet = [ns.engine(*WORKFLOWS) for _ in range(3)]
    took: list[float] = []

    async def one_after_the_other() -> None:
        for place in range(3):
            fresh = ns.engine(*WORKFLOWS)
            await fresh.open()
            old, fleet[place] = fleet[place], fresh
            assert await old.stop() is True
            await old.close()

    async def run_one(client: pgd.Client, n: int) -> None:
        began = time.monotonic()
        handle = await client.start("stream", n)
        assert await handle.result(timeout=60) == n
        took.append(time.monotonic() - began)

    for engine in fleet:
        await engine.open()
    async with ns.client() as client:
        try:
            rolling = asyncio.ensure_future(one_after_the_other())
            running = set()
            n = 0
            while not rolling.done() or n < 300:
                running.add(asyncio.ensure_future(run_one(client, n)))
                n += 1
                await asyncio.sleep(0.01)
            await rolling
            await asyncio.gather(*running)
        finally:
            for engine in fleet:
                await engine.close()
    assert len(took) == n
    again = {name: times for name, times in ran.items() if times != 1}
    assert not again  # every step was checkpointed where it ran
    assert len(ran) == 5 * n
    assert ns.one("select max(takeovers) from @.instances") == 0
    took.sort()
    assert took[len(took) // 2] < 2.0, took[len(took) // 2]
    assert took[-1] < took[len(took) // 2] + 2.0, took[-5:]
