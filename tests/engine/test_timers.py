"""Timers fire in order, none early, none of an instance that has left; parking takes only what is at rest."""

from __future__ import annotations

import asyncio
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from pgdurable._engine.parking import Parking
from pgdurable._engine.timers import Timers

PATIENCE_S = 20.0


class Clock:
    """A database clock that goes as this machine's does."""

    def now_us(self) -> int:
        return int(time.monotonic() * 1e6)


class Thing(SimpleNamespace):
    """May be referred to weakly."""


def hosted(name: str = "a", **state: Any) -> Any:
    machine = Thing(pending={}, busy=False, issued=[], outcome=None, replaying=False, cancel_requested=False)
    found = Thing(
        id=name.encode(), closed=False, releasing=False, steps={}, unacked=0, holder=None, pending_deliveries=None,
        machine=machine, idle_since=0.0, deadline=None,
    )  # fmt: skip
    for key, value in state.items():
        setattr(machine if hasattr(machine, key) else found, key, value)
    return found


def timer(due_us: int) -> Any:
    return Thing(kind="timer", due_us=due_us, cancelled=False)


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.fired: list[tuple[Any, Any, int]] = []
        self.timers = Timers(asyncio.get_running_loop(), self.clock, self.due)  # type: ignore[arg-type]

    def due(self, hosted: Any, command: Any) -> None:
        self.fired.append((hosted, command, self.clock.now_us()))

    async def until_fired(self, number: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(self.fired) < number:
            assert time.monotonic() < deadline, "a timer does not fire"
            await asyncio.sleep(0.001)


async def test_timers_fire_in_order_and_not_early() -> None:
    bench = Bench()
    one = hosted()
    now = bench.clock.now_us()
    commands = [timer(now + after) for after in (30_000, 10_000, 20_000, 10_000)]
    for command in commands:
        bench.timers.add(one, command)
    await bench.until_fired(4)
    assert [command for _, command, _ in bench.fired] == [commands[1], commands[3], commands[2], commands[0]]
    assert all(at >= command.due_us for _, command, at in bench.fired)


async def test_a_cancelled_timer_and_one_of_an_instance_that_left_do_not_fire() -> None:
    bench = Bench()
    now = bench.clock.now_us()
    gone, going, stays = hosted("gone"), hosted("going", releasing=True), hosted("stays")
    cancelled, last = timer(now + 1000), timer(now + 5000)
    bench.timers.add(stays, cancelled)
    bench.timers.add(gone, timer(now + 2000))
    bench.timers.add(going, timer(now + 3000))
    bench.timers.add(stays, last)
    cancelled.cancelled = True
    gone.closed = True
    await bench.until_fired(1)
    assert [(of, command) for of, command, _ in bench.fired] == [(stays, last)]


async def test_after_clearing_only_new_ones_fire() -> None:
    bench = Bench()
    now = bench.clock.now_us()
    bench.timers.add(hosted("old"), timer(now + 1000))
    bench.timers.clear()
    new = hosted("new")
    bench.timers.add(new, timer(now + 2000))
    await bench.until_fired(1)
    assert [of for of, _, _ in bench.fired] == [new]


async def test_timers_of_instances_that_left_are_let_go() -> None:
    """Half a million sleeping instances kept 1.4 GB: each was parked, and its timer held it."""
    bench = Bench()
    stay = [hosted() for _ in range(100)]
    far = bench.clock.now_us() + 10**12
    for one in stay:
        bench.timers.add(one, timer(far))
    left = []
    for _ in range(20_000):
        one, command = hosted(), timer(far)
        bench.timers.add(one, command)
        if len(left) % 2:
            one.closed = True
        else:
            command.cancelled = True
        left.append(weakref.ref(command))
        del one, command
    assert len(bench.timers) < 2_000
    assert sum(ref() is not None for ref in left) < 2_000
    bench.timers.clear()
    assert len(bench.timers) == 0


async def test_a_bell_lets_go_of_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgdurable._engine.timers._LONGEST_NAP_S", 0.0)
    bench = Bench()
    now = bench.clock.now_us()
    gone = [hosted(closed=True) for _ in range(500)]
    for one in gone:
        bench.timers.add(one, timer(now + 10**12))
    bench.timers.add(hosted("stays"), timer(now + 1000))
    await bench.until_fired(1)
    assert len(bench.timers) == 0


def test_parking_gives_those_that_have_waited_longest_and_leaves_the_others() -> None:
    parking = Parking(10.0)
    instances = {name: hosted(name) for name in ("first", "second", "young")}
    for one in instances.values():
        parking.idle(one)
    instances["first"].idle_since -= 20
    instances["second"].idle_since -= 11
    instances["second"].machine.pending[0] = timer(3_600_000_000)
    instances["second"].machine.pending[1] = timer(60_000_000)
    assert list(parking.ripe(0)) == [(instances["first"], None), (instances["second"], 60_000_000)]


def test_parking_waits_for_a_timer_that_is_due_soon() -> None:
    parking = Parking(10.0)
    one = hosted()
    one.machine.pending[0] = timer(9_000_000)
    parking.idle(one)
    one.idle_since -= 20
    assert list(parking.ripe(0)) == []
    assert list(parking.ripe(0)) == []
    one.machine.pending.clear()
    one.idle_since -= 20
    assert list(parking.ripe(0)) == [(one, None)]


def test_parking_wakes_for_the_end_of_an_instance_s_time() -> None:
    parking = Parking(10.0)
    one = hosted(deadline=timer(60_000_000))
    one.machine.pending[0] = timer(3_600_000_000)
    parking.idle(one)
    one.idle_since -= 20
    assert list(parking.ripe(0)) == [(one, 60_000_000)]
    one.machine.cancel_requested = True  # it has been told
    parking.idle(one)
    one.idle_since -= 20
    assert list(parking.ripe(0)) == [(one, 3_600_000_000)]


@pytest.mark.parametrize(
    "state",
    [
        {"steps": {0: None}}, {"unacked": 1}, {"busy": True}, {"holder": object()}, {"releasing": True},
        {"issued": [object()]}, {"outcome": ("completed", 1)}, {"replaying": True}, {"pending_deliveries": [print]},
    ],
    ids=lambda state: next(iter(state)),
)  # fmt: skip
def test_parking_leaves_an_instance_that_is_not_at_rest(state: dict[str, Any]) -> None:
    parking = Parking(0.0)
    parking.idle(hosted(**state))
    assert list(parking.ripe(0)) == []


def test_an_instance_for_which_something_has_come_is_not_parked() -> None:
    parking = Parking(0.0)
    one = hosted()
    parking.idle(one)
    parking.busy(one)
    assert list(parking.ripe(0)) == []
