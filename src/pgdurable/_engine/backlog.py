"""Back-pressure: callers wait, in the order they came, while the server is behind with what this process sent.

What runs already may finish and be recorded: it is bounded by the number of instances in memory. Only new work, from
calls of this process and from the poller's claims, comes through the gate.

They also wait while this process itself is behind with what has been committed: a few pass then for every turn in which
some instances went on. Else starts without end take all of its time, and what has begun never ends.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["MOST_BYTES", "Gate"]

MOST_BYTES = 32 * 1024 * 1024
_LOOKS_EVERY = 16
_SMALL = 4096
_WHILE_BEHIND = 1


class Gate:
    """Lets callers in while the load is below a limit; the others wait. Belongs to one event loop.

    Who is let in adds to the load before it awaits anything else. Until then it counts as one transition of the size
    it named, so that not more are let in than there is room for. Whatever takes load away calls `open_up`.

    Args:
        load: transitions and bytes that wait for the server now.
        most, most_bytes: the limits. A single call may be larger: it is let in when the load is below them.
        behind: whether this process is behind with what the server has answered.
    Attributes:
        waited: how many callers have had to wait so far.
    """

    def __init__(
        self,
        load: Callable[[], tuple[int, int]],
        most: int,
        most_bytes: int,
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._behind = behind
        self._load = load
        self._most = most
        self._most_bytes = most_bytes
        self._queue: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._let_in = 0
        self._let_in_bytes = 0
        self._credit = 0
        self._closed = False
        self.waited = 0

    @property
    def waiting(self) -> int:
        """Callers that wait now."""
        return len(self._queue)

    def full(self, nbytes: int = 0) -> bool:
        """Whether a caller has to `enter`: there is no room, or others came before and are not in yet."""
        if self._credit and nbytes <= _SMALL:
            self._credit -= 1
            return False
        if self._closed:
            return False
        transitions, nbytes = self._load()
        room = self._most - transitions
        if self._queue or self._let_in or room <= 0 or nbytes >= self._most_bytes or self._behind():
            self._credit = 0
            return True
        self._credit = min(room, _LOOKS_EVERY) - 1  # the next ones, if small, pass without another look
        return False

    async def enter(self, nbytes: int = 0) -> None:
        """Waits for its turn. A cancelled caller leaves nothing behind."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[future] = nbytes
        self.waited += 1
        try:
            await future
        except BaseException:
            if self._queue.pop(future, None) is None and not future.cancelled() and future.exception() is None:
                self._gone_in(nbytes)
                self.open_up()  # its turn is the next one's
            raise
        self._gone_in(nbytes)

    def open_up(self) -> None:
        """Lets in as many as there is room for now."""
        if not self._queue:
            return
        transitions, nbytes = self._load()
        most = self._let_in + _WHILE_BEHIND if self._behind() else len(self._queue) + self._let_in
        while (
            self._queue
            and self._let_in < most
            and transitions + self._let_in < self._most
            and nbytes + self._let_in_bytes < self._most_bytes
        ):  # fmt: skip
            future, size = self._queue.popitem(last=False)
            if not future.done():
                future.set_result(None)
                self._let_in += 1
                self._let_in_bytes += size

    def close(self, error: Callable[[], BaseException]) -> None:
        """Sends everybody who waits away with an error. From now on nobody waits."""
        self._closed = True
        while self._queue:
            future, _ = self._queue.popitem(last=False)
            if not future.done():
                future.set_exception(error())

    def _gone_in(self, nbytes: int) -> None:
        if not self._behind():
            self.open_up()  # for those who came while somebody who had been let in had not run yet
        self._let_in -= 1
        self._let_in_bytes -= nbytes
