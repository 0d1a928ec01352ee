"""Steps, retries, timeouts, threads, errors: the same on both stores."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import Counter
from typing import Any

import pytest

import pgdurable as pgd

from .worlds import World, scenario

tries: Counter[str] = Counter()


@dataclasses.dataclass
class Receipt:
    order: str
    cents: int


@pgd.step
async def charge(order: str, cents: int) -> Receipt:
    return Receipt(order, cents)


@pgd.step
def double(n: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return 2 * n


@pgd.step(retry=pgd.Retry(max_attempts=4, initial=0.002, jitter=0))
async def flaky(key: str, failures: int) -> int:
    tries[key] += 1
    if tries[key] <= failures:
        raise OSError(f"try {tries[key]}")
    return tries[key]


@pgd.step(retry=pgd.Retry(max_attempts=2, initial=0.002))
async def broken(text: str) -> None:
    raise ValueError(text)


@pgd.step(timeout=0.05, retry=pgd.Retry(max_attempts=1))
async def hangs() -> None:
    await asyncio.Event().wait()


@pgd.workflow(name="conformance.buy")
async def buy(order: str) -> list[Any]:
    receipt = await charge(order, 5)
    assert type(receipt) is Receipt
    return [receipt.cents, await double(21)]


@scenario
async def test_results_of_steps_are_checkpointed_and_typed(world: World) -> None:
    handle = await world.start(buy, "o-1", id="order o-1")
    assert await handle.result(timeout=20) == [5, 42]
    assert [(entry.kind, entry.seq, entry.name, entry.value) for entry in await world.entries(handle)] == [
        ("step", 0, "charge", {"order": "o-1", "cents": 5}),
        ("step", 1, "double", 42),
    ]
    again = await world.start(buy, "o-1", id="order o-1")
    assert again.instance_id == handle.instance_id


@pgd.workflow(name="conformance.try_again")
async def try_again(key: str, failures: int) -> int:
    return await flaky(key, failures)


@scenario(crashes=False)  # it counts the attempts that ran
async def test_failed_attempts_are_recorded_and_tried_again(world: World) -> None:
    tries.clear()
    handle = await world.start(try_again, "a", 2)
    assert await handle.result(timeout=20) == 3
    entries = await world.entries(handle)
    assert [(entry.kind, entry.attempt) for entry in entries] == [("attempt", 1), ("attempt", 2), ("step", 3)]
    assert entries[0].error is not None
    assert entries[0].error["message"] == "try 1"
    assert entries[1].value == {"retry_in": 0.004}


@scenario
async def test_attempts_survive_a_crash(world: World) -> None:
    tries.clear()
    handle = await world.start(try_again, "b", 1)
    await world.crash()
    assert await handle.result(timeout=20) >= 2
    attempts = [entry.attempt for entry in await world.entries(handle)]
    assert attempts == sorted(attempts)  # type: ignore[type-var]


@pgd.workflow(name="conformance.gives_up")
async def gives_up(text: str) -> str:
    try:
        await broken(text)
    except ValueError as error:
        return f"caught {error}"
    return "not reached"


@scenario
async def test_the_last_error_reaches_the_workflow_as_itself(world: World) -> None:
    handle = await world.start(gives_up, "no luck")
    assert await handle.result(timeout=20) == "caught no luck"
    await world.has(handle, "attempt", "step")


@pgd.workflow(name="conformance.too_slow")
async def too_slow() -> str:
    try:
        await hangs()
    except pgd.StepTimeout as error:
        return error.step
    return "not reached"


@scenario
async def test_an_attempt_that_takes_too_long_is_ended(world: World) -> None:
    if world.simulated:  # a step's own waiting is in real time there
        world.client.mock(hangs, takes=1)
    handle = await world.start(too_slow)
    assert await handle.result(timeout=20) == "hangs"


@pgd.workflow(name="conformance.fails")
async def fails(text: str) -> None:
    raise RuntimeError(text)


@scenario
async def test_a_workflow_that_raises_has_failed(world: World) -> None:
    handle = await world.start(fails, "of itself")
    with pytest.raises(pgd.InstanceFailed, match="RuntimeError: of itself") as caught:
        await handle.result(timeout=20)
    assert (caught.value.status, caught.value.type) == ("failed", "builtins.RuntimeError")
    info = await handle.describe()
    assert info.status == "failed"
    assert info.error is not None
    assert info.error["message"] == "of itself"


@pgd.workflow(name="conformance.blocking")
def blocking(n: int) -> int:
    total = 0
    for number in range(n):
        total += double(number)
        pgd.sleep(0.003)
    return total


@scenario
async def test_a_def_workflow_replays_as_an_async_one(world: World) -> None:
    handle = await world.start(blocking, 3)
    await world.crash()
    assert await handle.result(timeout=20) == 6
    await world.has(handle, "step", "timer", "step", "timer", "step", "timer")
