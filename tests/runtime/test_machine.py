"""Numbering, cancelling, signals, time, chance, errors and ends: what the owner sees of a machine."""

from __future__ import annotations

import asyncio
import gc
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Machine
from tests.runtime.harness import START_US, Event, Owner, echo_step, run, workflow

a = echo_step("a")
b = echo_step("b")
c = echo_step("c")


# -- cancelling --------------------------------------------------------------------------------------------------


def test_a_timer_set_and_cancelled_in_one_burst_leaves_no_trace() -> None:
    @workflow
    async def flow() -> str:
        async with asyncio.Lock():
            done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(done.set_result, "x")
            return await asyncio.wait_for(done, 60)

    owner = Owner(flow).start()
    assert owner.result == "x"
    assert owner.trace == ["start -> ('completed', 'x')"]
    assert owner.machine.next_seq == 1, "but it has had its number, in replay as well"
    assert owner.machine.pending == {}


def test_a_step_issued_and_cancelled_in_one_burst_is_not_even_reported() -> None:
    @workflow
    async def flow() -> Any:
        task = asyncio.create_task(a())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await b("b")

    owner = Owner(flow).start()
    assert owner.trace == [f"start -> {owner.steps[0].seq}: {owner.steps[0]}"]
    assert owner.steps[0].seq == 1
    assert owner.run().result == "b"
    owner.replays()


def test_a_cancelled_step_is_reported_once() -> None:
    @workflow
    async def flow() -> None:
        task = asyncio.create_task(a())
        await b()
        task.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        task.cancel()
        await c()

    owner = Owner(flow).start().run("b", "c")
    assert sum(line.count(": cancelled") for line in owner.trace) == 1
    owner.replays()


@pytest.mark.parametrize("kind", ["step", "timer"])
def test_the_late_answer_of_a_cancelled_command_only_moves_time(kind: str) -> None:
    @workflow
    async def flow() -> Any:
        task = asyncio.create_task(a("late") if kind == "step" else asyncio.sleep(5))  # type: ignore[arg-type]
        await b()
        task.cancel()
        before = pgd.now()
        await c()
        return [task.cancelled(), (pgd.now() - before).total_seconds()]

    owner = Owner(flow).start()
    command = owner.step("a") if kind == "step" else owner.timers[0]
    late = owner.checkpoint(command) if kind == "step" else Event("timer", 0, command.seq)
    owner.answer("b")
    assert command.cancelled
    # Its row had been written before the owner heard of the cancelling.
    owner.deliver(Event(late.kind, owner.now_us + 7_000_000, late.seq, late.name, late.fingerprint, late.payload))
    last = owner.step("c")
    owner.deliver(Event("step", 0, last.seq, "c", last.fingerprint, b"null"))
    assert owner.result == [True, 7.0]
    owner.replays()


def test_answers_after_the_end_change_nothing() -> None:
    @workflow
    async def flow() -> Any:
        done, _ = await asyncio.wait(
            [asyncio.create_task(a("x")), asyncio.create_task(b("y"))], return_when=asyncio.FIRST_COMPLETED
        )
        return [task.result() for task in done]

    owner = Owner(flow).start()
    loser = owner.checkpoint(owner.step("b"))
    owner.answer("a")
    owner.deliver(loser)
    owner.signal("late")
    assert owner.result == ["x"]
    owner.replays()


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_who_wins_a_race_is_the_same_in_replay(order: tuple[str, str]) -> None:
    @workflow
    async def flow() -> Any:
        racers = [asyncio.create_task(a("a")), asyncio.create_task(b("b")), asyncio.create_task(asyncio.sleep(9))]
        done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return [task.result() for task in done]

    owner = Owner(flow).start()
    rows = [owner.checkpoint(owner.step(name)) for name in order]
    for row in rows:
        owner.deliver(row)
    assert owner.result == [order[0]]
    owner.replays()


# -- signals -----------------------------------------------------------------------------------------------------


def test_signals_sent_before_the_wait_are_kept_in_order() -> None:
    @workflow
    async def flow() -> Any:
        await a()
        return [await pgd.wait_signal("n") for _ in range(3)] + [await pgd.wait_signal("other")]

    owner = Owner(flow).start()
    owner.signal("n", 1)
    owner.signal("other", "o")
    owner.signal("n", 2)
    owner.answer("a")
    owner.signal("n", 3)
    assert owner.result == [1, 2, 3, "o"]
    owner.replays()


def test_several_waiters_get_signals_in_the_order_they_began_to_wait() -> None:
    @workflow
    async def flow() -> Any:
        async def wait(who: int) -> list[Any]:
            return [who, await pgd.wait_signal("go")]

        tasks = [asyncio.create_task(wait(n)) for n in range(3)]
        await asyncio.sleep(1)
        tasks[1].cancel()
        return await asyncio.gather(tasks[0], tasks[2])

    owner = Owner(flow).start()
    owner.fire()
    owner.signal("go", "first")
    owner.signal("go", "second")
    assert owner.result == [[0, "first"], [2, "second"]]
    owner.replays()


def test_a_wait_that_timed_out_takes_no_signal() -> None:
    @workflow
    async def flow() -> Any:
        seen = []
        for _ in range(2):
            try:
                seen.append(await pgd.wait_signal("s", timeout=5))
            except TimeoutError as error:  # the builtin one, on 3.10 too
                seen.append(str(error))
        return [*seen, await pgd.wait_signal("s")]

    owner = Owner(flow).start()
    owner.fire()
    owner.signal("s", "in time")
    owner.signal("s", "later")
    assert owner.result == ["instance t: no signal 's' within 5 s", "in time", "later"]
    owner.replays()


def test_waits_that_timed_out_are_forgotten() -> None:
    """A workflow that polls with a timeout left one future behind for each wait."""

    @workflow
    async def flow() -> None:
        while True:
            try:
                await pgd.wait_signal("never", timeout=1)
            except TimeoutError:
                pass

    owner = Owner(flow).start()
    for _ in range(50):
        owner.fire()
    assert len(owner.machine._waiters["never"]) <= 2
    owner.replays()


@dataclass
class Approval:
    by: str
    at: datetime


def test_a_signal_is_decoded_to_its_type() -> None:
    @workflow
    async def flow() -> Any:
        seen: list[Any] = []
        for _ in range(2):
            try:
                approval = await pgd.wait_signal("approval", type=Approval)
                seen.append([approval.by, approval.at.year])
            except pgd.CodecError as error:
                seen.append(error.message)
        return seen

    owner = Owner(flow).start()
    owner.signal("approval", {"by": "ann", "at": "2024-05-01T10:00:00Z"})
    owner.signal("approval", {"by": "bob"})
    good, bad = owner.result
    assert good == ["ann", 2024]
    assert bad.startswith("instance t: signal 'approval'")
    owner.replays()


# -- time and chance -----------------------------------------------------------------------------------------------


def test_now_is_the_time_of_the_event_and_never_goes_back() -> None:
    @workflow
    async def flow() -> Any:
        times = [pgd.now().timestamp()]
        await a()
        times.append(pgd.now().timestamp())
        await pgd.wait_signal("s")
        times.append(pgd.now().timestamp())
        await asyncio.sleep(10)
        return [*times, pgd.now().timestamp(), asyncio.get_running_loop().time()]

    owner = Owner(flow).start()
    command = owner.step("a")
    owner.deliver(Event("step", START_US + 3_000_000, command.seq, "a", command.fingerprint, b"1"))
    # A transaction's time is when it began, which may be before an event that came first.
    owner.deliver(Event("signal", START_US + 1_000_000, name="s", payload=b"1"))
    owner.deliver(Event("timer", START_US + 13_000_001, 1))
    start = START_US / 1e6
    assert owner.result == [start, start + 3, start + 3, start + 13.000001, start + 13.000001]
    owner.replays()


def test_chance_is_the_same_in_replay_and_another_in_another_instance() -> None:
    @workflow
    async def flow() -> Any:
        drawn: list[Any] = [pgd.random(), str(pgd.uuid4())]
        await a()
        return [*drawn, str(pgd.uuid4()), pgd.random()]

    def results(seed: bytes) -> Any:
        return Owner(flow, seed=seed).start().run().replays().result

    first = results(bytes(16))
    assert first == results(bytes(16))
    assert len(set(first)) == 4
    assert 0 <= first[0] < 1
    assert uuid.UUID(first[1]).version == 4
    assert not set(first) & set(results(bytes([0] * 15 + [1])))
    assert not set(first) & set(results(bytes([1] + [0] * 15)))


# -- errors and ends -----------------------------------------------------------------------------------------------


class OutOfStock(Exception):
    def __init__(self, sku: str) -> None:
        super().__init__(sku)
        self.sku = sku


def test_a_step_s_error_is_caught_as_its_type() -> None:
    @pgd.step(name="reserve")
    async def reserve(sku: str) -> None:
        raise OutOfStock(sku)

    @workflow
    async def flow() -> Any:
        try:
            await reserve("sku-9")
        except OutOfStock as error:
            return [error.sku, type(error.__cause__).__name__]

    assert run(flow).result == ["sku-9", "StepFailed"]


def test_an_error_that_cannot_be_rebuilt_is_a_step_failed() -> None:
    @pgd.step(name="odd")
    async def odd() -> None:
        class Local(Exception):
            pass

        raise Local("gone with the process")

    @workflow
    async def flow() -> Any:
        try:
            await odd()
        except pgd.StepFailed as error:
            return [error.step, error.type.rpartition(".")[2], "gone with the process" in str(error)]

    assert run(flow).result == ["odd", "Local", True]


@pytest.mark.parametrize("threaded", [False, True])
def test_a_step_that_raised_stop_iteration_fails_with_a_runtime_error(threaded: bool) -> None:
    """A future takes no StopIteration: the answer raised TypeError in the owner and the workflow waited for ever."""

    @pgd.step(name="exhausted")
    def exhausted() -> Any:
        return next(iter([]))

    async def flow() -> Any:
        try:
            await exhausted()
        except RuntimeError as error:
            return [str(error), type(error.__cause__).__name__]

    def twin() -> Any:
        try:
            exhausted()
        except RuntimeError as error:
            return [str(error), type(error.__cause__).__name__]

    assert run(workflow(twin if threaded else flow)).result == ["a step raised StopIteration", "StopIteration"]


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), GeneratorExit(), StopAsyncIteration()])
@pytest.mark.parametrize("threaded", [False, True])
def test_whatever_the_workflow_raises_is_its_outcome(error: BaseException, threaded: bool) -> None:
    async def flow() -> None:
        await a()
        raise error

    def twin() -> None:
        a()
        raise error

    owner = run(workflow(twin if threaded else flow))
    assert owner.machine.outcome is not None
    assert owner.machine.outcome[0] == "failed"
    assert owner.machine.outcome[1] is error


def test_a_workflow_that_cancels_itself_is_cancelled() -> None:
    @workflow
    async def flow() -> None:
        await a()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await b()

    owner = run(flow)
    assert owner.machine.outcome == ("cancelled", None)


def test_a_body_that_cannot_even_be_called_fails_the_workflow() -> None:
    @workflow
    async def flow(n: int) -> None:
        await a(n)

    owner = Owner(flow).start()
    assert owner.machine.outcome is not None
    assert owner.machine.outcome[0] == "failed"
    assert isinstance(owner.machine.outcome[1], TypeError)


def test_ctrl_c_in_workflow_code_reaches_the_process_and_records_nothing() -> None:
    @workflow
    async def flow() -> None:
        raise KeyboardInterrupt

    owner = Owner(flow)
    with pytest.raises(KeyboardInterrupt):
        owner.machine.start()
    assert owner.machine.outcome is None
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert current_machine() is None


def test_arguments_are_the_step_s_own() -> None:
    @pgd.step(name="grow")
    async def grow(items: list[int]) -> int:
        items.append(1)
        return len(items)

    @workflow
    async def flow() -> Any:
        items: list[int] = []
        return [await grow(items), await grow(items), items]

    assert run(flow).result == [1, 1, []]


# -- what a decorated function is outside ----------------------------------------------------------------------------


async def test_a_step_outside_a_workflow_is_the_plain_function() -> None:
    @pgd.step
    def plain(n: int) -> int:
        return n + 1

    @pgd.step
    async def waiting(n: int) -> int:
        return n + 2

    assert plain(1) == 2
    assert await waiting(1) == 3
    assert await workflow(waiting.fn)(1) == 3
    assert isinstance(pgd.uuid4(), uuid.UUID)
    assert 0 <= pgd.random() < 1
    with pytest.raises(pgd.PgDurableError, match="wait_signal was called outside workflow code"):
        pgd.wait_signal("s")


def test_a_step_that_calls_a_step_runs_it_plainly() -> None:
    @pgd.step(name="inner")
    async def inner(n: int) -> int:
        return n + 1

    @pgd.step(name="outer")
    async def outer(n: int) -> int:
        return await inner(n) + 1

    @workflow
    async def flow() -> int:
        return await outer(1)

    owner = run(flow)
    assert owner.result == 3
    assert owner.executed == ["outer"]


def test_a_workflow_called_inside_a_workflow_is_a_command_for_a_child() -> None:
    @workflow
    async def child(n: int) -> None: ...

    @workflow
    async def flow() -> None:
        await child(7)

    machine = AsyncMachine("x", "flow", bytes(16), 0, flow.fn)
    machine.start()
    (command,), _ = machine.drain()
    assert (command.kind, command.name, command.step.input) == ("child", "child", b'{"n":7}')
    machine.answer(command.seq, None, None, 1)
    assert machine.outcome == ("completed", None)


def test_the_bare_machine_leaves_running_code_to_its_kinds() -> None:
    machine = Machine("x", "w", bytes(16), 0)
    for call in (machine.start, machine.burst, machine.new_future):
        with pytest.raises(NotImplementedError):
            call()


def test_the_collector_changes_nothing() -> None:
    @workflow
    async def flow() -> Any:
        async def child(n: int) -> Any:
            await asyncio.sleep(n)
            return [n, await a(n), await pgd.wait_signal(f"s{n}")]

        background = [asyncio.ensure_future(child(n)) for n in range(1, 4)]
        results = [await task for task in background]
        del background
        return results

    owner = Owner(flow).start()
    for _ in range(3):
        gc.collect()
        owner.fire()
        gc.collect()
        owner.answer("a")
    for n in (3, 1, 2):
        gc.collect()
        owner.signal(f"s{n}", n)
    assert owner.result == [[n, n, n] for n in (1, 2, 3)]
    owner.replays()
