"""Takes instances into this worker's memory: claims those that are due, or takes up those that are its own already.

Batches are pipelined: the server sees to the next one while one is replayed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import psycopg

from pgdurable._engine import probes
from pgdurable._engine.backlog import Gate
from pgdurable._engine.clock import micros
from pgdurable._engine.forks import Origin, origin_of
from pgdurable._engine.formats import unknown_format
from pgdurable._engine.host import Host
from pgdurable._engine.listening import Listening
from pgdurable._engine.looks import Looks
from pgdurable._engine.tasks import end_tasks
from pgdurable._engine.trials import Trials
from pgdurable._engine.upkeep import Upkeep
from pgdurable._failure import encode_error
from pgdurable._store.sql import named_queries

__all__ = ["Intake"]

logger = logging.getLogger("pgdurable.engine")

_AT_ONCE = 500
# After so many claimed instances it is looked for events, whatever is left to claim.
_MOST_IN_A_LOOK = 2000
_LONGEST_HOLD_S = 1.0


class _Batch(NamedTuple):
    """Claimed instances, their history by `id.int`, and how many were asked for."""

    rows: list[Any]
    history: dict[int, list[Any]]
    asked: int


class Intake:
    """See the head of this file.

    Args:
        room: how many more instances this process takes in.
        trials: those of them that are suspected of killing their workers.
        gate: nothing more is claimed while it is full.
        listening: the queues it takes instances of.
        look_again_in: called with the seconds after which there may be something to claim.
    Attributes:
        names: of the workflows it has, as often as they have versions.
        looks: where to begin looking for what is due.
        claimed: whose events have to be asked for, whenever they came.
        skipped: whether something was passed over that is this worker's.
    """

    def __init__(
        self,
        host: Host,
        schema: str,
        upkeep: Upkeep,
        *,
        room: Callable[[], int],
        trials: Trials,
        gate: Gate,
        listening: Listening,
        look_again_in: Callable[[float], None],
    ) -> None:
        self._host = host
        self._sql = named_queries("worker", schema)
        self._upkeep = upkeep
        self._room = room
        self._trials = trials
        self._gate = gate
        self._listening = listening
        self._look_again_in = look_again_in
        self._formats: dict[int, int] = {}
        definitions = list(host.registry)
        self.names = [d.name for d in definitions]
        self._versions = [d.version for d in definitions]
        self._all_async = all(d.is_async for d in definitions)
        self._current = [host.registry.is_current(d) for d in definitions]
        self.looks = Looks()
        self.claimed: list[Any] = []
        self.skipped = False

    @property
    def wanted(self) -> bool:
        """Whether this worker takes in anything now."""
        return bool(self.names) and not self._host.draining and self._room() > 0

    async def claim(self, conn: psycopg.AsyncConnection[Any], worker: int) -> tuple[bool, bool]:
        """Claims and takes in what there is room for.

        Returns whether anything was claimed, and whether there may be more at once.
        """
        with _no_collections(self._all_async):
            return await self._claim(conn, worker)

    async def take_up(self, conn: psycopg.AsyncConnection[Any], worker: int, ids: list[Any]) -> None:
        """Takes in instances that are this worker's already."""
        for first in range(0, len(ids), _AT_ONCE):
            cursor = await conn.execute(self._sql["take_up"], (ids[first : first + _AT_ONCE], worker))
            rows = await self._covered(conn, worker, await cursor.fetchall())
            await self._take_in(worker, rows, await self._load(conn, rows))

    async def _claim(self, conn: psycopg.AsyncConnection[Any], worker: int) -> tuple[bool, bool]:
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
        looks, at_us = self.looks, self._host.clock.now_us()
        with looks.counted():
            cursor = await conn.execute(
                self._sql["claim"],
                (
                    worker, self.names, self._versions, self._current, asked, trials.most_strikes, len(trials),
                    looks.since(self.names), looks.after_event, self._listening.queues,
                ),
            )  # fmt: skip
            rows = await cursor.fetchall()
        if rows and rows[-1][0] is None:
            self._look_again(rows.pop()[10], not rows)
        looks.learn(self.names, [(row[1], row[10]) for row in rows], len(rows) < asked, at_us)
        self.claimed += [row[0] for row in rows]
        if rows and probes.armed:
            probes.reach("claim.returned")
        rows = await self._covered(conn, worker, rows)
        return _Batch(rows, await self._load(conn, rows), asked)

    async def _covered(self, conn: psycopg.AsyncConnection[Any], worker: int, rows: list[Any]) -> list[Any]:
        """Those whose history has a partition."""
        if rows and rows[-1][0].bytes >= self._upkeep.end:
            return await self._upkeep.cover(conn, worker, rows)
        return rows

    def _look_again(self, at: datetime, in_vain: bool) -> None:
        """A queue was busy, or its rate lets more go then."""
        now_us = self._host.clock.now_us()
        wait = self._listening.look_again_in((micros(at) - now_us) / 1e6 if now_us else 0.0, in_vain)
        self._look_again_in(wait)

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
                if entry[2] == "format":
                    self._formats[entry[0].int] = entry[3]
                    continue
                if encryption is not None:
                    if entry[1] == 0:
                        origins[entry[0].int] = origin_of([entry])
                    origin = origins.get(entry[0].int)
                    entry = encryption.open_history(entry) if origin is None else origin.open(encryption, entry)
                history[entry[0].int].append(entry)  # a UUID itself is hashed by Python code
        return history

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
                    self.skipped = True  # it is looked for as a stray
                    continue
                definition = definitions[workflow, version]
                recorded = history.pop(id.int, [])
                if self._formats and (found := self._formats.pop(id.int, None)) is not None:
                    self._host.refuse(id.bytes, key, definition, partial(unknown_format, found=found))
                    continue
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
