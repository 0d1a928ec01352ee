"""The Engine: a worker and a client in one. Runs the workflows this process has imported."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any

import psycopg

from pgdurable._core import add_audit_hook
from pgdurable._engine.backlog import MOST_BYTES, Gate
from pgdurable._engine.bulk import batches
from pgdurable._engine.clock import DatabaseClock
from pgdurable._engine.connections import close_pool, connect_failed, make_pool, resolve_dsn
from pgdurable._engine.host import Host
from pgdurable._engine.ids import check_key, new_id
from pgdurable._engine.journal import Journal
from pgdurable._engine.membership import Membership
from pgdurable._engine.metrics import Metrics, gather
from pgdurable._engine.poller import Poller
from pgdurable._engine.records import StartRecord
from pgdurable._engine.starts import BulkStart, KeyedStarts, never_told
from pgdurable._engine.step_connection import AsyncStepConnection
from pgdurable._engine.tasks import end_tasks, within
from pgdurable._engine.transactions import Transactions
from pgdurable._runtime.guard import install_guard
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries
from pgdurable.client import PAYLOAD_LIMIT, Client, Handle, bind_and_load, bind_input, split_argument
from pgdurable.errors import PgDurableError, UnknownWorkflow
from pgdurable.retry import seconds
from pgdurable.workflow import Registry, Workflow, registry

__all__ = ["Engine"]

logger = logging.getLogger("pgdurable.engine")

MAX_BACKLOG = 20_000


class Engine(Client):
    """Runs workflows and is a client too. Use it as ``async with Engine(dsn) as engine``.

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
        max_connections: connections for transaction steps, so how many run at once. Default 10. Beside them the
            engine keeps one for its transitions, up to 3 for its lease and for finding work, up to 4 for reads.
        payload_limit: largest encoded input, result or signal in bytes. Default 1 MiB.
        park_after: seconds after which an instance that only waits leaves memory. Default 5.
        guard: refuse real I/O and blocking sleeps in workflow code (a Python audit hook). Default on.
    """

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
        max_connections: int = 10,
        payload_limit: int = PAYLOAD_LIMIT,
        park_after: float | timedelta = 5.0,
        guard: bool = True,
    ) -> None:
        super().__init__(dsn, schema=schema, payload_limit=payload_limit)
        self._dsn = resolve_dsn(dsn, application="pgdurable engine")
        self._registry = registry if workflows is None else Registry(workflows)
        self._migrate = migrate
        self._name_ = name
        self._lease = seconds(lease) or 10.0
        self._poll_interval = seconds(poll_interval) or 1.0
        self._max_instances = max_instances
        if max_backlog < 1:
            raise ValueError(f"max_backlog is at least 1, found {max_backlog}")
        self._max_backlog = max_backlog
        self._max_threads = max_threads
        self._max_transactions = max_connections
        self._park_after = seconds(park_after) or 0.0
        self._guard = guard
        self._host: Host | None = None
        self._worker_pool: Any = None
        self._transaction_pool: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._rejoining: asyncio.Task[None] | None = None
        self._stopped: asyncio.Future[None] | None = None

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
        self._check_process()
        if self._host is not None:
            return
        loop = asyncio.get_running_loop()
        if self._migrate:
            await loop.run_in_executor(None, migrations.migrate, self._dsn, self.schema)
        await super().open()
        try:
            await self._join()
        except BaseException:
            for pool in (self._worker_pool, self._transaction_pool):
                if pool is not None:
                    await close_pool(pool)
            await super().close()
            raise

    async def _join(self) -> None:
        if self._guard:
            install_guard(add_audit_hook)
        # Pools of their own: neither long transaction steps nor many readers may keep the lease from being renewed.
        pool = await make_pool(self._dsn, max_size=3)
        self._worker_pool = pool
        self._transaction_pool = await make_pool(
            self._dsn, max_size=self._max_transactions, connection_class=AsyncStepConnection
        )
        known = Registry(self._registry)
        journal = Journal(
            self._dsn, named_queries("flush", self.schema),
            on_fenced=self._fenced, on_notice=self._notice, clock=DatabaseClock(),
        )  # fmt: skip
        host = Host(
            journal, known, payload_limit=self.payload_limit, threads=self._max_threads, park_after=self._park_after
        )
        self._journal = journal
        host.transactions = Transactions(host, self._transaction_pool, self._dsn, self.schema, self._max_transactions)
        self._membership = Membership(
            pool, self.schema, lease=self._lease, name=self._name_, on_fenced=self._fenced,
            on_orphans=lambda: self._poller.hint(),
        )  # fmt: skip
        self._gate = gate = Gate(self._load, self._max_backlog, MOST_BYTES)
        journal.on_answer = gate.open_up
        self._poller = Poller(host, pool, self.schema, room=self._room, gate=gate, interval=self._poll_interval)
        self._keyed = KeyedStarts(host, self._pool, self.schema, self._max_backlog)
        host.on_outcome = self._tell_outcome
        host.on_fenced = self._fenced
        host.on_parked = self._poller.hint_at
        await self._register(known)
        await self._enter(host)
        self._host = host
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._poller.run()),
            loop.create_task(self._membership.keep(self.metrics)),
            loop.create_task(self._sweep()),
        ]

    async def _register(self, known: Registry) -> None:
        definitions = list(known)
        if not definitions:
            return
        try:
            async with self._pool.connection() as conn:
                await conn.execute(
                    named_queries("worker", self.schema)["register_workflows"],
                    ([d.name for d in definitions], [d.version for d in definitions], ["{}"] * len(definitions)),
                )
        except psycopg.Error as error:
            raise connect_failed(self._dsn, error) from None

    async def _enter(self, host: Host) -> None:
        """A new incarnation: joins the workers and opens the journal under it."""
        definitions = list(host.registry)
        try:
            host.worker = await self._membership.join([{"name": d.name, "version": d.version} for d in definitions])
            await self._journal.open(host.worker, self._membership.session_setup())
            host.clock.learn(*await self._membership.time())
        except (psycopg.Error, ConnectionError) as error:
            raise connect_failed(self._dsn, error) from None

    async def close(self) -> None:
        """Stops: running steps finish and are checkpointed, the rest is free for other workers at once."""
        await self.stop()
        await super().close()

    async def stop(self, *, drain: float | timedelta | None = 30.0) -> None:
        """Ends running workflows here; `close` calls it. Calling it again waits for the same end.

        Args:
            drain: seconds (or timedelta) running steps get to finish; what is not done then runs again elsewhere.
                None: as long as they take.
        """
        host = self._host
        if host is None or self._foreign:
            return
        loop = asyncio.get_running_loop()
        if self._stopped is not None:
            await asyncio.shield(self._stopped)
            return
        self._stopped = loop.create_future()
        try:
            host.draining = True
            self._gate.close(self._closed)
            self._keyed.gate.close(self._closed)
            await self._drain(host, seconds(drain))
        finally:
            await self._keyed.close()
            await end_tasks(*self._tasks, self._rejoining)
            for tag in await self._journal.discard():
                if isinstance(tag, StartRecord):
                    tag.refused(never_told())
            left = host.drop_everything()
            if left:
                await asyncio.wait(left, timeout=5.0)  # transactions roll back
            await self._journal.close()
            await host.transactions.close()
            await close_pool(self._transaction_pool)
            try:
                if not host.fenced:
                    # A server that is away is not waited for: the lease runs out by itself.
                    await within(5.0 if self._journal.trouble is None else 0.2, self._membership.leave())
            except (psycopg.Error, asyncio.TimeoutError, PgDurableError) as error:
                logger.warning("could not sign off from the server (%s); the lease will run out", error)
            await close_pool(self._worker_pool)
            host.threads.shutdown(wait=False, cancel_futures=True)
            self._host = None
            stopped, self._stopped = self._stopped, None
            stopped.set_result(None)

    async def _drain(self, host: Host, longest: float | None) -> None:
        loop = asyncio.get_running_loop()
        end = None if longest is None else loop.time() + longest
        try:
            await within(None if longest is None else max(longest, 0.001), host.quiet())
        except asyncio.TimeoutError:
            logger.warning("%s steps still run after %g s; they run again elsewhere", host.steps_running, longest)
        try:
            await within(None if end is None else max(end - loop.time(), 1.0), self._journal.drain())
        except asyncio.TimeoutError:
            logger.warning("stopping with transitions that the server has not acknowledged; they are done again")

    async def _sweep(self) -> None:
        """Now and then: deadlines of flushes, parking of the idle."""
        while True:
            await asyncio.sleep(0.5)
            self._journal.check_deadline()
            if self._host is not None:
                self._host.park_idle()

    # -- losing and regaining the lease ----------------------------------------------------------------------------

    def _fenced(self) -> None:
        host = self._host
        if host is None or host.fenced:
            return
        host.fenced = True
        logger.warning("worker %s was taken over; it drops what it held and joins anew", host.worker)
        self._rejoining = asyncio.get_running_loop().create_task(self._rejoin(host))

    async def _rejoin(self, host: Host) -> None:
        host.drop_everything()
        tags = await self._journal.discard()
        wait = 0.05
        while True:
            try:
                await self._enter(host)
                break
            except (PgDurableError, psycopg.Error) as error:
                logger.debug("cannot join yet: %s", error)
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
        host.fenced = False
        for tag in tags:
            # A start nobody has been told of: it may have been committed, so it is sent in its idempotent form.
            if isinstance(tag, StartRecord):
                host.start_unowned_again(tag)
        self._journal.resend_all()
        self._gate.open_up()
        self._rejoining = None
        self._poller.hint()

    def _load(self) -> tuple[int, int]:
        """Transitions and bytes the server is behind with. A start counts until its caller has been told."""
        transitions, nbytes = self._journal.load
        host = self._host
        return transitions if host is None else max(transitions, host.starting), nbytes

    async def _admit(self) -> None:
        if self._host is not None and self._gate.full():
            await self._gate.enter()

    def _notice(self, payloads: set[str]) -> None:
        self._poller.hint()

    def _room(self) -> int:
        host = self._host
        return 0 if host is None else self._max_instances - len(host.instances) - host.starting

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
        """Starts an instance; it is durable when this returns, and runs here while there is room.

        Arguments and errors: as `Client.start`. Without `connection`, `delay`, `priority`, `labels` and a workflow
        foreign to this engine, the start shares its commit with whatever else the engine has to write.
        """
        host = self._running()
        definition = self._mine(workflow, version)
        if definition is None or connection is not None or delay or priority or labels:
            return await super().start(
                workflow, *args, id=id, kwargs=kwargs, version=version, queue=queue, priority=priority, delay=delay,
                labels=labels, connection=connection,
            )  # fmt: skip
        data, loaded = bind_and_load(definition, args, kwargs, self.payload_limit)
        type = definition.signature.returns
        if id is not None:
            instance = await self._keyed.start(check_key(id), definition, data, queue, owned=self._room() > 0)
            return Handle(self, instance, id, type)
        if self._gate.full(len(data)):
            await self._gate.enter(len(data))
            self._running()
        instance_id = new_id()
        future: asyncio.Future[int] = host.loop.create_future()
        host.start(instance_id, definition, data, queue, future, self._room() > 0, loaded)
        await future
        return Handle(self, instance_id, None, type)

    def _start_here_many(
        self, workflow: Any, arguments: Any, version: str | None, queue: str
    ) -> Awaitable[bytearray] | None:
        definition = self._mine(workflow, version)
        return None if definition is None else self._start_each(self._running(), definition, arguments, queue)

    async def _start_each(self, host: Host, definition: Workflow[Any, Any], arguments: Any, queue: str) -> bytearray:
        """As many as there is room for run here from the start; the others wait for whichever worker has room."""
        bulk = BulkStart(host.loop)
        ids = bytearray()
        async for batch in batches(arguments):
            for argument in batch:
                args, kwargs = split_argument(argument)
                data = bind_input(definition, args, kwargs, self.payload_limit)
                if self._gate.full(len(data)):
                    await self._gate.enter(len(data))
                    self._running()
                instance_id = new_id()
                bulk.add()
                host.start(instance_id, definition, data, queue, bulk, owned=self._room() > 0)
                ids += instance_id
        await bulk.wait()
        self._poller.hint()
        return ids

    def _mine(self, workflow: str | Workflow[Any, Any], version: str | None) -> Workflow[Any, Any] | None:
        host = self._running()
        try:
            if isinstance(workflow, Workflow):
                found = host.registry.get(workflow.name, version or workflow.version)
                return found if found is workflow else None
            return host.registry.get(workflow, version)
        except UnknownWorkflow:
            return None

    def _running(self) -> Host:
        self._check_process()
        if self._host is None or self._host.draining:
            raise self._closed()
        return self._host

    def _closed(self) -> PgDurableError:
        return PgDurableError(
            "this Engine is not open" if self._host is None else "this Engine is stopping",
            hint="Use it as `async with Engine(...) as engine`, or await engine.open().",
        )

    def _runs_here(self, id: bytes) -> bool:
        return self._host is not None and id in self._host.instances

    # -- looking -------------------------------------------------------------------------------------------------

    def running_steps(self) -> list[dict[str, Any]]:
        """Every step that runs here now, as dicts with `id` (of the instance), `step`, `attempt` and `seconds`."""
        host = self._host
        if host is None:
            return []
        now = time.perf_counter()
        return [
            {
                "id": hosted.key if hosted.key is not None else str(hosted.uuid),
                "step": run.command.name,
                "attempt": run.attempt,
                "seconds": now - run.started,
            }
            for hosted in host.instances.values()
            for run in hosted.steps.values()
            if run.task is not None
        ]

    def metrics(self) -> Metrics:
        """What this engine has done, how fast, and how far the server is behind. Empty before it opens.

        Keys: instances (in memory), starting (starts the server has not acknowledged), ended, steps_done,
        steps_running, waiting (transitions not yet sent), backlog and backlog_bytes (transitions not yet acknowledged,
        starts with ids of one's own among them), callers_waiting (calls and claims held back while the backlog is at
        `max_backlog`) and callers_waited (how many have had to wait since it opened), flushes, copies, transitions,
        history_rows, bytes, p50_ms, p99_ms, p999_ms (from a transition's being recorded to its commit being known),
        polls, reconnects, trouble (what the engine waits for, or None).
        """
        host = self._running() if self._stopped is None else self._host
        if host is None:
            return {}
        return gather(host, self._journal, (self._gate, self._keyed.gate), self._keyed, self._poller)
