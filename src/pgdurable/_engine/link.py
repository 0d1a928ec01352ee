"""The journal's connection: making it, watching its socket, coming back after it was lost.

What was under way when it was lost, and what to send over a new one, is the journal's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pgdurable._core import Batch, Flusher
from pgdurable._engine.answers import answer_s
from pgdurable._engine.tasks import end_tasks
from pgdurable._engine.trouble import Troubles

__all__ = ["Link"]

_PLACE = "transitions are not stored"


class Link:
    """See the head of this file. Belongs to one event loop.

    Args:
        flusher: whose connection it is.
        dsn: conninfo.
        on_ready: called when the socket is readable, or writable while the flusher waits for that.
        on_connected: awaited with what the first command of the set-up gave before a connection that was made anew is
            used; False: it is not to be, and no other is made. Raises ConnectionError when another is to be tried.
        on_back: called once there is a connection again.
        troubles: is told of what keeps transitions from being stored.

    Attributes:
        up: whether there is a connection that is watched.
        writing: whether the socket is watched for writing too.
        reconnects: how often it came back.
        trouble: what keeps transitions from being stored, or None.
        prepared: whether the next connection is to have its statements prepared (see route.py).
    """

    def __init__(
        self,
        flusher: Flusher,
        dsn: str,
        *,
        on_ready: Callable[[], None],
        on_connected: Callable[[str | None], Awaitable[bool]],
        on_back: Callable[[], None],
        troubles: Troubles,
    ) -> None:
        self.up = False
        self.writing = False
        self.reconnects = 0
        self.trouble: str | None = None
        self.prepared = True
        self._flusher = flusher
        self._dsn = dsn
        self._on_ready = on_ready
        self._on_connected = on_connected
        self._on_back = on_back
        self._troubles = troubles
        self._fd = -1
        self._worker: int | None = None
        self._setup: list[str] = []
        self._reconnecting: asyncio.Task[None] | None = None
        self._connecting: asyncio.Future[list[str | None]] | None = None

    async def open(self, worker: int | None, setup: list[str]) -> str | None:
        """Connects for a worker's incarnation (None: a client's). Raises ConnectionError at the first failure.

        Returns what the first command of the set-up gave.
        """
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._setup = setup
        self.disconnect()  # of an attempt to join that got this far and no further: its socket is not to be watched
        found = await self._connect()
        self._watch()
        return found

    @property
    def coming_back(self) -> bool:
        """Whether it is lost and being made anew."""
        return self._reconnecting is not None

    def come_back(self) -> None:
        """Connects anew, trying until it works. The lost connection has been closed by `disconnect`."""
        if self._reconnecting is None:
            self._reconnecting = self._loop.create_task(self._reconnect())

    async def stop_connecting(self) -> None:
        """Gives up coming back."""
        if self._reconnecting is not None:
            await end_tasks(self._reconnecting)
            self._reconnecting = None
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)

    def disconnect(self) -> Batch | None:
        """Closes the connection at once. Returns the batch that was flying, its fate unknown."""
        if self.up:
            self._loop.remove_reader(self._fd)
            if self.writing:
                self._loop.remove_writer(self._fd)
                self.writing = False
            self._fd = -1
            self.up = False
        return self._flusher.close()

    def watch_writing(self) -> None:
        """Watches the socket for writing too, or no more, as the flusher wants it."""
        self.writing = self._flusher.wants_write
        if self.writing:
            self._loop.add_writer(self._fd, self._on_ready)
        else:
            self._loop.remove_writer(self._fd)

    def complain(self, what: str) -> None:
        """Says, once, that transitions cannot be stored for now."""
        self.trouble = what
        self._troubles.say(_PLACE, what)

    def recovered(self) -> None:
        """Transitions are stored again."""
        self.trouble = None
        self._troubles.over(_PLACE, everywhere=True)

    def _watch(self) -> None:
        self._fd = self._flusher.fileno
        self._loop.add_reader(self._fd, self._on_ready)
        self.up = True

    async def _connect(self) -> str | None:
        # Shielded: the thread that connects cannot be interrupted, and must be done before anyone closes.
        self._connecting = self._loop.run_in_executor(
            None, self._flusher.connect, str(self._dsn), self._worker, self._setup, self.prepared, answer_s()
        )  # fmt: skip
        found = await asyncio.shield(self._connecting)
        return found[0] if found else None

    async def _reconnect(self) -> None:
        wait = 0.02
        while True:
            try:
                found = await self._connect()
                if not await self._on_connected(found):
                    self._flusher.close()
                    self._reconnecting = None
                    return
                break
            except ConnectionError as error:
                self._flusher.close()
                self.complain(str(error).strip() or repr(error))
            await asyncio.sleep(wait)
            # Short: while we are away the others see us absent.
            wait = min(wait * 2, 0.25)
        self._reconnecting = None
        self.reconnects += 1
        self._watch()
        self._on_back()
