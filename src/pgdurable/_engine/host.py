"""The instances this process holds in memory: their starts, timers, signals, parking and ends.

Everything here runs on the event loop's thread. What becomes durable goes through the journal; what other workers
must see goes through the poller and the membership.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pgdurable._engine import probes
from pgdurable._engine._crew import Crew
from pgdurable._engine.hosted import Hosted
from pgdurable._engine.journal import Journal
from pgdurable._engine.records import ReleaseRecord, SignalRecord, StartRecord, TimerRecord
from pgdurable._engine.steps import StepRun, replayed_answer
from pgdurable._failure import encode_error
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Command, Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.codec import decode_stored
from pgdurable.errors import NonDeterminismError, PgDurableError
from pgdurable.workflow import Registry, Workflow

if TYPE_CHECKING:
    from pgdurable._engine.transactions import Transactions

__all__ = ["Host"]

logger = logging.getLogger("pgdurable.engine")

PARK_AFTER_S = 5.0
# A timer is looked at again after at most this long, so that a clock that was set does not delay it much.
_LONGEST_NAP_S = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Host:
    """See the head of this file. The engine fills in `transactions` and the callbacks after making it."""

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        *,
        payload_limit: int,
        threads: int,
        park_after: float = PARK_AFTER_S,
    ) -> None:
        self.journal = journal
        self.flusher = journal.flusher
        self.clock = journal.clock
        self.registry = registry
        self.payload_limit = payload_limit
        self.park_after = park_after
        self.loop = asyncio.get_running_loop()
        self.crew = Crew(self.loop, journal.pump_now)
        self._quiet: asyncio.Future[None] | None = None
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="pgdurable-step")
        self.transactions: Transactions = None  # type: ignore[assignment]
        self.worker = 0
        self.fenced = False
        self.draining = False
        self.instances: dict[bytes, Hosted] = {}
        self.starting = 0
        self.steps_running = 0
        self.steps_done = 0
        self.ended = 0
        self.on_outcome: Callable[[bytes, tuple[str, bytes | None, bytes | None]], None] = lambda id, outcome: None
        self.on_fenced: Callable[[], None] = lambda: None
        self.on_parked: Callable[[int | None], None] = lambda wake_at_us: None
        self._idle: dict[bytes, Hosted] = {}
        self._timers: list[tuple[int, int, Hosted, Command]] = []
        self._timer_count = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_us = 0

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
            hosted.machine.start()
            hosted.after_burst()
        return hosted

    def _host(
        self, id: bytes, key: str | None, definition: Workflow[Any, Any], input: bytes | str, started_us: int,
        loaded: Any = None,
    ) -> Hosted | None:  # fmt: skip
        if id in self.instances or self.fenced:
            return None
        hosted = Hosted(self, id, key, definition)
        self.instances[id] = hosted
        try:
            args, kwargs = loaded if loaded is not None else definition.signature.load_input(input)
        except PgDurableError as error:
            error.message = f"{hosted.label}: {error.message}"
            hosted.machine = AsyncMachine(hosted.label, str(definition), id, started_us, _nothing)
            self.release(hosted, "failed", error=encode_error(error))
            return None
        hosted.machine = self._machine(hosted, definition, args, kwargs, started_us)
        return hosted

    def _machine(
        self, hosted: Hosted, definition: Workflow[Any, Any], args: Any, kwargs: Any, started_us: int
    ) -> Machine:
        title = definition.title
        if definition.is_async:
            return AsyncMachine(hosted.label, title, hosted.id, started_us, lambda: definition.fn(*args, **kwargs))
        return ThreadMachine(
            hosted.label, title, hosted.id, started_us, lambda: definition.fn(*args, **kwargs),
            hosted.thread_waits,
        )  # fmt: skip

    # -- resuming ------------------------------------------------------------------------------------------------

    async def resume(
        self,
        id: bytes,
        key: str | None,
        definition: Workflow[Any, Any],
        input: str,
        started_us: int,
        history: list[Any],
    ) -> None:
        """Hosts a claimed instance: replays its history, then goes on where it left off.

        `history` rows: (instance_id, event_id, kind, seq, name, attempt, fingerprint, payload, error, recorded_at).
        """
        hosted = self._host(id, key, definition, input, started_us)
        if hosted is None:
            return
        machine = hosted.machine
        machine.replaying = True
        label = hosted.label
        attempts: dict[int, tuple[int, float, int]] = {}
        try:
            machine.start()
            await self._settle(hosted)
            for _, event_id, kind, seq, name, attempt, mark, payload, error, recorded_at in history:
                hosted.next_event = event_id + 1
                at_us = micros(recorded_at)
                if kind == "step":
                    machine.expect(event_id, seq, "step", name, mark)
                    command = machine.pending.get(seq)
                    value, failure = replayed_answer(
                        command.step if command else None, name, attempt, payload, error,
                        f"{label}: checkpoint of step {name}",
                    )  # fmt: skip
                    machine.answer(seq, value, failure, at_us)
                elif kind == "timer":
                    machine.expect(event_id, seq, "timer", None, None)
                    machine.fire(seq, at_us)
                elif kind == "signal":
                    machine.signal(name, decode_stored(payload), at_us)
                elif kind == "attempt":
                    attempts[seq] = (attempt + 1, float((decode_stored(payload) or {}).get("retry_in", 0.0)), at_us)
                if machine.busy:
                    await self._settle(hosted)
                if hosted.closed:
                    return
        except NonDeterminismError as error:
            logger.error("%s", error)
            self.release(hosted, "paused", error=encode_error(error, keep_traceback=False))
            return
        except PgDurableError as error:
            logger.error("%s: its history cannot be replayed: %s", hosted.label, error)
            self.release(hosted, "paused", error=encode_error(error))
            return
        except Exception as error:
            logger.exception("%s: its history cannot be replayed", hosted.label)
            self.release(hosted, "paused", error=encode_error(error))
            return
        machine.replaying = False
        machine.drain()
        if machine.outcome is None:
            self._go_on(hosted, attempts)
        hosted.after_burst()

    def _go_on(self, hosted: Hosted, attempts: dict[int, tuple[int, float, int]]) -> None:
        """Starts what the replayed code waits for and history does not answer."""
        for command in list(hosted.machine.pending.values()):
            if command.kind == "timer":
                self.set_timer(hosted, command)
                continue
            attempt, wait, failed_us = attempts.get(command.seq, (1, 0.0, 0))
            run = StepRun(hosted, command, attempt)
            hosted.steps[command.seq] = run
            left = wait - max(self.clock.now_us() - failed_us, 0) / 1e6 if wait else 0.0
            run.start(max(left, 0.0))

    async def _settle(self, hosted: Hosted) -> None:
        """Waits until a `def` workflow's thread waits again."""
        while hosted.machine.busy and not hosted.closed:
            hosted.settled = self.loop.create_future()
            await hosted.settled

    # -- timers --------------------------------------------------------------------------------------------------

    def set_timer(self, hosted: Hosted, command: Command) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (command.due_us, self._timer_count, hosted, command))
        if self._alarm is None or command.due_us < self._alarm_us:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        timers = self._timers
        while timers and (timers[0][3].cancelled or timers[0][2].closed):
            heapq.heappop(timers)
        if timers and not self.draining:
            self._alarm_us = timers[0][0]
            wait = (self._alarm_us - self.clock.now_us()) / 1e6
            self._alarm = self.loop.call_later(min(max(wait, 0.0), _LONGEST_NAP_S), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now_us = self.clock.now_us()
        timers = self._timers
        while timers and timers[0][0] <= now_us:
            _, _, hosted, command = heapq.heappop(timers)
            if not (command.cancelled or hosted.closed or hosted.releasing):
                self._idle.pop(hosted.id, None)
                hosted.record("timer", TimerRecord(hosted, command.seq), seq=command.seq)
                if probes.armed:
                    probes.reach("timer.due")
        self._set_alarm()

    # -- events from outside ---------------------------------------------------------------------------------------

    def take_event(self, seq: int, id: bytes, kind: str, name: str | None, payload: str | None) -> None:
        """Moves an event of the queue to its instance's history, if the instance is here and has not had it."""
        hosted = self.instances.get(id)
        if hosted is not None and hosted.releasing:
            hosted.missed = True  # it stays in the queue; whoever has the instance next takes it
        if hosted is None or hosted.closed or hosted.releasing or hosted.machine.replaying or self.draining:
            return
        if hosted.consumed is None:
            hosted.consumed = set()
        if seq in hosted.consumed or kind != "signal" or name is None:
            return
        hosted.consumed.add(seq)
        self._idle.pop(hosted.id, None)
        data = (payload if payload is not None else "null").encode()
        hosted.record("signal", SignalRecord(hosted, name, decode_stored(data)), name=name, payload=data, event_seq=seq)
        if probes.armed:
            probes.reach("signal.recorded")

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
        self._idle.pop(hosted.id, None)
        for run in list(hosted.steps.values()):
            run.cancel()
        self.flusher.add_release(
            hosted.id, status, output, error, wake_at_us, ReleaseRecord(hosted, status, (status, output, error))
        )
        self.kick()
        if probes.armed and status != "waiting":
            probes.reach("end.recorded")

    def now_idle(self, hosted: Hosted) -> None:
        """The instance only waits for timers or events now."""
        self._idle.pop(hosted.id, None)
        hosted.idle_since = time.monotonic()
        self._idle[hosted.id] = hosted

    def park_idle(self) -> None:
        """Takes instances out of memory that have waited for a while and will for longer; called now and then."""
        if self.draining or not self.clock.now_us():
            return
        old = time.monotonic() - self.park_after
        horizon = self.clock.now_us() + int(self.park_after * 1e6)
        for hosted in list(self._idle.values()):
            if hosted.idle_since > old:
                break
            machine = hosted.machine
            if hosted.steps or hosted.unacked or machine.busy or hosted.holder is not None or hosted.releasing:
                continue
            if machine.issued or machine.outcome is not None or hosted.pending_deliveries:
                continue  # a `def` workflow's thread has just ended or asked for more, and that is not seen to yet
            dues = [command.due_us for command in machine.pending.values() if command.kind == "timer"]
            wake_at_us = min(dues) if dues else None
            if wake_at_us is not None and wake_at_us <= horizon:
                hosted.idle_since = time.monotonic()
                self._idle[hosted.id] = self._idle.pop(hosted.id)
                continue
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
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        tasks: list[asyncio.Task[None]] = []
        for hosted in list(self.instances.values()):
            tasks.extend(run.task for run in hosted.steps.values() if run.task is not None)
            try:
                hosted.close()
            except Exception:
                logger.error("%s: error while leaving memory: %s", hosted.label, traceback.format_exc())
        self.instances.clear()
        self._idle.clear()
        self._timers.clear()
        return tasks


async def _nothing() -> None:
    """Stands in for the body of an instance whose input does not fit."""


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
