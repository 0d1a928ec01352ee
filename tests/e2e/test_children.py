"""Child workflows: started in their parent's commit, their ends told once, wherever parent and child run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until


@pgd.step
async def double(n: int) -> int:
    return 2 * n


@pgd.workflow
async def child(n: int) -> int:
    return await double(n)


@pgd.workflow
async def broken(n: int) -> int:
    raise ValueError(f"no {n}")


@pgd.workflow
async def waits(n: int = 0) -> str:
    try:
        return str(await pgd.wait_signal("go"))
    except asyncio.CancelledError:
        await double(n)  # clean-up is as durable as anything
        raise


@pgd.workflow
async def calls(n: int) -> int:
    return await child(n) + 1


@pgd.workflow
async def fans_out(n: int) -> list[int]:
    return await asyncio.gather(*(child(k) for k in range(n)))


@pgd.workflow
def calls_blocking(n: int) -> int:
    handle = pgd.start_child(child, n)
    return child(n) + handle.result()  # type: ignore[operator]


@pgd.workflow
async def catches() -> list[Any]:
    found: list[Any] = []
    try:
        await broken(1)
    except pgd.InstanceFailed as error:
        found += [error.status, str(error.type)]
    handle = await pgd.start_child("broken", 2)
    try:
        await handle.result()
    except pgd.InstanceFailed as error:
        found += [error.id == handle.id, "no 2" in str(error)]
    return found


@pgd.workflow
async def leaves_behind() -> list[str]:
    one = await pgd.start_child(waits, 1)
    two = await pgd.start_child(waits, 2, parent_close="abandon")
    return [one.id, two.id]


@pgd.workflow
async def gives_up(seconds: float) -> str:
    try:
        return str(await asyncio.wait_for(waits(3), seconds))
    except asyncio.TimeoutError:
        await double(1)
        return "gave up"


@pgd.workflow
async def named(id: str) -> list[Any]:
    handle = await pgd.start_child(child, 5, id=id, labels={"of": "named"}, queue="default", priority=2)
    try:
        await pgd.start_child(child, 6, id="taken")
    except pgd.InvalidId as error:
        return [handle.id, await handle.result(), str(error)]
    return []


@pgd.workflow
async def in_partitions(names: list[str]) -> list[int]:
    started = [
        await pgd.start_child(child, n, id=f"of {name}", queue="children", partition=name)
        for n, name in enumerate(names)
    ]
    return [await one.result() for one in started]


@pgd.workflow
async def misnames() -> list[str]:
    refused = []
    for name in ("", "a\0b", "x" * 513, 7):
        try:
            await pgd.start_child(child, 1, queue="children", partition=name)
        except ValueError as error:
            refused.append(str(error))
    return refused


ALL = (
    child, broken, waits, calls, fans_out, calls_blocking, catches, leaves_behind, gives_up, named, in_partitions,
    misnames,
)  # fmt: skip


def again(ns: Namespace, h: pgd.Handle) -> None:
    """Lets an instance that has ended be replayed."""
    ns.sql("update @.instances set status = 'pending', wake_at = now(), output = null, finished_at = null"
           " where id = %s", h.instance_id)  # fmt: skip


async def test_a_call_is_a_child_whose_result_is_awaited(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(calls, 20)
        assert await h.result(timeout=20) == 41
    assert ns.history(h, "kind, name, seq") == [("child", "child", 0), ("child_end", "child", 0)]
    assert ns.sql("select workflow, status, parent, parent_seq, output from @.instances where parent is not null") == [
        ("child", "completed", h.instance_id, 0, 40)
    ]


async def test_a_thousand_children_at_once(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(fans_out, 1000)
        assert await h.result(timeout=60) == [2 * n for n in range(1000)]
    assert ns.one("select count(*) from @.instances where parent = %s", h.instance_id) == 1000
    assert ns.one("select count(*) from @.events") == 0


async def test_children_of_a_def_workflow(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        assert await (await engine.start(calls_blocking, 4)).result(timeout=20) == 16


async def test_what_fails_in_a_child_is_raised_in_its_parent(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(catches)
        assert await h.result(timeout=20) == ["failed", "builtins.ValueError", True, True]


async def test_an_id_of_ones_own_and_one_that_is_taken(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        taken = await engine.start(child, 1, id="taken")
        h = await engine.start(named, "mine")
        id, result, refusal = await h.result(timeout=20)
        assert (id, result) == ("mine", 10)
        assert "cannot have the id 'taken'" in refusal
        found = await (await engine.get("mine")).describe()
        assert (found.parent, found.labels, found.priority) == (h.instance_id, {"of": "named"}, 2)
        assert (await taken.describe()).parent is None
    async with ns.engine(*ALL) as engine:  # replayed, the refusal is the same
        again(ns, h)
        assert await h.__class__(engine, h.instance_id).result(timeout=20) == [id, result, refusal]


async def test_children_stand_in_the_line_of_their_queue_and_partition(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        await engine.queues.set_partition("children", "held", paused=True)
        h = await engine.start(in_partitions, ["free", "held"])
        await until(lambda: ns.one("select count(*) from @.instances where parent is not null") == 2, "both are there")
        free = await engine.get("of free")
        assert await free.result(timeout=20) == 0
        assert ns.sql("select partition, status from @.instances where parent is not null order by 1") == [
            ("free", "completed"), ("held", "pending"),
        ]  # fmt: skip
        await engine.queues.set_partition("children", "held", paused=False)
        assert await h.result(timeout=20) == [0, 2]


async def test_a_partition_that_is_none_is_refused(ns: Namespace) -> None:
    async with ns.engine(misnames, child) as engine:
        refused = await (await engine.start(misnames)).result(timeout=20)
    assert len(refused) == 4
    assert all("of 1 to 512 bytes without NUL" in one for one in refused)


async def test_a_child_may_run_elsewhere_and_its_parent_be_parked(ns: Namespace) -> None:
    async with ns.engine(calls, park_after=0.0) as one:
        h = await one.start(calls, 1)
        await status_is(h, "waiting")
        assert ns.one("select status from @.instances where parent is not null") == "pending"
        async with ns.engine(child):
            assert await h.result(timeout=20) == 3


async def test_the_end_of_a_parent_cancels_its_children_or_leaves_them(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        one, two = [await engine.get(id) for id in await (await engine.start(leaves_behind)).result(timeout=20)]
        await status_is(one, "cancelled")
        with pytest.raises(pgd.InstanceFailed, match=r"its parent .* has ended"):
            await one.result(timeout=20)
        assert ns.history(one, "kind, name") == [("cancel", None), ("step", "double")]
        await two.signal("go", "on")
        assert await two.result(timeout=20) == "on"


async def test_giving_up_the_wait_cancels_the_child(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(gives_up, 0.2)
        assert await h.result(timeout=20) == "gave up"
        assert [kind for kind, *_ in ns.history(h)] == ["child", "timer", "child_cancel", "step"]
        (id,) = ns.sql("select id from @.instances where parent = %s", h.instance_id)[0]
        await status_is(pgd.Handle(engine, id), "cancelled")
        # Once: the parent's end asks no second time.
        assert [kind for kind, *_ in ns.history(pgd.Handle(engine, id))] == ["cancel", "step"]


async def test_a_child_that_was_given_up_in_a_crash_is_cancelled_after_it(ns: Namespace) -> None:
    """The timer that gave it up is recorded, the request to cancel is not: replay asks for it."""
    async with ns.engine(*ALL) as engine:
        h = await engine.start(gives_up, 0.2)
        await h.result(timeout=20)
        (id,) = ns.sql("select id from @.instances where parent = %s", h.instance_id)[0]
        kid = pgd.Handle(engine, id)
        await status_is(kid, "cancelled")
    ns.sql("delete from @.history where kind in ('child_cancel', 'cancel') or instance_id = %s", id)
    ns.sql(
        "update @.instances set status = 'pending', wake_at = now(), finished_at = null, output = null, error = null"
    )
    async with ns.engine(*ALL) as engine:
        assert await pgd.Handle(engine, h.instance_id).result(timeout=20) == "gave up"
        await status_is(pgd.Handle(engine, id), "cancelled")


async def test_a_parent_goes_on_elsewhere_and_its_child_is_not_started_again(ns: Namespace) -> None:
    one = ns.engine(calls, child, waits, leaves_behind)
    await one.open()
    h = await one.start("calls", 7)
    assert await h.result(timeout=20) == 15
    await one.close()
    ns.sql(
        "update @.instances set status = 'pending', wake_at = now(), finished_at = null, output = null where id = %s",
        h.instance_id,
    )
    async with ns.engine(*ALL) as engine:
        assert await pgd.Handle(engine, h.instance_id).result(timeout=20) == 15
    assert ns.one("select count(*) from @.instances where parent is not null") == 1


async def test_start_child_is_for_workflow_code(ns: Namespace) -> None:
    with pytest.raises(pgd.PgDurableError, match="outside workflow code"):
        await pgd.start_child(child, 1)


async def test_children_of_an_encrypted_parent(ns: Namespace) -> None:
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()}, write="k")
    async with ns.engine(*ALL, encryption=encryption) as engine:
        h = await engine.start(catches)
        assert (await h.result(timeout=20))[0] == "failed"
        assert await (await engine.start(calls, 3)).result(timeout=20) == 7
    assert ns.one("select count(*) from @.instances where output::text = '6' or error::text ~ 'no 1'") == 0
    assert ns.one("select count(*) from @.history where payload::text ~ '\"output\": 6' or error::text ~ 'no 1'") == 0
