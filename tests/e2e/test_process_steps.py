"""Steps in processes of their own: values, errors, death, timeouts, cancellation, heartbeats, and the pool."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import pgdurable as pgd

from . import process_steps as steps
from .namespace import Namespace, until


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def begun(mark: Path) -> int:
    return int(await until(lambda: mark.exists() and mark.read_text(), "the process has begun"))


async def test_values_go_in_and_out_as_json_and_processes_are_used_again(ns: Namespace) -> None:
    pids: set[str] = set()

    @pgd.workflow
    async def pictures(n: int) -> list[Any]:
        shrunk = [await steps.shrink(steps.Picture(f"p{i}", Decimal("5.00")), 4, note="!") for i in range(n)]
        pids.update(picture.name.rpartition("/")[2] for picture in shrunk)
        assert all(type(picture) is steps.Picture for picture in shrunk)
        return [await steps.shrink_async(steps.Picture("a", Decimal(1))), shrunk[0].price, len(shrunk)]

    async with ns.engine(pictures, max_processes=1) as engine:
        h = await engine.start(pictures, 5)
        assert await h.result(timeout=60) == ["a", "1.25", 5]
    assert len(pids) == 1
    assert str(os.getpid()) not in pids
    await until(lambda: not alive(int(next(iter(pids)))), "the process ends with the engine")


async def test_errors_arrive_as_themselves(ns: Namespace) -> None:
    @pgd.workflow
    async def catches() -> list[Any]:
        found: list[Any] = []
        try:
            await steps.fails("x")
        except steps.Blurred as error:
            cause = error.__cause__
            assert isinstance(cause, pgd.StepFailed)
            found += [list(error.args), cause.step, "raise Blurred(name, 3)" in (cause.traceback or "")]
        try:
            await steps.shrink(1, 2, 3)
        except TypeError as error:
            found.append("does not fit its parameters" in str(error))
        try:
            await steps.returns_nothing_storable()
        except pgd.CodecError as error:
            found.append("the result of step returns_nothing_storable" in str(error))
        return found

    async with ns.engine(catches) as engine:
        h = await engine.start(catches)
        assert await h.result(timeout=60) == [["x", 3], "fails", True, True, True]
        assert {attempt for _, _, attempt in ns.history(h)} == {1}


@pytest.mark.parametrize(("how", "said"), [("exit", "exit code 7"), ("kill", "SIGKILL"), ("crash", "SIGSEGV")])
async def test_a_process_that_dies_fails_its_attempt_and_nothing_else(ns: Namespace, how: str, said: str) -> None:
    @pgd.workflow
    async def dead(how: str) -> str:
        try:
            await steps.dies(how)
        except pgd.StepProcessDied as error:
            return str(error)
        return ""

    @pgd.workflow
    async def other() -> str:
        return (await steps.shrink(steps.Picture("a", Decimal(1)))).name

    async with ns.engine(dead, other, max_processes=2) as engine:
        handles = [await engine.start(dead, how), await engine.start(other)]
        text, name = [await h.result(timeout=60) for h in handles]
        assert "the process that ran step dies died in attempt 1: " in text
        assert said in text
        assert name.startswith("a/")
        # And the place of the dead one is free.
        assert (await (await engine.start(other)).result(timeout=60)).startswith("a/")


async def test_a_process_that_never_ends_is_killed_at_its_timeout(ns: Namespace, tmp_path: Path) -> None:
    @pgd.workflow
    async def limited(mark: str) -> str:
        try:
            await steps.spins(mark)
        except pgd.StepTimeout as error:
            return str(error)
        return ""

    async with ns.engine(limited) as engine:
        h = await engine.start(limited, str(tmp_path / "mark"))
        assert "its timeout of 1 s" in await h.result(timeout=60)
        mark = tmp_path / "mark"
        if mark.exists():
            pid = int(mark.read_text())
            await until(lambda: not alive(pid), "the process is gone")


async def test_a_cancelled_step_s_process_is_killed(ns: Namespace, tmp_path: Path) -> None:
    @pgd.workflow
    async def cancels(mark: str) -> str:
        task = asyncio.create_task(steps.waits(mark))
        await pgd.wait_signal("stop")
        task.cancel()
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else "not cancelled"

    async with ns.engine(cancels) as engine:
        h = await engine.start(cancels, str(tmp_path / "mark"))
        pid = await begun(tmp_path / "mark")
        await h.signal("stop")
        assert await h.result(timeout=60) == "cancelled"
        await until(lambda: not alive(pid), "the process is gone")


async def test_a_step_whose_engine_stops_runs_again_elsewhere(ns: Namespace, tmp_path: Path) -> None:
    @pgd.workflow
    async def one(mark: str) -> str:
        return await steps.waits(mark)

    mark = tmp_path / "mark"
    engine = ns.engine(one)
    await engine.open()
    h = await engine.start(one, str(mark))
    first = await begun(mark)
    await engine.stop(drain=0)
    await engine.close()
    await until(lambda: not alive(first), "the process ends with its engine")
    mark.unlink()
    engine = ns.engine(one)
    await engine.open()
    assert await begun(mark) != first
    await engine.stop(drain=0)
    await engine.close()
    assert ns.history(h) == []


async def test_heartbeats_and_progress_of_a_process(ns: Namespace, tmp_path: Path) -> None:
    @pgd.workflow
    async def one(mark: str) -> list[Any]:
        return await steps.beats(mark)

    async with ns.engine(one) as engine:
        h = await engine.start(one, str(tmp_path / "go"))
        shown = "select name, attempt, done, total from @.running_steps"
        await until(lambda: ns.sql(shown) == [("beats", 2, 4.0, 4.0)], "its progress is seen")
        (tmp_path / "go").touch()
        assert await h.result(timeout=60) == [{"at": 999}, {"at": 999}]
        assert ns.history(h) == [("attempt", "beats", 1), ("step", "beats", 2)]


async def test_a_silent_process_runs_over_its_heartbeat_timeout(ns: Namespace) -> None:
    @pgd.workflow
    async def one() -> str:
        try:
            await steps.silent()
        except pgd.HeartbeatTimeout as error:
            return str(error)
        return ""

    async with ns.engine(one) as engine:
        assert "heartbeat_timeout of 0.5 s" in await (await engine.start(one)).result(timeout=60)


async def test_all_that_may_be_waited_for_together(ns: Namespace) -> None:
    @pgd.workflow
    async def many() -> int:
        return sum(await asyncio.gather(*(steps.counted(n) for n in range(30))))

    async with ns.engine(many, max_processes=2) as engine:
        h = await engine.start(many)
        assert await h.result(timeout=60) == sum(range(30))
        kinds = [kind for kind, _, _ in ns.history(h)]
        assert kinds.count("step") == 30
        # On a slow machine a turn comes too late now and then: then it is recorded, and taken, once more.
        assert kinds.count("pending") >= 30
