"""How connections are made: the DSN, its defaults, and errors that say what to do."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import LimitedConnection
from pgdurable._engine.route import DIRECT, Route, find_route
from pgdurable._secret import Dsn, read_dsn, server_said
from pgdurable.errors import ConnectionFailed

__all__ = [
    "PASSING",
    "close_pool",
    "connect_failed",
    "fate_unknown",
    "is_passing",
    "make_pool",
    "probe",
    "read_only",
    "read_only_for_good",
    "resolve_dsn",
    "server_of",
]

# Every call ends: dead peers are noticed, unanswered data gives up. Values of the user's own DSN win.
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
}


def resolve_dsn(dsn: str | None, *, application: str) -> Dsn:
    """The conninfo to use: the one given, else $PGDURABLE_DSN, else libpq's own variables, with our defaults."""
    dsn = None if dsn is None else Dsn(dsn)
    given, there = read_dsn(Dsn(dsn if dsn is not None else os.environ.get("PGDURABLE_DSN", "")))
    missing = {
        key: value
        for key, value in {**_DEFAULTS, "application_name": application}.items()
        if key not in there and not (key == "application_name" and "PGAPPNAME" in os.environ)
    }
    return Dsn(make_conninfo(given, **missing))


def server_of(dsn: str) -> str:
    """The server a DSN names, for messages: never a password."""
    params = conninfo_to_dict(dsn)
    if service := params.get("service") or os.environ.get("PGSERVICE"):
        return f"service {service}"
    host = params.get("host") or params.get("hostaddr") or os.environ.get("PGHOST") or "the local socket"
    port = params.get("port") or os.environ.get("PGPORT") or "5432"
    database = params.get("dbname") or os.environ.get("PGDATABASE") or params.get("user") or "the default database"
    return f"{host} port {port}, database {database}"


# By SQLSTATE, as far as a refusal has one: that of a connection has none.
_HINTS = {
    "25006": "Point the DSN at the primary (target_session_attrs=read-write with several hosts finds it).",
    "25P03": "idle_in_transaction_session_timeout ended the session: raise it for this role.",
    "25P04": "transaction_timeout ended the session: raise it for this role.",
    "53100": "The server's disk is full: free some space there. What was not acknowledged can be tried again.",
    "53200": "The server is out of memory.",
    "53300": "The server is out of connections: raise max_connections or the limit of this role, or close some.",
    "55P03": "lock_timeout ended the wait for a lock: raise it for this role, or see in pg_stat_activity who holds it.",
    "57014": "Somebody cancelled the statement, or statement_timeout did: raise it for this role.",
    "57P05": "idle_session_timeout ended the session: raise it for this role.",
}


def connect_failed(dsn: str, error: BaseException) -> ConnectionFailed:
    """The error for a server that cannot be reached, refuses the login, or may not be used."""
    text = server_said(error)
    lower = text.lower()
    passing = False
    known = _HINTS.get(getattr(error, "sqlstate", None) or "")
    if known is not None:
        hint, passing = known, True
    elif "password" in lower or "authentication" in lower or ("role" in lower and "does not exist" in lower):
        hint = "Check user and password in the DSN (--dsn, PGDURABLE_DSN, or PGUSER and PGPASSWORD)."
    elif "unsupported startup parameter" in lower:
        hint = "A pooler refuses it: take it (options=..., PGOPTIONS) out, or name it in its ignore_startup_parameters."
    elif "certificate" in lower:
        hint = "Check sslrootcert, sslmode and host in the DSN: the server has to prove that it is the one you mean."
    elif "database" in lower and "does not exist" in lower:
        hint = "Create the database (createdb NAME), or name another in the DSN."
    else:
        hint, passing = _passing_hint(lower), True
    failed = ConnectionFailed(f"cannot use PostgreSQL at {server_of(dsn)}", detail=text, hint=hint)
    failed.passing = passing
    return failed


def _passing_hint(lower: str) -> str:
    """What to do about what may pass by itself."""
    if "read-only" in lower or "recovery" in lower:
        return _HINTS["25006"]
    if "too many c" in lower or "remaining connection slots" in lower:
        return _HINTS["53300"]
    if "no answer" in lower:
        return "The server takes connections and answers nothing: it hangs, or is overloaded."
    return "Is the server running and reachable? Check --dsn or PGDURABLE_DSN (or PGHOST, PGPORT)."


# SQLSTATE classes after which the same may pass later: connection, invalid transaction state (read-only server),
# rollback, resources, object state, operator intervention, system. A limit of the program's own (54) and most of what a
# user's statement does wrong is no better the next time.
PASSING = ("08", "25", "40", "53", "55", "57", "58")


def is_passing(error: psycopg.Error) -> bool:
    """Whether the same may work later: the server is away, or takes no writes for now."""
    if error.sqlstate is not None:
        return error.sqlstate[:2] in PASSING
    return isinstance(error, psycopg.OperationalError) or (
        isinstance(error, psycopg.InterfaceError) and "closed" in str(error)
    )


def fate_unknown(error: psycopg.Error) -> bool:
    """Whether what was asked may have been done all the same: the connection broke, and no refusal came."""
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def read_only(conn: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> bool:
    """Whether the session takes no writes, by what the server reports unasked (or it is closed)."""
    return read_only_for_good(conn) or conn.closed or conn.pgconn.parameter_status(b"in_hot_standby") == b"on"


def read_only_for_good(conn: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> bool:
    """Whether the session began as read-only, and so stays it when the server takes writes again."""
    return not conn.closed and conn.pgconn.parameter_status(b"default_transaction_read_only") == b"on"


async def renew(conn: psycopg.AsyncConnection[Any]) -> None:
    """For a pool, which would keep the session."""
    if read_only_for_good(conn):
        await conn.close()


async def probe(dsn: str, pooler: bool | None = None) -> Route:
    """How the server is reached (see route.py). Raises ConnectionFailed when no connection can be made."""
    try:
        async with await LimitedConnection.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
            return await find_route(connection, pooler)
    except psycopg.Error as error:
        raise connect_failed(dsn, error) from None


async def make_pool(
    dsn: str,
    *,
    max_size: int,
    timeout: float = 30.0,
    connection_class: type[psycopg.AsyncConnection[Any]] = LimitedConnection,
    configure: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]] | None = None,
    route: Route = DIRECT,
) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
    """An open pool of autocommit connections, none of them made yet. `configure` closes a connection it refuses."""
    # While the server is away the pool would warn of every attempt; the journal says it once.
    pool_logger = logging.getLogger("psycopg.pool")
    if pool_logger.level == logging.NOTSET:
        pool_logger.setLevel(logging.ERROR)
    pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
        dsn,
        connection_class=_noting(connection_class),
        kwargs=route.options,
        min_size=0,
        max_size=max_size,
        open=False,
        timeout=timeout,
        reconnect_timeout=3.0,
        check=None,
        reset=None if route.pooled else renew,
        configure=configure,
        max_idle=60.0,
    )
    await pool.open()
    _guards[pool] = asyncio.get_running_loop().create_task(_close_when_cancelled(pool))
    return pool


def _noting(kind: type[psycopg.AsyncConnection[Any]]) -> type[psycopg.AsyncConnection[Any]]:
    """A class that keeps why the last one could not be made: the pool itself only says how long it waited."""

    class Noting(kind):  # type: ignore[valid-type,misc]
        last_error: psycopg.Error | None = None

        @classmethod
        async def connect(cls, *args: Any, **options: Any) -> Any:
            try:
                conn = await super().connect(*args, **options)
            except psycopg.Error as error:
                cls.last_error = error
                raise
            cls.last_error = None
            return conn

    return Noting


_guards: WeakKeyDictionary[AsyncConnectionPool[Any], asyncio.Task[None]] = WeakKeyDictionary()


async def _close_when_cancelled(pool: AsyncConnectionPool[Any]) -> None:
    """For an event loop that ends while the pool is open.

    A task of the pool's own that is just connecting swallows its cancellation, and asyncio.run would wait for it for
    ever; closing the pool ends it.
    """
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        if not pool.closed:
            await pool.close(timeout=1.0)


async def close_pool(pool: AsyncConnectionPool[Any]) -> None:
    """Closes the pool and all of its connections.

    One that was given back a moment ago is still on its way through the pool's own task, which closing would end
    first: that connection would stay open. So they are waited for, for a second at most.
    """
    for _ in range(1000):
        stats = pool.get_stats()
        if stats.get("pool_available", 0) >= stats.get("pool_size", 0):
            break
        await asyncio.sleep(0.001)
    await pool.close()
    guard = _guards.pop(pool, None)
    if guard is not None:
        guard.cancel()
