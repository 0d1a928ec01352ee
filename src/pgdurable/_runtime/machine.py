"""One instance's deterministic machine: events in, commands out.

A machine runs workflow code in bursts. Each event (a step's result, a fired timer, a signal) is delivered by
itself and the code runs until it is idle; the commands it issued meanwhile are numbered in the order issued.
Delivering the same events in the same order therefore issues the same commands, which is what replay rests on.

Here: numbering, matching events to commands, signals, time, outcome. `AsyncMachine` (loop.py) and
`ThreadMachine` (thread.py) say how code is run.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from pgdurable.errors import NonDeterminismError, PgDurableError

__all__ = ["LATEST_US", "MOST_DROPPED", "Command", "ContinueAsNew", "InstanceDropped", "Machine", "Settable"]

LATEST_US = 253_370_764_800_000_000
"""The start of the year 9999: a timer due later, or never, is due then. It fits a timestamptz and a datetime."""

MOST_DROPPED = 1000
"""How often the code of a dropped instance may catch the exception that is to end it."""


class InstanceDropped(BaseException):
    """Unwinds workflow code whose instance leaves memory. Nothing it does meanwhile is recorded."""


class ContinueAsNew(BaseException):
    """Ends a run of workflow code, for the same instance to begin anew with these arguments.

    The machine's outcome is `continued` then, and signals and a request to cancel that come later are kept.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__("this run goes on as a new one")
        self.arguments = (args, kwargs)


class Settable(Protocol):
    """Where a command's answer goes."""

    def done(self) -> bool: ...
    def set_result(self, value: Any) -> None: ...
    def set_exception(self, error: BaseException) -> None: ...


class Command:
    """Something the workflow asked for: a step to run, a timer, or what `_engine/kinds.py` lists.

    Attributes:
        seq: its number within the instance, from 0.
        kind: `step`, `timer`, `child`...
        step: the step's definition, or what else the command is about, opaque here; None for a timer.
        due_us: when a timer is due, in microseconds since 1970 by the database's clock; of a step with a limit over
            all its attempts, when that is reached.
        cancelled: the workflow no longer waits for it.
    """

    __slots__ = ("args", "cancelled", "due_us", "fingerprint", "future", "kind", "kwargs", "name", "seq", "step")

    def __init__(
        self,
        seq: int,
        kind: str,
        name: str | None,
        fingerprint: int | None,
        future: Any,
        step: Any = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        due_us: int = 0,
    ) -> None:
        self.seq = seq
        self.kind = kind
        self.name = name
        self.fingerprint = fingerprint
        self.future = future
        self.step = step
        self.args = args
        self.kwargs = kwargs
        self.due_us = due_us
        self.cancelled = False

    def __str__(self) -> str:
        if self.kind == "timer":
            return "timer"
        return describe(self.kind, self.name, self.fingerprint)


def _as_runtime_error(error: BaseException) -> RuntimeError:
    found = RuntimeError("a step raised StopIteration")
    found.__cause__ = error
    return found


def describe(kind: str, name: str | None, fingerprint: int | None) -> str:
    if kind == "timer":
        return "timer"
    arguments = "" if fingerprint is None else f", arguments #{fingerprint & 0xFFFFFFFF:08x}"
    return f"{kind} {name!r}{arguments}"


class Machine:
    """What both kinds of machine share. The owner calls; nothing here blocks or looks at a clock.

    Args:
        label: how messages name the instance; its text is asked for when there is one.
        workflow: name and version, for messages.
        seed: the instance's 16 bytes, which seed `random()` and `uuid4()`.
        started_us: database time of the instance's start, in microseconds since 1970.
    """

    def __init__(self, label: object, workflow: str, seed: bytes, started_us: int) -> None:
        self.label = label
        self.workflow = workflow
        self.seed = seed
        self.now_us = started_us
        self.next_seq = 0
        self.pending: dict[int, Command] = {}
        self.issued: list[Command] = []
        self.cancelled: list[Command] = []
        self.replaying = False
        self.cancel_reason: str | Exception | None = None
        self.timed_out = False
        self.cancel_requested = False
        self.patches: dict[str, bool] | None = None
        self.history: Any = ()  # what is being replayed
        self.cancel_is_late = False
        self.dropped = False
        self._dropped_raises = 0
        self.busy = False
        self.outcome: tuple[str, Any] | None = None
        self.desk: Any = None
        self.asked = False
        self.moment = 0
        self.payload_limit = 1024 * 1024
        self._given_up: dict[int, Command] = {}
        self._signals: dict[str, deque[Any]] = {}
        self._waiters: dict[str, deque[Any]] = {}
        self._random: random.Random | None = None

    # -- what workflow code calls, through context and workflow --------------------------------------------

    def issue_step(
        self, step: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None, fingerprint: int
    ) -> Command:
        """Numbers a step and asks for it. Its `future` gets the answer."""
        if self.dropped:
            self.raise_dropped()
            return Command(-1, "dropped", None, None, self.new_future())
        seq = self.next_seq
        self.next_seq = seq + 1
        command = Command(seq, "step", name, fingerprint, self.new_future(), step, args, kwargs)
        self.pending[seq] = command
        self.issued.append(command)
        return command

    def issue(self, kind: str, name: str | None, fingerprint: int | None, detail: Any) -> Command:
        """Numbers a command of another kind and asks for it. Its `future` gets the answer."""
        if self.dropped:
            self.raise_dropped()
            return Command(-1, "dropped", None, None, self.new_future())
        seq = self.next_seq
        self.next_seq = seq + 1
        command = Command(seq, kind, name, fingerprint, self.new_future(), detail)
        self.pending[seq] = command
        self.issued.append(command)
        return command

    def issue_timer(self, due_us: int, future: Any) -> Command:
        """Numbers a timer. `future.set_result(None)` is called when it has fired."""
        if self.dropped:
            self.raise_dropped()
            return Command(-1, "dropped", None, None, self.new_future())
        seq = self.next_seq
        self.next_seq = seq + 1
        command = Command(seq, "timer", None, None, future, due_us=min(due_us, LATEST_US))
        self.pending[seq] = command
        self.issued.append(command)
        return command

    def cancel(self, command: Command) -> None:
        """The workflow no longer waits for the command. One cancelled in the burst that issued it leaves no trace."""
        if self.pending.pop(command.seq, None) is None:
            return
        command.cancelled = True
        if self.replaying:
            self._given_up[command.seq] = command
        if command.kind != "timer":
            self.cancelled.append(command)

    def take_signal(self, name: str) -> tuple[bool, Any]:
        """(True, payload) of the oldest signal of this name not yet taken, else (False, None)."""
        if self.dropped:
            self.raise_dropped()
        waiting = self._signals.get(name)
        if waiting:
            return True, waiting.popleft()
        return False, None

    def kept_signals(self) -> list[tuple[str, Any]]:
        """(name, payload) of the signals that nobody has taken; those of one name in the order they came."""
        return [(name, payload) for name, waiting in self._signals.items() for payload in waiting]

    def add_waiter(self, name: str, future: Any) -> None:
        """Gives the future the next signal of this name that nobody waits for before it."""
        waiters = self._waiters.setdefault(name, deque())
        while waiters and waiters[0].done():  # timed out: a loop of such waits must not grow
            waiters.popleft()
        waiters.append(future)

    @property
    def random(self) -> random.Random:
        """The instance's own generator: the same numbers in replay."""
        if self.dropped:
            self.raise_dropped()
        if self._random is None:
            self._random = random.Random(int.from_bytes(self.seed, "big"))
        return self._random

    def patched(self, id: str) -> bool:
        """Whether the code behind a patch is run: where this is the first time, live, or was when it was recorded."""
        if self.patches is None:
            self.patches = {}
        found = self.patches.get(id)
        if found is None:
            if self.replaying:
                found = any(row[2] == "patch" and row[4] == id for row in self.history)
            else:
                found = not self.dropped
                self.issued.append(Command(-1, "patch", id, None, None))
            self.patches[id] = found
        return found

    def reseed(self, seed: bytes) -> None:
        """Draws other random numbers from here on."""
        self.seed = seed
        self._random = None

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    # -- what the owner calls --------------------------------------------------------------------------------

    def start(self) -> None:
        """Runs the code up to its first wait."""
        raise NotImplementedError

    def answer(self, seq: int, value: Any, error: BaseException | None, at_us: int) -> None:
        """Delivers a step's result or exception."""
        command = self.pending.pop(seq, None)
        self._advance(at_us)
        if command is None or self.outcome is not None:
            return
        future = command.future
        if not future.done():
            if error is None:
                future.set_result(value)
            else:
                if isinstance(error, StopIteration):  # no future takes it
                    error = _as_runtime_error(error)
                future.set_exception(error)
        self.burst()

    def fire(self, seq: int, at_us: int) -> None:
        """Delivers a timer that is due."""
        command = self.pending.pop(seq, None)
        self._advance(at_us)
        if command is None or self.outcome is not None:
            return
        command.future.set_result(None)
        self.burst()

    def tell(self, slot: Any, value: Any, at_us: int) -> None:
        """Delivers something that came before a command's answer: `slot` gets it, and the command stays open."""
        self._advance(at_us)
        if self.outcome is not None or slot.done():
            return
        slot.set_result(value)
        self.burst()

    def request_cancel(self, reason: str | Exception | None, at_us: int) -> None:
        """Delivers a request to cancel, once: the code meets `asyncio.CancelledError` where it waits."""
        self._advance(at_us)
        if self.cancel_requested or not self._listens():
            return
        self.cancel_requested = True
        self.cancel_reason = reason
        if self.outcome is not None:
            self.cancel_is_late = True
            return
        self.cancel_code()
        self.burst()

    def request_timeout(self, error: Exception, at_us: int) -> None:
        """Delivers the end of the time the instance had: as a request to cancel whose reason is the error."""
        if self.outcome is not None:
            self._advance(at_us)  # too late: where it continues as new, the next run meets its end by itself
            return
        if not self.cancel_requested:
            self.timed_out = True
        self.request_cancel(error, at_us)

    def cancel_code(self) -> None:
        """Lets the code meet the request in the next burst."""
        raise NotImplementedError

    def signal(self, name: str, payload: Any, at_us: int) -> None:
        """Delivers a signal: to the first that waits for it, else kept in order until somebody does."""
        self._advance(at_us)
        if not self._listens():
            return
        waiters = self._waiters.get(name) if self.outcome is None else None
        while waiters:
            future = waiters.popleft()
            if not future.done():
                future.set_result(payload)
                break
        else:
            self._signals.setdefault(name, deque()).append(payload)
        if self.outcome is None:
            self.burst()

    def expect(self, event_id: int, seq: int, kind: str, name: str | None, fingerprint: int | None) -> None:
        """Holds a recorded event against the command the code issued under that number.

        Raises NonDeterminismError with the divergence when they differ.
        """
        command = self.pending.get(seq)
        if command is None:
            given_up = self._given_up.pop(seq, None)
            if given_up is not None and (given_up.kind, given_up.name, given_up.fingerprint) != (
                kind,
                name,
                fingerprint,
            ):
                found = f"{given_up}, and it no longer waits for that"
            elif seq < self.next_seq:
                return  # issued, and cancelled or answered since: the live run met the event in the same way
            elif self.outcome is not None:
                found = f"nothing: the workflow has ended ({self.outcome[0]})"
            else:
                others = ", ".join(f"#{c.seq} {c}" for c in list(self.pending.values())[:3])
                found = "nothing" + (f"; it waits for {others}" if others else "; it waits for a signal")
        elif (command.kind, command.name, command.fingerprint) == (kind, name, fingerprint):
            return
        else:
            found = str(command)
        raise NonDeterminismError(
            f"{self.label} ({self.workflow}) does not replay its history",
            detail=(
                f"  first difference: event {event_id}, command #{seq}\n"
                f"    history:  {describe(kind, name, fingerprint)}\n"
                f"    code now: {found}"
            ),
            hint=(
                "The instance is paused and nothing is lost. Deploy code that issues the recorded commands in order "
                "(or give the new code a new version=), then resume it: pgdurable resume ID."
            ),
        )

    def drain(self) -> tuple[list[Command], list[Command]]:
        """(commands issued, commands cancelled) since the last call, without those that are both."""
        issued, cancelled = self.issued, self.cancelled
        if not cancelled:
            if issued:
                self.issued = []
                # a timer set and cancelled within one burst
                for command in issued:
                    if command.cancelled:
                        return [c for c in issued if not c.cancelled], cancelled
            return issued, cancelled
        self.issued, self.cancelled = [], []
        fresh = {id(c) for c in issued}
        return [c for c in issued if not c.cancelled], [c for c in cancelled if id(c) not in fresh]

    def drop(self) -> None:
        """Takes the instance out of memory; its code is unwound and can do nothing more."""
        self.dropped = True

    def raise_dropped(self) -> None:
        """What the code of a dropped instance gets for asking for anything.

        Code that catches it and asks again at once, in a loop, would go on for ever: after a while this returns,
        and the code gets something to wait for that never comes.
        """
        if self.asked:
            raise PgDurableError(
                f"{self.label}: a query asked for more than it may",
                detail="It is no part of the workflow's history: no steps, waits, random numbers or published state.",
                hint="Let it only read what the workflow's code keeps. To change something, declare an update.",
            )
        self._dropped_raises += 1
        if self._dropped_raises <= MOST_DROPPED:
            raise InstanceDropped

    def burst(self) -> None:
        """Runs the code until it is idle."""
        raise NotImplementedError

    def new_future(self) -> Any:
        """A place for a command's answer."""
        raise NotImplementedError

    def _listens(self) -> bool:
        """Whether what comes is for this run, or for the next one of an instance that continues as new."""
        return self.outcome is None or self.outcome[0] == "continued"

    def spawn(self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs a handler beside the code, from the next burst on, and tells what came out."""
        raise NotImplementedError

    def ask(self, call: Callable[[], Any]) -> Any:
        """What a query's handler gives; between bursts. Raises PgDurableError when it asks for anything."""
        self.asked = self.dropped = True
        try:
            return self.ask_code(call)
        finally:
            self.asked = self.dropped = False
            self._dropped_raises = 0

    def ask_code(self, call: Callable[[], Any]) -> Any:
        """Calls it as the workflow's code."""
        raise NotImplementedError

    def _advance(self, at_us: int) -> None:
        self.moment += 1
        # Never back: a transaction's time is when it began, which may be before an event that came first.
        if at_us > self.now_us:
            self.now_us = at_us
