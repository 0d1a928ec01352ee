"""Stands where a client has its connections: named queries are answered by functions of Python, from a `Store`."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from pgdurable._engine.ids import Ids
from pgdurable.errors import PgDurableError
from pgdurable.testing import _gathering, _operations  # noqa: F401  # their queries
from pgdurable.testing._queries import QUERIES
from pgdurable.testing._store import Store

__all__ = ["MemoryDatabase", "SeededIds"]


class SeededIds:
    """As `Ids`, with the random part drawn from a seed: two runs of a test give the same ids, and what hangs on them.

    Args:
        now_us: the time in microseconds since 1970.
    """

    def __init__(self, now_us: Callable[[], int], seed: int) -> None:
        self._rng = random.Random(seed)
        self._ids = Ids(now_us)

    def new_id(self) -> bytes:
        head = self._ids.new_id()[:8]
        tail = bytearray(self._rng.randbytes(8))
        tail[0] = 0x80 | (tail[0] & 0x3F)
        return head + bytes(tail)


class MemoryDatabase:
    """As `Database`, as far as a client knows it."""

    schema = "durable"
    foreign = False
    patience = 0.0

    def __init__(self, store: Store, seed: int, encryption: Any) -> None:
        self.store = store
        self.clock = store.clock
        self.encryption = encryption
        self.ids = SeededIds(store.clock.now_us, seed)
        self.on_work: Callable[[], None] = lambda: None
        self.opened = False
        self.before: Callable[[str, Any], Awaitable[None]] = _at_once

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.opened = False

    def check_process(self) -> None:
        """One process is as good as another."""

    def check_open(self) -> None:
        if not self.opened:
            raise PgDurableError("this Simulation is not open", hint="Use it as `async with Simulation() as sim`.")

    async def rows(self, query: str, params: Any) -> list[Any]:
        self.check_open()
        await self.before(query, params)
        answer = QUERIES.get(query)
        if answer is None:
            raise PgDurableError(
                f"the simulation does not know the query {query!r}",
                hint="This call needs a real database: the fixture durable_engine is an engine on one.",
            )
        return answer(self.store, **params) if isinstance(params, dict) else answer(self.store, *params)

    async def asked(self, query: str, params: Any) -> tuple[list[Any], bool]:
        return await self.rows(query, params), False

    async def one(self, query: str, params: Any) -> Any:
        rows = await self.rows(query, params)
        return rows[0][0] if rows else None

    @property
    def sql(self) -> NoReturn:
        _no_connections()

    @property
    def pool(self) -> NoReturn:
        _no_connections()


async def _at_once(query: str, params: Any) -> None:
    """Nothing has to happen before."""


def _no_connections() -> NoReturn:
    raise PgDurableError(
        "a Simulation has no database, and so no connections",
        hint="Leave connection= out, or use an engine on a real database: the fixture durable_engine.",
    )
