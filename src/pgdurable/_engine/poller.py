"""Finds work for this worker: instances that are due or orphaned, events for those it holds.

A notification is only a hint to look now; looking every `interval` seconds alone finds the same.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine import probes
from pgdurable._engine.answers import borrow
from pgdurable._engine.backlog import Gate
from pgdurable._engine.clock import micros
from pgdurable._engine.forks import Origin, origin_of
from pgdurable._engine.host import Host
from pgdurable._engine.listening import Listening
from pgdurable._engine.looks import Looks
from pgdurable._engine.schedules import Schedules
from pgdurable._engine.tasks import Bell, end_tasks, heed_cancel
from pgdurable._engine.trials import Trials
from pgdurable._engine.trouble import Troubles
from pgdurable._engine.upkeep import Upkeep
from pgdurable._failure import encode_error
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

__all__ = ["Poller"]

logger = logging.getLogger("pgdurable.engine")

_AT_ONCE = 500
# After so many claimed instances it is looked for events, whatever is left to claim.
_MOST_IN_A_LOOK = 2000
# Between two looks lies as much time as the first took, so that hints without end leave room for other work; this
# much is enough.
_LONGEST_GAP_S = 0.005
_LONGEST_HOLD_S = 1.0
_STRAY_AFTER_S = 2.0
_TIDY_EVERY_S = 30.0
# A claim whose connection broke may be under way in the server still: it waits for a synchronous standby, or for the
# disk, and is committed after a look that has not found it. So doubt lasts, and is never quite gone.
_DOUBT_S = 10.0
_LOOK_IN_DOUBT_S = 1.0
_LOOK_ANYWAY_S = 30.0
_AGAIN_AFTER_S = 0.05
_REQUESTS_S = 0.02
_PLACE = "work is not looked for"


class _Batch(NamedTuple):
    """Claimed instances, their history by `id.int`, and how many were asked for."""

    rows: list[Any]
    history: dict[int, list[Any]]
    asked: int


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
        self._upkeep = upkeep
        self._room = room
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
        definitions = list(host.registry)
        self._names = [d.name for d in definitions]
        self._versions = [d.version for d in definitions]
        self._all_async = all(d.is_async for d in definitions)
        self._current = [host.registry.is_current(d) for d in definitions]
        self._tidied = time.monotonic()
        self._unsure = False
        self._skipped = False
        self._strays: tuple[float, set[Any]] | None = None
        self._doubt_until = 0.0
        self._look_at = time.monotonic() + _LOOK_ANYWAY_S
        self._looks = Looks()
        self._claimed: list[Any] = []
        self.schedules = Schedules(host, schema, new_id=new_id, hint_at=self.hint_at)
        self.polls = 0
        host.undo = self._undo

    def doubt(self) -> None:
        """The connection for transitions was lost: what this worker owns and does not have is looked for."""
        self._unsure = True
        self._looks = Looks()  # on another server the queue may have gone back
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
        self._claimed.append(uuid.UUID(bytes=id))
        self.hint()

    async def poll(self) -> bool:
        """One look. Returns whether there may be more at once."""
        self.polls += 1
        host = self._host
        if host.fenced:
            return False
        worker = host.worker
        async with borrow(self._pool) as conn:
            if self._looks.begin():
                cursor = await conn.execute(self._sql["last_event"])
                row = await cursor.fetchone()
                if row is not None:
                    self._looks.last_event(row[0])
                    self._listening.marked(row[1])
            if self._listening.stale:
                await self.learn_queues(conn)
            if self._unsure or time.monotonic() >= self._look_at:
                await self._take_up_strays(conn, worker)
            await self._strike_out(conn, worker)
            self._unsure = True  # until everything claimed is known to be here
            if host.instances:
                await self._events(conn)  # somebody may be waiting for one right now
            claimed, more = False, False
            if self._names and not host.draining and self._room() > 0 and self._may_claim():
                with _no_collections(self._all_async):
                    claimed, more = await self._claim(conn, worker)
            self._unsure = self._strays is not None or self._skipped
            self._skipped = False
            if self._claimed:
                await self._events(conn, self._claimed)
            if self._host.requests and await self._host.requests.look(conn, worker, self._sql):
                self._watch_requests()
            if time.monotonic() - self._tidied > _TIDY_EVERY_S:
                self._tidied = time.monotonic()
                await conn.execute(self._sql["settle_requests"])
                await conn.execute(self._sql["drop_stale_events"])
                await conn.execute(self._sql["forget_keys"])
                await conn.execute(self._sql["mark_emptied"])
            ticks_in: float | None = None
            if not claimed and self._names:
                with self._looks.counted():
                    names = self._names
                    params = (names, self._looks.since(names), self._listening.queues, names)
                    row = await (await conn.execute(self._sql["next_due"], params)).fetchone()
                if row is not None:
                    due_in, ticks_in = row
                    if due_in is not None and due_in < 60 and host.clock.now_us():
                        self.hint_at(host.clock.now_us() + int(max(due_in, 0.001) * 1e6))
            if self._names and not host.draining:
                more = await self.schedules.look(conn, ticks_in, asked=not claimed) or more
            self._looks.end()
        return more

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

    async def _claim(self, conn: psycopg.AsyncConnection[Any], worker: int) -> tuple[bool, bool]:
        """Claims and takes in what there is room for; the server sees to the next batch while one is replayed.

        Returns whether anything was claimed, and whether there may be more at once.
        """
        loop = self._host.loop
        taken = 0
        ahead: asyncio.Task[_Batch] | None = None
        try:
            batch = await self._fetch(conn, worker, self._room())
            while batch.rows:
                taken += len(batch.rows)
                full = len(batch.rows) == batch.asked
                # What was claimed and is not here yet needs its room.
                room = self._room() - len(batch.rows)
                go_on = taken < _MOST_IN_A_LOOK and not self._host.draining and not self._gate.full()
                if full and room > 0 and go_on:
                    ahead = loop.create_task(self._fetch(conn, worker, room))
                await self._take_in(worker, batch.rows, batch.history)
                if ahead is None:
                    return True, full
                batch = await ahead
                ahead = None
        finally:
            await end_tasks(ahead)
        return taken > 0, False

    async def _fetch(self, conn: psycopg.AsyncConnection[Any], worker: int, room: int) -> _Batch:
        asked = min(room, _AT_ONCE)
        trials = self._trials
        if asked <= 0 or trials.alone:
            return _Batch([], {}, 0)
        looks, at_us = self._looks, self._host.clock.now_us()
        with looks.counted():
            cursor = await conn.execute(
                self._sql["claim"],
                (
                    worker, self._names, self._versions, self._current, asked, trials.most_strikes, len(trials),
                    looks.since(self._names), looks.after_event, self._listening.queues,
                ),
            )  # fmt: skip
            rows = await cursor.fetchall()
        if rows and rows[-1][0] is None:
            self._look_again(rows.pop()[10], not rows)
        looks.learn(self._names, [(row[1], row[10]) for row in rows], len(rows) < asked, at_us)
        self._claimed += [row[0] for row in rows]
        if rows and probes.armed:
            probes.reach("claim.returned")
        if rows and rows[-1][0].bytes >= self._upkeep.end:
            rows = await self._upkeep.cover(conn, worker, rows)
        return _Batch(rows, await self._load(conn, rows), asked)

    def _look_again(self, at: datetime, in_vain: bool) -> None:
        """A queue was busy, or its rate lets more go then."""
        now_us = self._host.clock.now_us()
        wait = self._listening.look_again_in((micros(at) - now_us) / 1e6 if now_us else 0.0, in_vain)
        self._alarm_in(wait)

    async def _load(self, conn: psycopg.AsyncConnection[Any], rows: list[Any]) -> dict[int, list[Any]]:
        history: dict[int, list[Any]] = defaultdict(list)
        encryption = self._host.encryption
        origins: dict[int, Origin | None] = {}
        if rows:
            cursor = await conn.execute(self._sql["load_history"], ([row[0] for row in rows],))
            for entry in await cursor.fetchall():
                if entry[2] == "asked":
                    self._host.requests.claimed.add(entry[0].bytes)
                    continue
                if entry[2] == "heartbeat":
                    self._host.kept[entry[0].bytes, entry[3]] = entry
                    continue
                if encryption is not None:
                    if entry[1] == 0:
                        origins[entry[0].int] = origin_of([entry])
                    origin = origins.get(entry[0].int)
                    entry = encryption.open_history(entry) if origin is None else origin.open(encryption, entry)
                history[entry[0].int].append(entry)  # a UUID itself is hashed by Python code
        return history

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

    async def _take_up_strays(self, conn: psycopg.AsyncConnection[Any], worker: int) -> None:
        """Finds instances that are this worker's without its knowing: their claim was committed, its answer lost.

        What is not here now may be a start under way, so only what is still not here some time later counts.
        """
        host = self._host
        if self._strays is not None and time.monotonic() - self._strays[0] < _STRAY_AFTER_S:
            return  # under load there are always starts under way: not to be asked at every hint for all it holds
        if self._unsure and self._strays is None:
            self._doubt_until = time.monotonic() + _DOUBT_S
        cursor = await conn.execute(self._sql["owned"], (worker,))
        strays = {row[0] for row in await cursor.fetchall() if row[0].bytes not in host.instances}
        now = time.monotonic()
        if now < self._doubt_until:
            self._look_at = now + _LOOK_IN_DOUBT_S
            host.loop.call_later(_LOOK_IN_DOUBT_S + 0.01, self.hint)
        else:
            self._look_at = now + _LOOK_ANYWAY_S
        if self._strays is None:
            self._strays = (now, strays) if strays else None
            host.loop.call_later(_STRAY_AFTER_S + 0.01, self.hint)
        elif now - self._strays[0] >= _STRAY_AFTER_S:
            lost = list(self._strays[1] & strays)
            for first in range(0, len(lost), _AT_ONCE):
                cursor = await conn.execute(self._sql["take_up"], (lost[first : first + _AT_ONCE], worker))
                rows = await cursor.fetchall()
                if rows and rows[-1][0].bytes >= self._upkeep.end:
                    rows = await self._upkeep.cover(conn, worker, rows)
                await self._take_in(worker, rows, await self._load(conn, rows))
            self._strays = None

    async def _take_in(self, worker: int, rows: list[Any], history: dict[int, list[Any]]) -> None:
        breath = time.monotonic()
        definitions = {key: self._host.registry.get(*key) for key in {(row[1], row[2]) for row in rows}}
        # A `def` workflow's thread may take its time.
        with _no_collections(all(definition.is_async for definition in definitions.values())):
            for row in rows:
                id, workflow, version, input, key, started_at, deadline, *_, queue, strikes, trial = row
                if self._host.fenced or self._host.worker != worker:
                    return  # claimed by an incarnation that was taken over meanwhile: they are somebody else's
                if id.bytes in self._host.requests.claimed:
                    continue
                if id.bytes in self._host.instances and not await self._has_left(id.bytes):
                    self._skipped = True  # it is looked for as a stray
                    continue
                definition = definitions[workflow, version]
                recorded = history.pop(id.int, [])
                if self._host.encryption is not None:
                    origin = origin_of(recorded)
                    whose = id if origin is None or origin.input_of is None else origin.input_of
                    input = self._host.encryption.open(whose, "input", input)
                if row[6] is not None or row[8] is not None or row[9] is not None:
                    self._host.about[id.bytes] = (row[6], row[8], row[9])
                if self._listening.limits(queue):
                    self._host.queued.add(id.bytes)
                if trial is not None:
                    self._trials.begin(id.bytes, strikes, trial, recorded[-1][1] if recorded else 0)
                end_us = None if deadline is None else micros(deadline)
                try:
                    await self._host.resume(id.bytes, key, definition, input, micros(started_at), recorded, end_us)
                except Exception as error:
                    # Whatever is wrong with one must not strand those that were claimed with it.
                    logger.exception("instance %s cannot be taken in; it is paused", id)
                    hosted = self._host.instances.get(id.bytes)
                    if hosted is not None:
                        self._host.release(hosted, "paused", error=encode_error(error))
                if time.monotonic() - breath > 0.005:
                    await asyncio.sleep(0)
                    breath = time.monotonic()

    async def _has_left(self, id: bytes) -> bool:
        """Whether an instance that was just parked, and claimed again at once, has left memory meanwhile.

        Its claim can overtake the answer to its parking, which comes on another connection.
        """
        for _ in range(50):
            if id not in self._host.instances:
                return True
            await asyncio.sleep(0.001)
        return False

    async def _undo(self, id: bytes, events: list[int]) -> None:
        """Marks rows of the history of an instance that is retried."""
        async with borrow(self._pool) as conn:
            await conn.execute(self._sql["undo"], (self._host.worker, UUID(bytes=id), events))

    async def _events(self, conn: psycopg.AsyncConnection[Any], of: list[Any] | None = None) -> None:
        if of is not None:  # they may have waited for long
            self._claimed = []
            cursor = await conn.execute(self._sql["events_of"], (of,))
        else:
            with self._looks.counted():
                params = (self._host.worker, self._looks.after_event, self._looks.after_event)
                cursor = await conn.execute(self._sql["owned_events"], params)
        for seq, id, kind, name, payload, sent_at in await cursor.fetchall():
            try:
                self._host.take_event(seq, id.bytes, kind, name, payload, sent_at)
            except Exception:
                logger.exception("instance %s: event %s (%s %r) cannot be taken", id, seq, kind, name)


@contextmanager
def _no_collections(wanted: bool) -> Iterator[None]:
    """Holds the garbage collector off, if wanted, while instances are claimed and replayed; for a second at most.

    What is made there stays: looking through it again and again for garbage took more time than making it, since
    each full collection walks over all the instances in memory. Held off for all batches of a look, and not for each
    by itself, 11,100 instances a second are replayed instead of 7,900.
    """
    if not wanted or not gc.isenabled():
        yield
        return
    gc.disable()
    too_long = asyncio.get_running_loop().call_later(_LONGEST_HOLD_S, gc.enable)  # the server may leave a claim waiting
    try:
        yield
    finally:
        too_long.cancel()
        gc.enable()
