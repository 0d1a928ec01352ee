"""The instances this process holds in memory: their starts, timers, signals, parking and ends.

Everything here runs on the event loop's thread. What becomes durable goes through the journal; what other workers
must see goes through the poller and the membership.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pgdurable._engine import deadlines, kinds, probes
from pgdurable._engine._crew import Crew
from pgdurable._engine.continuing import run_of
from pgdurable._engine.events import consume
from pgdurable._engine.hosted import About, Hosted
from pgdurable._engine.journal import Journal
from pgdurable._engine.parking import Parking
from pgdurable._engine.records import ReleaseRecord, StartRecord, TimerRecord
from pgdurable._engine.replay import replay, undone_by_retry
from pgdurable._engine.requests import Requests
from pgdurable._engine.retries import is_asked_for
from pgdurable._engine.timers import Timers
from pgdurable._failure import encode_error
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Command, Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.codec import decode_stored
from pgdurable.compression import Codecs
from pgdurable.encryption import Encryption, SealedFlusher
from pgdurable.errors import InvalidInput, PayloadBroken, PayloadSealed, PgDurableError, UnknownWorkflow
from pgdurable.workflow import Registry, Workflow

if TYPE_CHECKING:
    from pgdurable._engine.admission import Admission
    from pgdurable._engine.transactions import Transactions

__all__ = ["Host"]

logger = logging.getLogger("pgdurable.engine")

PARK_AFTER_S = 5.0


class Host:
    """See the head of this file. The engine fills in `transactions`, `admission` and the callbacks after making it.

    Attributes:
        call_later: the loop's. What waits for time asks here, never the loop: a simulation has a time of its own.
        lasted: seconds since a reading of `perf_counter`, of what has to end after so many.
        async_machine, thread_machine: what makes the machines. A simulation puts its own there.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        *,
        payload_limit: int,
        threads: int,
        park_after: float = PARK_AFTER_S,
        encryption: Encryption | Codecs | None = None,
    ) -> None:
        self.journal = journal
        self.encryption = encryption
        journal.flusher.aside_tag = _Unheard()
        self.flusher = journal.flusher if encryption is None else SealedFlusher(journal.flusher, encryption)
        self.clock = journal.clock
        self.registry = registry
        self.payload_limit = payload_limit
        self.loop = asyncio.get_running_loop()
        self.call_later: Callable[..., Any] = self.loop.call_later
        self.lasted: Callable[[float], float] = _lasted
        self.async_machine: Callable[..., Machine] = AsyncMachine
        self.thread_machine: Callable[..., Machine] = ThreadMachine
        self.crew = Crew(self.loop, journal.pump_now)
        self._quiet: asyncio.Future[None] | None = None
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="pgdurable-step")
        self.transactions: Transactions = None  # type: ignore[assignment]
        self.admission: Admission = None  # type: ignore[assignment]
        self.worker = 0
        self.fenced = False
        self.draining = False
        self.instances: dict[bytes, Hosted] = {}
        self.kept: dict[tuple[bytes, int], Any] = {}  # what the database kept of attempts that were under way elsewhere
        self.consuming: dict[int, tuple[Any, bytes, int]] = {}  # of events: when sent, the instance, its event_id or 0
        self.starting = 0
        self.steps_running = 0
        self.steps_done = 0
        self.ended = 0
        self.on_outcome: Callable[[bytes, tuple[str, bytes | None, bytes | None]], None] = lambda id, outcome: None
        self.on_reply: Callable[[bytes, UUID, tuple[str, bytes | None, bytes | None]], None] = _nobody_asks
        self.on_fenced: Callable[[], None] = lambda: None
        self.queued: set[bytes] = set()  # those that hold a slot of their queue's
        self.on_slot: Callable[[], None] = lambda: None  # one is free
        self.on_parked: Callable[[int | None], None] = lambda wake_at_us: None
        self.on_missed: Callable[[bytes], None] = lambda id: None
        self.new_id: Callable[[], bytes] = _no_ids
        self.room: Callable[[], int] = lambda: 0
        self.undo: Callable[[bytes, list[int]], Awaitable[None]] = _no_undo
        self.timers = Timers(self.loop, self.clock, self._timer_due)
        self.parking = Parking(park_after)
        self.requests = Requests(self)
        self.about: dict[bytes, About] = {}  # of instances that are about to be hosted

    def kick(self) -> None:
        """Sends what was recorded, at the end of this turn of the event loop."""
        self.journal.kick()

    # -- beginning -----------------------------------------------------------------------------------------------

    def start(
        self, id: bytes, definition: Workflow[Any, Any], input: bytes, queue: str, future: Any, owned: bool,
        loaded: Any = None,
    ) -> None:  # fmt: skip
        """Adds a new instance to the journal; with `owned` it runs here as soon as it is committed.

        `loaded`: the input as typed arguments, where that has been decoded already.
        """
        # Between a takeover and joining anew there is no incarnation that could own it: as the old one's it would run
        # here, and elsewhere as an orphan.
        owned = owned and not self.fenced
        record = StartRecord(self, id, definition, input, queue, future)
        record.owned = owned
        record.loaded = loaded
        self.starting += 1
        self.flusher.add_instance(
            id, definition.name, definition.version, "running" if owned else "pending", queue,
            self.worker if owned else None, input, record,
        )  # fmt: skip
        self.kick()
        if probes.armed:
            probes.reach("start.recorded")

    def start_unowned_again(self, record: StartRecord) -> None:
        """Adds a start whose fate is not known once more, for whoever has room."""
        record.owned = False
        definition = record.definition
        if definition is not None:
            self.flusher.add_instance(
                record.id, definition.name, definition.version, "pending", record.queue, None, record.input, record
            )
            self.kick()

    def begin(
        self, id: bytes, key: str | None, definition: Workflow[Any, Any], input: bytes | str, started_us: int,
        loaded: Any = None,
    ) -> Hosted | None:  # fmt: skip
        """Hosts a new instance and runs its code up to the first wait."""
        hosted = self._host(id, key, definition, input, started_us, loaded)
        if hosted is not None:
            if definition.timeout is not None:
                deadlines.note(hosted, None, started_us)
                deadlines.watch(hosted)
            hosted.machine.start()
            hosted.after_burst()
        return hosted

    def _host(
        self, id: bytes, key: str | None, definition: Workflow[Any, Any], input: bytes | str, started_us: int,
        loaded: Any = None, seed: bytes | None = None,
    ) -> Hosted | None:  # fmt: skip
        if id in self.instances or self.fenced:
            return None
        hosted = Hosted(self, id, key, definition)
        self.instances[id] = hosted
        try:
            args, kwargs = loaded if loaded is not None else definition.signature.load_input(input)
        except Exception as problem:
            # Whatever it is: an input that cannot be decoded ends its instance, and holds up no other.
            error = problem if isinstance(problem, PgDurableError) else InvalidInput(
                f"its input cannot be decoded: {type(problem).__name__}"
            )  # fmt: skip
            if isinstance(error, PayloadBroken):
                error.message = f"its input is {error.message}"
            error.message = f"{hosted.label}: {error.message}"
            hosted.machine = AsyncMachine(hosted.label, str(definition), id, started_us, _nothing)
            status = "failed"
            if isinstance(error, PayloadSealed):
                status = "paused"
                error.message = f"{hosted.label}: its input is {error.message}"
                logger.error("%s", error)
            self.release(hosted, status, error=encode_error(error))
            return None
        hosted.machine = self.machine_of(hosted, definition, args, kwargs, started_us, seed or id)
        return hosted

    def refuse(
        self, id: bytes, key: str | None, definition: Workflow[Any, Any], why: Callable[[object], PgDurableError]
    ) -> None:
        """Pauses a claimed instance that must not run here. `why` makes the error, from what the instance is called."""
        hosted = Hosted(self, id, key, definition)
        self.instances[id] = hosted
        hosted.machine = AsyncMachine(hosted.label, str(definition), id, 0, _nothing)
        error = why(hosted.label)
        logger.error("%s", error)
        self.release(hosted, "paused", error=encode_error(error, keep_traceback=False))

    def host_again(self, old: Hosted, input: bytes, started_us: int, seed: bytes) -> Hosted | None:
        """Hosts the next run of an instance that continues as new."""
        hosted = self._host(old.id, old.key, old.definition, input, started_us, None, seed)
        if hosted is not None:
            hosted.next_event, hosted.consumed, hosted.worker = old.next_event, old.consumed, old.worker
        return hosted

    def machine_of(
        self, hosted: Hosted, definition: Workflow[Any, Any], args: Any, kwargs: Any, started_us: int, seed: bytes
    ) -> Machine:
        """What runs the code of an instance."""
        title = definition.title
        machine: Machine
        if definition.is_async:
            machine = self.async_machine(hosted.label, title, seed, started_us, lambda: definition.fn(*args, **kwargs))
        else:
            machine = self.thread_machine(
                hosted.label, title, seed, started_us, lambda: definition.fn(*args, **kwargs),
                hosted.thread_waits,
            )  # fmt: skip
        machine.payload_limit = self.payload_limit
        return machine

    def runs_here(self, definition: Workflow[Any, Any] | None) -> bool:
        """Whether an instance of this very function would run here."""
        if definition is None or self.fenced:
            return False
        try:
            return self.registry.get(definition.name, definition.version) is definition
        except UnknownWorkflow:
            return False

    # -- resuming ------------------------------------------------------------------------------------------------

    async def resume(
        self,
        id: bytes,
        key: str | None,
        definition: Workflow[Any, Any],
        input: str,
        started_us: int,
        history: list[Any],
        deadline_us: int | None = None,
    ) -> None:
        """Hosts a claimed instance: replays its history (see `replay`), then goes on where it left off."""
        seed, input, started_us, rows = run_of(id, input, started_us, history)
        hosted = self._host(id, key, definition, input, started_us, None, seed)
        if hosted is None:
            return
        if rows is not history:
            hosted.run, hosted.next_event = history[0][1], history[0][1] + 1
        if is_asked_for(rows):
            try:
                undone = await undone_by_retry(hosted, rows)
                if undone:
                    await self.undo(id, undone)
                    logger.info("%s is retried: events %s are undone", hosted.label, undone)
            finally:
                self.instances.pop(id, None)
                hosted.close()
            hosted = self._host(id, key, definition, input, started_us, None, seed)
            if hosted is None:
                return
            if rows is not history:
                hosted.run, hosted.next_event = history[0][1], history[0][1] + 1
            rows = [row for row in rows if row[1] not in set(undone)]
        deadlines.note(hosted, deadline_us, started_us)
        if not rows and not self.kept:
            # Nothing to replay: what its code does now, it does for the first time as far as anybody knows.
            hosted.machine.start()
            hosted.after_burst()
        else:
            await replay(hosted, rows)
        if not hosted.closed:
            deadlines.watch(hosted)

    # -- events -----------------------------------------------------------------------------------------------------

    def _timer_due(self, hosted: Hosted, command: Command) -> None:
        if hosted.pausing:
            return
        self.parking.busy(hosted)
        if command.kind == deadlines.KIND:
            deadlines.due(hosted)
            return
        hosted.record("timer", TimerRecord(hosted, command.seq), seq=command.seq)
        if probes.armed:
            probes.reach("timer.due")

    def take_event(
        self, seq: int, id: bytes, kind: str, name: str | None, payload: str | None, sent_at: Any = None
    ) -> None:
        """Moves an event of the queue to its instance's history, if the instance is here and has not had it."""
        hosted = self.instances.get(id)
        if hosted is not None and hosted.releasing:
            hosted.missed = True  # it stays in the queue; whoever has the instance next takes it
        if hosted is None or hosted.closed or hosted.releasing or hosted.machine.replaying:
            return
        if hosted.pausing and kind != "terminate":
            return
        if hosted.consumed is None:
            hosted.consumed = set()
        if seq in hosted.consumed:
            return
        event = kinds.Event(seq, kind, name, payload, sent_at)
        if kind == "signal":
            self._take_signal(hosted, event)
        elif kind in kinds.EVENTS:
            kinds.EVENTS[kind](hosted, event)

    def _take_signal(self, hosted: Hosted, event: kinds.Event) -> None:
        name = event.name
        if name is None:
            return
        data = (event.payload if event.payload is not None else "null").encode()
        try:
            opened = data if self.encryption is None else self.encryption.open(hosted.id, f"signal {name}", data)
            value = decode_stored(opened or data, what=f"signal {name!r}")
        except PgDurableError as error:
            # Sealed, or nothing that could be decoded. It stays in the queue, and comes again when the instance does.
            error.message = f"{hosted.label}: {error.message}"
            logger.error("%s", error)
            self.release(hosted, "paused", error=encode_error(error))
            return
        consume(
            hosted, event, "signal", lambda at_us: hosted.machine.signal(name, value, at_us), name=name, payload=data
        )

    # -- ending ----------------------------------------------------------------------------------------------------

    def release(
        self,
        hosted: Hosted,
        status: str,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        wake_at_us: int | None = None,
    ) -> None:
        """Gives the instance up with this status, once committed."""
        if hosted.releasing:
            return
        hosted.releasing = True
        self.parking.busy(hosted)
        for run in list(hosted.steps.values()):
            run.cancel()
        self.flusher.add_release(
            hosted.id, status, output, error, wake_at_us, ReleaseRecord(hosted, status, (status, output, error))
        )
        self.kick()
        if probes.armed and status != "waiting":
            probes.reach("end.recorded")

    def park_idle(self) -> None:
        """Takes instances out of memory that have waited for a while and will for longer; called now and then."""
        if self.draining or not self.clock.now_us():
            return
        for hosted, wake_at_us in self.parking.ripe(self.clock.now_us()):
            self.park(hosted, wake_at_us)

    def park(self, hosted: Hosted, wake_at_us: int | None) -> None:
        """Takes an instance that only waits out of memory, once committed; from then on any worker may claim it."""
        self.release(hosted, "waiting", wake_at_us=wake_at_us)
        self.on_parked(wake_at_us)

    def step_ended(self) -> None:
        self.steps_running -= 1
        if self._quiet is not None and self.steps_running == 0 and not self._quiet.done():
            self._quiet.set_result(None)

    async def quiet(self) -> None:
        """Waits until no step runs."""
        if self.steps_running:
            self._quiet = self.loop.create_future()
            await self._quiet

    def drop_everything(self) -> list[asyncio.Task[None]]:
        """Forgets every instance at once: they belong to somebody else now, or the engine ends.

        Returns the steps that were running, now being cancelled.
        """
        tasks: list[asyncio.Task[None]] = []
        for hosted in list(self.instances.values()):
            tasks.extend(run.task for run in hosted.steps.values() if run.task is not None)
            try:
                hosted.close()
            except Exception:
                logger.error("%s: error while leaving memory: %s", hosted.label, traceback.format_exc())
        self.instances.clear()
        self.kept.clear()
        self.consuming.clear()
        self.queued.clear()
        self.parking.clear()
        self.requests.forget()
        self.about.clear()
        self.timers.clear()
        return tasks


def _lasted(started: float) -> float:
    return perf_counter() - started


def _nobody_asks(id: bytes, key: UUID, answer: Any) -> None:
    """Replies are read in the table."""


def _no_ids() -> bytes:
    raise PgDurableError("this engine gives out no ids")


async def _no_undo(id: bytes, events: list[int]) -> None:
    raise PgDurableError("this engine cannot change history")


class _Unheard:
    """The journal's tag of a write whose fate is its row's."""

    def committed(self, at_us: int) -> None: ...

    def refused(self, error: PgDurableError) -> None: ...


async def _nothing() -> None:
    """Stands in for the body of an instance whose input does not fit."""
