"""Sessions of SQLAlchemy for transaction steps: on the step's own connection, in the transaction that the step is.

A session's commit() sends what is pending and commits nothing: that is done with the checkpoint. Its rollback() cannot
be undone by what follows, so a step that returns after one fails, unless it was to a savepoint (`begin_nested`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from pgdurable._engine.step_connection import not_yours
from pgdurable.errors import PgDurableError

__all__ = ["Sessions"]

_held: ContextVar[_Held] = ContextVar("pgdurable_session")


class _Held:
    """The step's connection as SQLAlchemy gets it: beginning and end of the transaction are not its own."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.in_use = False
        self.rolled_back = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def add_notice_handler(self, handler: Any) -> None:
        """The connection is used again by other steps, and would have ever more of them."""

    def commit(self) -> None: ...

    def close(self) -> None: ...

    def rollback(self) -> None:
        self.rolled_back = self.in_use

    def check(self) -> None:
        if self.rolled_back:
            raise not_yours("rollback() was called on the session")


class _AsyncHeld(_Held):
    async def commit(self) -> None: ...  # type: ignore[override]

    async def close(self) -> None: ...  # type: ignore[override]

    async def rollback(self) -> None:  # type: ignore[override]
        super().rollback()


class Sessions:
    """Makes them. One dialect of SQLAlchemy's for all, which asks the server what it is once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[bool, Any] = {}

    def _engine(self, is_async: bool) -> Any:
        with self._lock:
            if is_async not in self._engines:
                try:
                    from sqlalchemy import create_engine
                    from sqlalchemy.ext.asyncio import create_async_engine
                    from sqlalchemy.pool import NullPool
                except ImportError as error:
                    raise PgDurableError(
                        "a transaction step with session= needs SQLAlchemy 2",
                        hint="Install it: pip install 'pgdurable[sqlalchemy]'",
                    ) from error
                options: dict[str, Any] = {
                    "poolclass": NullPool, "pool_reset_on_return": None, "use_native_hstore": False,
                }  # fmt: skip
                url = "postgresql+psycopg://"
                self._engines[is_async] = (
                    create_async_engine(url, async_creator=_taken_async, **options)
                    if is_async
                    else create_engine(url, creator=_held.get, **options)
                )
            return self._engines[is_async]

    async def call(self, fn: Callable[..., Any], make: Any, conn: Any, args: Any, kwargs: Any) -> Any:
        """Calls an `async def` step's function with a session on this connection."""
        held = _AsyncHeld(conn)
        token = _held.set(held)
        try:
            async with self._engine(True).connect() as bound, make(bind=bound) as session:
                held.in_use = True
                value = await fn(session, *args, **kwargs)
                await session.commit()
                held.check()
                return value
        except BaseException as error:
            _raise_lost(conn, error)
            raise
        finally:
            _held.reset(token)

    def call_blocking(self, fn: Callable[..., Any], make: Any, conn: Any, args: Any, kwargs: Any) -> Any:
        """Calls a `def` step's function with a session on this connection."""
        held = _Held(conn)
        token = _held.set(held)
        try:
            with self._engine(False).connect() as bound, make(bind=bound) as session:
                held.in_use = True
                value = fn(session, *args, **kwargs)
                session.commit()
                held.check()
                return value
        except BaseException as error:
            _raise_lost(conn, error)
            raise
        finally:
            _held.reset(token)


async def _taken_async() -> Any:
    return _held.get()


def _raise_lost(conn: Any, error: BaseException) -> None:
    """Where the connection broke the engine wants the error as it was: that is no failure of the step's."""
    inner = getattr(error, "orig", None)
    if conn.closed and isinstance(inner, BaseException):
        raise inner from error
