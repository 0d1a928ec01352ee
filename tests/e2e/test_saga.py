"""Sagas: what was done is undone, last one first, whatever made the block fail and whoever goes on after a crash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, until

DONE: list[str] = []
ONCE = pgd.Retry(max_attempts=1)


@pgd.step
async def do(name: str) -> str:
    DONE.append(f"do {name}")
    return f"the {name}"


@pgd.step
async def undo(result: str) -> None:
    DONE.append(f"undo {result}")


@pgd.step(retry=ONCE)
async def fail(name: str) -> None:
    raise ValueError(f"no {name}")


@pgd.step(retry=pgd.Retry(max_attempts=5, initial=0.01))
async def stubborn(result: str) -> None:
    DONE.append(f"try {result}")
    if len([one for one in DONE if one == f"try {result}"]) < 3:
        raise ConnectionError("not yet")


@pgd.step
async def slow(name: str, seconds: float) -> str:
    DONE.append(f"begin {name}")
    await asyncio.sleep(seconds)
    DONE.append(f"end {name}")
    return name


@pgd.workflow(name="saga_books")
async def books(ends: bool) -> str:
    async with pgd.saga() as s:
        await s.do(do, "hotel", undo=undo)
        await s.do(do, "flight", undo=stubborn)
        await s.do(do, "note")
        s.on_failure(undo, "by itself")
        if not ends:
            await s.do(fail, "car", undo=undo)
    return "booked"


@pgd.workflow(name="saga_books_blocking")
def books_blocking() -> str:
    with pgd.saga() as s:
        s.do(do, "hotel", undo=undo)
        s.do(fail, "car", undo=undo)
    return "booked"


@pgd.workflow(name="saga_cannot_undo")
async def cannot_undo() -> None:
    async with pgd.saga() as s:
        await s.do(do, "first", undo=undo)
        await s.do(do, "second", undo=fail)
        raise RuntimeError("the reason")


@pgd.workflow(name="saga_is_cancelled")
async def is_cancelled(seconds: float) -> None:
    async with pgd.saga() as s:
        await s.do(do, "first", undo=undo)
        await s.do(slow, "second", seconds, undo=undo)
        await s.do(slow, "third", 0.0, undo=undo)


@pgd.workflow(name="saga_side_by_side")
async def side_by_side() -> None:
    async with pgd.saga() as s:
        await asyncio.gather(s.do(slow, "van", 0.3, undo=undo), s.do(fail, "car", undo=undo))


@pgd.step
async def slow_undo(result: str) -> None:
    DONE.append(f"begin undo {result}")
    await asyncio.sleep(0.5)
    DONE.append(f"undo {result}")


@pgd.workflow(name="saga_cancelled_late")
async def cancelled_late() -> str:
    try:
        async with pgd.saga() as s:
            await s.do(do, "hotel", undo=undo)
            await s.do(do, "flight", undo=slow_undo)
            await s.do(fail, "car")
    except ValueError:
        return "went on in spite of the request"
    return "booked"


@pgd.workflow(name="saga_cancelled_late_blocking")
def cancelled_late_blocking() -> str:
    try:
        with pgd.saga() as s:
            s.do(do, "hotel", undo=undo)
            s.do(do, "flight", undo=slow_undo)
            s.do(fail, "car")
    except ValueError:
        return "went on in spite of the request"
    return "booked"


@pgd.workflow(name="saga_is_cancelled_blocking")
def is_cancelled_blocking() -> None:
    with pgd.saga() as s:
        s.do(do, "first", undo=undo)
        s.do(slow, "second", 0.5, undo=undo)
        s.do(slow, "third", 0.0, undo=undo)


@pgd.workflow(name="saga_holds")
async def holds(name: str) -> str:
    async with pgd.saga() as s:
        await s.do(do, name, undo=undo)
        await pgd.wait_signal("fail")
        raise RuntimeError("told to")
    return ""


ALL = (
    books, books_blocking, cannot_undo, is_cancelled, is_cancelled_blocking, holds, side_by_side, cancelled_late,
    cancelled_late_blocking,
)  # fmt: skip


@pytest.fixture(autouse=True)
def forget() -> None:
    DONE.clear()


async def failed(h: pgd.Handle[Any]) -> pgd.InstanceFailed:
    with pytest.raises(pgd.InstanceFailed) as failure:
        await h.result(timeout=20)
    return failure.value


async def test_a_block_that_ends_undoes_nothing(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        assert await (await engine.start(books, True)).result(timeout=20) == "booked"
    assert DONE == ["do hotel", "do flight", "do note"]


async def test_what_was_done_is_undone_last_one_first_and_retried(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        error = await failed(await engine.start(books, False))
    assert "no car" in str(error)
    assert DONE[3:] == ["undo by itself", *["try the flight"] * 3, "undo the hotel"]


async def test_in_a_def_workflow(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        assert "no car" in str(await failed(await engine.start(books_blocking)))
    assert DONE == ["do hotel", "undo the hotel"]


async def test_one_that_cannot_be_undone_does_not_keep_the_others(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        error = await failed(await engine.start(cannot_undo))
    assert error.type == "pgdurable.errors.CompensationFailed"
    assert "the saga failed (the reason), and so did its compensation: fail: no the second" in str(error)
    assert DONE == ["do first", "do second", "undo the first"]


@pytest.mark.parametrize("workflow", [is_cancelled, is_cancelled_blocking])
async def test_cancelled_in_an_action_its_end_is_waited_for_and_undone(ns: Namespace, workflow: Any) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(workflow, *([0.5] if workflow is is_cancelled else []))
        await until(lambda: "begin second" in DONE, "it runs")
        ns.sql("select @.request_cancel(%s)", h.instance_id)
        assert (await failed(h)).status == "cancelled"
    assert DONE == ["do first", "begin second", "end second", "undo second", "undo the first"]


async def test_what_runs_beside_the_one_that_failed_is_undone_too(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        assert "no car" in str(await failed(await engine.start(side_by_side)))
    assert DONE == ["begin van", "end van", "undo van"]


@pytest.mark.parametrize("workflow", [cancelled_late, cancelled_late_blocking])
async def test_cancelled_while_it_undoes_it_undoes_all_and_is_cancelled_then(ns: Namespace, workflow: Any) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(workflow)
        await until(lambda: "begin undo the flight" in DONE, "it undoes")
        ns.sql("select @.request_cancel(%s)", h.instance_id)
        assert (await failed(h)).status == "cancelled"
    assert DONE[2:] == ["begin undo the flight", "undo the flight", "undo the hotel"]


async def test_after_a_crash_another_worker_undoes(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(holds, "x")
        await until(lambda: DONE == ["do x"] and ns.history(h), "the step is recorded")
    async with ns.engine(*ALL) as engine:
        h = pgd.Handle(engine, h.instance_id)
        await h.signal("fail")
        assert "told to" in str(await failed(h))
    assert DONE == ["do x", "undo the x"]


async def test_a_saga_is_for_workflow_code() -> None:
    with pytest.raises(pgd.PgDurableError, match="outside workflow code"):
        async with pgd.saga():
            pass
