"""One instance in this process's memory: its machine, its running steps, its place in its own order."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from pgdurable._engine import deadlines, kinds, patching
from pgdurable._engine.continuing import continue_anew
from pgdurable._engine.steps import StepRun
from pgdurable._failure import encode_error
from pgdurable._runtime.machine import Command, Machine
from pgdurable.codec import encode
from pgdurable.errors import CodecError, PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.host import Host
    from pgdurable.workflow import Workflow

__all__ = ["Hosted"]

logger = logging.getLogger("pgdurable.engine")

MANY_ROWS = 10_000
"""The row of an instance's history at which a warning says so, once."""


About: TypeAlias = "tuple[datetime | None, uuid.UUID | None, str | None]"
"""Deadline, parent and labels (as JSON) of an instance that has any of them."""

Write: TypeAlias = tuple[bytes, str, int, "bytes | None"]
"""An instance, the kind of write, a number, a JSON text."""


class _Along:
    """The journal's tag for what commits with the row before it: whoever waits for that row is told."""

    def committed(self, at_us: int) -> None:
        pass

    def refused(self, error: PgDurableError) -> None:
        pass


ALONG = _Along()


class Label:
    """How messages name an instance: a text made when it is asked for, which is seldom."""

    __slots__ = ("about", "definition", "id", "key")

    def __init__(self, id: bytes, key: str | None, definition: Any = None, about: About | None = None) -> None:
        self.id = id
        self.key = key
        self.definition = definition
        self.about = about

    def __str__(self) -> str:
        return f"instance {self.key if self.key is not None else uuid.UUID(bytes=self.id)}"


class Hosted:
    """See the head of this file.

    Attributes:
        id: the instance's 16 bytes.
        key: the user-chosen id, if any.
        next_event: the event_id the next recorded transition gets.
        run: the event_id of the row `continued` that began its present run; 0: it is in its first.
        unacked: transitions recorded and not yet known to be committed.
        holder: the transaction step that holds the order, if any: nothing else is recorded meanwhile.
        about: what few instances have, for `pgd.current`.
        pausing: it is to stand still: what runs is finished, and nothing more begins.
        closed: the instance is leaving memory; whatever comes is not for us any more.
        when_settled: called once all that was recorded is acknowledged and delivered.
        worker: the incarnation that holds it; the engine may have joined anew while a commit's outcome is asked for.
    """

    __slots__ = (
        "__weakref__", "about", "closed", "consumed", "deadline", "definition", "held", "holder", "host", "id",
        "idle_since", "key", "machine", "missed", "next_event", "order_waiter", "orderers", "pausing",
        "pending_deliveries", "releasing", "run", "settled", "steps", "unacked", "when_settled", "worker",
    )  # fmt: skip

    def __init__(self, host: Host, id: bytes, key: str | None, definition: Workflow[Any, Any]) -> None:
        self.host = host
        self.id = id
        self.key = key
        self.definition = definition
        self.worker = host.worker
        self.deadline: Command | None = None
        self.about: About | None = host.about.pop(id, None) if host.about else None
        self.machine: Machine = None  # type: ignore[assignment]  # set by the host right after
        self.next_event = 1
        self.run = 0
        self.unacked = 0
        self.steps: dict[int, StepRun] = {}
        self.consumed: set[int] | None = None
        self.holder: StepRun | None = None
        self.held: deque[tuple[Any, ...]] | None = None
        self.orderers: deque[asyncio.Future[None]] | None = None
        self.order_waiter: asyncio.Future[None] | None = None
        self.pending_deliveries: deque[Callable[[], None]] | None = None
        self.settled: asyncio.Future[None] | None = None
        self.when_settled: Callable[[], None] | None = None
        self.closed = False
        self.releasing = False
        self.missed = False
        self.pausing = False
        self.idle_since = 0.0

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=self.id)

    @property
    def label(self) -> Label:
        """How messages name it."""
        return Label(self.id, self.key, self.definition, self.about)

    # -- recording -----------------------------------------------------------------------------------------------

    def record(
        self,
        kind: str,
        tag: Any,
        run: StepRun | None = None,
        *,
        seq: int | None = None,
        name: str | None = None,
        payload: bytes | None = None,
        error: bytes | None = None,
        elapsed_ms: float | None = None,
        event_seq: int = -1,
        mark: int | None = None,
        writes: tuple[Write, ...] = (),
    ) -> int:
        """Gives a transition its place in the instance's order and hands it to the journal.

        Args:
            writes: what commits with it, see `apply_writes` in sql/functions: instance, kind, number, JSON text.

        Returns its event_id, or 0 when the order is held and it waits for its place.
        """
        if self.holder is not None:
            if self.held is None:
                self.held = deque()
            self.held.append((kind, tag, run, seq, name, payload, error, elapsed_ms, event_seq, mark, writes))
            return 0
        event_id = self.next_event
        self.next_event = event_id + 1
        if event_id == MANY_ROWS:
            self.warn_of_length()
        self.unacked += 1
        host = self.host
        if run is not None:
            command = run.command
            host.flusher.add_history(
                self.id, event_id, seq, command.fingerprint, elapsed_ms, run.attempt, kind, command.name,
                payload, error, tag, event_seq,
            )  # fmt: skip
        else:
            host.flusher.add_history(
                self.id, event_id, seq, mark, elapsed_ms, None, kind, name, payload, error, tag, event_seq
            )
        for id, what, place, body in writes:
            host.flusher.add_write(id, what, place, body, ALONG, True)
        host.kick()
        return event_id

    def record_step(self, run: StepRun, payload: bytes | None, error: bytes | None, elapsed_ms: float) -> int:
        """`record` for the end of a step, which comes so often that it has a way of its own."""
        command = run.command
        if self.holder is not None:
            return self.record(
                "step", run, run, seq=command.seq, payload=payload, error=error, elapsed_ms=elapsed_ms
            )  # fmt: skip
        event_id = self.next_event
        self.next_event = event_id + 1
        if event_id == MANY_ROWS:
            self.warn_of_length()
        self.unacked += 1
        host = self.host
        host.flusher.add_history(
            self.id, event_id, command.seq, command.fingerprint, elapsed_ms, run.attempt, "step", command.name,
            payload, error, run, -1,
        )  # fmt: skip
        host.kick()
        return event_id

    def warn_of_length(self) -> None:
        """Its history has become long: it is kept, but whoever takes the instance over replays all of it."""
        logger.warning(
            "%s (%s) has %s rows of history, all of which are replayed whenever it is taken over: split it into child "
            "workflows, or let it go on with a new history now and then (pgd.continue_as_new)",
            self.label, self.definition.title, f"{MANY_ROWS:,}",
        )  # fmt: skip

    # -- order, for transaction steps ----------------------------------------------------------------------------

    async def hold_order(self, run: StepRun, attempt: int) -> None:
        """Holds the instance's order for a transaction about to commit and gives it its event_id.

        Raises CancelledError when the workflow no longer wants the step (or that attempt of it).
        """
        loop = self.host.loop
        while self.holder is not None:
            if self.orderers is None:
                self.orderers = deque()
            turn = loop.create_future()
            self.orderers.append(turn)
            await turn
        self.holder = run
        try:
            while self.unacked:
                self.order_waiter = loop.create_future()
                await self.order_waiter
            if (
                run.command.cancelled
                or run.timed_out
                or run.task is None
                or run.attempt != attempt
                or self.closed
                or self.host.fenced
            ):
                raise asyncio.CancelledError
        except BaseException:
            self.order_settled(run)
            raise
        run.event_id = self.next_event
        self.next_event += 1
        if run.event_id == MANY_ROWS:
            self.warn_of_length()
        run.committing = True

    def give_back(self, run: StepRun) -> None:
        """The server refused the transaction that holds the order: its event_id is free for the next transition."""
        if self.holder is run and run.committing and run.event_id == self.next_event - 1:
            self.next_event = run.event_id

    def order_settled(self, run: StepRun) -> None:
        """The transaction's outcome is known (or it never got to commit): the order goes on."""
        run.committing = False
        if self.holder is not run:
            return
        self.holder = None
        if self.held:
            held, self.held = self.held, None
            for kind, tag, other, seq, name, payload, error, elapsed_ms, event_seq, mark, writes in held:
                self.record(
                    kind, tag, other, seq=seq, name=name, payload=payload, error=error, elapsed_ms=elapsed_ms,
                    event_seq=event_seq, mark=mark, writes=writes,
                )  # fmt: skip
        while self.orderers:
            turn = self.orderers.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if self.when_settled is not None:
            self.advance_order()

    def advance_order(self) -> None:
        """Something was acknowledged: lets go on what waits for all of it, a transaction or the next run."""
        waiter = self.order_waiter
        if waiter is not None and self.unacked == 0:
            self.order_waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self.when_settled is not None and not (self.unacked or self.pending_deliveries or self.holder):
            go_on, self.when_settled = self.when_settled, None
            go_on()

    # -- after the code has run ----------------------------------------------------------------------------------

    def deliver(self, call: Callable[[], None]) -> None:
        """Delivers an event to the machine now, or when its thread waits again."""
        if self.closed:
            return
        if self.machine.busy or self.pending_deliveries:
            # Also behind those that wait for their turn: the thread may be idle, and thread_idle not have run yet.
            if self.pending_deliveries is None:
                self.pending_deliveries = deque()
            self.pending_deliveries.append(call)
            return
        call()
        self.after_burst()

    def thread_waits(self) -> None:
        """Called from the thread of a `def` workflow when it waits or has ended."""
        self.host.loop.call_soon_threadsafe(self.thread_idle)

    def thread_idle(self) -> None:
        """The thread of a `def` workflow waits or has ended."""
        if self.settled is not None and not self.settled.done():
            self.settled.set_result(None)
        self.after_burst()
        while self.pending_deliveries and not self.machine.busy and not self.closed:
            self.pending_deliveries.popleft()()
            self.after_burst()
        if self.when_settled is not None:
            self.advance_order()

    async def settle(self) -> None:
        """Waits until a `def` workflow's thread waits again."""
        while self.machine.busy and not self.closed:
            self.settled = self.host.loop.create_future()
            await self.settled

    def after_burst(self) -> None:
        """Carries out what the code asked for, or ends the instance."""
        machine = self.machine
        if machine.busy or machine.replaying or self.closed:
            return
        if machine.issued or machine.cancelled:
            issued, cancelled = machine.drain()
            for command in cancelled:
                run = self.steps.get(command.seq)
                if run is not None:
                    run.cancel()
                elif command.kind != "step":
                    kinds.COMMANDS[command.kind].give_up(self, command, None)
            if machine.outcome is None:
                self.carry_out(issued)
            else:
                for command in issued:
                    if command.kind in kinds.NOTES:
                        kinds.COMMANDS[command.kind].begin(self, command)
        if machine.outcome is not None:
            self._finish()
        elif not self.steps:
            self.host.parking.idle(self)

    def carry_out(self, issued: list[Command]) -> None:
        """Starts the steps and sets the timers of these commands."""
        host = self.host
        if self.pausing:
            return  # its code asks again where it is resumed
        for place, command in enumerate(issued):
            if command.kind == "timer":
                host.timers.add(self, command)
            elif command.kind == "patch":
                patching.hold(self, command, issued[place + 1 :])
                return
            elif command.kind != "step":
                kinds.COMMANDS[command.kind].begin(self, command)
            else:
                run = StepRun(self, command)
                self.steps[command.seq] = run
                run.start()

    def step_gone(self, run: StepRun) -> None:
        """A step nobody waits for has come to its end."""
        if self.steps.get(run.command.seq) is run:
            del self.steps[run.command.seq]
        if not self.closed and not self.steps and self.machine.outcome is None:
            self.host.parking.idle(self)

    def _finish(self) -> None:
        if self.releasing or self.machine.outcome is None:
            return
        status, value = self.machine.outcome
        if status == "continued":
            continue_anew(self, *value)
            return
        output: bytes | None = None
        error: bytes | None = None
        if status == "completed":
            try:
                output = encode(value, what="result", limit=self.host.payload_limit)
            except CodecError as refused:
                status = "failed"
                error = encode_error(
                    CodecError(f"{self.label}: the workflow's result cannot be stored: {refused.message}",
                               path=refused.path, detail=refused.detail, hint=refused.hint)
                )  # fmt: skip
        elif status == "failed":
            error = encode_error(value)
        elif self.machine.timed_out:
            status = "timed_out"
            error = encode_error(deadlines.error_of(self), keep_traceback=False)
        else:
            why = self.machine.cancel_reason
            error = encode_error(PgDurableError(f"{self.label} was cancelled" + (f": {why}" if why else "")))
        self.host.release(self, status, output=output, error=error)

    def close(self) -> None:
        """Takes the instance out of memory: steps are stopped, its code is unwound."""
        self.closed = True
        for run in list(self.steps.values()):
            run.cancel()
        self.steps.clear()
        if self.machine is not None:
            self.machine.drop()
