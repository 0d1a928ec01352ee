"""What workflow code calls besides its steps: time, chance, ids, waits.

None of these costs a history row except a timer that fires and a signal that arrives.
"""

from __future__ import annotations

import asyncio
import random as _random
import time as _time
import uuid as _uuid
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

import msgspec

from pgdurable._runtime.current import current_machine
from pgdurable._runtime.machine import LATEST_US, ContinueAsNew, Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.errors import PgDurableError
from pgdurable.retry import seconds

__all__ = ["continue_as_new", "now", "random", "sleep", "uuid4", "wait_signal"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def now() -> datetime:
    """The database's time of the event being delivered, in UTC. The same in replay.

    Outside workflow code: this machine's time.
    """
    machine = current_machine()
    if machine is None:
        return datetime.now(timezone.utc)
    return _EPOCH + timedelta(microseconds=machine.now_us)


def random() -> float:
    """A random number from 0 up to 1, seeded by the instance and so the same in replay."""
    machine = current_machine()
    return _random.random() if machine is None else machine.random.random()


def uuid4() -> _uuid.UUID:
    """A random UUID (version 4), seeded by the instance and so the same in replay."""
    machine = current_machine()
    return _uuid.uuid4() if machine is None else machine.uuid4()


def sleep(delay: float | timedelta) -> Any:
    """A durable wait of at least this many seconds (or timedelta).

    In an async workflow the same as `asyncio.sleep`: await it. In a `def` workflow it blocks.
    """
    wait = seconds(delay) or 0.0
    machine = current_machine()
    if machine is None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _time.sleep(wait)
        return asyncio.sleep(wait)
    if isinstance(machine, ThreadMachine):
        slot = machine.new_future()
        if wait > 0:
            machine.answer_of(machine.issue_timer(_due_us(machine, wait), slot))
        return None
    return asyncio.sleep(wait)


def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """Ends this run of the workflow's code and begins it anew with these arguments: the same instance, a new history.

    For workflows that go on for ever: replay starts from here, and what lies before is removed once it is older than
    the workflow's retention. One commit, so nothing falls in between. Signals that nobody has taken yet are there in
    the new run, in order; `finally` blocks run first; steps still running are cancelled, and so are children unless
    started with parent_close="abandon". `result()` waits for the last run's result.

    Raises an exception that is no `Exception`: call it from the workflow's own code, not from a task it waits for.
    """
    if current_machine() is None:
        _outside("continue_as_new")
    raise ContinueAsNew(args, kwargs)


def wait_signal(name: str, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
    """The payload of the next signal of this name. Each signal is delivered once, in the order sent.

    A signal sent before the wait, or before the first step, is kept. In an async workflow await it; in a `def`
    workflow it blocks.

    Args:
        name: of the signal.
        timeout: seconds (or timedelta) to wait; None: for ever.
        type: the payload is decoded to this type.
    Raises:
        TimeoutError: none came in time. The wait's end is recorded, so replay raises it too.
        CodecError: the payload does not fit `type`.
    """
    machine = current_machine()
    if machine is None:
        _outside("wait_signal")
    wait = seconds(timeout)
    if isinstance(machine, ThreadMachine):
        return _typed(_wait_signal_blocking(machine, name, wait), type, name, machine)
    return _wait_signal(machine, name, wait, type)


async def _wait_signal(machine: Machine, name: str, timeout: float | None, type: Any) -> Any:
    there, payload = machine.take_signal(name)
    if not there:
        future = machine.new_future()
        machine.add_waiter(name, future)
        if timeout is None:
            payload = await future
        else:
            try:
                payload = await asyncio.wait_for(future, timeout)
            except asyncio.TimeoutError:
                raise TimeoutError(f"{machine.label}: no signal {name!r} within {timeout:g} s") from None
    return _typed(payload, type, name, machine)


def _wait_signal_blocking(machine: ThreadMachine, name: str, timeout: float | None) -> Any:
    timer = None
    slot = machine.new_future()
    while True:
        there, payload = machine.take_signal(name)
        if there:
            machine.got_on()
            if timer is not None:
                machine.cancel(timer)
            return payload
        if slot.done():
            machine.got_on()
            raise TimeoutError(f"{machine.label}: no signal {name!r} within {timeout:g} s")
        if timeout is not None and timer is None:
            if timeout <= 0:
                raise TimeoutError(f"{machine.label}: no signal {name!r} within {timeout:g} s")
            timer = machine.issue_timer(_due_us(machine, timeout), slot)
        try:
            machine.wait_any()
        except asyncio.CancelledError:
            if timer is not None:
                machine.cancel(timer)
            raise


def _due_us(machine: Machine, wait: float) -> int:
    due_us = machine.now_us + wait * 1e6
    return LATEST_US if due_us > LATEST_US else round(due_us)


def _typed(payload: Any, type: Any, name: str, machine: Machine) -> Any:
    from pgdurable import codec

    if type is Any:
        return payload
    return codec.decode(msgspec.json.encode(payload), type, what=f"{machine.label}: signal {name!r}")


def _outside(what: str) -> NoReturn:
    raise PgDurableError(
        f"{what} was called outside workflow code",
        hint="Call it in a function decorated with @pgdurable.workflow, not in a step or elsewhere.",
    )
