"""A client's connections: opened once, asked by named queries, in the process that opened them only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.clock import DatabaseClock
from pgdurable._engine.connections import (
    close_pool,
    connect_failed,
    fate_unknown,
    is_passing,
    make_pool,
    probe,
    resolve_dsn,
)
from pgdurable._engine.ids import Ids
from pgdurable._engine.route import DIRECT
from pgdurable._secret import SHOW_VALUES, Dsn, server_said
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries, quote_schema
from pgdurable.compression import Codecs
from pgdurable.encryption import Encryption
from pgdurable.errors import (
    InstanceFinished,
    InstanceNotFinished,
    InstanceNotFound,
    InvalidId,
    InvalidInput,
    PgDurableError,
    ScheduleNotFound,
)

__all__ = ["PATIENCE_S", "Database"]

_WORK = frozenset({
    "start", "start_debounced", "start_batched", "start_lined", "set_queue", "signal", "signal_with_start",
    "request_update", "resume",
    "retry", "put_schedule", "edit_schedule", "resume_schedule", "trigger_schedule", "backfill_schedule",
    "cancel", "terminate", "pause", "fork", "bulk_step",
})  # fmt: skip
PATIENCE_S = 30.0


class Database:
    """See the head of this file.

    Args:
        face: what messages call the object it belongs to.
        application: what the server calls the connections, unless the connection string says otherwise.
        pooler: whether there is a pooler in between; None: it is found out.
    Attributes:
        clock: the server's, as far as it has been learnt.
        ids: for new instances.
        schema: the namespace, quoted where it has to be.
        sql: texts of sql/queries/client.sql and schedules.sql.
        route: how the server is reached, once open.
        on_queue: called with the name of a queue that has been set.
        on_work: called when a query of ours has made work for workers, of which a pooler brings no notification.
        aside_over: payloads of more bytes are kept in a table of their own; 0: not asked yet.
        patience: seconds for which a call is tried again while the server is away, or takes no writes.
    """

    def __init__(
        self,
        dsn: str | None,
        schema: str,
        *,
        face: str,
        application: str,
        max_connections: int,
        pooler: bool | None = None,
        encryption: Encryption | Codecs | None = None,
        patience: float = PATIENCE_S,
    ) -> None:
        self.encryption = encryption
        dsn = None if dsn is None else Dsn(dsn)
        self.dsn = resolve_dsn(dsn, application=application)
        self.schema = quote_schema(schema)
        self.sql = {**named_queries("client", schema), **named_queries("schedules", schema)}
        self.route = DIRECT
        self.on_work: Callable[[], None] = lambda: None
        self.on_queue: Callable[[str], None] = lambda name: None
        self._face = face
        self._pooler = pooler if pooler is not None else _from_environment()
        self._max_connections = max_connections
        self.clock = DatabaseClock()
        self.ids = Ids(self.clock.now_us)
        self.patience = patience
        self.aside_over = 0
        self._pid = 0
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None

    async def open(self) -> None:
        """Connects and checks the schema. Raises ConnectionFailed or SchemaError."""
        self.check_process()
        if self._pool is None:
            self.route = await probe(self.dsn, self._pooler)
            pool = await make_pool(self.dsn, max_size=self._max_connections, route=self.route)
            try:
                async with borrow(pool) as conn:
                    await migrations.check_async(conn, self.schema)
                    await self._learn_time(conn)
            except BaseException:
                await close_pool(pool)
                raise
            self._pool = pool
            self._pid = os.getpid()

    async def close(self) -> None:
        """Closes the connections."""
        if self._pool is not None:
            await close_pool(self._pool)
        self._pool = None

    @property
    def foreign(self) -> bool:
        """Whether this is a copy in a forked child: its connections are the parent's."""
        return self._pid not in (0, os.getpid())

    def check_process(self) -> None:
        """Raises PgDurableError in a forked child."""
        if self.foreign:
            raise PgDurableError(
                f"this {self._face} belongs to process {self._pid}, from which this one was forked",
                hint="Open one of your own after the fork.",
            )

    def check_open(self) -> None:
        """Raises PgDurableError when it is not open, or in a forked child."""
        self.check_process()
        if self._pool is None:
            raise PgDurableError(
                f"this {self._face} is not open", hint="Use it as `async with ...`, or await its open()."
            )

    @property
    def pool(self) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        """The connections. Raises as `check_open`."""
        self.check_open()
        assert self._pool is not None
        return self._pool

    async def rows(self, query: str, params: Any) -> list[Any]:
        """All rows of a named query. Raises what `explain` makes of an error. See `asked`."""
        rows, _ = await self.asked(query, params)
        return rows

    async def asked(self, query: str, params: Any) -> tuple[list[Any], bool]:
        """All rows of a named query, and whether an earlier try may have been carried out, its answer lost.

        It is tried again until `patience` has run out, so it has to be one that does no harm the second time.
        """
        give_up = time.monotonic() + self.patience
        tries = 0
        lost = False
        while True:
            try:
                async with borrow(self.pool, max(give_up - time.monotonic(), 0.0)) as conn:
                    cursor = await conn.execute(self.sql[query], params)
                    rows = await cursor.fetchall()
                if query in _WORK:
                    self.on_work()
                return rows, lost
            except psycopg.Error as error:
                if not is_passing(error) or time.monotonic() >= give_up:
                    raise self.explain(error) from (error if SHOW_VALUES else None)
                lost = lost or fate_unknown(error)
            # The pooled connections may all have died since they were last used: each is found out by its use.
            tries += 1
            if tries > self._max_connections:
                await asyncio.sleep(min(0.02 * 2 ** (tries - self._max_connections), 0.5))

    async def one(self, query: str, params: Any) -> Any:
        """The first column of a named query's first row, or None."""
        rows = await self.rows(query, params)
        return rows[0][0] if rows else None

    async def learn_time(self) -> None:
        """Sets `clock` by the server's. Raises psycopg's errors."""
        for tries_left in range(self._max_connections, -1, -1):
            try:
                async with borrow(self.pool) as conn:
                    await self._learn_time(conn)
                return
            except psycopg.OperationalError:
                # The pooled connections may all have died since they were last used.
                if not tries_left:
                    raise

    async def _learn_time(self, conn: psycopg.AsyncConnection[Any]) -> None:
        sent = time.monotonic()
        cursor = await conn.execute(self.sql["time"])
        row = await cursor.fetchone()
        assert row is not None
        self.clock.learn(int(row[0]), sent, time.monotonic())
        self.aside_over = int(row[1])

    def explain(self, error: psycopg.Error) -> PgDurableError:
        """The error of ours that stands for one of psycopg's."""
        kinds: dict[str, Callable[..., PgDurableError]] = {
            "PGD02": InstanceNotFound, "PGD03": InstanceFinished, "PGD04": InvalidId, "PGD05": InvalidInput,
            "PGD09": InstanceNotFinished,
            "PGD10": ScheduleNotFound,
        }  # fmt: skip
        kind = kinds.get(error.sqlstate or "")
        if kind is not None:
            diag = error.diag
            return kind(diag.message_primary or str(error), detail=diag.message_detail, hint=diag.message_hint)
        if is_passing(error):
            return connect_failed(self.dsn, error)
        return PgDurableError(f"PostgreSQL refused: {server_said(error)}")


def _from_environment() -> bool | None:
    """What $PGDURABLE_POOLER says of a pooler; None: nothing."""
    text = os.environ.get("PGDURABLE_POOLER", "").strip().lower()
    if text in ("", "auto"):
        return None
    if text in ("1", "true", "on", "yes"):
        return True
    if text in ("0", "false", "off", "no"):
        return False
    raise InvalidInput(
        f"PGDURABLE_POOLER is {text!r}", hint="1: there is a pooler; 0: there is none; empty or auto: it is found out."
    )
