"""Client and Handle: start, signal and read instances from any program. Executes nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, overload

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._client.base import asked_id
from pgdurable._client.gathering import Gathering
from pgdurable._client.operations import Operations
from pgdurable._client.queues import QueuesMixin
from pgdurable._client.schedules import SchedulesMixin
from pgdurable._client.signals import Signals
from pgdurable._client.talk import Talk
from pgdurable._core import StartRows
from pgdurable._engine.bulk import BulkSender
from pgdurable._engine.columns import Array, columns_of
from pgdurable._engine.database import PATIENCE_S, Database
from pgdurable._engine.inputs import (
    Input,
    check_name,
    check_partition,
    check_priority,
    line_params,
    split_argument,
    start_params,
    timed_start,
)
from pgdurable._engine.outcomes import Outcomes
from pgdurable._engine.replies import Replies
from pgdurable._engine.tasks import within
from pgdurable._secret import SHOW_VALUES, Dsn
from pgdurable.compression import Compression, codecs_of
from pgdurable.encryption import Encryption
from pgdurable.errors import InstanceNotFound
from pgdurable.handle import Entry, Handle, InstanceInfo, Starts, from_json, info_of, running_steps
from pgdurable.retry import seconds
from pgdurable.workflow import Workflow

__all__ = ["Client", "Entry", "Handle", "InstanceInfo", "Starts"]

PAYLOAD_LIMIT = 1024 * 1024
T = TypeVar("T")
_List = list  # inside Client, `list` is the method
Stream: TypeAlias = AsyncIterable[Any] | Iterator[Any] | Mapping[str, Any] | Array


class Client(Gathering, Operations, QueuesMixin, SchedulesMixin, Signals, Talk):
    """Starts, signals and reads instances. Executes nothing; workers elsewhere do.

    Args:
        dsn: libpq connection string or URI. Default: $PGDURABLE_DSN, else libpq's own variables.
        schema: the namespace.
        payload_limit: largest encoded input or signal, in bytes.
        max_connections: connections it may open.
        pooler: whether a pooler (PgBouncer in transaction mode, say) is in between, so that no session is ours for
            longer than a transaction. Default: $PGDURABLE_POOLER (1 or 0), else it finds out when it opens.
        encryption: the keys to encrypt and decrypt payloads with. Default: they are stored as they are.
        compression: how to compress payloads, before they are encrypted. Default: not at all.
        patience: seconds for which each call is tried again while the server is away, fails over, or takes no writes.
            After that it raises ConnectionFailed. Every call can be tried again without harm.
    """

    _application: ClassVar[str] = "pgdurable client"

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str = "durable",
        payload_limit: int = PAYLOAD_LIMIT,
        max_connections: int = 4,
        pooler: bool | None = None,
        encryption: Encryption | None = None,
        compression: Compression | None = None,
        patience: float | timedelta = PATIENCE_S,
    ) -> None:
        dsn = None if dsn is None else Dsn(dsn)
        self.payload_limit = payload_limit
        self._database = Database(
            dsn, schema, face=type(self).__name__, application=self._application, max_connections=max_connections,
            pooler=pooler, encryption=codecs_of(compression, encryption), patience=seconds(patience) or 0.0,
        )  # fmt: skip
        self.schema = self._database.schema
        self._outcomes = Outcomes(self._database, self._runs_here)
        self._replies = Replies(self._database)
        # What Handle asks for.
        self._outcome_of, self._forget_outcome = self._outcomes.of, self._outcomes.forget
        self._rows, self._asked = self._database.rows, self._database.asked

    async def __aenter__(self) -> Client:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects and checks the schema. Raises ConnectionFailed or SchemaError."""
        await self._database.open()

    async def close(self) -> None:
        """Closes the connections. Instances go on wherever they run."""
        if self._database.foreign:
            return
        await self._outcomes.close()
        await self._replies.close()
        await self._database.close()

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
        partition: str | None = None,
        dedup: str | None = None,
        debounce: float | timedelta | None = None,
        debounce_limit: float | timedelta | None = None,
        key: str | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
        timeout: float | timedelta | None = None,
    ) -> Handle[Any]:
        """Starts an instance; it is durable when this returns, and a worker that has the workflow runs it.

        Args:
            workflow: its name, or the decorated function.
            *args: the workflow's positional arguments.
            id: your own id, 1 to 512 bytes. The same id again gives the same instance and starts nothing.
            kwargs: the workflow's keyword arguments.
            version: only workers with this version run it. Default: the function's, or what the worker calls current.
            queue: where it waits for a worker that listens to it. Every queue but `default` may have limits (`queues`).
            priority: among those that wait in a queue the lower goes first, -32768 to 32767.
            partition: whose share of the queue it takes, for instance a tenant's: partitions take turns, by weight, and
                may have limits of their own.
            dedup: a key; while an instance of this queue that was started with it has not ended, that one's handle is
                given and nothing is started.
            debounce: seconds (or timedelta) for which nothing may have been started with the same `key` before it
                begins: until then another such call replaces the input and puts it off, to `debounce_limit` after the
                first at the most (default: ten times `debounce`). All of them give the same instance.
            key: what debounced calls belong together, within workflow, version, queue and partition.
            delay: seconds (or timedelta) before it may run.
            labels: a JSON object of your own.
            connection: start inside this connection's open transaction: visible only if it commits.
            timeout: seconds (or timedelta) it may take in all, from now (or from the end of `delay`) on, waiting for a
                worker included; see `workflow`. Default: the workflow's own, which counts from when it begins to run.
        Raises:
            InvalidInput: the arguments do not fit the function's parameters.
            InvalidId: the id is no id, or belongs to an instance of another workflow.
            CodecError: an argument cannot be stored as JSON.
            ConnectionFailed: the server was away for `patience` seconds. Whether it was started is not known; with an
                id of your own the call can be made again.
        """
        input = Input(workflow, self.payload_limit)
        if (
            debounce is not None
            or key is not None
            or (input.definition is not None and input.definition.batch is not None)
        ):
            if timeout is not None:
                raise ValueError("start(timeout=...) does not go with debounce= and batches: give the workflow one")
            return await self._gather(
                input, args, connection, id=id, kwargs=kwargs, version=version, queue=queue, priority=priority,
                delay=delay, labels=labels, partition=partition, dedup=dedup, debounce=debounce,
                debounce_limit=debounce_limit, key=key,
            )  # fmt: skip
        params = start_params(
            input, args, id=id, kwargs=kwargs, version=version, queue=queue, priority=priority, delay=delay,
            labels=labels, database=self._database,
        ) + line_params(dedup, partition)  # fmt: skip
        statement, params = timed_start(params, timeout)
        if connection is None:
            await self._admit()
            started = await self._database.one(statement, params)
            found = None if id is None else await self._database.one("find_instance", (id,))
        else:
            try:
                started = await _first(connection, self._database.sql[statement], params)
            except psycopg.Error as error:
                raise self._database.explain(error) from (error if SHOW_VALUES else None)
            found = None if id is None else await _first(connection, self._database.sql["find_instance"], (id,))
        return Handle(self, uuid.UUID(started) if id is None else found or uuid.UUID(int=0), id, input.returns)

    def start_blocking(
        self,
        connection: psycopg.Connection[Any],
        workflow: str | Workflow[Any, Any],
        args: tuple[Any, ...],
        *,
        id: str | None = None,
        timeout: float | timedelta | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """Starts inside a blocking connection's open transaction, for `pgdurable.sync`."""
        input = Input(workflow, self.payload_limit)
        sql = self._database.sql
        try:
            if options.get("debounce") is not None or (
                input.definition is not None and input.definition.batch is not None
            ):
                if timeout is not None:
                    raise ValueError("start(timeout=...) does not go with debounce= and batches: give the workflow one")
                return self._gather_blocking(connection, input, args, id=id, **options)
            last = line_params(options.pop("dedup", None), options.pop("partition", None))
            params = start_params(input, args, id=id, database=self._database, **options) + last
            statement, params = timed_start(params, timeout)
            row = connection.execute(sql[statement], params).fetchone()
            assert row is not None
            found = connection.execute(sql["find_instance"], (row[0],)).fetchone()
        except psycopg.Error as error:
            raise self._database.explain(error) from (error if SHOW_VALUES else None)
        assert found is not None
        return Handle(self, found[0], id, input.returns)

    @overload
    async def start_many(  # type: ignore[overload-overlap]
        self, workflow: str | Workflow[Any, Any], arguments: Stream, *, version: str | None = None, queue: str = ...,
        priority: int = ..., partition: str | None = None,
    ) -> Starts[Handle[Any]]: ...  # fmt: skip
    @overload
    async def start_many(
        self, workflow: str | Workflow[Any, Any], arguments: Iterable[Any], *, version: str | None = None,
        queue: str = ..., priority: int = ..., partition: str | None = None,
    ) -> _List[Handle[Any]]: ...  # fmt: skip
    async def start_many(
        self,
        workflow: str | Workflow[Any, Any],
        arguments: Iterable[Any] | AsyncIterable[Any] | Mapping[str, Any] | Array,
        *,
        version: str | None = None,
        queue: str = "default",
        priority: int = 0,
        partition: str | None = None,
    ) -> _List[Handle[Any]] | Starts[Handle[Any]]:
        """Starts one instance per element or row, thousands per commit; all are durable when this returns.

        Args:
            workflow: its name, or the decorated function.
            arguments: an iterable, generator or async iterable: per instance a tuple of positional arguments, a dict of
                keyword arguments, or one argument. Or arrays: a structured array (one field per parameter), a dict of
                columns (parameter's name to array of one dimension), or one array for a workflow's first parameter.
                Anything with the buffer protocol is an array; numpy is not needed. Column types are compared with the
                annotations once; what JSON has no form for (NaN, infinity) is found before anything is started.
            version, queue, priority, partition: of all of them, as for `start`.
        Returns:
            Handles in the same order: a list for a list, tuple or other collection, else `Starts`, which makes each
            handle when asked for it. No more than a few commits' worth of a stream or array is in memory at a time.
        Raises:
            InvalidInput: something does not fit the function's parameters.
            CodecError: something cannot be stored as JSON.
            ConnectionFailed: the server was away for `patience` seconds.
        When it raises, a leading part of the starts may have been committed.
        """
        input = Input(workflow, self.payload_limit)
        check_name(queue, "a queue's name")
        check_priority(priority)
        check_partition(partition)
        if input.definition is not None and input.definition.batch is not None:
            return await self._gather_many(
                input, arguments, version=version, queue=queue, priority=priority, partition=partition
            )
        columns = columns_of(arguments, input.definition, input.name)
        if (
            columns is None
            and not priority
            and partition is None
            and (own := self._start_here_many(workflow, arguments, version, queue)) is not None
        ):
            ids = await own
        else:
            sender = BulkSender(
                self._database, StartRows(input.name, input.version(version), queue, self.payload_limit),
                patience=self._database.patience, admit=self._admit, queue=queue, priority=priority,
                partition=partition,
            )  # fmt: skip
            try:
                if columns is not None:
                    await sender.send_columns(columns, self.payload_limit)
                else:
                    await sender.send_objects(
                        cast(Iterable[Any], arguments), lambda argument: input.encode(*split_argument(argument))
                    )
            except psycopg.Error as error:
                raise self._database.explain(error) from (error if SHOW_VALUES else None)
            finally:
                if sender.ids:
                    await sender.announce()
                    self._database.on_work()
            ids = sender.ids
        starts: Starts[Handle[Any]] = Starts(
            bytes(ids), lambda instance_id: Handle(self, instance_id, None, input.returns)
        )
        streamed = columns is not None or isinstance(arguments, (Iterator, AsyncIterable))
        return starts if streamed else list(starts)

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
        text = asked_id(id)
        return Handle(self, await self._find(text), text, type)

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
        for text, what in ((name, "a workflow's name"), (status, "a status")):
            if text is not None:
                check_name(text, what)
        before: uuid.UUID | None = None
        left = limit
        while left is None or left > 0:
            page = 1000 if left is None else min(left, 1000)
            rows = await self._database.rows(
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
    def _pool(self) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        return self._database.pool

    async def _find(self, id: str) -> uuid.UUID:
        """The instance's UUID. Raises InstanceNotFound."""
        found: uuid.UUID | None = await self._database.one("find_instance", (id,))
        if found is None:
            raise InstanceNotFound(
                f"no instance has the id {id!r}", hint="client.list() or `pgdurable list` shows those there are."
            )
        return found

    def _handle(self, instance_id: uuid.UUID, id: str | None, type: Any) -> Handle[Any]:
        return Handle(self, instance_id, id, type)

    async def _describe(self, instance_id: uuid.UUID) -> InstanceInfo:
        rows = await self._database.rows("describe", (instance_id,))
        if not rows:
            raise InstanceNotFound(
                f"no instance has the id {instance_id}", hint="It may have been deleted since it was started."
            )
        row = rows[0]
        texts = row[16:20]
        if (encryption := self._database.encryption) is not None:
            places = ("input", "output", "error")[: 2 if row[4] == "paused" else 3]  # the reason of a pause is plain
            copied = await self._database.one("input_of", (instance_id,))
            whose = {"input": uuid.UUID(copied)} if copied else {}
            texts = [
                encryption.open(whose.get(place, instance_id), place, texts[n]) for n, place in enumerate(places)
            ] + [*texts[len(places) :]]
        return info_of(row[:16], *(from_json(text) for text in texts), running_steps(*row[20:]))

    async def _wait(self, future: asyncio.Future[T], timeout: float | None) -> T:
        """The future's result, or asyncio.TimeoutError after so many seconds. A simulation lets its time pass."""
        return await (future if timeout is None else within(timeout, asyncio.shield(future)))

    def _runs_here(self, id: bytes) -> bool:
        return False


async def _first(connection: psycopg.AsyncConnection[Any], sql: str, params: tuple[Any, ...]) -> Any:
    """The first column of the first row, or None."""
    row = await (await connection.execute(sql, params)).fetchone()
    return None if row is None else row[0]
