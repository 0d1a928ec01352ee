"""Starts that need more than a row in the journal: user-chosen ids, and many at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine import probes
from pgdurable._engine.answers import borrow
from pgdurable._engine.backlog import MOST_BYTES, Gate
from pgdurable._engine.clock import micros
from pgdurable._engine.connections import is_passing
from pgdurable._engine.host import Host
from pgdurable._engine.tasks import end_tasks
from pgdurable._engine.trouble import Troubles
from pgdurable._secret import SHOW_VALUES, server_said
from pgdurable._store.sql import named_queries
from pgdurable.errors import InvalidId, PgDurableError
from pgdurable.workflow import Workflow

__all__ = ["BulkStart", "KeyedStarts", "never_told"]

_PLACE = "starts with ids wait"


class BulkStart:
    """Stands for the futures of many starts: done when all are acknowledged, failed with the first failure."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = 0
        self._error: BaseException | None = None
        self._all: asyncio.Future[None] = loop.create_future()
        self._complete = False

    def add(self) -> None:
        self._left += 1

    def done(self) -> bool:
        return False

    def set_result(self, at_us: int) -> None:
        self._left -= 1
        self._check()

    def set_exception(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._left -= 1
        self._check()

    async def wait(self) -> None:
        self._complete = True
        self._check()
        await self._all
        if self._error is not None:
            raise self._error

    def _check(self) -> None:
        if self._complete and self._left == 0 and not self._all.done():
            self._all.set_result(None)


class KeyedStarts:
    """Starts with user-chosen ids, many per commit, on a connection beside the journal's.

    An id may be held by somebody's open transaction; waiting for that must not hold up everybody's transitions.
    One batch is under way while the next fills, and up to `most` starts are in both; the others wait.
    """

    def __init__(
        self,
        host: Host,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        schema: str,
        most: int,
        new_id: Callable[[], bytes],
        troubles: Troubles,
    ) -> None:
        self._host = host
        self._new_id = new_id
        self._pool = pool
        self._troubles = troubles
        self._sql = named_queries("client", schema)
        self._filling: list[tuple[str, bytes, Workflow[Any, Any], bytes, str, bool, asyncio.Future[uuid.UUID]]] = []
        self._sender: asyncio.Task[None] | None = None
        self.load = (0, 0)
        self.gate = Gate(lambda: self.load, most, MOST_BYTES)

    async def start(
        self, key: str, definition: Workflow[Any, Any], data: bytes, queue: str, *, owned: bool
    ) -> uuid.UUID:
        """The instance the id names, started by this call or earlier. Raises InvalidId, and what `new_id` raises."""
        if self.gate.full(len(data)):
            await self.gate.enter(len(data))
        id = self._new_id()
        future: asyncio.Future[uuid.UUID] = self._host.loop.create_future()
        self._filling.append((key, id, definition, data, queue, owned, future))
        self.load = (self.load[0] + 1, self.load[1] + len(data))
        if self._sender is None or self._sender.done():
            self._sender = self._host.loop.create_task(self._send())
        return await future

    async def _send(self) -> None:
        await asyncio.sleep(0)
        while self._filling:
            batch, self._filling = self._filling[:5000], self._filling[5000:]
            batch.sort(key=lambda start: start[0])
            try:
                for owned in (True, False):
                    await self._send_owned(batch, owned)
            finally:
                nbytes = sum(len(start[3]) for start in batch)
                self.load = (self.load[0] - len(batch), self.load[1] - nbytes)
                self.gate.open_up()

    async def _send_owned(self, batch: list[Any], owned: bool) -> None:
        part = [start for start in batch if start[5] is owned and not start[6].cancelled()]
        if not part:
            return
        try:
            await self._send_part(part, self._host.worker if owned else None)
        except BaseException as error:
            for start in part:
                if not start[6].done():
                    start[6].set_exception(error if isinstance(error, Exception) else never_told())
            if not isinstance(error, Exception):
                raise

    async def close(self) -> None:
        """Ends it. Who still waits for an answer gets an error."""
        self.gate.close(never_told)
        await end_tasks(self._sender)
        for start in self._filling:
            if not start[6].done():
                start[6].set_exception(never_told())
        self._filling.clear()

    def _stored(self, start: Any) -> bytes:
        encryption = self._host.encryption
        data: bytes = start[3]
        return data if encryption is None else encryption.seal(start[1], "input", data)

    async def _send_part(self, part: list[Any], worker: int | None) -> None:
        params = (
            worker, [s[0] for s in part], [uuid.UUID(bytes=s[1]) for s in part], [s[2].name for s in part],
            [s[2].version for s in part], [self._stored(s).decode() for s in part], [s[4] for s in part],
            [0.0] * len(part),
        )  # fmt: skip
        wait = 0.02
        again = False
        while True:
            try:
                async with borrow(self._pool) as conn:
                    cursor = await conn.execute(self._sql["start_keyed"], params)
                    rows = await cursor.fetchall()
                    there: dict[str, tuple[uuid.UUID, str]] = {}
                    missing = [part[place - 1][0] for place, _, created, _ in rows if not created]
                    if missing:
                        cursor = await conn.execute(self._sql["keys_there"], (missing,))
                        there = {key: (id, workflow) for key, id, workflow in await cursor.fetchall()}
                break
            except psycopg.Error as error:
                if error.sqlstate == "PGD01":
                    # Taken over: whoever has room may run them.
                    self._host.on_fenced()
                    params = (None, *params[1:])
                    worker = None
                elif not is_passing(error):
                    refusal = PgDurableError(f"PostgreSQL refused: {server_said(error)}")
                    raise refusal from (error if SHOW_VALUES else None)
                elif again:
                    self._troubles.say(_PLACE, server_said(error))
            # The ids make a second try harmless: what was committed is found there.
            again = True
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
        self._troubles.over(_PLACE)
        if probes.armed:
            probes.reach("keyed_start.committed")
        for place, instance_id, created, at in rows:
            key, id, definition, data, _, _, future = part[place - 1]
            if created:
                if worker is not None and worker == self._host.worker:
                    self._host.begin(id, key, definition, data, micros(at))
                _answer(future, instance_id)
                continue
            existing = there.get(key)
            if existing is None:
                future.set_exception(InvalidId(f"id {key!r} was deleted while it was being started", hint="Try again."))
            elif existing[1] != definition.name:
                future.set_exception(
                    InvalidId(
                        f"id {key!r} is an instance of workflow {existing[1]!r}, not of {definition.name!r}",
                        hint="Choose another id for this start.",
                    )
                )
            else:
                if again and existing[0].bytes == id and worker is not None and worker == self._host.worker:
                    # Our own first try had been committed, its answer lost on the way.
                    await self._take_up(id, key, definition, data)
                _answer(future, existing[0])

    async def _take_up(self, id: bytes, key: str, definition: Workflow[Any, Any], data: bytes) -> None:
        async with borrow(self._pool) as conn:
            cursor = await conn.execute(self._sql["describe"], (uuid.UUID(bytes=id),))
            row = await cursor.fetchone()
        if row is not None and row[4] == "running" and row[7] == self._host.worker:
            self._host.begin(id, key, definition, data, micros(row[12] or row[11]))


def never_told() -> PgDurableError:
    """For those who wait when the engine ends."""
    return PgDurableError(
        "this Engine was stopped before the server acknowledged the start",
        hint="It may have been stored all the same. A start with an id of your own can be done again without harm.",
    )


def _answer(future: asyncio.Future[uuid.UUID], instance_id: uuid.UUID) -> None:
    if not future.done():
        future.set_result(instance_id)
