"""The inner cycle leaves the thread as it found it: running loop, async generator hooks, whose code runs."""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio.events import _get_running_loop
from collections.abc import AsyncIterator
from typing import Any

from pgdurable._runtime import _cycle
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.loop import AsyncMachine, DeterministicLoop

from .harness import SEED, START_US


def machine_of(body: Any) -> AsyncMachine:
    return AsyncMachine("instance t", "workflow w v1", SEED, START_US, body)


def test_the_running_loop_is_changed_in_place_where_cpython_allows_it() -> None:
    assert _cycle.switches_in_place() == (sys.version_info < (3, 12) and sys.implementation.name == "cpython")


def test_a_burst_has_its_own_loop_hooks_and_machine_and_gives_the_old_ones_back() -> None:
    seen: dict[str, Any] = {}
    machine: AsyncMachine

    async def body() -> str:
        seen["loop"] = asyncio.get_running_loop()
        seen["hooks"] = sys.get_asyncgen_hooks()
        seen["machine"] = current_machine()
        thread = threading.Thread(target=lambda: seen.update(elsewhere=(current_machine(), _get_running_loop())))
        thread.start()
        thread.join()
        return "done"

    machine = machine_of(body)
    loop = machine.loop
    assert isinstance(loop, DeterministicLoop)

    async def outer() -> None:
        before = (asyncio.get_running_loop(), sys.get_asyncgen_hooks(), current_machine())
        machine.start()
        assert (asyncio.get_running_loop(), sys.get_asyncgen_hooks(), current_machine()) == before
        assert before[2] is None

    asyncio.run(outer())
    assert machine.outcome == ("completed", "done")
    assert seen["loop"] is loop
    assert seen["machine"] is machine
    assert seen["elsewhere"] == (None, None)
    assert None not in tuple(seen["hooks"])


def test_a_burst_without_a_loop_around_it() -> None:
    async def body() -> Any:
        return type(asyncio.get_running_loop())

    machine = machine_of(body)
    machine.start()
    assert machine.outcome == ("completed", DeterministicLoop)
    assert _get_running_loop() is None
    assert sys.get_asyncgen_hooks() == (None, None)


def test_a_burst_within_a_burst_of_another_instance() -> None:
    seen: list[Any] = []

    async def inner() -> str:
        seen.append((current_machine(), asyncio.get_running_loop()))
        return "inner"

    within = machine_of(inner)
    within_loop = within.loop

    async def outer() -> str:
        seen.append((current_machine(), asyncio.get_running_loop()))
        within.start()
        seen.append((current_machine(), asyncio.get_running_loop()))
        return "outer"

    around = machine_of(outer)
    around_loop = around.loop
    around.start()
    assert seen == [(around, around_loop), (within, within_loop), (around, around_loop)]
    assert (around.outcome, within.outcome) == (("completed", "outer"), ("completed", "inner"))


def test_a_callback_that_raises_leaves_the_thread_as_it_was() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()

        def interrupts() -> None:
            raise KeyboardInterrupt

        loop.call_soon(interrupts)
        await loop.create_future()

    machine = machine_of(body)
    try:
        machine.start()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the interrupt was swallowed")
    assert _get_running_loop() is None
    assert current_machine() is None
    machine.drop()


def test_what_is_cleared_does_not_run_and_what_comes_after_it_does() -> None:
    ran: list[str] = []

    async def body() -> None:
        loop: Any = asyncio.get_running_loop()

        def clears() -> None:
            loop.clear_ready()
            loop.call_soon(ran.append, "after")

        loop.call_soon(ran.append, "first")
        loop.call_soon(clears)
        loop.call_soon(ran.append, "never")
        await loop.create_future()

    machine = machine_of(body)
    machine.start()
    assert ran == ["first", "after"]
    machine.drop()


def test_an_async_generator_left_behind_is_closed_by_its_own_loop() -> None:
    closed_on: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_on.append(asyncio.get_running_loop())

    async def body() -> str:
        async for _ in numbers():
            break
        await asyncio.sleep(0)
        return "done"

    machine = machine_of(body)
    loop = machine.loop
    machine.start()
    assert machine.outcome == ("completed", "done")
    assert closed_on == [loop]


def test_an_instance_that_ended_is_gone_without_the_garbage_collector() -> None:
    import gc
    import weakref

    async def body() -> str:
        await asyncio.sleep(0)
        return "done"

    gc.collect()
    gc.disable()
    try:
        machine = machine_of(body)
        machine.start()
        assert machine.outcome == ("completed", "done")
        gone = [weakref.ref(machine), weakref.ref(machine.loop)]
        machine.drop()
        del machine
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
