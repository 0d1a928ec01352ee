"""What depends on addresses, on the garbage collector or on the process must not reach the order of commands."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable._runtime.loop import AsyncMachine
from tests.runtime.harness import Owner, echo_step, run, workflow

a = echo_step("a")
b = echo_step("b")
c = echo_step("c")
note = echo_step("note")

CLUTTER: list[Any] = []


def replays_at_other_addresses(owner: Owner, times: int = 5) -> None:
    """Replays with other things in memory each time, so that addresses differ."""
    for n in range(times):
        CLUTTER.append([object() for _ in range(37 * n + 11)])
        owner.replays()
    CLUTTER.clear()


def test_losers_of_a_race_are_cancelled_in_the_same_order_everywhere() -> None:
    """`asyncio.wait` returns sets of tasks, which hashed by address: cleanup steps swapped places in replay."""

    async def tidy(n: int) -> None:
        try:
            await pgd.wait_signal("never")
        finally:
            await note(n)

    @workflow
    async def flow() -> Any:
        tasks = [asyncio.create_task(tidy(n)) for n in range(40)]
        winner = asyncio.create_task(a())
        _, pending = await asyncio.wait([*tasks, winner], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)

    owner = Owner(flow).start().run()
    assert len(owner.history) == 41
    replays_at_other_addresses(owner)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
def test_a_task_group_aborts_in_the_same_order_everywhere() -> None:
    """A task group keeps its tasks in a set too."""

    async def tidy(n: int) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await note(n)

    async def bad() -> None:
        await a()
        raise ValueError("abort")

    @workflow
    async def flow() -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                for n in range(40):
                    group.create_task(tidy(n))
                group.create_task(bad())
        except BaseException as error:
            return type(error).__name__

    owner = Owner(flow).start().run("a")
    assert owner.result == "ExceptionGroup"
    replays_at_other_addresses(owner)


def test_a_set_of_tasks_or_futures_of_the_user_s_own() -> None:
    @workflow
    async def flow() -> Any:
        tasks = {asyncio.create_task(a(n)) for n in range(30)}
        tasks |= {asyncio.shield(task) for task in tasks}  # type: ignore[misc]
        done, _ = await asyncio.wait(tasks)
        return [await b(await future) for future in done]

    owner = Owner(flow).start().run()
    assert sorted(owner.result) == sorted([*range(30), *range(30)])
    replays_at_other_addresses(owner)


def test_as_completed_over_coroutines() -> None:
    """It starts them in the order of a set of coroutines, which is that of their addresses."""

    @workflow
    async def flow() -> Any:
        return [await future for future in asyncio.as_completed({n: a(n) for n in range(40)}.values())]

    owner = Owner(flow).start()
    assert [command.args for command in owner.steps] == [(n,) for n in range(40)]
    owner.run()
    replays_at_other_addresses(owner)


async def test_asyncio_outside_workflows_is_left_as_it_was() -> None:
    async def child(n: int) -> int:
        await asyncio.sleep(0.001 * n)
        return n

    again = child(1)
    tasks = [asyncio.create_task(again), asyncio.create_task(child(2))]
    done, pending = await asyncio.wait([*tasks, tasks[0]])
    assert (type(done), len(done), pending) == (set, 2, set())
    assert sorted([await f for f in asyncio.as_completed([child(n) for n in range(3)])]) == [0, 1, 2]
    assert type(asyncio.tasks.set()) is set  # type: ignore[attr-defined]
    assert type(asyncio.tasks.set([1, 1])) is set  # type: ignore[attr-defined]


def test_hashes_of_different_instances_are_far_apart() -> None:
    """asyncio keeps all tasks of a process in one set: 20,000 instances must not share 10 hashes."""
    hashes = set()

    @workflow
    async def flow() -> None:
        await asyncio.gather(*(a(n) for n in range(5)))

    for n in range(200):
        owner = Owner(flow, seed=n.to_bytes(8, "big") + (n * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")).start()
        assert isinstance(owner.machine, AsyncMachine)
        hashes |= {hash(task) for task in [*owner.machine.tasks, owner.machine._main]}
        owner.drop()
    assert len(hashes) == 200 * 6


PROGRAM = """
import asyncio, sys
sys.path[:0] = {path!r}
from tests.runtime.harness import Owner, echo_step, workflow
a, b = echo_step("a"), echo_step("b")

@workflow
async def flow():
    async def tidy(n):
        try:
            await asyncio.sleep(100)
        finally:
            await b(n)
    tasks = {{asyncio.create_task(tidy(n), name=f"t{{n}}") for n in range(20)}}
    done, pending = await asyncio.wait(tasks, timeout=5)
    for task in pending:
        task.cancel()
    return [await f for f in asyncio.as_completed([a(n) for n in range(20)])]

junk = [object() for _ in range({junk})]
print(*Owner(flow).start().run().trace, sep="\\n")
"""


def test_two_processes_ask_for_the_same() -> None:
    outputs = set()
    for junk in (0, 1000, 4321):
        program = PROGRAM.format(path=sys.path, junk=junk)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert "as" not in outputs.pop().splitlines()[0]


# -- async generators ------------------------------------------------------------------------------------------------


async def pages(label: str) -> AsyncIterator[Any]:
    try:
        for n in range(10):
            yield await a(n)
    finally:
        await note(label)


def test_async_generators_run_to_their_end() -> None:
    @workflow
    async def flow() -> Any:
        return [page async for page in pages("end")]

    owner = run(flow)
    assert owner.result == list(range(10))
    assert owner.executed == ["a"] * 10 + ["note"]


def test_an_async_generator_left_in_the_middle_is_closed_in_the_code_s_own_course() -> None:
    @workflow
    async def flow() -> Any:
        async for page in pages("left"):
            if page == 2:
                break
        return await b("after")

    owner = Owner(flow).start()
    for _ in range(3):
        owner.answer("a")
    assert [command.name for command in owner.steps] == ["b", "note"]
    assert owner.run("note").result == "after"
    owner.replays()


def test_an_async_generator_the_collector_finds_issues_nothing() -> None:
    """When it finds one differs from process to process: its `finally` ran wherever the code happened to be."""

    class Holder:
        me: Any
        generator: Any

    @workflow
    async def flow() -> Any:
        holder = Holder()
        holder.me = holder
        holder.generator = pages("collected")
        await holder.generator.__anext__()
        del holder
        if "collect" in MODE:
            gc.collect()
        await b(1)
        return await b(2)

    MODE: set[str] = {"collect"}
    gc.collect()
    gc.disable()
    try:
        owner = Owner(flow).start().run()
        assert owner.executed == ["a", "b", "b"]
        owner.replays()
        MODE.clear()
        owner.replays()
    finally:
        gc.enable()
    gc.collect()


def test_open_async_generators_are_closed_when_the_instance_leaves_memory() -> None:
    seen: list[str] = []

    async def held() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed")
            await a("refused")

    kept: list[Any] = []

    @workflow
    async def flow() -> None:
        generator = held()
        kept.append(generator)
        await generator.__anext__()
        async for _ in held():
            await pgd.wait_signal("never")

    owner = Owner(flow).start()
    owner.drop()
    assert seen == ["closed", "closed"]
    kept.clear()
