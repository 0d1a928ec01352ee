"""An engine as a worker: joining with all that it takes, running until stopped, joining anew when taken over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._core import add_audit_hook
from pgdurable._engine.admission import Admission
from pgdurable._engine.answers import borrow
from pgdurable._engine.backlog import MOST_BYTES, Gate
from pgdurable._engine.connections import close_pool, connect_failed, make_pool
from pgdurable._engine.database import Database
from pgdurable._engine.handover import drain
from pgdurable._engine.host import Host
from pgdurable._engine.incarnation import Incarnation
from pgdurable._engine.journal import Journal
from pgdurable._engine.lined import LinedStarts
from pgdurable._engine.listening import Listening
from pgdurable._engine.membership import Membership
from pgdurable._engine.memory import Memory
from pgdurable._engine.metrics import Metrics, gather
from pgdurable._engine.notes import Notes
from pgdurable._engine.outcomes import Outcomes
from pgdurable._engine.poller import Poller
from pgdurable._engine.processes import Processes
from pgdurable._engine.pumps import Pumps
from pgdurable._engine.queries import Answerer
from pgdurable._engine.rates import Rates
from pgdurable._engine.records import StartRecord
from pgdurable._engine.same_server import SameServer
from pgdurable._engine.sql_tasks import SqlTasks
from pgdurable._engine.starts import KeyedStarts, never_told
from pgdurable._engine.step_connection import AsyncStepConnection
from pgdurable._engine.sweeper import Sweeper
from pgdurable._engine.tasks import end_tasks
from pgdurable._engine.transactions import Transactions
from pgdurable._engine.trials import Trials
from pgdurable._engine.trouble import Troubles
from pgdurable._engine.upkeep import Upkeep
from pgdurable._runtime.guard import install_guard
from pgdurable._step_names import step_names
from pgdurable._store.sql import named_queries
from pgdurable.errors import PgDurableError
from pgdurable.http import Http
from pgdurable.workflow import Registry

__all__ = ["Settings", "Worker"]

logger = logging.getLogger("pgdurable.engine")

_SWEEP_S = 0.5
# Between two looks for questions: where nothing hints, and where a notification says that there are some.
_ASK_S, _ASK_ANYWAY_S = 1.0, 5.0
# The same for what workflows in SQL ask for.
_TASKS_ANYWAY_S = 5.0
# While others wait for the end of a trial.
_SWEEP_ON_TRIAL_S = 0.05


@dataclass(frozen=True)
class Settings:
    """What `Engine` is given, of that what concerns the worker; durations in seconds."""

    name: str | None
    lease: float
    poll_interval: float
    max_instances: int
    max_backlog: int
    max_threads: int
    max_processes: int
    max_transactions: int
    payload_limit: int
    park_after: float
    busy_wait: float
    quarantine_after: int | None
    guard: bool
    queues: tuple[str, ...] | None = None
    http: Http | None = None
    pumps: int = 0


class Worker:
    """See the head of this file. `join` makes one; it serves from one join until `stop`.

    Attributes:
        host: the instances in memory, and what their code runs on.
        gate: where new work waits while the server is behind.
        keyed: starts with user-chosen ids.
        lined: starts that stand in line.
        listening: the queues it takes instances of.
    """

    def __init__(
        self,
        database: Database,
        known: Registry,
        settings: Settings,
        server: SameServer,
        worker_pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        transaction_pool: AsyncConnectionPool[AsyncStepConnection],
    ) -> None:
        dsn, schema = database.dsn, database.schema
        self._database = database
        self._settings = settings
        self._server = server
        self._worker_pool = worker_pool
        self._transaction_pool = transaction_pool
        self._tasks: list[asyncio.Task[None]] = []
        self._pump_pool: AsyncConnectionPool[Any] | None = None
        self.troubles = troubles = Troubles()
        self.journal = journal = Journal(
            dsn, named_queries("flush", schema), clock=database.clock,
            on_fenced=lambda: self._incarnation.fenced(), on_notice=self._noticed,
            on_connected=lambda found: self._memory.compare(found), troubles=troubles,
            busy_wait=settings.busy_wait, prepared=database.route.prepared,
        )  # fmt: skip
        self.host = host = Host(
            journal, known, payload_limit=settings.payload_limit, threads=settings.max_threads,
            park_after=settings.park_after, encryption=database.encryption,
        )  # fmt: skip
        host.transactions = Transactions(
            host, transaction_pool, dsn, schema, settings.max_transactions, database.route, server=server,
            troubles=troubles,
        )  # fmt: skip
        self.listening = Listening(settings.queues)
        # On the clients' connections: what waits for a rate must not keep the lease from being renewed.
        host.admission = Admission(
            host, Rates(database.pool, schema, troubles), Processes(host.loop, settings.max_processes)
        )  # fmt: skip
        self.notes = Notes(host, database.pool, schema)
        self.membership = Membership(
            worker_pool, schema, lease=settings.lease, name=settings.name, pooled=database.route.pooled,
            queues=self.listening.queues,
            on_fenced=lambda: self._incarnation.fenced(), on_orphans=lambda: self.poller.hint(), troubles=troubles,
        )  # fmt: skip
        self.gate = gate = Gate(self._load, settings.max_backlog, MOST_BYTES, lambda: journal.behind)
        journal.on_answer = gate.open_up
        self.upkeep = Upkeep(worker_pool, schema)
        self.upkeep.on_aside = partial(setattr, journal.flusher, "aside_over")
        self.trials = Trials(host, settings.quarantine_after)
        self.sweeper = Sweeper(worker_pool, schema)
        self.poller = Poller(
            host, worker_pool, schema, self.upkeep, room=self.room, trials=self.trials, gate=gate,
            listening=self.listening, interval=settings.poll_interval, new_id=self.new_id, troubles=troubles,
        )  # fmt: skip
        self.lined = LinedStarts(database)
        self.sql_tasks = SqlTasks(
            host, database.pool, schema, step_names, settings.http, self.listening.queues,
            settings.poll_interval if database.route.pooled else _TASKS_ANYWAY_S,
        )  # fmt: skip
        self.pumps: Pumps | None = None
        self.answerer = Answerer(host, worker_pool, schema, _ASK_S if database.route.pooled else _ASK_ANYWAY_S)
        self.keyed = KeyedStarts(host, database.pool, schema, settings.max_backlog, self.new_id, troubles)
        self._memory = Memory(
            host, self.membership, server, dsn, schema, database.route, on_lost=lambda: self._incarnation.forgotten(),
            on_same=self.poller.doubt,
        )  # fmt: skip
        server.on_other = partial(host.loop.call_soon_threadsafe, journal.distrust)
        self._incarnation = Incarnation(
            host, journal, self.membership, self.trials, gate, self.poller, enter=self._enter
        )  # fmt: skip
        host.on_fenced = self._incarnation.fenced
        host.on_parked = self.poller.hint_at
        host.new_id, host.room = self.new_id, lambda: self.room() if self.listening.default else 0
        host.on_slot = self.poller.hint
        host.on_missed = self.poller.look_again
        database.on_queue = self.listening.add
        if database.route.pooled:
            database.on_work = self.poller.hint
            self.membership.look = server.look

    # -- life ----------------------------------------------------------------------------------------------------

    @classmethod
    async def join(cls, database: Database, registry: Registry, settings: Settings, outcomes: Outcomes) -> Worker:
        """Connects, enters the workers and begins to run. Tells `outcomes` how its instances end."""
        if settings.guard:
            install_guard(add_audit_hook)
        pools: list[AsyncConnectionPool[Any]] = []
        try:
            # Pools of their own: neither long transaction steps nor many readers may keep the lease from being renewed.
            server = SameServer(database.schema, pooled=database.route.pooled)
            pools.append(await make_pool(database.dsn, max_size=3, configure=server.configure, route=database.route))
            pools.append(
                await make_pool(
                    database.dsn,
                    max_size=settings.max_transactions,
                    connection_class=AsyncStepConnection,
                    configure=server.configure_step,
                    route=database.route,
                )
            )
            worker = cls(database, Registry(registry), settings, server, *pools)
            worker.host.on_outcome = outcomes.tell
            await worker._register()
            await worker._enter()
        except BaseException:
            for pool in pools:
                await close_pool(pool)
            raise
        worker._run()
        if settings.pumps:
            await worker._start_pumps(server)
        return worker

    async def _register(self) -> None:
        definitions = list(self.host.registry)
        if not definitions:
            return
        try:
            async with borrow(self._database.pool) as conn:
                sql = named_queries("worker", self._database.schema)
                policies = [msgspec.json.encode(d.policies).decode() for d in definitions]
                params = ([d.name for d in definitions], [d.version for d in definitions], policies)
                await conn.execute(sql["register_workflows"], params)
                cursor = await conn.execute(sql["changed_policies"], params)
                if await cursor.fetchone() != (0,):
                    await conn.execute(sql["change_policies"], params)
        except psycopg.Error as error:
            raise connect_failed(self._database.dsn, error) from None

    async def _enter(self) -> None:
        """A new incarnation: joins the workers and opens the journal under it."""
        host, membership = self.host, self.membership
        self._server.known = None  # there is nothing in memory yet
        try:
            await self._database.learn_time()
            host.worker = await membership.join([{"name": d.name, "version": d.version} for d in host.registry])
            self._server.known = await self.journal.open(
                host.worker, membership.session_setup(self._server.setup)
            )  # fmt: skip
            if not self.upkeep.end:
                await self.upkeep.make_partitions()
            async with borrow(self._worker_pool) as conn:
                await self.poller.learn_queues(conn)  # before anything is started here
        except (psycopg.Error, ConnectionError) as error:
            raise connect_failed(self._database.dsn, error) from None

    def _run(self) -> None:
        self._incarnation.joined = True
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.poller.run()),
            loop.create_task(self.answerer.run()),
            loop.create_task(self.membership.keep(self.metrics)),
            loop.create_task(self._sweep()),
            loop.create_task(self.upkeep.run()),
            loop.create_task(self.sweeper.run(lambda: self.host.worker)),
            loop.create_task(self.notes.run()),
            loop.create_task(self.sql_tasks.run()),
        ]

    async def _start_pumps(self, server: SameServer) -> None:
        database, settings = self._database, self._settings
        self._pump_pool = await make_pool(database.dsn, max_size=1, configure=server.configure, route=database.route)
        self.pumps = Pumps(
            database.dsn, self._pump_pool, database.schema, settings.pumps, self.listening.queues,
            settings.poll_interval, database.route, self.troubles,
        )  # fmt: skip
        self.pumps.start()

    def _noticed(self, payloads: set[str]) -> None:
        if "query" in payloads:
            self.answerer.ring()
        if "task" in payloads:
            self.sql_tasks.ring()
        if payloads - {"query", "task"}:
            self.poller.noticed(payloads)
        if self.pumps is not None and payloads != {"query"}:
            self.pumps.ring()

    async def _sweep(self) -> None:
        """Now and then: deadlines of flushes, parking of the idle, trials that are over."""
        while True:
            await asyncio.sleep(_SWEEP_ON_TRIAL_S if self.trials else _SWEEP_S)
            self.journal.check_deadline()
            self.host.park_idle()
            if self.trials.look():
                self.poller.hint()

    async def stop(self, longest: float | None, error: Callable[[], BaseException]) -> bool:
        """Running steps get so many seconds (None: as long as they take); then it leaves the workers.

        What runs no step is handed over at once. Returns whether it drained: no step had to be given up.

        Args:
            error: for the callers that wait to be let in.
        """
        host = self.host
        drained = False
        try:
            host.draining = True
            self.gate.close(error)
            self.keyed.gate.close(error)
            stopping = [drain(host, self.journal, self.membership, longest)]
            if self.pumps is not None:
                stopping.append(self.pumps.stop(longest))
            drained = all(await asyncio.gather(*stopping))
        finally:
            await self.keyed.close()
            await self.lined.close()
            await self.sql_tasks.close()
            await end_tasks(*self._tasks, self._incarnation.rejoining)
            for tag in await self.journal.discard():
                if isinstance(tag, StartRecord):
                    tag.refused(never_told())
            left = host.drop_everything()
            host.admission.close()
            if left:
                await asyncio.wait(left, timeout=5.0)  # transactions roll back
            await self.journal.close()
            await host.transactions.close()
            await close_pool(self._transaction_pool)
            try:
                if not host.fenced:
                    # A server that is away is not waited for: the lease runs out by itself.
                    await self.membership.leave(5.0 if self.journal.trouble is None else 0.2)
            except (psycopg.Error, PgDurableError) as trouble:
                logger.warning("could not sign off from the server (%s); the lease will run out", trouble)
            await close_pool(self._worker_pool)
            if self._pump_pool is not None:
                await close_pool(self._pump_pool)
            host.threads.shutdown(wait=False, cancel_futures=True)
            self._incarnation.joined = False
        return drained

    # -- how much there is ---------------------------------------------------------------------------------------

    def _load(self) -> tuple[int, int]:
        """Transitions and bytes the server is behind with. A start counts until its caller has been told."""
        transitions, nbytes = self.journal.load
        return max(transitions, self.host.starting), nbytes

    def new_id(self) -> bytes:
        """The id of an instance to start. Raises PgDurableError when its history would have no partition."""
        return self.upkeep.check(self._database.ids.new_id())

    def room(self) -> int:
        """How many more instances may be in memory."""
        host = self.host
        return self._settings.max_instances - len(host.instances) - host.starting

    def metrics(self) -> Metrics:
        """As `Engine.metrics`."""
        return gather(
            self.host, self.journal, (self.gate, self.keyed.gate), self.keyed, self.poller, self.sweeper,
            self.troubles, self.upkeep,
        )  # fmt: skip
