"""Where a worker begins when it looks for due instances and for events.

What has been claimed or consumed stays in the indexes until a vacuum, for which somebody's old snapshot may make it
wait for hours; a look from the beginning walks over all of that. So most looks begin where the ones before have left
nothing. Something may come in before that place all the same (a transaction that started an instance and commits much
later), so now and then a look begins at the beginning: often as long as that is cheap, every ten seconds at the least.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

__all__ = ["Looks"]

# A full look is followed by bounded ones for so many times what it took.
_SHARE = 20.0
_LEAST_S, _MOST_S = 0.25, 10.0
# Transactions that are open for no longer than this have committed before it is looked past what they write.
_MARGIN = timedelta(seconds=5)
_EVENTS_S = 10.0


class Looks:
    """See the head of this file.

    Attributes:
        full: whether the look that is under way begins at the beginning.
    """

    def __init__(self) -> None:
        self.full = True
        self._next_full = 0.0
        self._cost = 0.0
        self._due: dict[str, datetime] = {}
        self._events: deque[tuple[float, int]] = deque()
        self._after_event = 0

    def begin(self) -> bool:
        """Begins a look; returns whether it is a full one."""
        now = time.monotonic()
        self.full = now >= self._next_full
        self._cost = 0.0
        if self.full:
            self._due.clear()
        while self._events and now - self._events[0][0] >= _EVENTS_S:
            self._after_event = self._events.popleft()[1]
        return self.full

    def end(self) -> None:
        """Ends a look: says when the next full one is, by what this one cost."""
        if self.full:
            self._next_full = time.monotonic() + min(max(self._cost * _SHARE, _LEAST_S), _MOST_S)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is done within is what a look costs."""
        began = time.monotonic()
        yield
        self._cost += time.monotonic() - began

    # -- due instances -------------------------------------------------------------------------------------------

    def since(self, names: Iterable[str]) -> list[datetime | None]:
        """From which `wake_at` on to look for due instances of these workflows; None: from the first."""
        return [self._due.get(name) for name in names]

    def learn(
        self, names: Iterable[str], woke: Iterable[tuple[str, datetime | None]], all_of_them: bool, at_us: int
    ) -> None:
        """Takes in what a claim brought.

        Args:
            woke: workflow and `wake_at` of each that was due.
            all_of_them: whether there was room for more.
            at_us: the database's time before the claim, in microseconds since 1970; 0: not known.
        """
        if all_of_them:
            if at_us:
                place = datetime.fromtimestamp(at_us / 1e6, timezone.utc) - _MARGIN
                self._due = {name: max(place, self._due.get(name, place)) for name in names}
            return
        for name, at in woke:  # the earliest of each name have been taken
            if at is not None:
                self._due[name] = max(at, self._due.get(name, at))

    # -- events --------------------------------------------------------------------------------------------------

    @property
    def after_event(self) -> int:
        """The place in the queue after which to look for events."""
        return 0 if self.full else self._after_event

    def last_event(self, place: int) -> None:
        """Takes in which place in the queue was given out last, before a full look."""
        self._events.append((time.monotonic(), place))
