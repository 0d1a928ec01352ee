"""How many transaction steps run at once behind a pooler, which has only so many sessions and does not say how many.

A step holds a session until it commits, and may have to wait for the journal before it does. When all sessions are
held by such steps the journal gets none. Whoever notices rolls back, and from then on fewer run at once; as steps
commit it becomes more again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

__all__ = ["PoolShare"]

logger = logging.getLogger("pgdurable.steps")

_COMMITS_TO_WIDEN = 100


class PoolShare:
    """Lets at most `width` in at once; `width` is `most` to begin with. Who comes next waits in line.

    Args:
        pause_s: narrowed again not before so many seconds: those that were in may notice the same.
    """

    def __init__(self, most: int, *, pause_s: float) -> None:
        self.width = most
        self._most = most
        self._pause_s = pause_s
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._narrowed = float("-inf")
        self._commits = 0

    async def enter(self) -> None:
        """Waits for its turn; `leave` follows."""
        if self._inside < self.width and not self._waiting:
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():  # its turn came in the same moment
                self.leave()
            raise

    def leave(self) -> None:
        self._inside -= 1
        self._call()

    def committed(self) -> None:
        """One that was in has committed."""
        self._commits += 1
        if self._commits >= _COMMITS_TO_WIDEN and self.width < self._most:
            self._commits = 0
            self.width += 1
            self._call()

    def narrow(self) -> None:
        """One that was in has found that all sessions are held."""
        now = time.monotonic()
        self._commits = 0
        if now - self._narrowed < self._pause_s or self.width == 1:
            return
        self._narrowed = now
        self.width = max(self.width // 2, 1)
        logger.warning(
            "transaction steps hold all sessions of the pooler: now %d at once. Its pool should have more sessions "
            "than all engines behind it together have max_connections",
            self.width,
        )

    def _call(self) -> None:
        while self._waiting and self._inside < self.width:
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)
