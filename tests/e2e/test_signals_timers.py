"""Signals, timers and parking: delivered once and in order, never early, whoever is there to take them."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from typing import Any

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until


@pgd.step
async def nothing() -> None:
    pass


# --- signals ------------------------------------------------------------------------------------------------------


@pgd.workflow
async def collects(n: int, first_step: bool = False) -> list:
    if first_step:
        await nothing()
    return [await pgd.wait_signal("s") for _ in range(n)]


async def test_signals_arrive_once_and_in_the_order_sent(ns: Namespace) -> None:
    async with ns.engine(collects) as engine:
        h = await engine.start(collects, 300)
        for n in range(300):
            await h.signal("s", n)
        assert await h.result(timeout=30) == list(range(300))
        await until(lambda: ns.one("select count(*) from @.events") == 0, "the event queue is empty")
    assert ns.history(h, "name, payload") == [("s", n) for n in range(300)]


async def test_a_signal_sent_before_the_wait_before_the_first_step_or_before_any_worker_is_kept(ns: Namespace) -> None:
    async with ns.client() as client:
        early = await client.start(collects, 2, True)
        await early.signal("s", "no worker yet")
        async with ns.engine(collects) as engine:
            await early.signal("s", "later")
            assert await early.result(timeout=20) == ["no worker yet", "later"]
            h = await engine.start(collects, 1, True)
            await h.signal("s", "before the wait")
            assert await h.result(timeout=20) == ["before the wait"]


async def test_names_keep_signals_apart(ns: Namespace) -> None:
    @pgd.workflow
    async def two_names() -> list:
        return [await pgd.wait_signal("b"), await pgd.wait_signal("a"), await pgd.wait_signal("a")]

    async with ns.engine(two_names) as engine:
        h = await engine.start(two_names)
        for name, payload in (("a", 1), ("a", 2), ("b", 3)):
            await h.signal(name, payload)
        assert await h.result(timeout=20) == [3, 1, 2]


async def test_waiters_are_served_in_the_order_they_wait(ns: Namespace) -> None:
    @pgd.workflow
    async def in_line() -> list:
        return await asyncio.gather(*(pgd.wait_signal("s") for _ in range(3)))

    async with ns.engine(in_line) as engine:
        h = await engine.start(in_line)
        for n in range(3):
            await h.signal("s", n)
        assert await h.result(timeout=20) == [0, 1, 2]


async def test_a_wait_that_timed_out_takes_no_signal(ns: Namespace) -> None:
    @pgd.workflow
    async def late() -> list:
        found: list = []
        try:
            await pgd.wait_signal("s", timeout=0.05)
        except TimeoutError as error:
            found.append(str(error))
        return [*found, await pgd.wait_signal("s")]

    async with ns.engine(late) as engine:
        h = await engine.start(late)
        await until(lambda: ns.history(h), "the timer has fired")
        await h.signal("s", 1)
        assert await h.result(timeout=20) == [f"instance {h.id}: no signal 's' within 0.05 s", 1]
    assert ns.history(h, "kind") == [("timer",), ("signal",)]


@dataclasses.dataclass
class Approval:
    by: str
    cents: int = 0


async def test_payloads_are_any_json_and_decoded_to_the_type_asked_for(ns: Namespace) -> None:
    @pgd.workflow
    async def typed() -> list:
        plain = await pgd.wait_signal("s")
        none = await pgd.wait_signal("s")
        approval = await pgd.wait_signal("s", type=Approval)
        assert type(approval) is Approval
        try:
            await pgd.wait_signal("s", type=Approval)
        except pgd.CodecError as error:
            return [plain, none, approval.by, approval.cents, str(error)]
        return []

    async with ns.engine(typed) as engine:
        h = await engine.start(typed)
        for payload in ({"a": [1, None]}, None, Approval("ann", 5), {"cents": "x"}):
            await h.signal("s", payload)
        *found, error = await h.result(timeout=20)
    assert found == [{"a": [1, None]}, None, "ann", 5]
    assert "signal 's'" in error


async def test_an_ended_instance_takes_no_signal(ns: Namespace) -> None:
    async with ns.engine(collects) as engine:
        h = await engine.start(collects, 0)
        await h.result(timeout=20)
        with pytest.raises(pgd.InstanceFinished, match="has ended"):
            await h.signal("s")
        with pytest.raises(pgd.InstanceNotFound, match="no instance has the id 'nobody'"):
            await engine.signal("nobody", "s")
        with pytest.raises(pgd.InvalidInput, match="a signal's name"):
            await engine.signal((await engine.start(collects, 1)).id, "")


async def test_signals_of_an_open_transaction_arrive_when_it_commits(ns: Namespace) -> None:
    async with ns.engine(collects) as engine:
        h = await engine.start(collects, 2)
        with psycopg.connect(ns.dsn) as conn:
            conn.execute(f"select {ns.schema}.signal(%s, 's', '\"open\"')", (h.id,))
            await h.signal("s", "committed first")
            await until(lambda: ns.history(h), "the second signal has arrived")
            conn.commit()
            conn.execute(f"select {ns.schema}.signal(%s, 's', '\"rolled back\"')", (h.id,))
            conn.rollback()
        assert await h.result(timeout=20) == ["committed first", "open"]


# --- timers -------------------------------------------------------------------------------------------------------


async def test_timers_never_fire_early_by_the_database_s_clock(ns: Namespace) -> None:
    @pgd.workflow
    async def sleeps(delay: float) -> None:
        await nothing()
        await asyncio.sleep(delay)

    async with ns.engine(sleeps) as engine:
        delays = [0.001 * n for n in range(1, 120)]
        handles = [await engine.start(sleeps, delay) for delay in delays]
        for delay, h in zip(delays, handles, strict=True):
            await h.result(timeout=20)
            (_, begun), (_, fired) = ns.history(h, "kind, recorded_at")
            assert (fired - begun).total_seconds() >= delay - 1e-6


async def test_a_timer_set_and_cancelled_in_one_burst_leaves_no_trace(ns: Namespace) -> None:
    @pgd.workflow
    async def untouched() -> str:
        lock = asyncio.Lock()
        await asyncio.wait_for(lock.acquire(), 10)
        await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.sleep(0, "x"), 10)

    async with ns.engine(untouched) as engine:
        h = await engine.start(untouched)
        assert await h.result(timeout=20) == "x"
        assert ns.history(h) == []


async def test_asyncio_means_what_it_means_elsewhere(ns: Namespace) -> None:
    @pgd.step
    async def give(value: str, after: float = 0.0) -> str:
        await asyncio.sleep(after)
        return value

    @pgd.workflow
    async def tools() -> list:
        log: list = []
        done, pending = await asyncio.wait(
            {asyncio.ensure_future(give("fast")), asyncio.ensure_future(give("slow", 60))},
            return_when=asyncio.FIRST_COMPLETED,
        )
        log.append([task.result() for task in done])
        for task in pending:
            task.cancel()
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def producer() -> None:
            for n in range(3):
                await queue.put(n)
                await asyncio.sleep(0.001)

        making = asyncio.create_task(producer())
        log.append([await queue.get() for _ in range(3)])
        await making
        semaphore = asyncio.Semaphore(2)
        most = [0, 0]

        async def limited() -> None:
            async with semaphore:
                most[0] += 1
                most[1] = max(most)
                await asyncio.sleep(0.001)
                most[0] -= 1

        await asyncio.gather(*(limited() for _ in range(6)))
        log.append(most[1])
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.001, event.set)
        await event.wait()
        results = []
        for first in asyncio.as_completed([give("x", 0.01), give("y")]):
            results.append(await first)
        log.append(sorted(results))
        log.append(await asyncio.shield(give("shielded")))
        return log

    async with ns.engine(tools) as engine:
        h = await engine.start(tools)
        assert await h.result(timeout=20) == [["fast"], [0, 1, 2], 2, ["x", "y"], "shielded"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with Python 3.11")
async def test_timeouts_and_task_groups(ns: Namespace) -> None:
    @pgd.step(retry=pgd.Retry(max_attempts=1))
    async def fail() -> None:
        raise LookupError("one of them")

    @pgd.workflow
    async def groups() -> list:
        log: list = []
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            log.append("timeout")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0.001 * n, n)) for n in (2, 1)]
        log += [task.result() for task in tasks]
        try:
            async with asyncio.TaskGroup() as group:
                sleeper = group.create_task(asyncio.sleep(60))
                group.create_task(fail())
        except BaseExceptionGroup as errors:  # noqa: F821
            log += [repr(errors.exceptions[0]), sleeper.cancelled()]
        return log

    async with ns.engine(groups) as engine:
        h = await engine.start(groups)
        assert await h.result(timeout=20) == ["timeout", 2, 1, "LookupError('one of them')", True]


# --- parking ------------------------------------------------------------------------------------------------------


replays: list[str] = []


@pgd.workflow
async def parks(delay: float | None) -> list:
    replays.append("run")
    await nothing()
    try:
        payload = await pgd.wait_signal("wake", timeout=delay)
    except TimeoutError:
        payload = "timer"
    await nothing()
    return [payload, pgd.now().isoformat()]


async def parked(ns: Namespace, h: Any) -> None:
    await until(
        lambda: ns.sql("select 1 from @.instances where id = %s and status = 'waiting' and owner is null",
                       h.instance_id),
        "it is parked",
    )  # fmt: skip


async def test_a_parked_instance_wakes_by_a_signal(ns: Namespace) -> None:
    replays.clear()
    async with ns.engine(parks, park_after=0.05) as engine:
        h = await engine.start(parks, None)
        await parked(ns, h)
        await until(lambda: engine.metrics()["instances"] == 0, "it has left memory")
        assert ns.instance(h, "wake_at") is None
        await h.signal("wake", "signal")
        assert (await h.result(timeout=20))[0] == "signal"
    assert len(replays) == 2
    assert ns.history(h, "kind") == [("step",), ("signal",), ("step",)]


async def test_a_parked_instance_wakes_by_its_timer_not_early_and_not_late(ns: Namespace) -> None:
    replays.clear()
    async with ns.engine(parks, park_after=0.05) as engine:
        h = await engine.start(parks, 1.5)
        await parked(ns, h)
        assert (await h.result(timeout=20))[0] == "timer"
    assert len(replays) == 2
    (_, begun), (_, fired), _ = ns.history(h, "kind, recorded_at")
    assert 1.5 <= (fired - begun).total_seconds() < 6


async def test_many_parked_instances_wake_whoever_sends(ns: Namespace) -> None:
    async with ns.engine(parks, park_after=0.05) as engine:
        handles = await engine.start_many(parks, [(None,)] * 200)
        waiting = "select count(*) = 200 from @.instances where status = 'waiting' and owner is null"
        await until(lambda: ns.one(waiting), "all are parked")
        await until(lambda: engine.metrics()["instances"] == 0, "they have left memory")
        ns.sql("select @.signal(id::text, 'wake', to_jsonb(id::text)) from @.instances")
        results = [await h.result(timeout=30) for h in handles]
    assert [result[0] for result in results] == [h.id for h in handles]


async def test_signals_and_parking_at_the_same_moment_lose_nothing(ns: Namespace) -> None:
    async with ns.engine(collects, park_after=0.0) as engine:
        handles = [await engine.start(collects, 12) for _ in range(20)]
        for n in range(12):
            for h in handles:
                await h.signal("s", n)
            await asyncio.sleep(0.06 * (n % 3))  # the engine looks for what to park twice a second
        for h in handles:
            assert await h.result(timeout=30) == list(range(12))


async def test_an_instance_with_a_running_step_is_not_parked(ns: Namespace) -> None:
    go = asyncio.Event()

    @pgd.step
    async def long() -> str:
        await go.wait()
        return "done"

    @pgd.workflow
    async def busy() -> str:
        return await long()

    async with ns.engine(busy, parks, park_after=0.05) as engine:
        h = await engine.start(busy)
        other = await engine.start(parks, None)
        await parked(ns, other)
        assert await h.status() == "running"
        go.set()
        assert await h.result(timeout=20) == "done"


async def test_a_client_sees_what_waits(ns: Namespace) -> None:
    async with ns.engine(parks, park_after=0.05) as engine:
        h = await engine.start(parks, None)
        await status_is(h, "waiting")
        info = await h.describe()
        assert (info.status, info.owner, info.wake_at) == ("waiting", None, None)
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.05 s"):
            await h.result(timeout=0.05)
