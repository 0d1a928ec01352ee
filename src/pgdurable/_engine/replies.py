"""Waiting for replies to updates and queries: all of a client's in one look each, ever more seldom while none comes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, TypeAlias

from pgdurable._engine.database import Database
from pgdurable._engine.tasks import Bell, end_tasks, heed_cancel
from pgdurable.errors import ConnectionFailed, PgDurableError

__all__ = ["Question", "Replies", "Reply"]

Reply: TypeAlias = tuple[str, "str | bytes | None", "str | bytes | None", "str | None"]
"""Status, result, error, and the status of an instance that has ended or is paused."""
Question: TypeAlias = tuple[Any, ...]
"""The parameters of SQL's `ask`: should the question be lost, it is asked again."""

_AT_ONCE = 5000


class Replies:
    """See the head of this file. Whoever stops waiting cancels the future."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._updates: dict[tuple[bytes, uuid.UUID], list[asyncio.Future[Reply]]] = {}
        self._queries: dict[uuid.UUID, tuple[Question, asyncio.Future[Reply]]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._bell = Bell()

    def of_update(self, id: bytes, key: uuid.UUID) -> asyncio.Future[Reply]:
        """The reply to an update that has been requested."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._updates.setdefault((id, key), []).append(future)
        self._watch()
        return future

    def of_query(self, key: uuid.UUID, question: Question) -> asyncio.Future[Reply]:
        """The answer to a question that has been asked; its status is `completed` or `failed`."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queries[key] = (question, future)
        self._watch()
        return future

    def tell(self, id: bytes, key: uuid.UUID, answer: tuple[str, bytes | None, bytes | None]) -> None:
        """The reply to an update of an instance in this process is durable."""
        for future in self._updates.pop((id, key), ()):
            if not future.done():
                future.set_result((*answer, None))

    async def close(self) -> None:
        """Ends it. Who still waits is cancelled."""
        await end_tasks(self._watcher)
        self._watcher = None
        for futures in self._updates.values():
            for future in futures:
                future.cancel()
        for _, future in self._queries.values():
            future.cancel()
        self._updates.clear()
        self._queries.clear()

    def _watch(self) -> None:
        self._database.check_open()
        self._bell.ring()
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(self._look_on())

    def _sort_out(self) -> None:
        """Forgets what nobody waits for any more."""
        for place, futures in list(self._updates.items()):
            if all(future.done() for future in futures):
                del self._updates[place]
        for key, (_, future) in list(self._queries.items()):
            if future.done():
                del self._queries[key]

    async def _look_on(self) -> None:
        pause = 0.005
        while True:
            heed_cancel()
            self._sort_out()
            if not self._updates and not self._queries:
                return
            self._bell.clear()
            try:
                news = await self._look_for_updates() + await self._look_for_answers()
            except ConnectionFailed:
                news = False
            except PgDurableError as refusal:
                self._refuse(refusal)
                return
            pause = 0.005 if news else min(pause * 1.5, 0.5)
            if await self._bell.wait(pause):
                pause = min(pause, 0.02)
                await asyncio.sleep(0.002)

    async def _look_for_updates(self) -> int:
        places = list(self._updates)[:_AT_ONCE]
        if not places:
            return 0
        params = ([uuid.UUID(bytes=id) for id, _ in places], [key for _, key in places])
        rows = await self._database.rows("update_replies", params)
        encryption = self._database.encryption
        for id, key, status, result, error, ended in rows:
            if encryption is not None:
                result = encryption.open(id, f"reply {key}", result)
                error = encryption.open(id, f"reply {key} error", error)
            for future in self._updates.pop((id.bytes, key), ()):
                if not future.done():
                    future.set_result((status, result, error, ended))
        return len(rows)

    async def _look_for_answers(self) -> int:
        keys = list(self._queries)[:_AT_ONCE]
        if not keys:
            return 0
        rows = await self._database.rows("answers", (keys,))
        encryption = self._database.encryption
        for key, id, gone, answer, error in rows:
            question, future = self._queries[key]
            if gone:
                if not future.done():
                    await self._database.one("ask", question)
                continue
            if encryption is not None:
                answer = encryption.open(id, f"answer {key}", answer)
                error = encryption.open(id, f"answer {key} error", error)
            del self._queries[key]
            if not future.done():
                future.set_result(("completed" if error is None else "failed", answer, error, None))
        return len(rows)

    def _refuse(self, error: PgDurableError) -> None:
        """They cannot be asked for: whoever waits is told so, rather than waiting for ever."""
        futures = [future for each in self._updates.values() for future in each]
        futures += [future for _, future in self._queries.values()]
        self._updates.clear()
        self._queries.clear()
        for future in futures:
            if not future.done():
                future.set_exception(error)
