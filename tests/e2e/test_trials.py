"""Instances suspected of killing their workers, in a real engine: who is cleared, and who waits meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, until


@pgd.step
async def work() -> str:
    return "done"


@pgd.step
async def dawdle() -> str:
    await asyncio.Event().wait()
    return "never"


async def waiter() -> Any:
    return await pgd.wait_signal("go")


async def worked() -> str:
    await work()
    return await dawdle()


async def slow() -> str:
    return await dawdle()


async def fresh() -> str:
    return await work()


WORKFLOWS = [pgd.Workflow(fn) for fn in (waiter, worked, slow, fresh)]


def suspect(ns: Namespace, workflow: str, strikes: int, lived: float = 1.0) -> str:
    """An instance that died with its worker, which it has killed so many times before. Returns its id."""
    worker = ns.one("select @.join_worker('killed', '[]', '1 min')")
    assert ns.one("select @.take_over(%s, 0, null)", worker)
    return str(
        ns.one(
            "insert into @.instances (id, workflow, version, input, status, owner, wake_at, strikes, taken_at)"
            " values (@.new_id(), %s, '1', '{}', 'running', %s, null, %s, now() - make_interval(secs => %s))"
            " returning id",
            workflow, worker, strikes - 1, lived,
        )
    )  # fmt: skip


def of(ns: Namespace, id: str) -> tuple[Any, ...]:
    ((status, strikes, owned),) = ns.sql("select status, strikes, owner > 0 from @.instances where id = %s", id)
    return status, strikes, owned


async def test_one_that_only_waits_is_parked_at_once_and_cleared(ns: Namespace) -> None:
    id = suspect(ns, "waiter", 4)
    async with ns.engine(*WORKFLOWS, park_after=60) as engine:
        await until(lambda: of(ns, id) == ("waiting", 0, None), "parked")
        handle = await engine.get(id)
        await handle.signal("go", 7)
        assert await handle.result(timeout=20) == 7


async def test_one_that_gets_on_makes_room_for_the_next(ns: Namespace) -> None:
    ids = [suspect(ns, "worked", 4) for _ in range(5)]
    async with ns.engine(*WORKFLOWS) as engine:
        got_on = "select count(distinct instance_id) from @.history"
        await until(lambda: ns.one(got_on) == len(ids), "all have recorded something", timeout=60)
        assert {of(ns, id) for id in ids} == {("running", 4, True)}
        await engine.stop(drain=0)


async def test_one_that_outlives_its_trial_is_cleared_and_others_wait_until_then(ns: Namespace) -> None:
    """`lived` makes the trial last 2 s."""
    first = suspect(ns, "slow", 4, lived=-1.5)
    second = suspect(ns, "slow", 4, lived=-1.5)
    async with ns.engine(*WORKFLOWS, poll_interval=0.1) as engine:
        begun = await until(lambda: [id for id in (first, second) if of(ns, id) == ("running", 4, True)], "one runs")
        (one,) = begun
        (other,) = {first, second} - {one}
        due = str(ns.one("select @.start('fresh')::text"))
        polls = engine.metrics()["polls"]
        await until(lambda: engine.metrics()["polls"] > polls + 5, "it has looked for work")
        assert of(ns, other) == ("pending", 4, False)
        assert ns.one("select @.status(%s)", due) == "pending"
        await until(lambda: of(ns, one) == ("running", 0, True), "cleared")
        await until(lambda: ns.one("select @.status(%s)", due) == "completed", "the due one has run", timeout=20)
        await until(lambda: of(ns, other) == ("running", 0, True), "the other one too", timeout=20)
        await engine.stop(drain=0)


@pytest.mark.parametrize("found", [2, 0, -1, 40_000])
def test_a_limit_that_would_blame_everybody_is_refused(dsn: str, found: int) -> None:
    with pytest.raises(ValueError, match=rf"quarantine_after is between 3 and 30,000, or None; found {found}"):
        pgd.Engine(dsn, quarantine_after=found)
