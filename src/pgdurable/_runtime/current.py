"""Which machine runs the code that asks: the deterministic loop's in a burst, or the thread's."""

from __future__ import annotations

from asyncio.events import _get_running_loop
from threading import local

from pgdurable._runtime.loop import DeterministicLoop
from pgdurable._runtime.machine import Machine

__all__ = ["bind_thread", "current_machine"]


class _Here(local):
    machine: Machine | None = None


_here = _Here()


def current_machine() -> Machine | None:
    """The machine whose workflow code is running now in this thread, or None outside workflow code."""
    loop = _get_running_loop()
    if loop is None:
        return _here.machine
    if loop.__class__ is DeterministicLoop:
        return loop.machine
    return _here.machine  # a `def` workflow that runs a loop of its own is workflow code still


def bind_thread(machine: Machine | None) -> None:
    """Says that this thread runs the code of this machine."""
    _here.machine = machine
