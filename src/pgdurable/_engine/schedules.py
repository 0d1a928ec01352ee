"""A worker's part in schedules: it looks which are due, computes what to do, and has it done in one commit.

Every worker looks; there is no leader. Nothing is locked while it computes: what it worked out is written only where
the schedule is still as it was read (`tick_schedules`), so of several that look at once one writes. A worker looks
after the schedules of workflows it has: it knows their parameters, and has the keys to their payloads.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
import psycopg

from pgdurable._engine import probes
from pgdurable._engine.host import Host
from pgdurable._engine.ticks import Due, Plan, Times, iso, key_of, plan, tick_of, ticks_of
from pgdurable._store.sql import named_queries
from pgdurable.codec import decode_stored, encode
from pgdurable.errors import PgDurableError
from pgdurable.workflow import Workflow

__all__ = ["Schedules", "place_of_input"]

logger = logging.getLogger("pgdurable.engine")

_LOOK_EVERY_S = 1.0
_MOST_TAKEN = 2000


class Schedules:
    """See the head of this file.

    Args:
        new_id: makes the uuid of an instance.
        hint_at: has this worker look again at a time of the database's clock, in microseconds.
    Attributes:
        started: instances, by this worker.
    """

    def __init__(
        self, host: Host, schema: str, *, new_id: Callable[[], bytes], hint_at: Callable[[int | None], None]
    ) -> None:
        self._host = host
        self._sql = named_queries("schedules", schema)
        self._new_id = new_id
        self._hint_at = hint_at
        self._names = list({definition.name for definition in host.registry})
        self._look_at = 0.0
        self.started = 0

    async def look(self, conn: psycopg.AsyncConnection[Any], due_in: float | None, asked: bool) -> bool:
        """Starts what has come. Returns whether anything was started.

        Args:
            due_in: seconds until the next schedule has to be looked at; None: there is none.
            asked: whether the server was asked for that just now; a busy worker does not.
        """
        now = time.monotonic()
        if asked:
            self._look_at = now + _LOOK_EVERY_S
            if due_in is None:
                return False
            if due_in > 0.0:
                if due_in < 60.0 and self._host.clock.now_us():
                    self._hint_at(self._host.clock.now_us() + int(max(due_in, 0.001) * 1e6))
                return False
        elif now < self._look_at:
            return False
        self._look_at = now + _LOOK_EVERY_S
        return await self._tick(conn)

    async def _tick(self, conn: psycopg.AsyncConnection[Any]) -> bool:
        worker = self._host.worker
        rows = await (await conn.execute(self._sql["due_schedules"], (self._names,))).fetchall()
        if not rows:
            return False
        plans = []
        for row in rows:
            try:
                due = _due(row)
                taken = await self._taken(conn, due)
                done = plan(due, taken)
                starts = [self._start(due, tick) for tick in done.starts]
            except Exception as error:
                # One that cannot be understood must not keep the others waiting: it is set aside, with the reason.
                done, starts = Plan(note=_why(error), keep=[text.split()[0] for text in row[11]], buffered=row[8]), []
                done.requests = msgspec.json.decode(row[9])
                logger.error("schedule %r is paused: %s", row[0], done.note)
            plans.append(_written(row[0], row[4], done, starts))
        if probes.armed:
            probes.reach("schedule.computed")
        made = 0
        results = await self._write(conn, worker, plans)
        if probes.armed:
            probes.reach("schedule.committed")
        aside = []
        for name, count, refused in results:
            made += count
            if refused is not None:
                logger.error("schedule %r is paused: %s", name, refused)
                aside += [{**p, "starts": [], "cancel": [], "next_at": None, "note": refused} for p in plans
                          if p["name"] == name]  # fmt: skip
        if aside:
            await self._write(conn, worker, aside)
        self.started += made
        next_us = [int(tick_of(p["next_at"]).timestamp() * 1e6) for p in plans if p["next_at"] is not None]
        if next_us:
            self._hint_at(min(next_us))
        return made > 0

    async def _write(self, conn: psycopg.AsyncConnection[Any], worker: int, plans: list[dict[str, Any]]) -> list[Any]:
        cursor = await conn.execute(self._sql["tick_schedules"], (worker, msgspec.json.encode(plans).decode()))
        return await cursor.fetchall()

    async def _taken(self, conn: psycopg.AsyncConnection[Any], due: Due) -> frozenset[str]:
        """The ids of ticks asked for by a backfill that have their instances already."""
        keys: list[str] = []
        for request in due.requests:
            if "since" in request:
                times = Times(due.definition, due.name)
                for tick in ticks_of(times, tick_of(request["since"]), tick_of(request["until"])):
                    keys.append(key_of(due.name, tick))
                    if len(keys) >= _MOST_TAKEN:
                        break
        if not keys:
            return frozenset()
        cursor = await conn.execute(self._sql["keys_taken"], (keys,))
        return frozenset(key for (key,) in await cursor.fetchall())

    def _start(self, due: Due, tick: datetime) -> dict[str, Any]:
        id = self._new_id()
        local = tick.astimezone(Times(due.definition, due.name).zone)
        input = self._input(due, id, local)
        labels = due.definition.get("labels") or {}
        return {
            "id": str(uuid.UUID(bytes=id)), "key": key_of(due.name, tick), "tick": iso(tick),
            "input": msgspec.Raw(input), "labels": {**labels, "schedule": due.name, "scheduled_at": local.isoformat()},
        }  # fmt: skip

    def _input(self, due: Due, id: bytes, tick: datetime) -> bytes:
        """The stored input, with the tick's time where the workflow asks for it."""
        stored: bytes | str = due.input
        encryption = self._host.encryption
        if encryption is not None:
            stored = encryption.open(place_of_input(due.name), "schedule", stored) or stored
        value = decode_stored(stored, what=f"schedule {due.name!r}: its input")
        definition = self._host.registry.get(due.workflow, due.definition.get("version"))
        if takes_tick(definition):
            names = [parameter.name for parameter in definition.signature.parameters]
            if isinstance(value, list) and len(value) <= names.index("scheduled_at"):
                value = dict(zip(names, value))  # noqa: B905 - shorter lists are the point
            if isinstance(value, dict):
                value.setdefault("scheduled_at", tick.isoformat())
        data = encode(value, what=f"schedule {due.name!r}: its input")
        return data if encryption is None else encryption.seal(id, "input", data)


def takes_tick(definition: Workflow[Any, Any]) -> bool:
    """Whether the function has a parameter for the time of its tick."""
    return any(parameter.name == "scheduled_at" for parameter in definition.signature.parameters)


def place_of_input(name: str) -> bytes:
    """What the encrypted input of a schedule is bound to, as that of an instance is to its uuid."""
    return sha256(f"schedule {name}".encode()).digest()[:16]


def _due(row: Any) -> Due:
    (
        name, workflow, definition, input, revision, paused, since, tick_at, buffered, requests, last_at, running, now,
    ) = row  # fmt: skip
    return Due(
        name, workflow, msgspec.json.decode(definition), input, revision, paused, since, tick_at, buffered,
        msgspec.json.decode(requests), last_at, dict(text.split() for text in running), now,
    )  # fmt: skip


def _written(name: str, revision: int, done: Plan, starts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name, "revision": revision, "starts": starts, "cancel": done.cancel, "keep": done.keep,
        "tick_at": done.tick_at and iso(done.tick_at),
        "next_at": done.next_at and iso(done.next_at), "buffered": list(map(iso, done.buffered)),
        "requests": done.requests, "note": done.note, "skipped": done.skipped, "missed": done.missed,
    }  # fmt: skip


def _why(error: Exception) -> str:
    return error.message if isinstance(error, PgDurableError) else f"{type(error).__name__}: {error}"
