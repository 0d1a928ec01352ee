"""Queries: questions to instances, answered from memory, or from a replay that does not go on.

Questions wait in the table `queries`. A notification says that there are some; looking now and then finds them without.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.clock import micros
from pgdurable._engine.continuing import run_of
from pgdurable._engine.forks import opened
from pgdurable._engine.formats import unknown_format
from pgdurable._engine.hosted import Hosted
from pgdurable._engine.replay import run_again
from pgdurable._engine.tasks import Bell, heed_cancel
from pgdurable._failure import encode_error
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries
from pgdurable.codec import canonical, encode
from pgdurable.errors import PgDurableError
from pgdurable.handlers import find_handler

if TYPE_CHECKING:
    from pgdurable._engine.host import Host

__all__ = ["Answerer", "ask_hosted"]

logger = logging.getLogger("pgdurable.engine")

_MOST = 100
_LONGEST_REPLAY_S = 10.0


async def ask_hosted(hosted: Hosted, name: str, input: bytes | str) -> bytes:
    """The answer of an instance in memory, encoded. Raises what its handler raises."""
    machine = hosted.machine
    for _ in range(1000):  # a `def` workflow's thread may be running; it waits soon
        if not machine.busy:
            break
        await asyncio.sleep(0.001)
    handler = find_handler(machine, hosted.definition.queries, name, query=True)
    value = machine.ask(handler.bound(handler.fn, machine, input))
    return encode(value, what=f"{hosted.label}: the answer to query {name!r}", limit=hosted.host.payload_limit)


class Answerer:
    """See the head of this file.

    Args:
        interval: seconds between two looks when nothing hints.
    """

    def __init__(
        self, host: Host, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], schema: str, interval: float
    ) -> None:
        self._host = host
        self._pool = pool
        self._interval = interval
        self._sql = named_queries("worker", schema)
        self._bell = Bell()
        definitions = list(host.registry)
        self._names = [d.name for d in definitions]
        self._versions = [d.version for d in definitions]
        self._current = [host.registry.is_current(d) for d in definitions]

    def ring(self) -> None:
        """There may be questions."""
        self._bell.ring()

    async def run(self) -> None:
        """Answers until cancelled. Trouble with the server is waited out: askers ask again."""
        while True:
            heed_cancel()
            await self._bell.wait(self._interval)
            self._bell.clear()
            try:
                while await self.look():
                    pass
            except (psycopg.Error, OSError) as error:
                logger.debug("queries could not be answered: %s", server_said(error))

    async def look(self) -> bool:
        """One look. Returns whether there may be more."""
        host = self._host
        if host.fenced:
            return False
        async with borrow(self._pool) as conn:
            params = (host.worker, self._names, self._versions, self._current, _MOST)
            rows = await (await conn.execute(self._sql["take_queries"], params)).fetchall()
        for key, id, name, input, held, *instance in rows:
            answer = error = None
            try:
                answer = await self._answer(id, name, input, held, *instance)
            except Exception as failure:
                error = encode_error(failure)
            if host.encryption is not None:
                answer = host.encryption.seal_if(id.bytes, f"answer {key}", answer)
                error = host.encryption.seal_if(id.bytes, f"answer {key} error", error)
            texts = [None if data is None else data.decode() for data in (answer, error)]
            async with borrow(self._pool) as conn:
                await conn.execute(self._sql["answer_query"], (key, *texts))
        return len(rows) == _MOST

    async def _answer(
        self, id: UUID, name: str, input: str, held: bool, workflow: str, version: str, started_with: str,
        key: str | None, started_at: Any,
    ) -> bytes:  # fmt: skip
        encryption = self._host.encryption
        text: Any = input
        if encryption is not None:
            text = encryption.open(id, f"query {name}", input)
        canonical(text)  # or PayloadSealed
        hosted = self._host.instances.get(id.bytes) if held else None
        if hosted is not None and not (hosted.closed or hosted.machine.replaying):
            return await ask_hosted(hosted, name, text)
        if started_at is None:
            raise PgDurableError(
                f"instance {key or id} has not begun", hint="Ask again when it runs: see pgdurable show."
            )
        hosted = await self._replayed(id, key, workflow, version, started_with, started_at)
        try:
            return await ask_hosted(hosted, name, text)
        finally:
            hosted.close()

    async def _replayed(
        self, id: UUID, key: str | None, workflow: str, version: str, started_with: Any, started_at: Any
    ) -> Hosted:
        """The instance as its history leaves it, beside the one there may be: it goes nowhere from there."""
        host = self._host
        async with borrow(self._pool) as conn:
            history = await (await conn.execute(self._sql["load_history"], ([id],))).fetchall()
        for row in history:
            if row[2] == "format":
                raise unknown_format(f"instance {key or id}", row[3])
        history = [row for row in history if row[2] not in ("asked", "heartbeat")]
        if host.encryption is not None:
            started_with, history = opened(host.encryption, id, started_with, history)
        definition = host.registry.get(workflow, version)
        hosted = Hosted(host, id.bytes, key, definition)
        seed, started_with, started_us, rows = run_of(id.bytes, started_with, micros(started_at), history)
        args, kwargs = definition.signature.load_input(started_with)
        hosted.machine = host.machine_of(hosted, definition, args, kwargs, started_us, seed)
        hosted.machine.replaying = True
        try:
            await asyncio.wait_for(run_again(hosted, rows), _LONGEST_REPLAY_S)
        except BaseException:
            hosted.close()
            raise
        return hosted
