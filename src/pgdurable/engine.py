"""The Engine: a worker and a client in one. Runs the workflows this process has imported."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any

import psycopg

from pgdurable._engine import collector
from pgdurable._engine.bulk import batches
from pgdurable._engine.busy_wait import MOST_S
from pgdurable._engine.database import PATIENCE_S
from pgdurable._engine.host import Host
from pgdurable._engine.http_step import have_http
from pgdurable._engine.ids import check_key
from pgdurable._engine.inputs import Input, check_name, check_partition, check_priority, split_argument
from pgdurable._engine.listening import check_queues
from pgdurable._engine.metrics import Metrics
from pgdurable._engine.queries import ask_hosted
from pgdurable._engine.starts import BulkStart
from pgdurable._engine.trials import LEAST
from pgdurable._engine.worker import Settings, Worker
from pgdurable._secret import Dsn
from pgdurable._store import migrations
from pgdurable.client import PAYLOAD_LIMIT, Client, Handle
from pgdurable.compression import Compression
from pgdurable.encryption import Encryption
from pgdurable.errors import PgDurableError, UnknownWorkflow
from pgdurable.http import Http
from pgdurable.retry import seconds
from pgdurable.workflow import Registry, Workflow, registry

__all__ = ["Engine"]

MAX_BACKLOG = 20_000


class Engine(Client):
    """Runs workflows and is a client too. Use it as ``async with Engine(dsn) as engine``.

    While an engine is open, Python's garbage collector looks through new objects after every 50,000 instead of 700
    (`gc.set_threshold`), unless the process has set a threshold of its own: with thousands of instances in memory it
    would take most of the time.

    Leaving the block stops it: running steps finish and are checkpointed, what is unfinished is free for other
    workers at once. Killed instead, its instances go on elsewhere by themselves.

    Args:
        dsn: libpq connection string or URI. Default: $PGDURABLE_DSN, else libpq's own variables.
        schema: the namespace.
        workflows: what it runs. Default: every workflow the process has imported when it opens.
        migrate: bring the schema up to date first. Default: refuse an old one with the command to run.
        name: how the `workers` table calls it. Default: host name and process id.
        lease: seconds of silence after which other workers take over. Default 10.
        poll_interval: seconds between two looks for work when nothing hints. Default 1.
        max_instances: instances held in memory; further starts wait in the database. Default 20,000.
        max_backlog: transitions (or 32 MiB of them) the server may be behind with; while there are more, `start`,
            `start_many`, `signal` and the claiming of work wait, first come, first served. Default 20,000.
        max_threads: threads for `def` steps. Default 64.
        max_processes: processes for steps with `executor="process"`, made when they are needed. Default: one per CPU.
        max_connections: connections for transaction steps, so how many run at once. Default 10. Beside them the
            engine keeps one for its transitions, up to 3 for its lease and for finding work, up to 4 for reads.
        payload_limit: largest encoded input, result or signal in bytes. Default 1 MiB.
        park_after: seconds after which an instance that only waits leaves memory. Default 5.
        patience: seconds for which signals, reads, and starts that this engine does not run itself are tried again
            while the server is away; after that they raise ConnectionFailed. What the engine runs waits for as long as
            it takes. Default 30.
        busy_wait: seconds (at most 0.002) for which the event loop, when it has nothing else to do, keeps looking
            for the answer to a flush instead of sleeping. With 0.0002 a transition of an idle engine takes about a
            quarter less where waking up a process is slow (virtual machines), and the engine's CPU per transition
            more than doubles. For asyncio's own event loop on Linux; others ignore it, with a warning. Default 0.
        quarantine_after: an instance is paused, with the error `Quarantined`, once so many workers in a row died while
            they held it and it never got on in between (at least 3; None: never). Others that were held by the same
            workers are told apart and go on. Default 5.
        guard: refuse real I/O and blocking sleeps in workflow code (a Python audit hook). Default on.
        pooler: as for `Client`. Behind a pooler the engine hears no notifications, so what others start or signal is
            seen at the next look (`poll_interval`), and when it is killed its instances go on elsewhere once its lease
            has run out. Default: it finds out when it opens.
        encryption: the keys to encrypt and decrypt payloads with. Default: they are stored as they are.
        compression: how to compress payloads, before they are encrypted. Default: not at all.
        queues: the queues it listens to: it runs instances of these and no others, whoever started them. The queue of
            starts that name none is `default`. Default: all there are.
        http: whether it makes the requests of `http` steps of workflows in SQL: True, or an `Http` that says more.
            Needs ``pip install pgdurable[http]``. Steps of op `python` it runs in any case, where this process has a
            step of that name. Default: no requests.
        pumps: connections in which the database runs workflows in SQL, so how many of their statements run at once; one
            more connection watches their timeouts. They listen to the same `queues`. Default 0: none.
    """

    _application = "pgdurable engine"

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str = "durable",
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        migrate: bool = False,
        name: str | None = None,
        lease: float | timedelta = 10.0,
        poll_interval: float | timedelta = 1.0,
        max_instances: int = 20_000,
        max_backlog: int = MAX_BACKLOG,
        max_threads: int = 64,
        max_processes: int | None = None,
        max_connections: int = 10,
        payload_limit: int = PAYLOAD_LIMIT,
        park_after: float | timedelta = 5.0,
        patience: float | timedelta = PATIENCE_S,
        busy_wait: float | timedelta = 0.0,
        quarantine_after: int | None = 5,
        guard: bool = True,
        pooler: bool | None = None,
        encryption: Encryption | None = None,
        compression: Compression | None = None,
        queues: Iterable[str] | None = None,
        http: Http | bool = False,
        pumps: int = 0,
    ) -> None:
        dsn = None if dsn is None else Dsn(dsn)
        if max_backlog < 1:
            raise ValueError(f"max_backlog is at least 1, found {max_backlog}")
        looking = seconds(busy_wait) or 0.0
        if not 0.0 <= looking <= MOST_S:
            raise ValueError(f"busy_wait is between 0 and {MOST_S:g} seconds, found {looking:g}")
        if not 0 <= pumps <= 1000:
            raise ValueError(f"pumps is between 0 and 1,000, found {pumps}")
        if quarantine_after is not None and not LEAST <= quarantine_after <= 30_000:
            raise ValueError(f"quarantine_after is between {LEAST} and 30,000, or None; found {quarantine_after}")
        super().__init__(
            dsn,
            schema=schema,
            payload_limit=payload_limit,
            pooler=pooler,
            encryption=encryption,
            compression=compression,
            patience=patience,
        )
        self._registry = registry if workflows is None else Registry(workflows)
        self._migrate = migrate
        self._settings = Settings(
            name=name,
            lease=seconds(lease) or 10.0,
            poll_interval=seconds(poll_interval) or 1.0,
            max_instances=max_instances,
            max_backlog=max_backlog,
            max_threads=max_threads,
            max_processes=max_processes or os.cpu_count() or 1,
            max_transactions=max_connections,
            payload_limit=payload_limit,
            park_after=seconds(park_after) or 0.0,
            busy_wait=looking,
            quarantine_after=quarantine_after,
            guard=guard,
            queues=check_queues(queues),
            http=_http(http),
            pumps=pumps,
        )
        self._worker: Worker | None = None
        self._stopped: asyncio.Future[bool] | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Engine:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connects, checks the schema, joins the workers and begins to run. Raises ConnectionFailed, SchemaError."""
        self._database.check_process()
        if self._worker is not None:
            return
        if self._migrate:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, migrations.migrate, self._database.dsn, self.schema)
        await super().open()
        try:
            self._worker = await Worker.join(self._database, self._registry, self._settings, self._outcomes)
            self._worker.host.on_reply = self._replies.tell
            collector.ease()
        except BaseException:
            await super().close()
            raise

    async def close(self) -> None:
        """Stops: running steps finish and are checkpointed, the rest is free for other workers at once."""
        await self.stop()
        await super().close()

    async def stop(self, *, drain: float | timedelta | None = 30.0) -> bool:
        """Ends running workflows here; `close` calls it. Calling it again waits for the same end.

        Nothing more is claimed and no step begins. An instance that runs no step is handed over at once: another
        worker goes on with it within a second. The others follow as soon as their running steps are checkpointed;
        until then their timers and signals are served as ever. `workers.state` is `draining` meanwhile, then `stopped`.

        Args:
            drain: seconds (or timedelta) running steps get to finish; what is not done then runs again elsewhere.
                None: as long as they take.

        Returns:
            Whether it drained: False when running steps had to be given up, or the server did not answer in time.
        """
        worker = self._worker
        if worker is None or self._database.foreign:
            return True
        if self._stopped is not None:
            return await asyncio.shield(self._stopped)
        self._stopped = asyncio.get_running_loop().create_future()
        drained = False
        try:
            drained = await worker.stop(seconds(drain), self._closed)
        finally:
            self._worker = None
            collector.restore()
            stopped, self._stopped = self._stopped, None
            stopped.set_result(drained)
        return drained

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
        """Starts an instance; it is durable when this returns, and runs here while there is room.

        Arguments and errors: as `Client.start`. With nothing but `id`, `kwargs` and `version`, and a workflow that this
        engine has, the start shares its commit with whatever else the engine has to write, and runs here at once; also
        in another queue that the engine listens to and that has no settings. Any other waits in its queue's line.
        """
        worker = self._running()
        host = worker.host
        definition = _known(host, workflow, version)
        if (
            definition is None or connection is not None or timeout is not None or delay or priority or labels
            or partition is not None or dedup is not None or debounce is not None or key is not None
            or definition.batch is not None
            or ((queue != "default" or not worker.listening.default) and not _begins_here(worker, queue))
        ):  # fmt: skip
            others = (id, connection, timeout, dedup, debounce, debounce_limit, key)
            if (
                definition is not None
                and definition.batch is None
                and not delay
                and not labels
                and others == (None,) * 7
            ):
                return await self._start_in_line(worker, definition, args, kwargs, queue, priority, partition)
            return await super().start(
                workflow, *args, id=id, kwargs=kwargs, version=version, queue=queue, priority=priority, delay=delay,
                labels=labels, partition=partition, dedup=dedup, debounce=debounce, debounce_limit=debounce_limit,
                key=key, connection=connection, timeout=timeout,
            )  # fmt: skip
        signature = definition.signature
        data = signature.bind_input(args, kwargs or {}, limit=self.payload_limit)
        loaded = signature.load_input(data)
        if id is not None:
            instance = await worker.keyed.start(check_key(id), definition, data, queue, owned=worker.room() > 0)
            return Handle(self, instance, id, signature.returns)
        if worker.gate.full(len(data)):
            await worker.gate.enter(len(data))
            self._running()
        instance_id = worker.new_id()
        future: asyncio.Future[int] = host.loop.create_future()
        host.start(instance_id, definition, data, queue, future, worker.room() > 0, loaded)
        await future
        return Handle(self, instance_id, None, signature.returns)

    async def _start_in_line(
        self, worker: Worker, definition: Workflow[Any, Any], args: Any, kwargs: Any, queue: str, priority: int,
        partition: str | None,
    ) -> Handle[Any]:  # fmt: skip
        """A start that waits for its turn in a queue; those of the same time share a commit."""
        check_name(queue, "a queue's name")
        check_priority(priority)
        check_partition(partition)
        data = definition.signature.bind_input(args, kwargs or {}, limit=self.payload_limit)
        definition.signature.load_input(data)  # their types fit as well
        if worker.gate.full(len(data)):
            await worker.gate.enter(len(data))
            self._running()
        instance_id = worker.new_id()
        await worker.lined.start(instance_id, definition, data, queue, priority, partition)
        return Handle(self, instance_id, None, definition.signature.returns)

    def _start_here_many(
        self, workflow: Any, arguments: Any, version: str | None, queue: str
    ) -> Awaitable[bytearray] | None:
        worker = self._running()
        definition = _known(worker.host, workflow, version)
        if definition is None or not _begins_here(worker, queue):
            return None
        return self._start_each(worker, definition, arguments, queue)

    async def _start_each(
        self, worker: Worker, definition: Workflow[Any, Any], arguments: Any, queue: str
    ) -> bytearray:
        """As many as there is room for run here from the start; the others wait for whichever worker has room."""
        host, gate = worker.host, worker.gate
        bulk = BulkStart(host.loop)
        ids = bytearray()
        input = Input(definition, self.payload_limit)
        async for batch in batches(arguments):
            for argument in batch:
                data = input.encode(*split_argument(argument))
                if gate.full(len(data)):
                    await gate.enter(len(data))
                    self._running()
                instance_id = worker.new_id()
                bulk.add()
                host.start(instance_id, definition, data, queue, bulk, owned=worker.room() > 0)
                ids += instance_id
        await bulk.wait()
        worker.poller.hint()
        return ids

    async def _admit(self) -> None:
        if self._worker is not None and self._worker.gate.full():
            await self._worker.gate.enter()

    def _running(self) -> Worker:
        self._database.check_process()
        worker = self._worker
        if worker is None or worker.host.draining:
            raise self._closed()
        return worker

    def _closed(self) -> PgDurableError:
        return PgDurableError(
            "this Engine is not open" if self._worker is None else "this Engine is stopping",
            hint="Use it as `async with Engine(...) as engine`, or await engine.open().",
        )

    def _answer_here(self, id: bytes, name: str, input: bytes) -> Awaitable[bytes] | None:
        hosted = None if self._worker is None else self._worker.host.instances.get(id)
        if hosted is None or hosted.closed or hosted.machine.replaying:
            return None
        return ask_hosted(hosted, name, input)

    def _runs_here(self, id: bytes) -> bool:
        return self._worker is not None and id in self._worker.host.instances

    # -- looking -------------------------------------------------------------------------------------------------

    def running_steps(self) -> list[dict[str, Any]]:
        """Every step that runs here now, as dicts with `id` (of the instance), `step`, `attempt` and `seconds`."""
        if self._worker is None:
            return []
        now = time.perf_counter()
        return [
            {
                "id": hosted.key if hosted.key is not None else str(hosted.uuid),
                "step": run.command.name,
                "attempt": run.attempt,
                "seconds": now - run.started,
            }
            for hosted in self._worker.host.instances.values()
            for run in hosted.steps.values()
            if run.task is not None
        ] + self._worker.sql_tasks.load

    def metrics(self) -> Metrics:
        """What this engine has done, how fast, and how far the server is behind. Empty before it opens.

        Keys: instances (in memory), starting (starts the server has not acknowledged), ended, steps_done,
        steps_running, waiting (transitions not yet sent), backlog and backlog_bytes (transitions not yet acknowledged,
        starts with ids of one's own among them), callers_waiting (calls and claims held back while the backlog is at
        `max_backlog`) and callers_waited (how many have had to wait since it opened), flushes, copies, transitions,
        history_rows, bytes, p50_ms, p99_ms, p999_ms (from a transition's being recorded to its commit being known),
        polls, removed (ended instances that this engine took away when their retention was over), held_back_s and
        held_back_xids (for how long, and for how many transactions, somebody has kept dead rows from being removed),
        dead_rows (in the tables that change), queued (instances here that hold a slot of a queue with settings),
        deaf_queues (in which something waits and to which no living worker listens), reconnects, trouble (what the
        engine waits for, or None; what has lasted longest, if several).
        """
        worker = self._running() if self._stopped is None else self._worker
        return {} if worker is None else worker.metrics()


def _begins_here(worker: Worker, queue: str) -> bool:
    """Whether an instance of this queue may begin here, by the limits and what the engine listens to."""
    return worker.listening.may_begin(check_name(queue, "a queue's name"))


def _known(host: Host, workflow: str | Workflow[Any, Any], version: str | None) -> Workflow[Any, Any] | None:
    """The definition that runs here, or None."""
    try:
        if isinstance(workflow, Workflow):
            found = host.registry.get(workflow.name, version or workflow.version)
            return found if found is workflow else None
        return host.registry.get(workflow, version)
    except UnknownWorkflow:
        return None


def _http(given: Http | bool) -> Http | None:
    """The settings for requests; None: there are none. Raises PgDurableError where the library is missing."""
    if given is False or given is None:
        return None
    if not have_http():
        raise PgDurableError(
            "this engine is to make HTTP requests, and aiohttp is not installed",
            hint="pip install 'pgdurable[http]', or leave http out: a worker elsewhere makes them.",
        )
    return Http() if given is True else given
