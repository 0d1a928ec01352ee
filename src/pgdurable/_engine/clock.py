"""The database's clock, seen from here."""

from __future__ import annotations

import time
from datetime import datetime, timezone

__all__ = ["DatabaseClock", "micros"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_DRIFT = 0.0005  # how far two clocks are allowed to drift apart, in seconds per second


class DatabaseClock:
    """An estimate of the database's time that is never ahead of it, so that no timer fires early.

    Each flush tells one database time, somewhere between its sending and its answer. Taking it for the time of the
    answer gives a lower bound; the best bound is kept, and lowered slowly for drift.
    """

    def __init__(self) -> None:
        self._offset_us: float | None = None
        self._taken_at = 0.0

    def learn(self, at_us: int, sent: float, received: float) -> None:
        """Takes in that the database's time was `at_us` between two readings of `time.monotonic`."""
        low = at_us - received * 1e6
        high = at_us - sent * 1e6
        if self._offset_us is None:
            self._offset_us = low
        else:
            drift = (received - self._taken_at) * _DRIFT * 1e6
            self._offset_us = min(max(low, self._offset_us - drift), high)
        self._taken_at = received

    def now_us(self) -> int:
        """At most the database's time now, in microseconds since 1970; 0 before it has been learnt."""
        if self._offset_us is None:
            return 0
        return int(time.monotonic() * 1e6 + self._offset_us)


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
