"""What keeps an engine from its work just now: said once in the log, and for as long as it lasts in `metrics`.

The same trouble shows in many places: transitions are not stored, the lease is not renewed, steps get no connection.
Each place says so here at every try. The log has one line when it begins, one when it is over.
"""

from __future__ import annotations

import logging

__all__ = ["Troubles"]

logger = logging.getLogger("pgdurable.engine")


class Troubles:
    """See the head of this file. Belongs to one event loop."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}

    @property
    def what(self) -> str | None:
        """The trouble that has lasted longest, or None."""
        return next(iter(self._now.values()), None)

    def say(self, place: str, what: str) -> None:
        """There is trouble in this place."""
        first = not self._now
        self._now[place] = what = what.strip()
        if first:
            logger.warning("%s: %s; trying again until it works", place, what)

    def over(self, place: str, everywhere: bool = False) -> None:
        """There is none in this place any more; `everywhere`: nor in the others, as far as they know better by now."""
        if self._now.pop(place, None) is not None and (everywhere or not self._now):
            self._now.clear()
            logger.warning("%s: works again", place)
