"""A migrated schema, a look into its tables, and a patient wait for coroutines."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate


class Namespace:
    """A migrated schema. In statements `@` is its name."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self._conn: psycopg.Connection[Any] | None = None
        migrate(dsn, schema)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        if self._conn is not None:
            self._conn.close()

    def sql(self, text: str, *args: Any) -> list[tuple[Any, ...]]:
        """The rows a statement gives, on a connection of the test's own; autocommit."""
        for again in (True, False):
            if self._conn is None or self._conn.closed:
                self._conn = psycopg.connect(self.dsn, autocommit=True)
            try:
                cursor = self._conn.execute(text.replace("@", self.schema), args or None)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                # A test that restarts the server breaks this connection too.
                if not again or not self._conn.closed:
                    raise
        raise AssertionError("unreachable")

    def one(self, text: str, *args: Any) -> Any:
        ((value,),) = self.sql(text, *args)
        return value

    def engine(self, *workflows: Any, **options: Any) -> pgd.Engine:
        return pgd.Engine(self.dsn, schema=self.schema, workflows=workflows, **options)

    def client(self, **options: Any) -> pgd.Client:
        return pgd.Client(self.dsn, schema=self.schema, **options)

    def history(self, handle: Any, columns: str = "kind, name, attempt") -> list[tuple[Any, ...]]:
        return self.sql(f"select {columns} from @.history where instance_id = %s order by event_id", handle.instance_id)

    def instance(self, handle: Any, column: str) -> Any:
        return self.one(f"select {column} from @.instances where id = %s", handle.instance_id)

    def ledger(self) -> None:
        """An ordinary table of the user's, for transaction steps to write to."""
        self.sql("create table @.ledger (entry text not null, amount int not null default 1)")

    def entries(self) -> list[str]:
        return [entry for (entry,) in self.sql("select entry from @.ledger order by entry")]

    def terminate(self, application: str) -> int:
        """Ends the server's side of the connections of that application name; returns how many."""
        return self.one(
            "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = %s) as gone",
            application,
        )


async def until(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
    """Waits until a condition (a function or coroutine function) holds and returns what it gave; else fails."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(0.005)


async def status_is(handle: Any, status: str) -> None:
    async def there() -> bool:
        return bool(await handle.status() == status)

    await until(there, f"{handle.id} is {status}")
