"""Which queues a worker listens to, and which of them have settings: what belongs to these begins by the line only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgdurable.errors import InvalidInput

__all__ = ["Listening", "check_queues"]

# How soon a busy queue is looked at again, and how seldom while it stays busy.
_SOON_S, _SELDOM_S = 0.003, 0.1


class Listening:
    """See the head of this file.

    Args:
        queues: their names; None: all there are.
    Attributes:
        queues: sorted, or None.
        default: whether the queue `default`, the one without limits, is among them.
        stale: whether the settings have to be read again.
    """

    def __init__(self, queues: Iterable[str] | None) -> None:
        self.queues = None if queues is None else sorted(set(queues))
        self.default = self.queues is None or "default" in self.queues
        self.stale = True
        self._configured: frozenset[str] = frozenset()
        self._mark: str | None = None
        self._busy_s = _SOON_S

    def marked(self, mark: str | None) -> None:
        """Takes in the mark that changes whenever a queue's settings do."""
        if mark != self._mark:
            self._mark = mark
            self.stale = True

    def learn(self, names: Iterable[str]) -> None:
        """Takes in which queues have settings."""
        self._configured = frozenset(names)
        self.stale = False

    def add(self, name: str) -> None:
        """Takes in that this queue has settings, from now on."""
        self._configured |= {name}

    def may_begin(self, queue: str) -> bool:
        """Whether an instance of this queue, of no partition and no priority, may begin here without a claim."""
        return queue not in self._configured and (self.queues is None or queue in self.queues)

    def limits(self, queue: str) -> bool:
        """Whether the end of an instance of this queue may let another one go."""
        return queue in self._configured

    def look_again_in(self, told_s: float, in_vain: bool) -> float:
        """In how many seconds to look again, where a claim told so: a busy queue is asked ever more seldom."""
        if told_s > _SELDOM_S or not in_vain:
            self._busy_s = _SOON_S
            return max(told_s, 0.0)
        self._busy_s = min(self._busy_s * 1.5, _SELDOM_S)
        return max(told_s, self._busy_s)


def check_queues(queues: Any) -> tuple[str, ...] | None:
    """The queues an engine is to listen to. Raises InvalidInput for what is no list of names."""
    if queues is None:
        return None
    names = (queues,) if isinstance(queues, str) else tuple(queues)
    for name in names:
        if not isinstance(name, str) or not name or "\0" in name or len(name.encode("utf-8", "replace")) > 512:
            raise InvalidInput(
                f"a queue's name is a text of 1 to 512 bytes without NUL, found {name!r:.60}",
                hint='For example: Engine(queues=["mail", "default"]).',
            )
    if not names:
        raise InvalidInput(
            "an engine listens to one queue at least, found none",
            hint="Leave queues out to listen to all. A program that runs nothing is a Client.",
        )
    return names
