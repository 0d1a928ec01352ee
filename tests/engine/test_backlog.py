"""The gate by itself: who waits, who goes in, in which order, and what a cancellation leaves behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from pgdurable._engine.backlog import Gate


class Yard:
    """A load that callers add to and the test takes away."""

    def __init__(self, most: int, most_bytes: int = 1 << 30) -> None:
        self.load = [0, 0]
        self.highest = 0
        self.order: list[int] = []
        self.behind = False
        self.gate = Gate(lambda: (self.load[0], self.load[1]), most, most_bytes, lambda: self.behind)

    async def call(self, number: int, nbytes: int = 1) -> None:
        if self.gate.full(nbytes):
            await self.gate.enter(nbytes)
        self.load[0] += 1
        self.load[1] += nbytes
        self.highest = max(self.highest, self.load[0])
        self.order.append(number)

    def take(self, n: int, nbytes: int | None = None) -> None:
        self.load[0] -= n
        self.load[1] -= n if nbytes is None else nbytes
        self.gate.open_up()

    async def calls(self, numbers: range, nbytes: int = 1) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.call(number, nbytes)) for number in numbers]
        await settle()
        return tasks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("most", [1, 3, 16, 17, 100])
async def test_no_more_than_the_limit_go_in_and_the_others_in_order(most: int) -> None:
    yard = Yard(most)
    tasks = await yard.calls(range(250))
    assert yard.load[0] == most
    assert (yard.gate.waiting, yard.gate.waited) == (250 - most, 250 - most)
    while yard.gate.waiting:
        yard.take(min(7, yard.load[0]))
        await settle()
    await asyncio.gather(*tasks)
    assert yard.order == list(range(250))
    assert yard.highest == most


async def test_who_comes_later_waits_behind_who_was_let_in_but_has_not_run() -> None:
    yard = Yard(2)
    waiting = await yard.calls(range(4))
    yard.take(2)  # 2 and 3 are let in, and have not run yet
    late = asyncio.create_task(yard.call(4))
    assert yard.gate.full()
    await settle()
    assert yard.order == [0, 1, 2, 3]
    yard.take(1)
    await asyncio.gather(*waiting, late)
    assert yard.order == [0, 1, 2, 3, 4]


async def test_bytes_count_too() -> None:
    yard = Yard(1000, most_bytes=20_000)
    tasks = await yard.calls(range(10), nbytes=6000)
    assert yard.order == [0, 1, 2, 3]  # the fourth is let in at 18,000
    yard.take(4, 24_000)
    await settle()
    assert len(yard.order) == 8
    yard.take(4, 24_000)
    await asyncio.gather(*tasks)


async def test_a_cancelled_caller_leaves_nothing_behind() -> None:
    yard = Yard(1)
    tasks = await yard.calls(range(5))
    tasks[1].cancel()
    tasks[3].cancel()
    await settle()
    assert yard.gate.waiting == 2
    for _ in range(2):
        yard.take(1)
        await settle()
    assert yard.order == [0, 2, 4]
    yard.take(1)
    assert not yard.gate.full()


@pytest.mark.parametrize("late", [False, True])
async def test_a_turn_that_meets_a_cancellation_is_the_next_ones(late: bool) -> None:
    yard = Yard(1)
    tasks = await yard.calls(range(3))
    if late:
        yard.take(1)
        tasks[1].cancel()  # let in, but it has not run since
    else:
        tasks[1].cancel()
        yard.take(1)  # cancelled, but it has not run since
    await settle()
    assert tasks[1].cancelled()
    assert yard.order == [0, 2]
    yard.take(1)
    assert not yard.gate.full()
    assert yard.gate.waiting == 0


async def test_closing_sends_away_who_waits_and_holds_back_nobody_else() -> None:
    yard = Yard(1)
    tasks = await yard.calls(range(3))
    yard.gate.close(lambda: ConnectionError("closed"))
    for task in tasks[1:]:
        with pytest.raises(ConnectionError, match="closed"):
            await task
    assert not yard.gate.full()
    yard.take(1)
    assert yard.order == [0]


async def test_any_order_of_calls_cancellations_and_answers(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        most = rng.randint(1, 40)
        yard = Yard(most)
        tasks: list[asyncio.Task[None]] = []
        for _ in range(rng.randint(5, 80)):
            what = rng.random()
            if what < 0.5:
                first = len(tasks)
                tasks += [asyncio.create_task(yard.call(first + n)) for n in range(rng.randint(1, 30))]
            elif what < 0.7 and tasks:
                for task in rng.sample(tasks, rng.randint(1, len(tasks))):
                    task.cancel()
            elif yard.load[0]:
                yard.take(rng.randint(1, yard.load[0]))
            if rng.random() < 0.6:
                await settle()
        for _ in range(10_000):
            await settle()
            if all(task.done() for task in tasks):
                break
            yard.take(yard.load[0])
        assert all(task.done() for task in tasks)
        assert yard.order == sorted(yard.order)
        assert len(yard.order) == sum(not task.cancelled() for task in tasks)
        assert yard.highest <= most
        yard.take(yard.load[0])
        assert yard.gate._let_in == yard.gate._let_in_bytes == yard.gate.waiting == 0


async def test_while_the_process_is_behind_one_goes_in_a_turn() -> None:
    yard = Yard(100)
    yard.behind = True
    tasks = await yard.calls(range(5))
    assert yard.order == []
    for turn in range(1, 4):
        yard.gate.open_up()
        await settle()
        assert yard.order == list(range(turn))
    yard.behind = False
    yard.gate.open_up()
    await settle()
    assert yard.order == list(range(5))
    await asyncio.gather(*tasks)


async def test_who_was_let_in_and_has_not_run_is_not_followed_while_behind() -> None:
    yard = Yard(100)
    yard.behind = True
    tasks = await yard.calls(range(3))
    yard.gate.open_up()
    yard.gate.open_up()
    await settle()
    assert yard.order == [0, 1]
    yard.behind = False
    yard.gate.open_up()
    await asyncio.gather(*tasks)
