"""The connections transaction steps get: ordinary psycopg connections in a transaction that is not theirs to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus

__all__ = ["AsyncStepConnection", "StepConnection"]


def _not_yours(what: str) -> psycopg.ProgrammingError:
    return psycopg.ProgrammingError(
        f"{what} in a transaction step, which commits together with its checkpoint when it returns; "
        "raise an exception to roll back, or use `tx.transaction()` for a savepoint"
    )


class _StepGuard:
    """What a step begins is not the step's function to end."""

    _in_step = False

    def begun(self) -> None:
        self._in_step = True

    def ended(self) -> None:
        self._in_step = False

    def check_open(self) -> None:
        """Raises when the function has ended the transaction by a command of its own."""
        if cast(Any, self).info.transaction_status == TransactionStatus.IDLE:
            raise _not_yours("COMMIT or ROLLBACK was executed")

    def refuse(self, what: str) -> None:
        if self._in_step:
            raise _not_yours(f"{what} was called")


class AsyncStepConnection(_StepGuard, psycopg.AsyncConnection[Any]):
    """The connection an `async def` transaction step gets."""

    @asynccontextmanager
    async def step(self, begin: str) -> AsyncIterator[None]:
        """Runs the body in a transaction begun with this text, which may hold several commands."""
        await self.execute(begin, prepare=False)
        self.begun()
        try:
            yield
            await self.execute("COMMIT")
        except BaseException:
            if not self.closed:
                await self.execute("ROLLBACK")
            raise
        finally:
            self.ended()

    async def commit(self) -> None:
        self.refuse("commit()")
        await super().commit()

    async def rollback(self) -> None:
        self.refuse("rollback()")
        await super().rollback()


class StepConnection(_StepGuard, psycopg.Connection[Any]):
    """The connection a `def` transaction step gets."""

    @contextmanager
    def step(self, begin: str) -> Iterator[None]:
        """Runs the body in a transaction begun with this text, which may hold several commands."""
        self.execute(begin, prepare=False)
        self.begun()
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if not self.closed:
                self.execute("ROLLBACK")
            raise
        finally:
            self.ended()

    def commit(self) -> None:
        self.refuse("commit()")
        super().commit()

    def rollback(self) -> None:
        self.refuse("rollback()")
        super().rollback()
