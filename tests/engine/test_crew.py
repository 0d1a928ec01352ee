"""Steps that share a task see nothing of one another, and each is to asyncio what a task of its own would be."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pgdurable._engine._crew import Crew

shade: contextvars.ContextVar[str] = contextvars.ContextVar("shade", default="none")


class Run:
    """A step as the crew sees it."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self.command = SimpleNamespace(step=SimpleNamespace(fn=fn), args=args, kwargs=None)
        self.queued = False
        self.started = 0.0
        self.task: Any = None
        self.waited = False
        self.over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def waits(self) -> None:
        self.waited = True

    def ended(self, value: Any, error: BaseException | None) -> None:
        self.task = None
        if error is None:
            self.over.set_result(value)
        else:
            self.over.set_result(error)


async def outcomes(*runs: Run) -> list[Any]:
    crew = Crew(asyncio.get_running_loop())
    for run in runs:
        crew.add(run)
    return await asyncio.wait_for(asyncio.gather(*(run.over for run in runs)), 10)


async def name_of_task() -> int:
    task = asyncio.current_task()
    assert isinstance(task, asyncio.Task)
    return id(task)


async def test_steps_that_end_at_once_share_a_task_and_keep_their_order() -> None:
    order: list[int] = []

    async def step(n: int) -> int:
        order.append(n)
        return await name_of_task()

    runs = [Run(step, n) for n in range(20)]
    assert len(set(await outcomes(*runs))) == 1
    assert order == list(range(20))
    assert not any(run.waited for run in runs)


async def test_a_step_that_waits_keeps_its_task_and_the_others_go_on() -> None:
    go = asyncio.Event()

    async def waits() -> tuple[int, int]:
        before = await name_of_task()
        await go.wait()
        return before, await name_of_task()

    async def opens() -> int:
        go.set()
        return await name_of_task()

    first, second, third = Run(waits), Run(waits), Run(opens)
    one, two, three = await outcomes(first, second, third)
    assert one[0] == one[1]
    assert two[0] == two[1]
    assert len({one[0], two[0], three}) == 3
    assert (first.waited, second.waited, third.waited) == (True, True, False)


async def test_each_step_has_a_context_of_its_own() -> None:
    async def paints() -> str:
        seen = shade.get()
        shade.set("red")
        return seen

    async def paints_and_waits() -> tuple[str, str]:
        seen = shade.get()
        shade.set("blue")
        await asyncio.sleep(0)
        return seen, shade.get()

    shade.set("white")
    assert await outcomes(Run(paints), Run(paints), Run(paints_and_waits), Run(paints)) == [
        "white", "white", ("white", "blue"), "white",
    ]  # fmt: skip
    assert shade.get() == "white"


KEPT: list[Any] = []
KEYED: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


async def keeps_it() -> None:
    KEPT.append(asyncio.current_task())


async def is_keyed_by_it() -> None:
    KEYED[asyncio.current_task()] = "mine"


async def adds_a_callback() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda task: None)


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("marks", [keeps_it, is_keyed_by_it, adds_a_callback, cancels_itself])
async def test_a_task_that_a_step_has_left_a_mark_on_begins_no_other(marks: Callable[[], Awaitable[None]]) -> None:
    seen: list[Any] = []

    async def next_step() -> str:
        task = asyncio.current_task()
        assert task is not None
        seen.append(weakref.ref(task))
        found = KEYED.get(task, "none") + str(any(task is kept for kept in KEPT))
        await asyncio.sleep(0)  # a cancellation meant for another would come up here
        return found

    async def same(n: int) -> int:
        return n

    KEPT.clear()
    KEYED.clear()
    try:
        assert await outcomes(Run(same, 1), Run(marks), Run(next_step), Run(same, 2)) == [1, None, "noneFalse", 2]
    finally:
        KEPT.clear()
        KEYED.clear()


async def test_errors_are_the_steps_own() -> None:
    async def raises() -> None:
        raise ValueError("boom")

    async def raises_late() -> None:
        await asyncio.sleep(0)
        raise ValueError("late")

    async def stops() -> None:
        raise StopIteration(7)

    async def ends() -> str:
        return "fine"

    found = await outcomes(Run(raises), Run(raises_late), Run(stops), Run(ends, 1), Run(ends))
    assert [type(error) for error in found[:4]] == [ValueError, ValueError, RuntimeError, TypeError]
    assert found[4] == "fine"


async def test_cancelling_reaches_the_step_that_waits_and_it_may_clean_up() -> None:
    began = asyncio.Event()
    log: list[str] = []

    async def waits() -> str:
        try:
            began.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("cancelled")
            await asyncio.sleep(0)
            log.append("cleaned")
            raise
        return "never"

    run = Run(waits)
    crew = Crew(asyncio.get_running_loop())
    crew.add(run)
    await began.wait()
    run.task.cancel()
    assert isinstance(await asyncio.wait_for(run.over, 10), asyncio.CancelledError)
    assert log == ["cancelled", "cleaned"]


async def test_a_step_taken_back_before_its_turn_never_begins() -> None:
    begun: list[str] = []

    async def step(name: str) -> None:
        begun.append(name)

    crew = Crew(asyncio.get_running_loop())
    first, second, third = Run(step, "first"), Run(step, "second"), Run(step, "third")
    for run in (first, second, third):
        crew.add(run)
    second.queued = False
    await asyncio.wait_for(asyncio.gather(first.over, third.over), 10)
    assert begun == ["first", "third"]
    assert not second.over.done()


async def test_what_asks_for_the_current_task_works_from_the_first_line() -> None:
    async def limited() -> str:
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            return "timed out"
        return "slept"

    async def grouped() -> list[int]:
        return list(await asyncio.gather(*(asyncio.sleep(0, n) for n in range(3))))

    assert await outcomes(Run(limited), Run(grouped), Run(name_of_task))
    assert await outcomes(Run(limited), Run(grouped)) == ["timed out", [0, 1, 2]]


async def test_an_awaitable_that_is_no_coroutine_is_awaited() -> None:
    class Later:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "later"

    def step() -> Any:
        return Later()

    assert await outcomes(Run(step)) == ["later"]


async def test_a_step_that_awaits_nonsense_is_told_so() -> None:
    class Nonsense:
        def __await__(self) -> Any:
            yield "nonsense"

    async def step() -> Any:
        return await Nonsense()

    (error,) = await outcomes(Run(step))
    assert isinstance(error, RuntimeError)
    assert "bad yield" in str(error)


def test_steps_that_never_began_hear_of_the_end_of_their_loop() -> None:
    heard: list[Any] = []

    class Deaf(Run):
        def ended(self, value: Any, error: BaseException | None) -> None:
            heard.append((type(error), self.task is not None))

    async def step() -> None:
        raise AssertionError("it began")

    async def main() -> None:
        crew = Crew(asyncio.get_running_loop())
        crew.add(Deaf(step))
        crew.add(Deaf(step))
        for task in asyncio.all_tasks() - {asyncio.current_task()}:  # as asyncio.run does at its end
            task.cancel()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert heard == [(asyncio.CancelledError, True)] * 2


def test_an_interrupt_goes_through_and_the_others_still_run() -> None:
    async def interrupts() -> None:
        raise KeyboardInterrupt

    async def ends() -> str:
        return "ran"

    loop = asyncio.new_event_loop()
    runs: list[Run] = []

    async def main() -> None:
        crew = Crew(loop)
        runs.extend((Run(interrupts), Run(ends)))
        for run in runs:
            crew.add(run)
        await asyncio.sleep(10)

    async def rest() -> Any:
        return await asyncio.wait_for(runs[1].over, 10)

    # Nobody asks the interrupted task for its exception: it would be told in whatever test it is collected in.
    loop.set_exception_handler(lambda loop, context: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        assert isinstance(runs[0].over.result(), KeyboardInterrupt)
        assert loop.run_until_complete(rest()) == "ran"
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
