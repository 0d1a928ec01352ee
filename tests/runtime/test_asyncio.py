"""asyncio's own vocabulary on the deterministic loop: the same meaning, and the same again in replay."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from datetime import timedelta
from typing import Any

import pytest

import pgdurable as pgd
from tests.runtime.harness import START_US, Owner, echo_step, run, workflow

a = echo_step("a")
b = echo_step("b")
c = echo_step("c")


@pgd.step
async def double(n: int) -> int:
    return n * 2


def test_steps_and_timers_are_numbered_in_the_order_issued() -> None:
    @workflow
    async def flow() -> list[int]:
        first = await double(1)
        await asyncio.sleep(5)
        return [first, *await asyncio.gather(double(2), double(3))]

    owner = run(flow)
    assert owner.result == [2, 4, 6]
    assert [(e.kind, e.seq) for e in owner.history] == [("step", 0), ("timer", 1), ("step", 2), ("step", 3)]
    assert owner.history[1].at_us == owner.history[0].at_us + 5_000_000


def test_gather_keeps_its_order_whatever_ends_first() -> None:
    @workflow
    async def flow() -> Any:
        return await asyncio.gather(a("x"), b("y"), c("z"))

    owner = Owner(flow).start().run("c", "a", "b")
    assert owner.result == ["x", "y", "z"]
    assert [e.name for e in owner.history] == ["c", "a", "b"]
    owner.replays()


def test_gather_hands_on_the_first_failure_and_keeps_the_others_going() -> None:
    @pgd.step(name="bad")
    async def bad() -> None:
        raise LookupError("gone")

    @workflow
    async def flow() -> Any:
        task = asyncio.create_task(a(1))
        try:
            await asyncio.gather(task, bad())
        except LookupError as error:
            return [str(error), await task]

    owner = Owner(flow).start().run("bad", "a")
    assert owner.result == ["gone", 1]
    owner.replays()


def test_gather_can_return_exceptions() -> None:
    @pgd.step(name="bad")
    async def bad() -> None:
        raise ValueError("no")

    @workflow
    async def flow() -> Any:
        good, failed = await asyncio.gather(a(1), bad(), return_exceptions=True)
        return [good, type(failed).__name__, type(failed.__cause__).__name__]

    assert run(flow).result == [1, "ValueError", "StepFailed"]


@pytest.mark.parametrize("winner", ["step", "timer"])
def test_wait_for(winner: str) -> None:
    @workflow
    async def flow() -> str:
        try:
            return str(await asyncio.wait_for(a("in time"), 10))
        except asyncio.TimeoutError:
            return "late"

    owner = Owner(flow).start()
    if winner == "step":
        owner.answer("a")
        assert owner.result == "in time"
        assert owner.open == {}, "the timer is no longer set"
    else:
        owner.fire()
        assert owner.result == "late"
        assert "0: cancelled" in owner.trace[-1] or "1: cancelled" in owner.trace[-1]
    owner.replays()


def test_wait_for_zero_and_of_a_finished_future() -> None:
    @workflow
    async def flow() -> list[str]:
        seen = []
        try:
            await asyncio.wait_for(a(), 0)
        except asyncio.TimeoutError:
            seen.append("zero")
        done = asyncio.get_running_loop().create_future()
        done.set_result("there")
        seen.append(await asyncio.wait_for(done, 0))
        return seen

    assert run(flow).result == ["zero", "there"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with 3.11")
@pytest.mark.parametrize("winner", ["step", "timer"])
def test_timeout(winner: str) -> None:
    @workflow
    async def flow() -> list[Any]:
        seen: list[Any] = []
        try:
            async with asyncio.timeout(10) as limit:
                seen.append(await a("in time"))
                limit.reschedule(asyncio.get_running_loop().time() + 20)
                await b()
        except TimeoutError:
            seen.append("late")
        return [*seen, await c("after")]

    owner = Owner(flow).start()
    if winner == "step":
        owner.run("a", "b")
        assert owner.result == ["in time", "after"]
    else:
        owner.answer("a")
        owner.fire()
        assert owner.run().result == ["in time", "late", "after"]
        assert owner.history[1].at_us >= owner.history[0].at_us + 20_000_000
    owner.replays()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
def test_task_group() -> None:
    @workflow
    async def flow() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(n)) for n in range(5)]
        return [task.result() for task in tasks]

    owner = Owner(flow).start().run(rng=random.Random(3))
    assert owner.result == [0, 2, 4, 6, 8]
    owner.replays()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
def test_a_task_group_cancels_the_others_when_one_fails() -> None:
    @pgd.step(name="bad")
    async def bad() -> None:
        raise ValueError("no")

    @workflow
    async def flow() -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(a())
                group.create_task(bad())
                group.create_task(asyncio.sleep(3600))
        except BaseExceptionGroup as group_error:  # noqa: F821
            return [str(error) for error in group_error.exceptions]

    owner = Owner(flow).start().run("bad")
    assert owner.result == ["no"]
    assert owner.open == {}
    owner.replays()


def test_wait_first_completed_then_all() -> None:
    @workflow
    async def flow() -> Any:
        tasks = [asyncio.create_task(step(name)) for name, step in (("x", a), ("y", b), ("z", c))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = [task.result() for task in done]
        done, pending = await asyncio.wait(pending)
        return [first, sorted(task.result() for task in done), len(pending)]

    owner = Owner(flow).start().run("b", "c", "a")
    assert owner.result == [["y"], ["x", "z"], 0]
    owner.replays()


def test_wait_with_a_timeout_leaves_the_rest_running() -> None:
    @workflow
    async def flow() -> Any:
        tasks = [asyncio.create_task(a(1)), asyncio.create_task(b(2))]
        done, pending = await asyncio.wait(tasks, timeout=5)
        return [len(done), len(pending), await asyncio.gather(*tasks)]

    owner = Owner(flow).start()
    owner.answer("a")
    owner.fire()
    assert owner.run().result == [1, 1, [1, 2]]
    owner.replays()


def test_as_completed_starts_in_the_order_given_and_ends_in_that_of_the_events() -> None:
    @workflow
    async def flow() -> Any:
        return [await future for future in asyncio.as_completed([double(n) for n in range(20)])]

    owner = Owner(flow).start()
    assert [command.args for command in owner.steps] == [(n,) for n in range(20)]
    owner.run(rng=random.Random(1))
    assert sorted(owner.result) == list(range(0, 40, 2))
    assert owner.result == [int(e.payload or b"") for e in owner.history]
    owner.replays()


def test_queue_lock_semaphore_event_and_condition() -> None:
    @workflow
    async def flow() -> Any:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
        lock, slots, finished = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()
        condition = asyncio.Condition()
        busy = most = 0
        order: list[int] = []

        async def produce() -> None:
            for n in range(6):
                await queue.put(n)
            await queue.join()
            finished.set()

        async def consume() -> None:
            nonlocal busy, most
            while True:
                n = await queue.get()
                async with slots:
                    busy += 1
                    most = max(most, busy)
                    await double(n)
                    busy -= 1
                async with lock:
                    await asyncio.sleep(0.01)
                    order.append(n)
                async with condition:
                    condition.notify_all()
                queue.task_done()

        workers = [asyncio.create_task(consume()) for _ in range(3)]
        maker = asyncio.create_task(produce())
        async with condition:
            await condition.wait_for(lambda: len(order) >= 3)
        await finished.wait()
        await maker
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return [sorted(order), most]

    owner = Owner(flow).start().run(rng=random.Random(7))
    assert owner.result == [[0, 1, 2, 3, 4, 5], 2]
    owner.replays()


def test_shield() -> None:
    @workflow
    async def flow() -> Any:
        inner = asyncio.create_task(a("kept"))
        try:
            await asyncio.wait_for(asyncio.shield(inner), 1)
        except asyncio.TimeoutError:
            pass
        return await inner

    owner = Owner(flow).start()
    owner.fire()
    assert [command.name for command in owner.steps] == ["a"]
    assert owner.run().result == "kept"
    owner.replays()


def test_a_thousand_parallel_steps() -> None:
    @workflow
    async def flow() -> int:
        return sum(await asyncio.gather(*(double(n) for n in range(1000))))

    owner = Owner(flow).start()
    assert [command.seq for command in owner.steps] == list(range(1000))
    owner.run(rng=random.Random(5))
    assert owner.result == 999_000
    owner.replays()


def test_sleep_of_nothing_and_of_a_timedelta() -> None:
    @workflow
    async def flow() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(-1)
        await pgd.sleep(timedelta(minutes=2))
        return pgd.now().isoformat()

    owner = run(flow)
    assert [e.kind for e in owner.history] == ["timer"]
    assert owner.result == "2023-11-14T22:15:20+00:00"


@pytest.mark.parametrize("delay", [float("inf"), 1e30])
def test_a_sleep_without_end_is_a_timer_in_the_year_9999(delay: float) -> None:
    """`asyncio.sleep(math.inf)` raised OverflowError, and 1e30 s overflowed the timestamp."""

    @workflow
    async def flow() -> None:
        await asyncio.sleep(delay)

    owner = Owner(flow).start()
    assert [command.due_us for command in owner.timers] == [253_370_764_800_000_000]
    owner.drop()


def test_timers_are_due_to_the_microsecond() -> None:
    rng = random.Random(11)
    delays = [rng.choice([rng.random(), rng.random() * 1e-3, rng.random() * 1e6]) + 1e-6 for _ in range(500)]

    @workflow
    async def flow() -> None:
        await asyncio.gather(*(asyncio.sleep(delay) for delay in delays))

    owner = Owner(flow).start()
    dues = {command.seq: command.due_us for command in owner.timers}
    for seq, delay in enumerate(delays):
        # Times are whole microseconds, and a float of seconds since 1970 resolves a quarter of one.
        assert -1 < dues[seq] - START_US - delay * 1e6 < 2
    owner.drop()


def test_call_later_and_cancelled_callbacks() -> None:
    @workflow
    async def flow() -> Any:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        loop.call_later(2, seen.append, "two")
        handle = loop.call_later(1, seen.append, "one")
        loop.call_soon(seen.append, "soon").cancel()
        assert handle.when() == loop.time() + 1
        handle.cancel()
        assert handle.cancelled()
        await asyncio.sleep(3)
        return seen

    owner = run(flow)
    assert owner.result == ["two"]
    assert [e.seq for e in owner.history] == [0, 2]


def test_context_variables_belong_to_tasks_and_begin_empty() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    @workflow
    async def flow() -> Any:
        async def child(value: str) -> str:
            variable.set(value)
            await a()
            return variable.get()

        before = variable.get()
        variable.set("main")
        children = await asyncio.gather(child("one"), child("two"))
        return [before, *children, variable.get()]

    token = variable.set("the process's")
    try:
        assert run(flow).result == ["unset", "one", "two", "main"]
    finally:
        variable.reset(token)


def test_what_is_due_already_takes_no_timer() -> None:
    @workflow
    async def flow() -> Any:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        loop.call_later(0, seen.append, "now")
        loop.call_at(loop.time() - 5, seen.append, "past")
        loop.call_later(-1e400, seen.append, "long past")
        await asyncio.sleep(0)
        return seen

    owner = run(flow)
    assert owner.result == ["now", "past", "long past"]
    assert owner.machine.next_seq == 0


def test_task_names_and_the_current_task() -> None:
    @workflow
    async def flow() -> Any:
        async def name() -> str:
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        tasks = [asyncio.create_task(name()) for _ in range(3)]
        tasks.append(asyncio.create_task(name(), name="mine"))
        return await asyncio.gather(*tasks)

    assert run(flow).result == ["Task-1", "Task-2", "Task-3", "mine"]
    assert run(flow).result == ["Task-1", "Task-2", "Task-3", "mine"]


async def test_a_burst_from_within_a_task_of_a_real_loop() -> None:
    """As the engine resumes instances. From 3.14 on the current task belongs to the thread."""

    @workflow
    async def flow() -> Any:
        await asyncio.sleep(1)
        return await asyncio.gather(a(1), b(2))

    outer, task = asyncio.get_running_loop(), asyncio.current_task()
    hooks = sys.get_asyncgen_hooks()
    owner = run(flow)
    assert owner.result == [1, 2]
    assert (asyncio.get_running_loop(), asyncio.current_task()) == (outer, task)
    assert sys.get_asyncgen_hooks() == hooks
    waiting = Owner(flow).start()
    waiting.drop()
    assert (asyncio.get_running_loop(), asyncio.current_task()) == (outer, task)
    await asyncio.sleep(0)


@pytest.mark.usefixtures("noisy")
def test_errors_in_callbacks_are_logged_and_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def bad(error: BaseException) -> None:
        raise error

    @workflow
    async def flow() -> str:
        loop = asyncio.get_running_loop()
        loop.call_soon(bad, ValueError("first"))
        loop.call_soon(bad, asyncio.CancelledError("second"))
        await asyncio.sleep(0)
        return str(await a("fine"))

    owner = run(flow)
    assert owner.result == "fine"
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info][:2] == ["first", "second"]


if sys.version_info >= (3, 12):  # eager tasks came with it

    def test_eager_tasks_are_refused_or_run_like_others() -> None:
        @workflow
        async def flow() -> str:
            loop = asyncio.get_running_loop()
            with pytest.raises(pgd.WorkflowIoError):
                loop.set_task_factory(asyncio.eager_task_factory)
            assert loop.get_task_factory() is None
            return str(await loop.create_task(a("x"), eager_start=True))  # type: ignore[call-arg]

        assert run(flow).result == "x"
