"""Finds work for this worker: instances that are due or orphaned, events for those it holds.

A notification is only a hint to look now; looking every `interval` seconds alone finds the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.backlog import Gate
from pgdurable._engine.host import Host
from pgdurable._engine.intake import Intake
from pgdurable._engine.listening import Listening
from pgdurable._engine.looks import Looks
from pgdurable._engine.schedules import Schedules
from pgdurable._engine.strays import Strays
from pgdurable._engine.tasks import Bell, heed_cancel
from pgdurable._engine.trials import Trials
from pgdurable._engine.trouble import Troubles
from pgdurable._engine.upkeep import Upkeep
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

__all__ = ["Poller"]

logger = logging.getLogger("pgdurable.engine")

# Between two looks lies as much time as the first took, so that hints without end leave room for other work; this
# much is enough.
_LONGEST_GAP_S = 0.005
_TIDY_EVERY_S = 30.0
_AGAIN_AFTER_S = 0.05
_REQUESTS_S = 0.02
_PLACE = "work is not looked for"


class Poller:
    """See the head of this file.

    Args:
        room: how many more instances this process takes in.
        trials: those of them that are suspected of killing their workers.
        gate: claims wait for their turn there, as starts do.
        listening: the queues it takes instances of.
        interval: seconds between two looks when nothing hints.
        new_id: makes the uuid of an instance that a schedule starts.
        troubles: is told when looking fails.
    """

    def __init__(
        self,
        host: Host,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        schema: str,
        upkeep: Upkeep,
        *,
        room: Callable[[], int],
        trials: Trials,
        gate: Gate,
        listening: Listening,
        interval: float,
        new_id: Callable[[], bytes],
        troubles: Troubles,
    ) -> None:
        self._host = host
        self._pool = pool
        self._sql = named_queries("worker", schema)
        self._trials = trials
        self._gate = gate
        self._listening = listening
        self._turn: asyncio.Task[None] | None = None
        self._interval = interval
        self._troubles = troubles
        self._hint = Bell()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._watching: asyncio.TimerHandle | None = None
        self._tidied = time.monotonic()
        self._intake = Intake(
            host, schema, upkeep, room=room, trials=trials, gate=gate, listening=listening, look_again_in=self._alarm_in
        )
        self._strays = Strays(host, schema, self._intake, self.hint)
        self.schedules = Schedules(host, schema, new_id=new_id, hint_at=self.hint_at)
        self.polls = 0
        host.undo = self._undo

    def doubt(self) -> None:
        """The connection for transitions was lost: what this worker owns and does not have is looked for."""
        self._strays.unsure = True
        self._intake.looks = Looks()  # on another server the queue may have gone back
        self.hint()

    def hint(self) -> None:
        """Looks as soon as possible."""
        self._hint.ring()

    def noticed(self, payloads: set[str]) -> None:
        """Notifications have come: looks as soon as possible."""
        if "queues" in payloads:
            self._listening.stale = True
        self._hint.ring()

    def hint_at(self, wake_at_us: int | None) -> None:
        """Looks again when the database's clock has reached this time."""
        if wake_at_us is None:
            return
        self._alarm_in(max((wake_at_us - self._host.clock.now_us()) / 1e6, 0.0))

    def _alarm_in(self, wait: float) -> None:
        loop = self._host.loop
        at = loop.time() + wait
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = loop.call_later(max(at - loop.time(), 0.0), self._ring)

    def _watch_requests(self) -> None:
        """Instances are on their way to standing still: looks as soon as one is at rest."""
        if self._watching is None:
            self._watching = self._host.loop.call_later(_REQUESTS_S, self._look_at_requests)

    def _look_at_requests(self) -> None:
        self._watching = None
        requests = self._host.requests
        if requests.ripe:
            self.hint()
        elif requests:
            self._watch_requests()

    def _ring(self) -> None:
        self._alarm = None
        self._hint.ring()

    async def run(self) -> None:
        """Polls until cancelled. Trouble with the server is waited out."""
        failed = False
        while True:
            heed_cancel()
            self._hint.clear()
            began = time.monotonic()
            try:
                more = await self.poll()
                failed = False
                self._troubles.over(_PLACE)
            except (psycopg.Error, OSError) as error:
                if getattr(error, "sqlstate", None) == "PGD01":
                    self._host.on_fenced()
                elif failed:
                    self._troubles.say(_PLACE, server_said(error))
                else:
                    failed = True  # a pooled connection had died, most likely: the next is new
                    await asyncio.sleep(_AGAIN_AFTER_S)
                    continue
                more = False
            if not more:
                await asyncio.sleep(min(time.monotonic() - began, _LONGEST_GAP_S))
                await self._hint.wait(self._interval)

    def look_again(self, id: bytes) -> None:
        """Asks for the events of an instance here that were seen before, when it took none."""
        self._intake.claimed.append(UUID(bytes=id))
        self.hint()

    async def poll(self) -> bool:
        """One look. Returns whether there may be more at once."""
        self.polls += 1
        host = self._host
        if host.fenced:
            return False
        worker = host.worker
        intake = self._intake
        looks = intake.looks
        async with borrow(self._pool) as conn:
            if looks.begin():
                cursor = await conn.execute(self._sql["last_event"])
                row = await cursor.fetchone()
                if row is not None:
                    looks.last_event(row[0])
                    self._listening.marked(row[1])
            if self._listening.stale:
                await self.learn_queues(conn)
            await self._strays.look(conn, worker)
            await self._strike_out(conn, worker)
            self._strays.unsure = True  # until everything claimed is known to be here
            if host.instances:
                await self._events(conn)  # somebody may be waiting for one right now
            claimed, more = False, False
            if intake.wanted and self._may_claim():
                claimed, more = await intake.claim(conn, worker)
            self._strays.settle()
            if intake.claimed:
                await self._events(conn, intake.claimed)
            if self._host.requests and await self._host.requests.look(conn, worker, self._sql):
                self._watch_requests()
            await self._tidy(conn)
            ticks_in = None if claimed else await self._next_due(conn)
            if intake.names and not host.draining:
                more = await self.schedules.look(conn, ticks_in, asked=not claimed) or more
            looks.end()
        return more

    async def _tidy(self, conn: psycopg.AsyncConnection[Any]) -> None:
        if time.monotonic() - self._tidied > _TIDY_EVERY_S:
            self._tidied = time.monotonic()
            for statement in ("settle_requests", "drop_stale_events", "forget_keys", "mark_emptied"):
                await conn.execute(self._sql[statement])

    async def _next_due(self, conn: psycopg.AsyncConnection[Any]) -> float | None:
        """Sees to it that it is looked again when the next instance is due. Seconds to the next schedule's time."""
        intake = self._intake
        if not intake.names:
            return None
        with intake.looks.counted():
            params = (intake.names, intake.looks.since(intake.names), self._listening.queues, intake.names)
            row = await (await conn.execute(self._sql["next_due"], params)).fetchone()
        if row is None:
            return None
        due_in, ticks_in = row
        if due_in is not None and due_in < 60 and self._host.clock.now_us():
            self.hint_at(self._host.clock.now_us() + int(max(due_in, 0.001) * 1e6))
        return None if ticks_in is None else float(ticks_in)

    async def learn_queues(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Reads which queues have settings."""
        cursor = await conn.execute(self._sql["queues"])
        self._listening.learn([name for (name,) in await cursor.fetchall()])

    async def _strike_out(self, conn: psycopg.AsyncConnection[Any], worker: int) -> None:
        """Clears those that have outlived their trial."""
        cleared = self._trials.outlived
        if cleared:
            await conn.execute(self._sql["clear_strikes"], (worker, [UUID(bytes=id) for id in cleared], worker))
            self._trials.outlived = self._trials.outlived - cleared

    def _may_claim(self) -> bool:
        """Whether new work may come in. If not it asks for its turn, which then hints."""
        if self._turn is not None:
            if not self._turn.done():
                return False
            self._turn = None
            return True
        if not self._gate.full():
            return True
        self._turn = self._host.loop.create_task(self._gate.enter())
        self._turn.add_done_callback(self._turn_came)
        return False

    def _turn_came(self, turn: asyncio.Task[None]) -> None:
        if not turn.cancelled() and turn.exception() is None:
            self.hint()

    async def _undo(self, id: bytes, events: list[int]) -> None:
        """Marks rows of the history of an instance that is retried."""
        async with borrow(self._pool) as conn:
            await conn.execute(self._sql["undo"], (self._host.worker, UUID(bytes=id), events))

    async def _events(self, conn: psycopg.AsyncConnection[Any], of: list[Any] | None = None) -> None:
        if of is not None:  # they may have waited for long
            self._intake.claimed = []
            cursor = await conn.execute(self._sql["events_of"], (of,))
        else:
            looks = self._intake.looks
            with looks.counted():
                params = (self._host.worker, looks.after_event, looks.after_event)
                cursor = await conn.execute(self._sql["owned_events"], params)
        for seq, id, kind, name, payload, sent_at in await cursor.fetchall():
            try:
                self._host.take_event(seq, id.bytes, kind, name, payload, sent_at)
            except Exception:
                logger.exception("instance %s: event %s (%s %r) cannot be taken", id, seq, kind, name)
