"""Instances under suspicion of killing their workers: who is on trial in this process, and when a trial is over.

Whatever ran beside an instance that kills its worker was taken over just as often. The database counts how often that
happened in a row without the instance's getting on (`strikes`), and hands out those with two strikes or more in small
numbers (sql/functions/claim.sql). Here it is seen which of them are cleared, so that the next may come:

- it has recorded something, or left memory in good order: the database sees that by itself;
- it only waits: it is parked at once, which clears it;
- it has outlived its trial, twice the time its last worker took to die: its strikes are struck out. (With more than two
  strikes left the trial is short, and its end only lets the next ones in.)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from pgdurable._engine.parking import at_rest, wake_at

if TYPE_CHECKING:
    from pgdurable._engine.host import Host

__all__ = ["LEAST", "Trials"]

# Two strikes make a suspect, so with fewer than three nobody would run but alone.
LEAST = 3


class _Trial(NamedTuple):
    """What had been recorded when it began, when it has been outlived (time.monotonic), and its strikes."""

    event_id: int
    end: float
    strikes: int


class Trials:
    """See the head of this file.

    Args:
        most_strikes: with so many an instance is quarantined; None: never.

    Attributes:
        outlived: ids of instances whose strikes are to be struck out in the database.
    """

    def __init__(self, host: Host, most_strikes: int | None) -> None:
        self.most_strikes = most_strikes
        self.outlived: set[bytes] = set()
        self._host = host
        self._open: dict[bytes, _Trial] = {}

    def __len__(self) -> int:
        """How many are on trial."""
        return len(self._open)

    @property
    def alone(self) -> bool:
        """Whether one is on trial for the last time: nothing else may be claimed meanwhile."""
        most = self.most_strikes
        return most is not None and any(trial.strikes >= most - 1 for trial in self._open.values())

    def begin(self, id: bytes, strikes: int, seconds: float, event_id: int) -> None:
        """An instance was claimed that is on trial for so many seconds; event_id: the last one it has recorded."""
        self._open[id] = _Trial(event_id, time.monotonic() + seconds, strikes)

    def look(self) -> bool:
        """Ends the trials that are over. Returns whether there were any."""
        host = self._host
        now = time.monotonic()
        over = []
        for id, trial in self._open.items():
            hosted = host.instances.get(id)
            if hosted is None or hosted.closed:
                over.append(id)
            elif hosted.machine.replaying or hosted.releasing:
                continue
            elif hosted.holder is None and hosted.next_event - 1 - hosted.unacked > trial.event_id:
                over.append(id)
            elif at_rest(hosted):
                host.park(hosted, wake_at(hosted))
            elif now >= trial.end:
                over.append(id)
                if self.most_strikes is not None and self.most_strikes - trial.strikes <= 2:
                    self.outlived.add(id)
        for id in over:
            del self._open[id]
        return bool(over)

    def clear(self) -> None:
        """The instances belong to somebody else now."""
        self._open.clear()
        self.outlived.clear()
