"""One process of a simulation: a `Host` as the engine has it, and what finds work for it. It can die at any moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

from pgdurable._engine.admission import Admission
from pgdurable._engine.clock import micros
from pgdurable._engine.continuing import run_of
from pgdurable._engine.forks import origin_of
from pgdurable._engine.host import Host
from pgdurable._engine.hosted import Hosted
from pgdurable._engine.parking import Parking
from pgdurable._engine.processes import Processes
from pgdurable._engine.queries import ask_hosted
from pgdurable._engine.rates import LocalRates
from pgdurable._engine.replay import run_again
from pgdurable._engine.timers import Timers
from pgdurable.errors import PgDurableError, UnknownWorkflow
from pgdurable.testing._clock import Alarm, VirtualClock
from pgdurable.testing._doubles import Doubles
from pgdurable.testing._journal import MemoryJournal
from pgdurable.testing._operations import NAMES, Connection, is_asked, undo
from pgdurable.testing._store import InstanceRow, Store
from pgdurable.workflow import Registry, Workflow

__all__ = ["Process"]

logger = logging.getLogger("pgdurable.testing")

_ROOM = 1_000_000


class _ParkingByClock(Parking):
    """Parks by the simulation's clock: looks when the first that waits has waited long enough."""

    def __init__(self, after: float, clock: VirtualClock, look: Callable[[], None]) -> None:
        super().__init__(after, clock.seconds)
        self._virtual = clock
        self._look = look
        self._alarm: Alarm | None = None

    def idle(self, hosted: Hosted) -> None:
        super().idle(hosted)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is None:
            at_us = self._virtual.now_us() + int(self.after * 1e6) + 1
            self._alarm = self._virtual.call_at(at_us, self._ring, idle=True)

    def _ring(self) -> None:
        self._alarm = None
        self._look()
        if self._idle:
            self._set_alarm()

    def clear(self) -> None:
        super().clear()
        if self._alarm is not None:
            self._alarm.cancel()


class Process:
    """See the head of this file. Instances of workflows that it does not have stay where they are.

    Args:
        number: of the worker's incarnation.
        reach, crash: as for `MemoryJournal`.
        park_after: seconds; None: what waits stays in memory.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        doubles: Doubles,
        number: int,
        *,
        reach: Callable[[str], bool],
        crash: Callable[[], None],
        park_after: float | None,
        payload_limit: int,
        encryption: Any,
        on_outcome: Callable[[bytes, Any], None],
        on_reply: Callable[..., None],
        new_id: Callable[[], bytes],
    ) -> None:
        self.store = store
        self.registry = registry
        self._doubles = doubles
        clock = store.clock
        self.journal = MemoryJournal(store, number, reach, crash)
        self.host = host = Host(self.journal, registry, payload_limit=payload_limit, threads=16, encryption=encryption)
        host.admission = Admission(host, LocalRates(host), Processes(host.loop, 1))
        host.worker = number
        host.call_later = clock.call_later
        host.lasted = clock.since
        host.timers = Timers(cast(Any, clock), cast(Any, clock), host._timer_due)
        host.parking = Parking(0.0, clock.seconds) if park_after is None else _ParkingByClock(
            park_after, clock, host.park_idle
        )  # fmt: skip
        host.async_machine, host.thread_machine = doubles.machines()
        host.on_parked = lambda wake_at_us: self.wake()
        host.on_missed = lambda id: self.wake()
        host.on_outcome, host.on_reply = on_outcome, on_reply
        host.new_id, host.room = new_id, lambda: _ROOM
        host.undo = self._undo
        doubles.loop = host.loop
        self.dead = False
        self._wanted = False
        self._looking: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None

    # -- finding work ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Looks for work, as soon as whoever calls has ended its turn."""
        self._wanted = True
        if not self.dead and (self._looking is None or self._looking.done()):
            self._looking = self.host.loop.create_task(self._look())

    async def _look(self) -> None:
        while self._wanted and not self.dead:
            self._wanted = False
            for row in self.store.claimable(self.has):
                if not self.dead:
                    await self._take_in(row)
            for hosted in list(self.host.instances.values()):
                self._offer_events(hosted)
            if self.host.requests:
                await self.host.requests.look(cast(Any, Connection(self.store)), self.host.worker, NAMES)
            self._set_alarm()

    async def _undo(self, id: bytes, events: list[int]) -> None:
        undo(self.store, id, events)

    def has(self, row: InstanceRow) -> bool:
        """Whether the workflow of an instance is here in its version."""
        return self._definition(row) is not None

    def _definition(self, row: InstanceRow) -> Workflow[Any, Any] | None:
        try:
            return self.registry.get(row.workflow, row.version)
        except UnknownWorkflow:
            return None

    async def _take_in(self, row: InstanceRow) -> None:
        definition = self._definition(row)
        if definition is None or row.id in self.host.instances:
            return
        self.store.claim(row, self.host.worker, definition.version)
        if is_asked(self.store, row.id):
            self.host.requests.claimed.add(row.id)
            return
        input, recorded = self._recorded(row)
        if row.deadline is not None or row.parent is not None or row.labels is not None:
            self.host.about[row.id] = (row.deadline, row.parent, row.labels)
        started: datetime = row.started_at or row.created_at
        await self.host.resume(
            row.id, row.key, definition, input, micros(started), recorded,
            None if row.deadline is None else micros(row.deadline),
        )  # fmt: skip

    def _recorded(self, row: InstanceRow) -> tuple[Any, list[Any]]:
        """An instance's input, and its history from where its run began, decrypted."""
        encryption = self.host.encryption
        input: Any = row.input
        whole = self.store.history.get(row.id, ())
        recorded: list[Any] = sorted(
            (entry for entry in whole if entry.event_id >= row.first_event), key=lambda entry: entry.event_id
        )
        if encryption is not None:
            origin = origin_of(recorded)
            whose = row.id if origin is None or origin.input_of is None else origin.input_of
            input = encryption.open(whose, "input", input)
            opened = encryption.open_history
            recorded = [opened(entry) if origin is None else origin.open(encryption, entry) for entry in recorded]
        return input, [entry[:10] for entry in recorded]

    async def answer(self, row: InstanceRow, name: str, input: bytes) -> bytes:
        """The answer to a query, of an instance here or of a replay that goes nowhere."""
        hosted = self.host.instances.get(row.id)
        if hosted is not None and not (hosted.closed or hosted.machine.replaying):
            return await ask_hosted(hosted, name, input)
        definition = self._definition(row)
        if row.started_at is None or definition is None:
            raise PgDurableError(f"instance {row.key or row.uuid} has not begun", hint="Ask again when it runs.")
        stored, recorded = self._recorded(row)
        seed, given, started_us, rows = run_of(row.id, stored, micros(row.started_at), recorded)
        aside = Hosted(self.host, row.id, row.key, definition)
        args, kwargs = definition.signature.load_input(given)
        aside.machine = self.host.machine_of(aside, definition, args, kwargs, started_us, seed)
        aside.machine.replaying = True
        try:
            await run_again(aside, rows)
            return await ask_hosted(aside, name, input)
        finally:
            aside.close()

    def _offer_events(self, hosted: Hosted) -> None:
        for event in list(self.store.events.get(hosted.id, ())):
            self.host.take_event(event.seq, hosted.id, event.kind, event.name, event.payload, event.sent_at)

    def _set_alarm(self) -> None:
        due_us = self.store.next_due_us(self.has)
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if due_us is None else self.store.clock.call_at(due_us, self.wake)

    # -- how busy it is ----------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything goes on that does not wait for the clock, an event, or the user's code in a test."""
        host = self.host
        if host.requests and host.requests.ripe:
            self.wake()
        if not self.journal.empty or self._wanted or not (self._looking is None or self._looking.done()):
            return True
        if host.steps_running > self._doubles.asleep:
            return True
        return any(hosted.machine.busy or hosted.pending_deliveries for hosted in host.instances.values())

    def running(self) -> list[str]:
        """The steps that run now, for messages."""
        return [
            f"step {run.command.name} of {hosted.label}"
            for hosted in self.host.instances.values()
            for run in hosted.steps.values()
            if run.task is not None
        ]

    # -- its end -----------------------------------------------------------------------------------------------------

    def die(self) -> None:
        """Everything in memory is gone at once. Steps in threads cannot be stopped: what they return goes nowhere."""
        self.dead = True
        self.journal.die()
        host = self.host
        host.fenced = host.draining = True
        for hosted in host.instances.values():
            hosted.closed = True
        host.drop_everything()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._looking is not None and self._looking is not asyncio.current_task(host.loop):
            self._looking.cancel()
        host.threads.shutdown(wait=False, cancel_futures=True)
