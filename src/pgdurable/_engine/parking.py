"""Which instances only wait, since when, and taking those out of memory that will wait for longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted

__all__ = ["Parking", "at_rest", "settled", "wake_at"]


class Parking:
    """The idle instances of a host, longest idle first.

    Args:
        after: seconds after which an instance that only waits is to leave memory.
        clock: tells the time in seconds.
    """

    def __init__(self, after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.after = after
        self.clock = clock
        self._idle: dict[bytes, Hosted] = {}

    def idle(self, hosted: Hosted) -> None:
        """The instance only waits for timers or events from now on."""
        self._idle.pop(hosted.id, None)
        hosted.idle_since = self.clock()
        self._idle[hosted.id] = hosted

    def busy(self, hosted: Hosted) -> None:
        """Something has come for it, or it is leaving."""
        self._idle.pop(hosted.id, None)

    def clear(self) -> None:
        self._idle.clear()

    def ripe(self, now_us: int) -> Iterator[tuple[Hosted, int | None]]:
        """The instances to park, with the time in microseconds since 1970 when their next timer is due, if any."""
        old = self.clock() - self.after
        horizon = now_us + int(self.after * 1e6)
        for hosted in list(self._idle.values()):
            if hosted.idle_since > old:
                break
            if not at_rest(hosted):
                continue
            wake_at_us = wake_at(hosted)
            if wake_at_us is not None and wake_at_us <= horizon:
                self.idle(hosted)  # soon due: looked at again after a while
                continue
            yield hosted, wake_at_us


def wake_at(hosted: Hosted) -> int | None:
    """When the instance's next timer is due, in microseconds since 1970; None: it waits for an event alone."""
    dues = [command.due_us for command in hosted.machine.pending.values() if command.kind == "timer"]
    if hosted.deadline is not None and not hosted.machine.cancel_requested:
        dues.append(hosted.deadline.due_us)
    return min(dues) if dues else None


def at_rest(hosted: Hosted) -> bool:
    """Whether the instance only waits, for timers or events, and everything it did is committed."""
    return not hosted.steps and settled(hosted)


def settled(hosted: Hosted) -> bool:
    """Whether everything the instance did is committed, and its code waits; steps of it may run."""
    machine = hosted.machine
    if hosted.unacked or machine.busy or machine.replaying or hosted.holder is not None or hosted.releasing:
        return False
    # Else a `def` workflow's thread has just ended or asked for more, and that is not seen to yet.
    return not (machine.issued or machine.outcome is not None or hosted.pending_deliveries)
