"""Code that no longer fits its history: the first difference, readably."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

import pgdurable as pgd
from tests.runtime.harness import Owner, echo_step, workflow

reserve = echo_step("reserve")
charge = echo_step("charge")
ship = echo_step("ship")
reserve_stock = echo_step("reserve_stock")


async def original() -> Any:
    await reserve("sku")
    await asyncio.sleep(5)
    await charge(42)
    return await ship()


async def renamed() -> Any:
    await reserve_stock("sku")


async def other_arguments() -> Any:
    await reserve("sku")
    await asyncio.sleep(5)
    await charge(43)


async def step_added_before() -> Any:
    await ship()
    await original()


async def step_removed() -> Any:
    await reserve("sku")
    await asyncio.sleep(5)
    await ship()


async def swapped() -> Any:
    await asyncio.sleep(5)
    await reserve("sku")


async def timer_for_step() -> Any:
    await reserve("sku")
    await asyncio.sleep(5)
    await asyncio.sleep(1)


async def ended_early() -> Any:
    await reserve("sku")
    await asyncio.sleep(5)


async def fails_early() -> Any:
    raise ValueError("new check")


async def waits_for_a_signal() -> Any:
    await reserve("sku")
    await pgd.wait_signal("go")


async def waits_for_fewer() -> Any:
    await reserve("sku")
    await asyncio.sleep(5)
    await asyncio.wait([asyncio.create_task(pgd.wait_signal("go"))])


CASES: dict[str, tuple[Callable[[], Any], int, int, str, str]] = {
    "renamed": (renamed, 1, 0, "step 'reserve', arguments #", "step 'reserve_stock', arguments #"),
    "arguments": (other_arguments, 3, 2, "step 'charge', arguments #", "step 'charge', arguments #"),
    "added": (step_added_before, 1, 0, "step 'reserve', arguments #", "step 'ship', arguments #"),
    "removed": (step_removed, 3, 2, "step 'charge', arguments #", "step 'ship', arguments #"),
    "swapped": (swapped, 1, 0, "step 'reserve', arguments #", "timer"),
    "timer": (timer_for_step, 3, 2, "step 'charge', arguments #", "timer"),
    "early": (ended_early, 3, 2, "step 'charge', arguments #", "nothing: the workflow has ended (completed)"),
    "fails": (fails_early, 1, 0, "step 'reserve', arguments #", "nothing: the workflow has ended (failed)"),
    "signal": (waits_for_a_signal, 2, 1, "timer", "nothing; it waits for a signal"),
    "fewer": (waits_for_fewer, 3, 2, "step 'charge', arguments #", "nothing; it waits for a signal"),
}


def pattern(text: str) -> str:
    """A text as a regular expression; where it ends with # there are eight hexadecimal digits."""
    return re.escape(text) + ("[0-9a-f]{8}" if text.endswith("#") else "")


@pytest.mark.parametrize("case", CASES)
def test_the_first_difference_is_told(case: str) -> None:
    changed, event, seq, recorded, found = CASES[case]
    owner = Owner(workflow(original)).start().run()
    with pytest.raises(pgd.NonDeterminismError) as info:
        owner.again(definition=workflow(changed))
    text = str(info.value)
    expected = (
        rf"instance t \(workflow {changed.__name__} v1\) does not replay its history\n"
        rf"  first difference: event {event}, command #{seq}\n"
        rf"    history:  {pattern(recorded)}\n"
        rf"    code now: {pattern(found)}\n"
        r"The instance is paused and nothing is lost\. .*pgdurable resume ID\."
    )
    assert re.fullmatch(expected, text), text
    if case == "arguments":
        first, second = re.findall("#([0-9a-f]{8})", text)
        assert first != second


def test_what_was_waited_for_is_listed() -> None:
    async def more() -> Any:
        await asyncio.gather(reserve("sku"), asyncio.sleep(5), charge(42), ship())

    async def fewer() -> Any:
        await asyncio.gather(reserve("sku"), asyncio.sleep(5), charge(42))

    owner = Owner(workflow(more)).start()
    owner.answer("ship")
    with pytest.raises(pgd.NonDeterminismError) as info:
        owner.again(definition=workflow(fewer))
    assert re.search(
        r"code now: nothing; it waits for #0 step 'reserve', .*, #1 timer, #2 step 'charge'", str(info.value)
    )


def test_a_difference_in_what_was_given_up_is_told() -> None:
    """An event whose number the new code had used for something it then cancelled went unnoticed."""

    async def before() -> Any:
        await reserve("sku")
        await charge(42)

    async def after() -> Any:
        await reserve("sku")
        task = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        task.cancel()
        await charge(42)

    owner = Owner(workflow(before)).start().run()
    with pytest.raises(pgd.NonDeterminismError, match="code now: timer, and it no longer waits for that"):
        owner.again(definition=workflow(after))


def test_changes_that_history_cannot_tell_are_fine() -> None:
    async def start() -> Any:
        await reserve("sku")
        return await charge(1)

    async def longer() -> Any:
        got = await reserve("sku")
        log = [got, pgd.now(), pgd.random()]
        await ship(len(log))
        return await charge(2)

    owner = Owner(workflow(start)).start()
    owner.answer("reserve")
    other = owner.again(definition=workflow(longer))
    assert [command.name for command in other.steps] == ["ship"]


def test_def_workflows_are_held_against_their_history_too() -> None:
    def before() -> Any:
        reserve("sku")
        pgd.sleep(5)
        charge(42)

    def after() -> Any:
        reserve("sku")
        pgd.sleep(5)
        charge(43)

    owner = Owner(workflow(before)).start().run()
    with pytest.raises(pgd.NonDeterminismError, match="event 3, command #2"):
        owner.again(definition=workflow(after))


def test_an_async_history_fits_its_def_twin() -> None:
    def twin() -> Any:
        reserve("sku")
        pgd.sleep(5)
        charge(42)
        return ship()

    owner = Owner(workflow(original)).start().run()
    assert owner.again(definition=workflow(twin)).result is None
