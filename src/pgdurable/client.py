"""Client and Handle: start, signal and read instances from any program. Executes nothing."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeAlias, cast, overload

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pgdurable._core import StartRows
from pgdurable._engine.bulk import BulkSender
from pgdurable._engine.columns import Array, columns_of
from pgdurable._engine.connections import close_pool, connect_failed, is_passing, make_pool, probe, resolve_dsn
from pgdurable._engine.ids import check_key
from pgdurable._engine.tasks import Bell, end_tasks, heed_cancel
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries, quote_schema
from pgdurable.codec import encode
from pgdurable.errors import (
    ConnectionFailed,
    InstanceFinished,
    InstanceNotFound,
    InvalidId,
    InvalidInput,
    PgDurableError,
)
from pgdurable.handle import Entry, Handle, InstanceInfo, Starts, from_json, info_of
from pgdurable.retry import seconds
from pgdurable.workflow import Workflow

__all__ = ["Client", "Entry", "Handle", "InstanceInfo", "Starts"]

PAYLOAD_LIMIT = 1024 * 1024
_READS = frozenset({"find_instance", "outcomes", "describe", "history", "list_instances"})
_READ_TRIES = 6  # one more than there are pooled connections
_PATIENCE_S = 30.0
_List = list  # inside Client, `list` is the method
Stream: TypeAlias = AsyncIterable[Any] | Iterator[Any] | Mapping[str, Any] | Array


class Client:
    """Starts, signals and reads instances. Executes nothing; workers elsewhere do.

    Args:
        dsn: libpq connection string or URI. Default: $PGDURABLE_DSN, else libpq's own variables.
        schema: the namespace.
        payload_limit: largest encoded input or signal, in bytes.
        max_connections: connections it may open.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str = "durable",
        payload_limit: int = PAYLOAD_LIMIT,
        max_connections: int = 4,
    ) -> None:
        self.schema = quote_schema(schema)
        self.payload_limit = payload_limit
        self._dsn = resolve_dsn(dsn, application="pgdurable client")
        self._max_connections = max_connections
        self._sql = named_queries("client", schema)
        self._pid = 0
        self._pool_: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None
        self._waiting: dict[bytes, _List[asyncio.Future[tuple[str, Any, Any]]]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._watch_now = Bell()

    async def __aenter__(self) -> Client:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects and checks the schema. Raises ConnectionFailed or SchemaError."""
        self._check_process()
        if self._pool_ is None:
            await probe(self._dsn)
            pool = await make_pool(self._dsn, max_size=self._max_connections, timeout=10.0)
            try:
                async with pool.connection() as conn:
                    await migrations.check_async(conn, self.schema)
            except BaseException:
                await close_pool(pool)
                raise
            self._pool_ = pool
            self._pid = os.getpid()

    async def close(self) -> None:
        """Closes the connections. Instances go on wherever they run."""
        if self._foreign:
            return
        if self._watcher is not None:
            await end_tasks(self._watcher)
            self._watcher = None
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
        self._waiting.clear()
        if self._pool_ is not None:
            await close_pool(self._pool_)
        self._pool_ = None

    # -- starting ------------------------------------------------------------------------------------------------

    async def start(
        self,
        workflow: str | Workflow[Any, Any],
        *args: Any,
        id: str | None = None,
        kwargs: dict[str, Any] | None = None,
        version: str | None = None,
        queue: str = "default",
        priority: int = 0,
        delay: float | timedelta | None = None,
        labels: dict[str, Any] | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
    ) -> Handle[Any]:
        """Starts an instance; it is durable when this returns, and a worker that has the workflow runs it.

        Args:
            workflow: its name, or the decorated function.
            *args: the workflow's positional arguments.
            id: your own id, 1 to 512 bytes. The same id again gives the same instance and starts nothing.
            kwargs: the workflow's keyword arguments.
            version: only workers with this version run it. Default: the function's, or what the worker calls current.
            queue, priority: recorded with the instance.
            delay: seconds (or timedelta) before it may run.
            labels: a JSON object of your own.
            connection: start inside this connection's open transaction: visible only if it commits.
        Raises:
            InvalidInput: the arguments do not fit the function's parameters.
            InvalidId: the id is no id, or belongs to an instance of another workflow.
            CodecError: an argument cannot be stored as JSON.
        """
        definition, params = self._start_params(
            workflow, args, id=id, kwargs=kwargs, version=version, queue=queue, priority=priority, delay=delay,
            labels=labels,
        )  # fmt: skip
        if connection is not None:
            started = await self._started_in(connection, params)
        else:
            await self._admit()
            started = await self._one("start", params)
        return await self._handle_of(started, id, definition, connection)

    def start_blocking(
        self,
        connection: psycopg.Connection[Any],
        workflow: str | Workflow[Any, Any],
        args: tuple[Any, ...],
        *,
        id: str | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """Starts inside a blocking connection's open transaction, for `pgdurable.sync`."""
        definition, params = self._start_params(workflow, args, id=id, **options)
        try:
            row = connection.execute(self._sql["start"], params).fetchone()
            assert row is not None
            found = connection.execute(self._sql["find_instance"], (row[0],)).fetchone()
        except psycopg.Error as error:
            raise self._explain(error) from error
        assert found is not None
        return Handle(self, found[0], id, definition.signature.returns if definition else Any)

    def _start_params(
        self,
        workflow: str | Workflow[Any, Any],
        args: tuple[Any, ...],
        *,
        id: str | None = None,
        kwargs: dict[str, Any] | None = None,
        version: str | None = None,
        queue: str = "default",
        priority: int = 0,
        delay: float | timedelta | None = None,
        labels: dict[str, Any] | None = None,
    ) -> tuple[Workflow[Any, Any] | None, tuple[Any, ...]]:
        definition = workflow if isinstance(workflow, Workflow) else None
        name = definition.name if definition is not None else self._name(workflow)
        data = self._input(definition, name, args, kwargs)
        if id is not None:
            check_key(id)
        return definition, (
            name, data.decode(), id, version or (definition.version if definition else None), queue, priority,
            seconds(delay) or 0.0, None if labels is None else encode(labels, what="labels").decode(),
        )  # fmt: skip

    async def _started_in(self, connection: psycopg.AsyncConnection[Any], params: tuple[Any, ...]) -> str:
        try:
            cursor = await connection.execute(self._sql["start"], params)
            row = await cursor.fetchone()
        except psycopg.Error as error:
            raise self._explain(error) from error
        assert row is not None
        return str(row[0])

    async def _handle_of(
        self,
        started: str,
        id: str | None,
        definition: Workflow[Any, Any] | None,
        connection: psycopg.AsyncConnection[Any] | None = None,
    ) -> Handle[Any]:
        type = definition.signature.returns if definition is not None else Any
        if id is None:
            return Handle(self, uuid.UUID(started), None, type)
        if connection is not None:
            cursor = await connection.execute(self._sql["find_instance"], (id,))
            row = await cursor.fetchone()
            return Handle(self, row[0] if row else uuid.UUID(int=0), id, type)
        return Handle(self, await self._one("find_instance", (id,)), id, type)

    @overload
    async def start_many(  # type: ignore[overload-overlap]
        self, workflow: str | Workflow[Any, Any], arguments: Stream, *, version: str | None = None, queue: str = ...
    ) -> Starts[Handle[Any]]: ...
    @overload
    async def start_many(
        self, workflow: str | Workflow[Any, Any], arguments: Iterable[Any], *, version: str | None = None,
        queue: str = ...,
    ) -> _List[Handle[Any]]: ...  # fmt: skip
    async def start_many(
        self,
        workflow: str | Workflow[Any, Any],
        arguments: Iterable[Any] | AsyncIterable[Any] | Mapping[str, Any] | Array,
        *,
        version: str | None = None,
        queue: str = "default",
    ) -> _List[Handle[Any]] | Starts[Handle[Any]]:
        """Starts one instance per element or row, thousands per commit; all are durable when this returns.

        Args:
            workflow: its name, or the decorated function.
            arguments: an iterable, generator or async iterable: per instance a tuple of positional arguments, a dict of
                keyword arguments, or one argument. Or arrays: a structured array (one field per parameter), a dict of
                columns (parameter's name to array of one dimension), or one array for a workflow's first parameter.
                Anything with the buffer protocol is an array; numpy is not needed. Column types are compared with the
                annotations once; what JSON has no form for (NaN, infinity) is found before anything is started.
        Returns:
            Handles in the same order: a list for a list, tuple or other collection, else `Starts`, which makes each
            handle when asked for it. No more than a few commits' worth of a stream or array is in memory at a time.
        Raises:
            InvalidInput: something does not fit the function's parameters.
            CodecError: something cannot be stored as JSON.
            ConnectionFailed: the server was away for 30 seconds.
        When it raises, a leading part of the starts may have been committed.
        """
        definition = workflow if isinstance(workflow, Workflow) else None
        name = definition.name if definition is not None else self._name(workflow)
        columns = columns_of(arguments, definition, name)
        type = definition.signature.returns if definition is not None else Any

        def handle(instance_id: uuid.UUID) -> Handle[Any]:
            return Handle(self, instance_id, None, type)

        if columns is None and (own := self._start_here_many(workflow, arguments, version, queue)) is not None:
            starts = Starts(bytes(await own), handle)
        else:
            rows = StartRows(name, version or (definition.version if definition else None), queue, self.payload_limit)
            sender = BulkSender(self._pool, self._sql, rows, patience=_PATIENCE_S, admit=self._admit)
            try:
                if columns is not None:
                    await sender.send_columns(columns, self.payload_limit)
                else:
                    await sender.send_objects(
                        cast(Iterable[Any], arguments),
                        lambda argument: self._input(definition, name, *split_argument(argument)),
                    )
            except (psycopg.Error, PoolTimeout) as error:
                raise self._explain(error) from error
            finally:
                if sender.ids:
                    await sender.announce()
            starts = Starts(bytes(sender.ids), handle)
        streamed = columns is not None or isinstance(arguments, (Iterator, AsyncIterable))
        return starts if streamed else list(starts)

    @staticmethod
    def _name(workflow: Any) -> str:
        if not isinstance(workflow, str) or not workflow or "\0" in workflow:
            raise InvalidInput(
                f"start needs a workflow: its name or the decorated function, found {workflow!r}",
                hint="Decorate the function with @pgdurable.workflow.",
            )
        return workflow

    def _input(
        self, definition: Workflow[Any, Any] | None, name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> bytes:
        if definition is not None:
            return bind_input(definition, args, kwargs, self.payload_limit)
        if args and kwargs:
            raise InvalidInput(
                f"workflow {name!r} is started by name: its parameters' names are not known here",
                detail="Expected positional arguments alone, or kwargs={...} alone.",
                hint="Pass all of them by name in kwargs={...}.",
            )
        return encode(
            dict(kwargs) if kwargs else list(args), what=f"input of workflow {name}", limit=self.payload_limit
        )

    async def _admit(self) -> None:
        """Waits while there is no room for more in this process. A client keeps nothing waiting."""

    def _start_here_many(
        self, workflow: Any, arguments: Any, version: str | None, queue: str
    ) -> Awaitable[bytearray] | None:
        """Starts of a workflow that this process runs, as their ids; None: it does not run it."""
        return None

    # -- existing instances --------------------------------------------------------------------------------------

    async def get(self, id: str | uuid.UUID, *, type: Any = Any) -> Handle[Any]:
        """The handle of an existing instance, by user-chosen id or UUID. Raises InstanceNotFound.

        Args:
            type: what `result()` decodes to.
        """
        text = str(id)
        found = await self._one("find_instance", (text,))
        if found is None:
            raise InstanceNotFound(
                f"no instance has the id {text!r}", hint="client.list() or `pgdurable list` shows those there are."
            )
        return Handle(self, found, text, type)

    async def signal(self, id: str, name: str, payload: Any = None) -> None:
        """Sends a signal to an instance by id. As `Handle.signal`."""
        data = encode(payload, what=f"instance {id}: payload of signal {name!r}", limit=self.payload_limit)
        await self._admit()
        await self._one("signal", (str(id), name, data.decode()))

    async def list(
        self,
        *,
        status: str | None = None,
        workflow: str | Workflow[Any, Any] | None = None,
        limit: int | None = 100,
    ) -> AsyncIterator[InstanceInfo]:
        """Instances, newest first, without their input, output and error (`describe` gives those).

        Args:
            status: only those with this status.
            workflow: only those of this workflow.
            limit: at most so many; None: all.
        """
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        before: uuid.UUID | None = None
        left = limit
        while left is None or left > 0:
            page = 1000 if left is None else min(left, 1000)
            rows = await self._rows(
                "list_instances", {"status": status, "workflow": name, "before": before, "limit": page}
            )
            for row in rows:
                yield info_of(row)
            if len(rows) < page:
                return
            before = rows[-1][0]
            left = None if left is None else left - len(rows)

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _foreign(self) -> bool:
        """Whether this is a copy in a forked child: its connections are the parent's."""
        return self._pid not in (0, os.getpid())

    def _check_process(self) -> None:
        if self._foreign:
            raise PgDurableError(
                f"this {type(self).__name__} belongs to process {self._pid}, from which this one was forked",
                hint="Open one of your own after the fork.",
            )

    @property
    def _pool(self) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        self._check_process()
        if self._pool_ is None:
            raise PgDurableError(
                f"this {type(self).__name__} is not open", hint="Use it as `async with ...`, or await its open()."
            )
        return self._pool_

    async def _rows(self, query: str, params: Any) -> _List[Any]:
        tries = _READ_TRIES if query in _READS else 1
        while True:
            tries -= 1
            try:
                async with self._pool.connection() as conn:
                    cursor = await conn.execute(self._sql[query], params)
                    return await cursor.fetchall()
            except PoolTimeout as error:
                raise self._explain(error) from error
            except psycopg.OperationalError as error:
                # A pooled connection may have died since it was last used. Reads are simply done again.
                if tries <= 0:
                    raise self._explain(error) from error
            except psycopg.Error as error:
                raise self._explain(error) from error

    async def _one(self, query: str, params: Any) -> Any:
        rows = await self._rows(query, params)
        return rows[0][0] if rows else None

    async def _describe(self, instance_id: uuid.UUID) -> InstanceInfo:
        rows = await self._rows("describe", (instance_id,))
        if not rows:
            raise InstanceNotFound(
                f"no instance has the id {instance_id}", hint="It may have been deleted since it was started."
            )
        row = rows[0]
        return info_of(row[:16], *(from_json(text) for text in row[16:20]))

    def _explain(self, error: psycopg.Error) -> PgDurableError:
        kinds: dict[str, Callable[..., PgDurableError]] = {
            "PGD02": InstanceNotFound, "PGD03": InstanceFinished, "PGD04": InvalidId, "PGD05": InvalidInput,
        }  # fmt: skip
        kind = kinds.get(error.sqlstate or "")
        if kind is not None:
            diag = error.diag
            return kind(diag.message_primary or str(error), detail=diag.message_detail, hint=diag.message_hint)
        if is_passing(error):
            return connect_failed(self._dsn, error)
        return PgDurableError(f"PostgreSQL refused: {str(error).strip()}")

    # -- outcomes ------------------------------------------------------------------------------------------------

    def _outcome_of(self, id: bytes) -> asyncio.Future[tuple[str, Any, Any]]:
        future: asyncio.Future[tuple[str, Any, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, []).append(future)
        self._pool  # noqa: B018  # raises when not open
        if not self._runs_here(id):  # of those that run here we are told
            self._watch_now.ring()
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return future

    def _forget_outcome(self, id: bytes, future: asyncio.Future[tuple[str, Any, Any]]) -> None:
        futures = self._waiting.get(id)
        if futures and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[id]

    def _tell_outcome(self, id: bytes, outcome: tuple[str, Any, Any]) -> None:
        for future in self._waiting.pop(id, ()):
            if not future.done():
                future.set_result(outcome)

    def _runs_here(self, id: bytes) -> bool:
        return False

    async def _watch(self) -> None:
        """Asks for the outcomes waited for, all in one query, ever more seldom while none comes."""
        pause = 0.005
        while self._waiting:
            heed_cancel()
            asked = [uuid.UUID(bytes=id) for id in self._waiting if not self._runs_here(id)]
            news = 0
            for first in range(0, len(asked), 5000):
                try:
                    rows = await self._rows("outcomes", (asked[first : first + 5000],))
                except ConnectionFailed:
                    rows = []
                for id, status, output, error in rows:
                    news += 1
                    self._tell_outcome(id.bytes, (status, output, error))
            pause = 0.005 if news else min(pause * 1.5, 0.5)
            self._watch_now.clear()
            if await self._watch_now.wait(pause):
                pause = min(pause, 0.02)
                await asyncio.sleep(0.002)


def bind_input(
    definition: Workflow[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None, limit: int
) -> bytes:
    """A workflow's arguments as its stored input, once they are known to fit its parameters and their types."""
    return bind_and_load(definition, args, kwargs, limit)[0]


def bind_and_load(
    definition: Workflow[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None, limit: int
) -> tuple[bytes, Any]:
    """As `bind_input`, with the typed arguments that the stored input gives."""
    data = definition.signature.bind_input(args, kwargs or {}, limit=limit)
    return data, definition.signature.load_input(data)


def split_argument(argument: Any) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """One element of start_many's iterable as positional and keyword arguments."""
    if isinstance(argument, tuple):
        return argument, None
    if isinstance(argument, dict):
        return (), argument
    return (argument,), None
