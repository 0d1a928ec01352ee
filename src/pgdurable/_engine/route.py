"""What lies between this process and the server: nothing, or a pooler that gives each transaction another session.

Behind a pooler nothing of a session is relied on: no lock, no LISTEN, no SET, nothing prepared outside the transaction
that uses it (unless the pooler keeps track of that). How a pooler is recognised:

- PostgreSQL tells a new connection the process id of its session, for cancelling. A pooler hands out sessions later,
  one after another, so it tells a number of its own: PgBouncer does, and by their sources PgCat, PgDog and Odyssey. The
  session's real process id is one query away. They differ: somebody is in between. A pooler in session mode is taken
  for one as well, and so is a proxy with cancel keys of its own: some speed is lost, nothing else.
- A pooler that knows prepared statements gives them names of its own, since clients choose the same ones. So one is
  prepared, and the server asked in the same transaction whether it knows it by our name.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.generators import fetch_many, send

__all__ = ["DIRECT", "Route", "find_route", "is_pooled"]


class Route(NamedTuple):
    """The way to the server.

    Attributes:
        pooled: whether the next transaction may have another session.
        prepared: whether what a connection has prepared is there in its later transactions.
    """

    pooled: bool
    prepared: bool

    @property
    def options(self) -> dict[str, Any]:
        """What psycopg is to be told: connections of ours never sit in a transaction unasked."""
        # psycopg gives back what it has prepared by a DEALLOCATE under its own name for it: not through a pooler.
        return {"autocommit": True, **({"prepare_threshold": None} if self.pooled else {})}


DIRECT = Route(pooled=False, prepared=True)


async def find_route(conn: psycopg.AsyncConnection[Any], pooler: bool | None) -> Route:
    """The route that a connection takes; `pooler` True or False is believed. Raises psycopg.Error."""
    if pooler is None:
        cursor = await conn.execute("select pg_backend_pid()")
        row = await cursor.fetchone()
        assert row is not None
        pooler = row[0] != conn.info.backend_pid
    return Route(pooled=True, prepared=await _keeps_prepared(conn)) if pooler else DIRECT


def is_pooled(conn: psycopg.Connection[Any]) -> bool:
    """Whether a pooler is in between, found out as `find_route` does."""
    return conn.execute("select pg_backend_pid()").fetchone() != (conn.info.backend_pid,)


async def _keeps_prepared(conn: psycopg.AsyncConnection[Any]) -> bool:
    name = f"pgd_probe_{secrets.token_hex(8)}".encode()
    try:
        async with conn.transaction():
            passed_on = await conn.wait(_passed_on_gen(conn.pgconn, name))
            if passed_on:
                await conn.execute(b"deallocate " + name)  # the session is others' too
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        return False  # it wants nothing prepared
    return not passed_on


def _passed_on_gen(pgconn: pq.abc.PGconn, name: bytes) -> Generator[Any, Any, bool]:
    """Whether a statement that is prepared is there under the name we give it."""
    pgconn.enter_pipeline_mode()
    pgconn.send_prepare(name, b"select 1")
    pgconn.send_query_params(b"select exists (select from pg_prepared_statements where name = $1)", [name])
    pgconn.pipeline_sync()
    yield from send(pgconn)
    results = []
    for _ in range(2):
        results += yield from fetch_many(pgconn)
    yield from fetch_many(pgconn)  # the sync's
    pgconn.exit_pipeline_mode()
    for result in results:
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise psycopg.errors.error_from_result(result)
    return bool(results[1].get_value(0, 0) == b"t")
