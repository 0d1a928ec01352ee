"""An instance that leaves memory: its code is unwound, issues nothing more, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import time
import weakref
from typing import Any

import pytest

import pgdurable as pgd
from tests.runtime.harness import ALIVE, PATIENCE_S, Owner, echo_step, workflow

a = echo_step("a")
b = echo_step("b")


@pytest.fixture(autouse=True)
def _silent(capsys: pytest.CaptureFixture[str]) -> Any:
    """Nothing may be printed: not `Task was destroyed`, not `coroutine ignored GeneratorExit`."""
    yield
    gc.collect()
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == ""


def test_finally_blocks_run_and_their_steps_are_refused() -> None:
    seen: list[str] = []

    @workflow
    async def flow() -> None:
        try:
            await a()
        finally:
            seen.append("finally")
            try:
                await b()
            finally:
                seen.append("inner")

    owner = Owner(flow).start()
    owner.drop()
    assert seen == ["finally", "inner"]
    assert owner.machine.drain()[0] == owner.machine.drain()[0]
    assert [command.name for command in owner.machine.issued] in ([], ["a"])
    assert owner.machine.outcome is None


def test_everything_a_workflow_can_wait_in_is_left() -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def room(name: str) -> Any:
        try:
            yield
        finally:
            seen.append(name)
            await asyncio.sleep(1)

    @workflow
    async def flow() -> None:
        lock = asyncio.Lock()

        async def hold() -> None:
            async with lock, room("room"):
                await pgd.wait_signal("never")

        async def limit() -> None:
            if sys.version_info >= (3, 11):
                async with asyncio.timeout(60):
                    await asyncio.sleep(1000)
            await asyncio.wait_for(asyncio.sleep(1000), 60)

        async def group() -> None:
            if sys.version_info >= (3, 11):
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(asyncio.sleep(1000))
                    inner.create_task(asyncio.Event().wait())
                    await a()

        tasks = [asyncio.create_task(one()) for one in (hold, limit, group, hold)]
        tasks.append(asyncio.create_task(asyncio.Queue().get()))  # type: ignore[arg-type]
        async with room("main"):
            await asyncio.gather(*tasks, asyncio.shield(tasks[0]))

    owner = Owner(flow).start()
    owner.drop()
    assert sorted(seen) == ["main", "room"]


def test_code_that_awaits_on_its_way_out_is_told_again() -> None:
    """`close()` gave up at the first await of a `finally` block, and the interpreter printed
    `coroutine ignored GeneratorExit` when it collected the rest."""
    seen: list[int] = []

    @workflow
    async def flow() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for n in range(5):
                try:
                    await asyncio.sleep(0)
                except BaseException:
                    seen.append(n)

    Owner(flow).start().drop()
    assert seen == [0, 1, 2, 3, 4]


async def asks_for_steps() -> None:
    while True:
        try:
            await a()
        except:  # noqa: E722
            continue


async def waits_for_a_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    while True:
        try:
            await future
        except BaseException:
            pass


async def starts_tasks() -> None:
    while True:
        try:
            await asyncio.gather(a(), asyncio.sleep(1))
        except BaseException:
            pass


def asks_for_steps_in_a_thread() -> None:
    while True:
        try:
            a()
        except BaseException:
            pass


@pytest.mark.usefixtures("noisy")
@pytest.mark.parametrize("fn", [asks_for_steps, waits_for_a_future, starts_tasks, asks_for_steps_in_a_thread])
def test_code_that_catches_everything_in_a_loop_is_given_up(fn: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A bare `except:` in a loop hung the whole worker when its instance left memory."""
    owner = Owner(workflow(fn)).start()
    ALIVE.remove(owner)  # its thread never ends
    owner.machine.drop()
    deadline = time.monotonic() + PATIENCE_S
    while not caplog.messages and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "code does not end when its instance leaves memory" in caplog.messages[0]


def test_code_that_was_given_up_does_not_hang_the_exit_of_the_process() -> None:
    """The interpreter closes what it collects at its end, and the bare `except:` went on with that."""
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from tests.runtime.harness import Owner, workflow\n"
        "from tests.runtime.test_drop import asks_for_steps, waits_for_a_future\n"
        "for fn in (asks_for_steps, waits_for_a_future):\n"
        "    Owner(workflow(fn)).start().drop()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.count("code does not end when its instance leaves memory") == 2


def test_a_task_that_never_began() -> None:
    @workflow
    async def flow() -> None:
        asyncio.create_task(a())  # noqa: RUF006
        raise ValueError("at once")

    owner = Owner(flow).start()
    owner.drop()
    assert owner.machine.outcome is not None
    assert owner.machine.outcome[0] == "failed"


def test_tasks_started_while_unwinding_are_refused_without_a_warning() -> None:
    @workflow
    async def flow() -> None:
        try:
            await a()
        finally:
            await asyncio.gather(b(), b())

    Owner(flow).start().drop()


def test_a_dropped_instance_is_collected() -> None:
    @workflow
    async def flow() -> None:
        tasks = [asyncio.create_task(a(n)) for n in range(3)]
        await asyncio.wait_for(asyncio.gather(*tasks), 100)

    owner = Owner(flow).start()
    gone = weakref.ref(owner.machine)
    owner.drop()
    owner.machine = None  # type: ignore[assignment]
    owner.open.clear()
    gc.collect()
    assert gone() is None


def test_after_its_end_or_before_its_start() -> None:
    @workflow
    async def flow() -> str:
        task = asyncio.create_task(b())
        result = str(await a("x"))
        assert not task.done()
        return result

    owner = Owner(flow).start().run("a")
    owner.drop()
    owner.machine.drop()
    Owner(flow).drop()

    @workflow
    def twin() -> None: ...

    Owner(twin).drop()


async def test_drop_within_a_real_loop_leaves_that_as_it_was() -> None:
    @workflow
    async def flow() -> None:
        await a()

    loop, hooks = asyncio.get_running_loop(), sys.get_asyncgen_hooks()
    Owner(flow).start().drop()
    assert asyncio.get_running_loop() is loop
    assert sys.get_asyncgen_hooks() == hooks
