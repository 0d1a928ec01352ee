"""The journal: every transition of the process on its way to the database.

One flush is under way while the next batch fills; there is no timer and no minimum wait. The journal owns the
policy around the core's `Flusher`: when to send, what to do when a batch is refused, how to come back after a lost
connection. A tag rides with each transition; its `committed(at_us)` or `refused(error)` is called once its fate is
known, in the order the transitions were added.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice, repeat
from typing import Any, Protocol

from pgdurable._core import Batch, Flusher
from pgdurable._engine import probes
from pgdurable._engine.busy_wait import selector_of, spare_time
from pgdurable._engine.clock import DatabaseClock
from pgdurable._engine.connections import PASSING
from pgdurable._engine.link import Link
from pgdurable._engine.trouble import Troubles
from pgdurable.errors import PgDurableError

__all__ = ["Journal", "Tag"]

logger = logging.getLogger("pgdurable.journal")

_FENCED = "PGD01"
_UNSUPPORTED = "0A000"
_READ_ONLY = "25006"
_FORGOTTEN = ("26000", "42P05")  # a prepared statement is not there, or is there already
_LONGEST_WAIT_S = 1.0
# Measured at 200 and 1,000 callers of ten-step workflows, in steps/s against handing out all at once:
# 64 gives 1.28 and 1.32, 32 gives 1.42 and 1.34, 16 gives 1.32 and 1.16.
_ANSWERS_A_TURN = 32
_BEHIND_S = 0.02
# A COPY of history alone overtakes the pipeline at about 100 rows (benchmarks/bench_flush.py), but a flush of a busy
# engine also starts and ends instances, and then needs two or three round trips where the pipeline needs one. At 500
# callers of ten-step workflows, means of three runs taking turns: 128 gives 85,400 steps/s, 256 88,300, 512 91,800, no
# COPY at all 92,600.
COPY_FROM = 512


class Tag(Protocol):
    """Told of a transition's fate."""

    def committed(self, at_us: int) -> None: ...
    def refused(self, error: PgDurableError) -> None: ...


class Journal:
    """See the head of this file. Belongs to one event loop.

    Args:
        dsn: conninfo of the connection it keeps.
        statements: texts of sql/queries/flush.sql.
        on_fenced: called once when the worker's lease is found taken; nothing is written afterwards.
        on_notice: called with the payloads of notifications that arrived.
        on_connected, troubles: as in Link.
        flush_timeout: seconds after which an unanswered flush counts as a lost connection.
        prepared: whether what its connection has prepared stays so (see route.py).
        busy_wait: seconds to look for an answer instead of sleeping, see busy_wait.py.
    """

    def __init__(
        self,
        dsn: str,
        statements: dict[str, str],
        *,
        on_fenced: Callable[[], None],
        on_notice: Callable[[set[str]], None],
        clock: DatabaseClock,
        on_connected: Callable[[str | None], Awaitable[bool]] | None = None,
        troubles: Troubles | None = None,
        flush_timeout: float = 30.0,
        copy_from: int = COPY_FROM,
        busy_wait: float = 0.0,
        prepared: bool = True,
    ) -> None:
        self.flusher = Flusher(statements, copy_from)
        self._copy_from = copy_from
        self.clock = clock
        self._link = Link(
            self.flusher, dsn, on_ready=self._ready, on_connected=on_connected or _any_server, on_back=self._back,
            troubles=troubles or Troubles(),
        )  # fmt: skip
        self._link.prepared = prepared
        self._on_fenced = on_fenced
        self._on_notice = on_notice
        self._flush_timeout = flush_timeout
        self._first: deque[Batch] = deque()
        self._busy_wait = busy_wait
        self._selector = -1
        self._looking = False
        self._kicked = False
        self._fenced = False
        self._closed = False
        self._sent = 0.0
        self._delivering = False
        self._answers: deque[tuple[Iterator[Any], Iterator[int], float]] = deque()
        self._pause_until = 0.0
        self._backoff = 0.0
        self._distrusted = 0.0
        self._drained: list[asyncio.Future[None]] = []
        self.on_answer: Callable[[], None] = lambda: None

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self, worker: int | None, setup: list[str]) -> str | None:
        """Connects for a worker's incarnation (None: a client's). Raises ConnectionError at the first failure.

        Returns what the first command of the set-up gave.
        """
        self._loop = asyncio.get_running_loop()
        if self._busy_wait > 0.0:
            self._selector = selector_of(self._loop)
            if self._selector < 0:
                logger.warning("busy_wait has no effect on an event loop of type %s", type(self._loop).__name__)
        self._fenced = False
        self.flusher.copy_from = self._copy_from
        return await self._link.open(worker, setup)

    @property
    def reconnects(self) -> int:
        """How often a lost connection was made anew."""
        return self._link.reconnects

    @property
    def trouble(self) -> str | None:
        """What keeps transitions from being stored just now."""
        return self._link.trouble

    def kick(self) -> None:
        """Sends what was added, once this turn of the event loop has added all it will."""
        if not self._kicked and self.flusher.idle:  # else the answer that is awaited, or the reconnection, sends it
            self._kicked = True
            self._loop.call_soon(self._pump)

    def pump_now(self) -> None:
        """Sends what was added without waiting for this turn's end: nobody is about to add more."""
        if self._kicked:
            self._pump()

    @property
    def empty(self) -> bool:
        """Whether the fate of every transition added so far is known and told."""
        return (
            not self.flusher.waiting
            and not self._first
            and not self._delivering
            and (self.flusher.idle or not self.flusher.connected)
            and not self._link.coming_back
        )

    async def drain(self) -> None:
        """Waits until `empty`, or until fenced."""
        while not self.empty and not self._fenced and not self._closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._drained.append(future)
            self.kick()
            await future

    @property
    def load(self) -> tuple[int, int]:
        """Transitions and bytes whose fate is not known; `on_answer` is called when there may be less."""
        transitions, nbytes = self.flusher.unanswered
        for batch in self._first:
            transitions += len(batch)
            nbytes += batch.nbytes
        return transitions, nbytes

    @property
    def behind(self) -> bool:
        """Whether this process has had an answer for a while that it has not told everybody of yet."""
        return bool(self._answers) and time.monotonic() - self._answers[0][2] > _BEHIND_S

    async def discard(self) -> list[Any]:
        """Closes the connection and forgets every transition whose fate is not known. Returns their tags."""
        self._fenced = True
        while self._answers:  # committed under this incarnation: told before there is another
            self._hand_out()
        await self._link.stop_connecting()
        tags: list[Any] = []
        flying = self._link.disconnect()
        for batch in ([flying] if flying else []) + list(self._first) + [self.flusher.take()]:
            tags.extend(batch.tags)
        self._first.clear()
        self._tell_drained()
        return tags

    def resend_all(self) -> None:
        """Sends what has been added since `open` in its idempotent form: it may have been committed before."""
        if self.flusher.waiting:
            batch = self.flusher.take()
            batch.again = True
            self._first.append(batch)
            self.kick()

    async def close(self) -> None:
        """Closes the connection; what was not flushed is lost, so `drain` first."""
        self._closed = True
        await self._link.stop_connecting()
        self._link.disconnect()
        self._tell_drained()

    def check_deadline(self) -> None:
        """Gives up a flush that has gone unanswered too long; called from time to time."""
        if self.flusher.connected and self.flusher.flying_for_s > self._flush_timeout:
            self._lost(ConnectionError(f"no answer to a flush within {self._flush_timeout:g} s"))

    def distrust(self) -> None:
        """New connections lead to another server than this one: goes where they lead."""
        now = time.monotonic()
        if self._link.up and not self._closed and not self._fenced and now - self._distrusted > 1.0:
            self._distrusted = now
            self._lost(ConnectionError("another server answers than before"))

    # -- sending -----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._kicked = False
        flusher = self.flusher
        if not flusher.idle or self._fenced or not self._link.up:
            return
        if self._first:
            if self._pause_until > time.monotonic():
                return
            batch = self._first.popleft()
        elif flusher.waiting:
            batch = flusher.take()
        else:
            if self._drained:
                self._tell_drained()
            return
        self._sent = time.monotonic()
        try:
            flusher.send(batch)
        except ConnectionError as error:
            self._lost(error)
            return
        if probes.armed:
            probes.reach("flush.sent")
        if flusher.wants_write != self._link.writing:
            self._link.watch_writing()
        if self._selector >= 0 and not self._looking:
            # From a callback of the loop: whoever sends may be a task, and workflow code never runs inside one.
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Takes the answer in as soon as it comes, if until then the loop has nothing else to do."""
        self._looking = False
        if self._link.up and not self._link.writing and not self.flusher.idle:
            spare = spare_time(self._loop, self._busy_wait)
            if spare > 0.0 and self.flusher.look(self._selector, spare):
                self._ready()

    def _ready(self) -> None:
        flusher = self.flusher
        try:
            done = flusher.ready()
        except ConnectionError as error:
            self._lost(error)
            return
        if flusher.wants_write != self._link.writing:
            self._link.watch_writing()
        if done is not None:
            if done[0] == "committed":
                self.clock.learn(done[2], self._sent, time.monotonic())
                if self._link.trouble is not None:
                    self._recovered()
                self._pump()  # the server works on the next batch while this one's answers are handed out
                times = iter(done[3]) if done[3] is not None else repeat(done[2])
                self._answers.append((iter(done[1].tags), times, time.monotonic()))
                if not self._delivering:
                    self._delivering = True
                    self._hand_out()
            else:
                self._refused(done[1], done[2], done[3])
            self.on_answer()
        notices = flusher.notified()
        if notices:
            self._on_notice(notices)

    def _hand_out(self) -> None:
        """Tells some tags of their commit, and the rest in the next turns of the event loop.

        So what the first ones led to is on its way to the server while the others go on: with all at once, server and
        workflows would take turns instead of working side by side.
        """
        answers = self._answers
        left = _ANSWERS_A_TURN
        while answers:
            tags, times, _ = answers[0]
            for tag, at_us in zip(islice(tags, left), times, strict=False):
                left -= 1
                try:
                    tag.committed(at_us)
                except Exception:
                    logger.exception("error while handing out a commit")
            if left == 0:
                self._loop.call_soon(self._hand_out)
                self.on_answer()
                return
            answers.popleft()
        self._delivering = False
        self.on_answer()
        if self._drained:
            self._tell_drained()

    def _refused(self, batch: Batch, sqlstate: str, message: str) -> None:
        if sqlstate == _FENCED:
            self._first.appendleft(batch)
            self._fenced = True
            self._tell_drained()
            self._on_fenced()
            return
        if sqlstate == _UNSUPPORTED and self.flusher.copy_from < sys.maxsize:
            # PostgreSQL has no COPY into a table whose row-level security holds for the role, even where it lets
            # every row pass. INSERT does as well.
            self.flusher.copy_from = sys.maxsize
            self._first.appendleft(batch)
            self._pump()
            return
        if sqlstate in _FORGOTTEN and self._link.prepared:
            # Somebody else has the session too, or emptied it: a pooler that was not recognised, or is new in between.
            self._first.appendleft(batch)
            self._link.prepared = False
            self._lost(ConnectionError(f"what was prepared is gone; is a pooler in between? {message} ({sqlstate})"))
            return
        if sqlstate[:2] in PASSING:
            self._first.appendleft(batch)
            self._backoff = min(max(self._backoff * 2, 0.02), _LONGEST_WAIT_S)
            self._pause_until = time.monotonic() + self._backoff
            self._link.complain(f"the server refuses writes for now: {message} ({sqlstate})")
            self._loop.call_later(self._backoff + 0.001, self._renew if sqlstate == _READ_ONLY else self.kick)
            return
        parts = batch.split()
        if len(parts) > 1:
            self._first.extendleft(reversed(parts))
        else:
            error = PgDurableError(
                f"PostgreSQL refused a transition: {message} ({sqlstate})",
                hint="The other transitions of the batch were committed without it.",
            )
            try:
                batch.tags[0].refused(error)
            except Exception:
                logger.exception("error while handing out a refusal")
        self._pump()

    def _renew(self) -> None:
        """Goes on with another session: one that began as read-only stays so when the server takes writes again."""
        if self._link.up:
            self._lost(ConnectionError(self._link.trouble or "the session is read-only"))

    def _tell_drained(self) -> None:
        if self.empty or self._fenced or self._closed:
            waiting, self._drained = self._drained, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # -- the connection is lost, and back ------------------------------------------------------------------------

    def _lost(self, error: Exception) -> None:
        batch = self._link.disconnect()
        if batch is not None:
            self._first.appendleft(batch)
        if self._closed or self._fenced:
            return
        text = str(error) or repr(error)
        self._link.complain(f"connection lost: {text.splitlines()[0]}")
        self._link.come_back()

    def _back(self) -> None:
        if not self._first and not self.flusher.waiting:
            self._recovered()
        self._pump()

    def _recovered(self) -> None:
        self._link.recovered()
        self._backoff = 0.0


async def _any_server(found: str | None) -> bool:
    return True
