"""Simulation: an engine without a database, whose time passes when the test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import msgspec

from pgdurable._engine.bulk import batches
from pgdurable._engine.clock import micros
from pgdurable._engine.columns import columns_of
from pgdurable._engine.inputs import split_argument
from pgdurable._engine.replies import Replies
from pgdurable.client import PAYLOAD_LIMIT, Client
from pgdurable.compression import Compression, codecs_of
from pgdurable.encryption import Encryption
from pgdurable.errors import UnknownWorkflow
from pgdurable.handle import Handle
from pgdurable.retry import seconds
from pgdurable.testing._asking import Asking
from pgdurable.testing._clock import VirtualClock
from pgdurable.testing._crashes import Crashes, SimulatedCrash
from pgdurable.testing._database import MemoryDatabase
from pgdurable.testing._doubles import _NOTHING, Call, Doubles, Mock, SimulatedFailure, checked
from pgdurable.testing._process import Process
from pgdurable.testing._store import Store
from pgdurable.testing._talk import copy_talk
from pgdurable.testing._time import Time
from pgdurable.testing._writes import apply_write
from pgdurable.workflow import Registry, Workflow, registry

__all__ = ["Simulation"]

START = datetime(2030, 1, 1, tzinfo=timezone.utc)


class Simulation(Asking, Time, Client):
    """Runs workflows in memory, by a clock of its own: ``async with Simulation() as sim``. No PostgreSQL is needed.

    It is the engine with another database under it: order, replay, retries, timers, parking, signals are the same code.
    Time stands still until the test waits for a result, or says `advance`. Everything a `Client` does works here;
    `result(timeout=...)` counts the simulation's seconds.

    Args:
        start: the time it begins with. Default: the first of January 2030, UTC, so that every run is the same.
        workflows: what it runs. Default: every workflow imported so far, and those it is asked to start.
        connection: what transaction steps get that are not mocked: a stand-in of the test's own for
            `psycopg.AsyncConnection`. Default: such a step fails, with a message that says what to do.
        park_after: seconds of its clock after which an instance that only waits leaves memory, and is replayed later:
            so most tests test replay too. None: never.
        seed: of the ids, so of what `pgdurable.random()` and `uuid4()` give. The same in every run unless changed.
        payload_limit, encryption, compression: as for `Engine`.
        patience: seconds of real time that a step may take while the simulation waits for it.
    """

    def __init__(
        self,
        *,
        start: datetime = START,
        workflows: Iterable[Workflow[Any, Any]] | None = None,
        connection: Any = None,
        park_after: float | timedelta | None = 5.0,
        seed: int = 0,
        payload_limit: int = PAYLOAD_LIMIT,
        encryption: Encryption | None = None,
        compression: Compression | None = None,
        patience: float | timedelta = 10.0,
    ) -> None:
        if start.tzinfo is None:
            raise ValueError(f"start= has a time zone, found {start!r}")
        self.clock = VirtualClock(micros(start.astimezone(timezone.utc)))
        self._store = Store(self.clock, apply_write)
        self._store.on_work = self._work
        self._store.new_id = lambda: self._database.ids.new_id()
        self._store.on_end = self._ended
        # In place of what Client makes, which leads to a server.
        self.payload_limit = payload_limit
        self._database: Any = MemoryDatabase(self._store, seed, codecs_of(compression, encryption))
        self.schema = self._database.schema
        self._rows, self._asked = self._database.rows, self._database.asked
        self._encryption = self._database.encryption
        self._registry = _Imported() if workflows is None else Registry(workflows)
        self._open_registry = workflows is None
        self._park_after = seconds(park_after)
        self._patience = seconds(patience) or 0.0
        self._replies = Replies(cast(Any, self._database))
        self._database.before = self._before_query
        self._idle_reads: dict[Any, int] = {}
        self._store.copied = copy_talk
        self._crashes = Crashes()
        self._doubles = Doubles(self.clock, self._reach_in_step)
        self._doubles.connection = connection
        self._process: Process | None = None
        self._incarnations = 0
        self._commits = 0
        self._waiting: dict[bytes, list[asyncio.Future[Any]]] = {}

    # -- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Simulation:
        await self.open()
        return self

    async def open(self) -> None:
        """Begins. Opened again after `close`, on another event loop too, what was there goes on as after a crash."""
        if self._process is None:
            await self._database.open()
            self._boot()

    async def close(self) -> None:
        """Ends it; nothing runs any more. What is stored stays, for `open`."""
        process = self._process
        if process is None:
            return
        self._process = None
        await self._replies.close()
        await self._database.close()
        tasks = [task for hosted in process.host.instances.values() for run in hosted.steps.values()
                 if (task := run.task) is not None]  # fmt: skip
        process.die()
        self._store.take_over(process.host.worker)
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
        self._waiting.clear()
        if tasks:
            await asyncio.wait(tasks, timeout=self._patience)

    def _boot(self) -> None:
        self._incarnations += 1
        self._process = Process(
            self._store, self._registry, self._doubles, self._incarnations, reach=self._reach, crash=self._crash_now,
            park_after=self._park_after, payload_limit=self.payload_limit, encryption=self._encryption,
            on_outcome=lambda id, outcome: None, on_reply=self._replies.tell, new_id=self._database.ids.new_id,
        )  # fmt: skip
        self._process.wake()

    def _running(self) -> Process:
        self._database.check_open()
        assert self._process is not None
        return self._process

    def _work(self) -> None:
        if self._process is not None:
            self._process.wake()

    # -- starting ----------------------------------------------------------------------------------------------------

    async def start(self, workflow: str | Workflow[Any, Any], *args: Any, **options: Any) -> Handle[Any]:
        """As `Client.start`. It runs when the test waits: for time, a result, or `settle`."""
        if isinstance(workflow, Workflow) and self._open_registry:
            self._registry.add(workflow)
        return await super().start(workflow, *args, **options)

    async def start_many(self, workflow: Any, arguments: Any, **options: Any) -> Any:
        """As `Client.start_many`."""
        definition = workflow if isinstance(workflow, Workflow) else None
        columns = columns_of(arguments, definition, str(workflow))
        if columns is not None:
            columns.check(0, len(columns), self.payload_limit)
            arguments = (_row(columns.table.row(n)) for n in range(len(columns)))
        return await super().start_many(workflow, arguments, **options)

    def _start_here_many(self, workflow: Any, arguments: Any, version: str | None, queue: str) -> Any:
        return self._start_each(workflow, arguments, version, queue)

    async def _start_each(self, workflow: Any, arguments: Any, version: str | None, queue: str) -> bytearray:
        ids = bytearray()
        async for batch in batches(arguments):
            for argument in batch:
                args, kwargs = split_argument(argument)
                handle = await self.start(workflow, *args, kwargs=kwargs, version=version, queue=queue)
                ids += handle.instance_id.bytes
        return ids

    # -- doubles -----------------------------------------------------------------------------------------------------

    def mock(
        self,
        step: Any,
        *,
        returns: Any = _NOTHING,
        raises: Any = None,
        side_effect: Any = None,
        takes: float | timedelta = 0.0,
        times: int | None = None,
    ) -> Mock:
        """Lets a step do something else from now on. What it returns passes through the codec as ever.

        Args:
            step: the decorated function, or the step's name.
            returns: its result.
            raises: an exception (or type) that every attempt raises; the step's retry policy holds.
            side_effect: a function called instead, `async` or not, with the step's arguments; or an iterable of
                results and exceptions, one per attempt.
            takes: seconds (or timedelta) of the simulation's time that an attempt lasts; math.inf: it hangs. Given
                alone, the step itself runs after that time.
            times: how many attempts it is for; afterwards the step is itself again. None: all.
        Returns:
            The mock, whose `calls` are the attempts it stood in for.
        """
        return self._doubles.mock(step, **checked(returns, raises, side_effect, takes, times))

    def unmock(self, step: Any) -> None:
        """The step does again what is written."""
        self._doubles.unmock(step)

    def fail(self, step: Any, *, times: int = 1, error: Any = None, after: bool = False) -> None:
        """The next attempts of a step fail.

        Args:
            step: the decorated function, or the step's name.
            times: how many of them.
            error: what they raise, an exception or its type. Default `SimulatedFailure`.
            after: what is written is done first, as when an answer is lost on its way.
        """
        shown = step if isinstance(step, str) else step.name
        self._doubles.fail(step, times, error or SimulatedFailure(f"simulated failure of step {shown}"), after)

    def calls(self, step: Any = None) -> list[Call]:
        """The attempts of a step (None: of all), in order; those before a crash too."""
        return list(self._doubles.calls) if step is None else self._doubles.calls_of(step)

    # -- crashes -----------------------------------------------------------------------------------------------------

    async def crash(self, *, workflows: Iterable[Workflow[Any, Any]] | None = None) -> None:
        """The process dies: everything in memory is gone, what was acknowledged stays; a new process goes on with it.

        Args:
            workflows: what the new process has, as after a deploy of other code. Default: what the old one had.
        """
        if workflows is not None:
            self._registry = Registry(workflows)
            self._open_registry = False
        await asyncio.sleep(0)
        self._running()
        self._crash_now()

    def crash_at(self, point: str, n: int = 1) -> None:
        """The process will die the n-th time from now that it comes by a point.

        Points: `commit.before` and `commit.after` a commit (of all that was recorded in one turn); `step.begin` and
        `step.ran`; and, by the kind of history row (`step`, `attempt`, `timer`, `signal`, `end`, `park` and so on),
        `step.recorded`: on its way to the commit, and `step.committed`: the workflow has not been told.
        """
        self._crashes.at(point, n)

    @property
    def crashed(self) -> int:
        """How often the process has died."""
        return self._incarnations - 1

    @property
    def commits(self) -> int:
        """Commits of workers so far: the places at which a crash may matter."""
        return self._commits + (0 if self._process is None else self._process.journal.commits)

    def _reach(self, point: str) -> bool:
        return self._crashes.reach(point)

    def _reach_in_step(self, point: str) -> None:
        if self._crashes.reach(point):
            loop = self._running().host.loop
            if threading.get_ident() == self._loop_thread:
                self._crash_now()
            else:
                loop.call_soon_threadsafe(self._crash_now)
            raise SimulatedCrash

    @property
    def _loop_thread(self) -> int:
        return getattr(self._running().host.loop, "_thread_id", 0)

    def _crash_now(self) -> None:
        process = self._process
        if process is None or process.dead:
            return
        self._commits += process.journal.commits
        process.die()
        self._store.take_over(process.host.worker)
        self._boot()


class _Imported(Registry):
    """Every workflow imported so far, whenever it is asked for."""

    def __init__(self) -> None:
        super().__init__(registry)

    def get(self, name: str, version: str | None = None) -> Workflow[Any, Any]:
        try:
            return super().get(name, version)
        except UnknownWorkflow:
            found = registry.get(name, version)
            self.add(found)
            return found


def _row(data: bytes) -> Any:
    """A row of columns, as start_many takes one: a tuple, or a dict by parameter name."""
    row = msgspec.json.decode(data)
    return tuple(row) if isinstance(row, list) else row
