"""The same Engine and Client for blocking code. One engine, run in a thread of its own; this is only its face."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, TypeVar

import psycopg

from pgdurable import client as _client
from pgdurable import engine as _engine
from pgdurable._client import queues as _queues
from pgdurable._client import schedules as _schedules
from pgdurable._client.operations import Done
from pgdurable._client.queues import QueueInfo
from pgdurable._client.schedules import Schedule
from pgdurable._client.streams import StreamItem
from pgdurable._engine.metrics import Metrics
from pgdurable._secret import Dsn
from pgdurable.errors import PgDurableError
from pgdurable.handle import Entry, InstanceInfo, Starts
from pgdurable.workflow import Workflow

__all__ = ["Client", "Engine", "Handle", "Queues", "Schedules"]

T = TypeVar("T")
_List = list  # where `list` is a method


class _Thread:
    """An event loop in a thread, for one client or engine."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="pgdurable", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for it; an interrupt here cancels it there."""
        if self.foreign:
            work.close()
            raise PgDurableError(
                f"this belongs to process {self._pid}, from which this one was forked",
                hint="Open an engine or client of your own after the fork.",
            )
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> tuple[bool, Any]:
            async for item in items:
                return True, item
            return False, None

        while True:
            there, item = self.call(following())
            if not there:
                return
            yield item

    @property
    def foreign(self) -> bool:
        """Whether this is a copy in a forked child, where the thread does not run."""
        return self._pid != os.getpid()

    def stop(self) -> None:
        if self.foreign:
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


class Handle(Generic[T]):
    """One instance, for blocking code. As `pgdurable.Handle`."""

    def __init__(self, thread: _Thread, handle: _client.Handle[T]) -> None:
        self._thread = thread
        self._handle = handle

    @property
    def id(self) -> str:
        return self._handle.id

    @property
    def instance_id(self) -> uuid.UUID:
        return self._handle.instance_id

    def status(self) -> str:
        return self._thread.call(self._handle.status())

    def describe(self) -> InstanceInfo:
        return self._thread.call(self._handle.describe())

    def result(self, timeout: float | timedelta | None = None) -> T:
        return self._thread.call(self._handle.result(timeout))

    def signal(self, name: str, payload: Any = None, *, key: uuid.UUID | None = None) -> None:
        self._thread.call(self._handle.signal(name, payload, key=key))

    def cancel(self, reason: str | None = None) -> bool:
        return self._thread.call(self._handle.cancel(reason))

    def terminate(self, reason: str | None = None) -> bool:
        return self._thread.call(self._handle.terminate(reason))

    def pause(self, timeout: float | timedelta | None = 10.0) -> bool:
        return self._thread.call(self._handle.pause(timeout))

    def update(self, update: Any, *args: Any, **options: Any) -> Any:
        return self._thread.call(self._handle.update(update, *args, **options))

    def query(self, query: Any, *args: Any, **options: Any) -> Any:
        return self._thread.call(self._handle.query(query, *args, **options))

    def state(self, key: str, default: Any = None, *, type: Any = Any) -> Any:
        return self._thread.call(self._handle.state(key, default, type=type))

    def states(self) -> dict[str, Any]:
        return self._thread.call(self._handle.states())

    def wait_state(self, key: str, wanted: Any, timeout: float | timedelta | None = None, *, type: Any = Any) -> Any:
        return self._thread.call(self._handle.wait_state(key, wanted, timeout, type=type))

    def stream(self, name: str, offset: int = 0, **options: Any) -> Iterator[Any]:
        """The stream's items, as the async `stream` gives them."""
        return self._thread.iterate(self._handle.stream(name, offset, **options).__aiter__())

    def stream_items(self, name: str, offset: int = 0, **options: Any) -> Iterator[StreamItem]:
        """The same with their offsets."""
        return self._thread.iterate(self._handle.stream(name, offset, **options).items())

    def resume(self) -> bool:
        return self._thread.call(self._handle.resume())

    def retry(self) -> bool:
        return self._thread.call(self._handle.retry())

    def fork(self, *args: Any, **options: Any) -> Handle[T]:
        return Handle(self._thread, self._thread.call(self._handle.fork(*args, **options)))

    def delete(self) -> None:
        self._thread.call(self._handle.delete())

    def history(self) -> Iterator[Entry]:
        return self._thread.iterate(self._handle.history())

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"


class Schedules:
    """The schedules of a namespace, for blocking code. As `pgdurable.Client.schedules`."""

    def __init__(self, thread: _Thread, inner: _schedules.Schedules) -> None:
        self._thread = thread
        self._inner = inner

    def list(self) -> _List[Schedule]:
        return self._thread.call(self._inner.list())

    def get(self, name: str) -> Schedule:
        return self._thread.call(self._inner.get(name))

    def pause(self, name: str, note: str | None = None) -> bool:
        return self._thread.call(self._inner.pause(name, note))

    def resume(self, name: str) -> bool:
        return self._thread.call(self._inner.resume(name))

    def trigger(self, name: str, **options: Any) -> Handle[Any]:
        return Handle(self._thread, self._thread.call(self._inner.trigger(name, **options)))

    def backfill(self, name: str, since: datetime, until: datetime | None = None, **options: Any) -> None:
        self._thread.call(self._inner.backfill(name, since, until, **options))

    def edit(self, name: str, **changes: Any) -> bool:
        return self._thread.call(self._inner.edit(name, **changes))

    def delete(self, name: str) -> bool:
        return self._thread.call(self._inner.delete(name))

    def next(self, name: str, n: int = 5) -> _List[datetime]:
        return self._thread.call(self._inner.next(name, n))


class Queues:
    """As `client.queues` of `pgdurable.Client`, for blocking code."""

    def __init__(self, thread: _Thread, inner: _queues.Queues) -> None:
        self._thread = thread
        self._inner = inner

    def set(self, name: str, **limits: Any) -> None:
        self._thread.call(self._inner.set(name, **limits))

    def set_partition(self, name: str, partition: str, **limits: Any) -> None:
        self._thread.call(self._inner.set_partition(name, partition, **limits))

    def pause(self, name: str) -> None:
        self._thread.call(self._inner.pause(name))

    def resume(self, name: str) -> None:
        self._thread.call(self._inner.resume(name))

    def list(self) -> _List[QueueInfo]:
        return self._thread.call(self._inner.list())


class Client:
    """As `pgdurable.Client`, for blocking code: ``with pgdurable.sync.Client(dsn) as client``."""

    _face: type[_client.Client] = _client.Client

    def __init__(self, dsn: str | None = None, **options: Any) -> None:
        dsn = None if dsn is None else Dsn(dsn)
        self._inner = self._face(dsn, **options)
        self._thread: _Thread | None = None

    def __enter__(self) -> Any:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def open(self) -> None:
        if self._thread is None:
            self._thread = _Thread()
            try:
                self._thread.call(self._inner.open())
            except BaseException:
                thread, self._thread = self._thread, None
                thread.stop()
                raise

    def close(self) -> None:
        if self._thread is not None:
            thread, self._thread = self._thread, None
            if thread.foreign:
                return
            try:
                thread.call(self._inner.close())
            finally:
                thread.stop()

    @property
    def _there(self) -> _Thread:
        if self._thread is None:
            self._inner._pool  # noqa: B018  # raises the error that says how to open it
            raise AssertionError("unreachable")
        return self._thread

    def start(
        self,
        workflow: str | Workflow[Any, Any],
        *args: Any,
        connection: psycopg.Connection[Any] | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """As the async `start`. `connection` is a blocking `psycopg.Connection`."""
        thread = self._there
        if connection is not None:
            return Handle(thread, self._inner.start_blocking(connection, workflow, args, **options))
        return Handle(thread, thread.call(self._inner.start(workflow, *args, **options)))

    def start_many(self, workflow: str | Workflow[Any, Any], arguments: Any, **options: Any) -> Sequence[Handle[Any]]:
        """As the async `start_many`, a list or `Starts`."""
        thread = self._there
        found: Any = thread.call(self._inner.start_many(workflow, arguments, **options))
        if isinstance(found, Starts):
            mapped: Starts[Handle[Any]] = found.map(lambda handle: Handle(thread, handle))
            return mapped
        return [Handle(thread, handle) for handle in found]

    def get(self, id: str | uuid.UUID, *, type: Any = Any) -> Handle[Any]:
        return Handle(self._there, self._there.call(self._inner.get(id, type=type)))

    @property
    def queues(self) -> Queues:
        return Queues(self._there, self._inner.queues)

    def signal(self, id: str, name: str, payload: Any = None, *, key: uuid.UUID | None = None) -> None:
        self._there.call(self._inner.signal(id, name, payload, key=key))

    def signal_with_start(self, workflow: str | Workflow[Any, Any], *args: Any, **options: Any) -> Handle[Any]:
        """As the async `signal_with_start`, without `connection`."""
        return Handle(self._there, self._there.call(self._inner.signal_with_start(workflow, *args, **options)))

    def schedule(self, name: str, workflow: str | Workflow[Any, Any], *args: Any, **options: Any) -> Schedule:
        return self._there.call(self._inner.schedule(name, workflow, *args, **options))

    @property
    def schedules(self) -> Schedules:
        return Schedules(self._there, self._inner.schedules)

    def cancel(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.cancel(*ids, **options))

    def terminate(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.terminate(*ids, **options))

    def pause(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.pause(*ids, **options))

    def resume(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.resume(*ids, **options))

    def retry(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.retry(*ids, **options))

    def fork(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.fork(*ids, **options))

    def delete(self, *ids: str, **options: Any) -> Done:
        return self._there.call(self._inner.delete(*ids, **options))

    def list(self, **filters: Any) -> Iterator[InstanceInfo]:
        return self._there.iterate(self._inner.list(**filters))


class Engine(Client):
    """As `pgdurable.Engine`, for blocking code: ``with pgdurable.sync.Engine(dsn) as engine``."""

    _face = _engine.Engine
    _inner: _engine.Engine

    def stop(self, *, drain: float | timedelta | None = 30.0) -> None:
        self._there.call(self._inner.stop(drain=drain))

    def metrics(self) -> Metrics:
        async def look() -> Metrics:
            return self._inner.metrics()

        return self._there.call(look())
