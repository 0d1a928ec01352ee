"""`continue_as_new`: the same instance, a new run of its code, a history that starts there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until


@pgd.step
async def add(total: int, n: int) -> int:
    return total + n


@pgd.workflow(name="counts_down")
async def counts(left: int, total: int = 0) -> int:
    total = await add(total, left)
    if left > 1:
        pgd.continue_as_new(left - 1, total=total)
    return total


@pgd.workflow
def counts_blocking(left: int, total: int = 0) -> int:
    total = add(total, left)  # type: ignore[assignment]
    if left > 1:
        pgd.continue_as_new(left - 1, total)
    return total


@pgd.workflow
async def mailbox(seen: list[str], ids: list[str]) -> list[list[str]]:
    """Takes one letter a run."""
    seen.append(await pgd.wait_signal("letter"))
    ids.append(str(pgd.uuid4()))
    if seen[-1] != "stop":
        pgd.continue_as_new(seen, ids)
    return [seen, ids]


@pgd.workflow
async def patient() -> str:
    return str(await pgd.wait_signal("go"))


@pgd.workflow
async def parent(run: int = 0) -> list[str]:
    if run == 0:
        await pgd.start_child(patient)
        await pgd.start_child(patient, parent_close="abandon", id="abandoned")
        pgd.continue_as_new(1)
    # The same numbers as the children of the run before: their ends are not mistaken for those of these steps.
    return [await pgd.wait_signal("end"), str(await add(1, 2))]


@pgd.workflow
async def wrong() -> None:
    pgd.continue_as_new("no", "such", "parameters")


ALL = (counts, counts_blocking, mailbox, patient, parent, wrong)


@pytest.mark.parametrize("workflow", [counts, counts_blocking], ids=["async", "def"])
async def test_runs_follow_one_another(ns: Namespace, workflow: Any) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(workflow, 20)
        assert await h.result(timeout=20) == 210
        info = await h.describe()
        assert (info.input, info.status) == ({"left": 20}, "completed")
    rows = ns.history(h, "kind, payload")
    assert len(rows) == 39
    assert rows[1] == ("continued", {"left": 19, "total": 20})
    assert ns.instance(h, "first_event") == 38


async def test_a_run_goes_on_elsewhere_from_its_own_beginning(ns: Namespace) -> None:
    async with ns.engine(*ALL, park_after=0.0) as engine:
        h = await engine.start(mailbox, [], [])
        for letter in "abc":
            await h.signal("letter", letter)
        await status_is(h, "waiting")
    async with ns.engine(*ALL) as engine:
        h = pgd.Handle(engine, h.instance_id)
        await h.signal("letter", "stop")
        seen, ids = await h.result(timeout=20)
    assert seen == ["a", "b", "c", "stop"]
    assert len(set(ids)) == 4, "each run has a chance of its own"


async def test_signals_that_nobody_took_are_there_in_the_new_run(ns: Namespace) -> None:
    async with ns.client() as client:
        h = await client.start("mailbox", [], [])
        for n in range(40):
            await h.signal("letter", f"{n}")
        await h.signal("letter", "stop")
    async with ns.engine(*ALL) as engine:
        seen, ids = await pgd.Handle(engine, h.instance_id).result(timeout=20)
    assert seen == [*map(str, range(40)), "stop"]
    again(ns, h)
    async with ns.engine(*ALL) as engine:  # replayed, the same
        assert await pgd.Handle(engine, h.instance_id).result(timeout=20) == [seen, ids]


async def test_children_of_the_run_before(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(parent)
        await until_cancelled(ns, h)
        abandoned = await engine.get("abandoned")
        await abandoned.signal("go", "x")
        assert await abandoned.result(timeout=20) == "x"
        await h.signal("end", "e")
        assert await h.result(timeout=20) == ["e", "3"]


async def test_arguments_that_do_not_fit(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        with pytest.raises(pgd.InstanceFailed, match="cannot continue as new: input of 'wrong' does not fit"):
            await (await engine.start(wrong)).result(timeout=20)


async def test_a_cancel_that_comes_while_it_continues_is_the_next_runs(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(counts, 10_000)
        await asyncio.sleep(0)
        ns.sql("select @.request_cancel(%s)", h.instance_id)
        with pytest.raises(pgd.InstanceFailed, match="was cancelled"):
            await h.result(timeout=20)


async def test_encrypted(ns: Namespace) -> None:
    async with ns.engine(*ALL, encryption=pgd.Encryption({"k": pgd.Encryption.new_key()}, write="k")) as engine:
        h = await engine.start(mailbox, [], [])
        await h.signal("letter", "secret")
        await h.signal("letter", "stop")
        assert (await h.result(timeout=20))[0] == ["secret", "stop"]
    assert ns.one("select count(*) from @.history where payload::text ~ 'secret'") == 0


async def test_runs_behind_a_living_instance_leave_when_they_are_old(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(mailbox, [], [])
        for letter in "abc":
            await h.signal("letter", letter)
        count = "select count(*) from @.history where instance_id = %s"
        await until(
            lambda: ns.one(count + """ and payload -> 'seen' = '["a", "b", "c"]'""", h.instance_id),
            "three runs are over",
        )  # fmt: skip
        rows = ns.one(count, h.instance_id)
        await engine._worker.sweeper.sweep()
        assert ns.one(count, h.instance_id) == rows, "too young"
        ns.sql("update @.history h set recorded_at = now() - interval '31 days' from @.instances i"
               " where i.id = h.instance_id and h.event_id < i.first_event")  # fmt: skip
        await engine._worker.sweeper.sweep()
        assert ns.history(h, "kind") == [("continued",)]
        await h.signal("letter", "stop")
        assert (await h.result(timeout=20))[0] == ["a", "b", "c", "stop"]


def again(ns: Namespace, h: pgd.Handle) -> None:
    ns.sql("update @.instances set status = 'pending', wake_at = now(), output = null, finished_at = null"
           " where id = %s", h.instance_id)  # fmt: skip


async def until_cancelled(ns: Namespace, h: pgd.Handle) -> None:
    await until(
        lambda: (
            ns.sql("select status from @.instances where parent = %s and parent_close = 'cancel'", h.instance_id)
            == [("cancelled",)]
        ),
        "the child is cancelled",
    )
