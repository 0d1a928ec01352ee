"""What the tests of the store share: a migrated schema with sessions on it, and how a refusal looks."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

Eventually = Callable[..., None]


@dataclass
class Namespace:
    """A migrated schema, sessions on it, and what tests put into it. `@` in a statement is the schema."""

    dsn: str
    schema: str
    threads: ThreadPoolExecutor
    open: list[psycopg.Connection] = field(default_factory=list)

    def session(self, **options: Any) -> psycopg.Connection:
        self.open.append(psycopg.connect(self.dsn, **{"autocommit": True, **options}))
        return self.open[-1]

    @property
    def main(self) -> psycopg.Connection:
        return self.open[0]

    def rows(self, text: str, *args: Any, on: psycopg.Connection | None = None) -> list[tuple]:
        cursor = (on or self.main).execute(text.replace("@", self.schema), args or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, text: str, *args: Any, on: psycopg.Connection | None = None) -> Any:
        ((value,),) = self.rows(text, *args, on=on)
        return value

    def in_thread(self, text: str, *args: Any, on: psycopg.Connection) -> Future[Any]:
        return self.threads.submit(self.one, text, *args, on=on)

    def waits(self, waiting: psycopg.Connection, on: psycopg.Connection) -> Callable[[], bool]:
        pids = (on.info.backend_pid, waiting.info.backend_pid)
        return lambda: self.one("select %s = any (pg_blocking_pids(%s))", *pids)

    def worker(self, name: str = "w", lease: float = 60) -> int:
        return self.one("select @.join_worker(%s, '[]', make_interval(secs => %s))", name, lease)

    def dead_worker(self) -> int:
        worker = self.worker()
        assert self.one("select @.take_over(%s, 0, null)", worker)
        return worker

    def instance(self, **columns: Any) -> uuid.UUID:
        row = {"id": self.one("select @.new_id()"), "workflow": "w", "version": "1", "input": Jsonb({}), **columns}
        places = ", ".join(["%s"] * len(row))
        return self.one(f"insert into @.instances ({', '.join(row)}) values ({places}) returning id", *row.values())

    def claim(
        self,
        worker: int,
        room: int = 100,
        names: list[str] | None = None,
        versions: list[str] | None = None,
        current: list[bool] | None = None,
        on: psycopg.Connection | None = None,
    ) -> list[uuid.UUID]:
        # By default the worker has version 1 of workflow w.
        names = names or ["w"]
        versions = versions or ["1"] * len(names)
        current = current or [True] * len(names)
        text = "select id from @.claim(%s, %s::text[], %s::text[], %s::boolean[], %s)"
        return [id for (id,) in self.rows(text, worker, names, versions, current, room, on=on)]


@contextmanager
def refused(sqlstate: str, match: str) -> Iterator[None]:
    with pytest.raises(psycopg.Error, match=match) as error:
        yield
    assert error.value.sqlstate == sqlstate
    assert error.value.diag.message_hint
