"""What a `Simulation` does for those who wait or ask: results, replies, published state, streams, queries, exports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from pgdurable._client.talk import Talk
from pgdurable._engine.replies import Replies
from pgdurable.handle import Handle
from pgdurable.retry import seconds
from pgdurable.testing._export import write_history
from pgdurable.testing._time import Time

__all__ = ["Asking"]

T = TypeVar("T")


class Asking(Time, Talk):
    """See the head of this file. Whoever waits lets the simulation's time pass."""

    if TYPE_CHECKING:
        _encryption: Any
        _replies: Replies
        _waiting: dict[bytes, list[asyncio.Future[Any]]]
        _idle_reads: dict[Any, int]

    def _outcome_of(self, id: bytes) -> asyncio.Future[Any]:
        self._running()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, []).append(future)
        self._ended(id)
        return future

    def _forget_outcome(self, id: bytes, future: asyncio.Future[Any]) -> None:
        futures = self._waiting.get(id, [])
        if future in futures:
            futures.remove(future)

    def _ended(self, id: bytes) -> None:
        row = self._store.instances.get(id)
        if row is None or not (row.ended or row.status == "paused") or id not in self._waiting:
            return
        output, error = row.output, row.error
        if self._encryption is not None:
            output = self._encryption.open(id, "output", output)
            if row.ended:
                error = self._encryption.open(id, "error", error)
        for future in self._waiting.pop(id):
            if not future.done():
                future.set_result((row.status, output, error))

    async def _wait(self, future: asyncio.Future[T], timeout: float | None) -> T:
        until_us = None if timeout is None else self.clock.now_us() + round(timeout * 1e6)
        await self._drive(future.done, until_us)
        if not future.done():
            raise asyncio.TimeoutError
        return future.result()

    def export(self, *handles: Handle[Any], redact: bool = False) -> str:
        """The histories of instances as `pgdurable export` writes them, for `replay`.

        Args:
            redact: replace texts and numbers in payloads by others of the same shape.
        """
        lines: list[str] = []
        for handle in handles:
            row = self._store.need(handle.id)
            instance = (
                row.uuid, row.key, row.workflow, row.version, row.status, row.created_at, row.started_at,
                row.finished_at, row.input, row.output, row.error,
            )  # fmt: skip
            rows = [(*entry[1:5], *entry[5:10]) for entry in self._store.history.get(row.id, ())]
            lines += write_history(instance, rows, redact=redact)
        return "\n".join(lines) + "\n"

    async def _look(self) -> None:
        if self._replies._updates:
            await self._replies._look_for_updates()

    async def _waited(self, future: asyncio.Future[Any], wait: float | None, late: str) -> Any:
        try:
            return await self._wait(future, wait)
        except asyncio.TimeoutError:
            raise TimeoutError(late) from None
        finally:
            future.cancel()

    async def _wait_state(self, handle: Any, key: str, wanted: Any, timeout: Any, type: Any) -> Any:
        wait = seconds(timeout)
        until_us = None if wait is None else self.clock.now_us() + round(wait * 1e6)
        while True:
            await self.settle()
            try:
                return await super()._wait_state(handle, key, wanted, 0.0, type)
            except TimeoutError:
                version = self._store.version
                if until_us is not None and self.clock.now_us() >= until_us:
                    raise TimeoutError(
                        f"instance {handle.id}: state {key!r} is not what is waited for within {wait:g} s"
                    ) from None
            await self._drive(lambda version=version: self._store.version != version, until_us)  # type: ignore[misc]

    async def _before_query(self, query: str, params: Any) -> None:
        """Who reads a stream to its end waits for what comes: time passes when nothing else happens."""
        if query != "stream_items":
            return
        version = self._store.version
        await self.settle()
        place = (params[0], params[1], params[3])
        asked = self._idle_reads.get(place)
        self._idle_reads = {place: version}
        if asked == self._store.version == version:  # the second time that there is no news
            await self._drive(lambda: self._store.version != version, None)

    def _answer_here(self, id: bytes, name: str, input: bytes) -> Awaitable[bytes]:
        return self._answer(id, name, input)

    async def _answer(self, id: bytes, name: str, input: bytes) -> bytes:
        """What a query's handler says, of the instance in memory or of a replay that goes nowhere."""
        await self.settle()
        return await self._running().answer(self._store.instances[id], name, input)
