"""Starts that stand in line in a queue: what an engine's callers start at the same time shares a commit."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, NamedTuple

from pgdurable._engine.database import Database
from pgdurable._engine.starts import never_told
from pgdurable._engine.tasks import end_tasks
from pgdurable.errors import ConnectionFailed, PgDurableError
from pgdurable.workflow import Workflow

__all__ = ["LinedStarts"]

_AT_ONCE = 1000


class _Start(NamedTuple):
    id: bytes
    definition: Workflow[Any, Any]
    data: bytes
    queue: str
    priority: int
    partition: str | None
    future: asyncio.Future[None]


class LinedStarts:
    """See the head of this file. One batch is under way while the next fills; ids make each safe to send again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._filling: list[_Start] = []
        self._sender: asyncio.Task[None] | None = None

    async def start(
        self, id: bytes, definition: Workflow[Any, Any], data: bytes, queue: str, priority: int, partition: str | None
    ) -> None:
        """Starts an instance; it is durable when this returns. Raises as `Client.start`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._filling.append(_Start(id, definition, data, queue, priority, partition, future))
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._send())
        await future

    async def _send(self) -> None:
        await asyncio.sleep(0)  # the others of this turn come along
        while self._filling:
            batch, self._filling = self._filling[:_AT_ONCE], self._filling[_AT_ONCE:]
            await self._send_part([start for start in batch if not start.future.done()])

    async def _send_part(self, part: list[_Start]) -> None:
        if not part:
            return
        try:
            await self._database.rows("start_lined", self._params(part))
        except ConnectionFailed as error:
            _fail(part, error)
        except PgDurableError as error:
            if len(part) == 1:
                _fail(part, error)
                return
            # One of them cannot be stored: the others are not to suffer for it.
            middle = len(part) // 2
            await self._send_part(part[:middle])
            await self._send_part(part[middle:])
        except BaseException:
            _fail(part, never_told())
            raise
        else:
            for start in part:
                if not start.future.done():
                    start.future.set_result(None)

    def _params(self, part: list[_Start]) -> tuple[Any, ...]:
        seal = None if self._database.encryption is None else self._database.encryption.seal
        return (
            [uuid.UUID(bytes=start.id) for start in part], [start.definition.name for start in part],
            [start.definition.version for start in part],
            [(start.data if seal is None else seal(start.id, "input", start.data)).decode() for start in part],
            [start.queue for start in part], [start.priority for start in part], [start.partition for start in part],
        )  # fmt: skip

    async def close(self) -> None:
        """Ends it. Who still waits for an answer gets an error."""
        await end_tasks(self._sender)
        _fail(self._filling, never_told())
        self._filling.clear()


def _fail(part: list[_Start], error: Exception) -> None:
    for start in part:
        if not start.future.done():
            start.future.set_exception(error)
