"""A client's connections: opened once, asked by named queries, in the process that opened them only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pgdurable._engine.clock import DatabaseClock
from pgdurable._engine.connections import close_pool, connect_failed, is_passing, make_pool, probe, resolve_dsn
from pgdurable._engine.ids import Ids
from pgdurable._engine.route import DIRECT
from pgdurable._secret import SHOW_VALUES, Dsn, server_said
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries, quote_schema
from pgdurable.encryption import Encryption
from pgdurable.errors import InstanceFinished, InstanceNotFound, InvalidId, InvalidInput, PgDurableError

__all__ = ["Database"]

_READS = frozenset({"find_instance", "outcomes", "describe", "history", "list_instances"})
_WORK = frozenset({"start", "signal", "resume"})
_READ_TRIES = 6  # one more than there are pooled connections


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
        sql: texts of sql/queries/client.sql.
        route: how the server is reached, once open.
        on_work: called when a query of ours has made work for workers, of which a pooler brings no notification.
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
        encryption: Encryption | None = None,
    ) -> None:
        self.encryption = encryption
        dsn = None if dsn is None else Dsn(dsn)
        self.dsn = resolve_dsn(dsn, application=application)
        self.schema = quote_schema(schema)
        self.sql = named_queries("client", schema)
        self.route = DIRECT
        self.on_work: Callable[[], None] = lambda: None
        self._face = face
        self._pooler = pooler if pooler is not None else _from_environment()
        self._max_connections = max_connections
        self.clock = DatabaseClock()
        self.ids = Ids(self.clock.now_us)
        self._pid = 0
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None

    async def open(self) -> None:
        """Connects and checks the schema. Raises ConnectionFailed or SchemaError."""
        self.check_process()
        if self._pool is None:
            self.route = await probe(self.dsn, self._pooler)
            pool = await make_pool(self.dsn, max_size=self._max_connections, timeout=10.0, route=self.route)
            try:
                async with pool.connection() as conn:
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
        """All rows of a named query. Raises what `explain` makes of an error."""
        tries = _READ_TRIES if query in _READS else 1
        while True:
            tries -= 1
            try:
                async with self.pool.connection() as conn:
                    cursor = await conn.execute(self.sql[query], params)
                    return await cursor.fetchall()
            except PoolTimeout as error:
                raise self.explain(error) from (error if SHOW_VALUES else None)
            except psycopg.OperationalError as error:
                # A pooled connection may have died since it was last used. Reads are simply done again.
                if tries <= 0:
                    raise self.explain(error) from (error if SHOW_VALUES else None)
            except psycopg.Error as error:
                raise self.explain(error) from (error if SHOW_VALUES else None)

    async def one(self, query: str, params: Any) -> Any:
        """The first column of a named query's first row, or None."""
        rows = await self.rows(query, params)
        if query in _WORK:
            self.on_work()
        return rows[0][0] if rows else None

    async def learn_time(self) -> None:
        """Sets `clock` by the server's. Raises psycopg's errors."""
        async with self.pool.connection() as conn:
            await self._learn_time(conn)

    async def _learn_time(self, conn: psycopg.AsyncConnection[Any]) -> None:
        sent = time.monotonic()
        cursor = await conn.execute(self.sql["time"])
        row = await cursor.fetchone()
        assert row is not None
        self.clock.learn(int(row[0]), sent, time.monotonic())

    def explain(self, error: psycopg.Error) -> PgDurableError:
        """The error of ours that stands for one of psycopg's."""
        kinds: dict[str, Callable[..., PgDurableError]] = {
            "PGD02": InstanceNotFound, "PGD03": InstanceFinished, "PGD04": InvalidId, "PGD05": InvalidInput,
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
