"""An owner without a database: runs a workflow's machine, keeps its history in a list, replays it.

`Owner` plays the engine's part: it executes steps (at once, when told), fires timers, delivers signals, all one event
at a time. Payloads and errors go through the codec, as they would through the database. `trace` says what the code
asked for and when, so that two runs can be held against each other.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pgdurable._failure import decode_error, encode_error
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Command, Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.codec import decode_stored, encode
from pgdurable.workflow import Step, Workflow

START_US = 1_700_000_000_000_000
SEED = bytes(range(16))
PATIENCE_S = 20.0

ALIVE: list[Owner] = []
"""Every owner made and not yet dropped; the fixture in conftest.py drops those that a test leaves."""


@dataclass(frozen=True)
class Event:
    """One row of history."""

    kind: str
    at_us: int
    seq: int | None = None
    name: str | None = None
    fingerprint: int | None = None
    payload: bytes | None = None
    error: bytes | None = None


def workflow(fn: Callable[..., Any]) -> Workflow[Any, Any]:
    """A workflow outside the registry, so that tests may use a name twice."""
    return Workflow(fn)


def outcome_of(machine: Machine) -> Any:
    """The outcome, comparable: an exception by its type and text."""
    if machine.outcome is None or machine.outcome[0] != "failed":
        return machine.outcome
    error = machine.outcome[1]
    return "failed", type(error).__name__, str(error)


class Owner:
    """See the head of this file.

    Args:
        definition: the workflow, `async def` or `def`.
        args: its arguments.
        seed: the instance's 16 bytes.
    """

    def __init__(self, definition: Workflow[Any, Any], *args: Any, seed: bytes = SEED) -> None:
        self.definition = definition
        self.args = args
        self.seed = seed
        self.now_us = START_US
        self.history: list[Event] = []
        self.trace: list[str] = []
        self.open: dict[int, Command] = {}
        self.executed: list[str] = []
        self._idle = threading.Semaphore(0)
        ALIVE.append(self)
        title = f"workflow {definition.name} v{definition.version}"
        if definition.is_async:
            self.machine: Machine = AsyncMachine("instance t", title, seed, START_US, lambda: definition.fn(*self.args))
        else:
            self.machine = ThreadMachine(
                "instance t", title, seed, START_US, lambda: definition.fn(*self.args), self._idle.release
            )

    # -- delivering ----------------------------------------------------------------------------------------------

    def start(self) -> Owner:
        self.machine.start()
        self._settle("start")
        return self

    def deliver(self, event: Event) -> None:
        """One event, as live and as replayed."""
        machine = self.machine
        number = len(self.history) + 1
        self.history.append(event)
        self.now_us = max(self.now_us, event.at_us)
        told = f"{event.kind} #{event.seq}" if event.seq is not None else f"{event.kind} {event.name}"
        bursts = event.kind == "signal" or event.seq in machine.pending
        if machine.outcome is not None:
            bursts = False
        if event.kind == "signal":
            machine.signal(event.name or "", decode_stored(event.payload or b"null"), event.at_us)
        else:
            assert event.seq is not None
            machine.expect(number, event.seq, event.kind, event.name, event.fingerprint)
            command = machine.pending.get(event.seq)
            self.open.pop(event.seq, None)
            if event.kind == "timer":
                machine.fire(event.seq, event.at_us)
            elif event.error is not None:
                error = decode_error(event.error, step=event.name or "", attempt=1)
                machine.answer(event.seq, None, error, event.at_us)
            else:
                type = command.step.signature.returns if command is not None else Any
                machine.answer(event.seq, decode_stored(event.payload or b"null", type), None, event.at_us)
        self._settle(told, bursts)

    def _settle(self, told: str, bursts: bool = True) -> None:
        if isinstance(self.machine, ThreadMachine) and bursts:
            assert self._idle.acquire(timeout=PATIENCE_S), f"the thread does not come back after {told}"
            assert not self.machine.busy
        issued, cancelled = self.machine.drain()
        lines = [f"{c.seq}: {c}" + (f" due +{c.due_us - START_US}" if c.kind == "timer" else "") for c in issued]
        lines += [f"{c.seq}: cancelled" for c in cancelled]
        if self.machine.outcome is not None:
            lines.append(str(outcome_of(self.machine)))
        self.trace.append(f"{told} -> {'; '.join(lines)}")
        for command in issued:
            self.open[command.seq] = command
        for seq in [seq for seq, command in self.open.items() if command.cancelled]:
            del self.open[seq]

    # -- playing the world -----------------------------------------------------------------------------------------

    @property
    def steps(self) -> list[Command]:
        """Steps that wait for their result, in the order asked for."""
        return [command for command in self.open.values() if command.kind == "step"]

    @property
    def timers(self) -> list[Command]:
        """Timers that are set, the next one first."""
        return sorted((c for c in self.open.values() if c.kind == "timer"), key=lambda c: (c.due_us, c.seq))

    def step(self, name: str) -> Command:
        """The oldest open step of that name."""
        found = [command for command in self.steps if command.name == name]
        assert found, f"no step {name!r} is open, only {[str(c) for c in self.steps]}"
        return found[0]

    def tick(self, us: int = 1000) -> int:
        self.now_us += us
        return self.now_us

    def checkpoint(self, command: Command) -> Event:
        """Executes a step's function and makes the row of what came out."""
        self.executed.append(str(command.name))
        payload = error = None
        try:
            value = command.step.fn(*command.args, **(command.kwargs or {}))
            if asyncio.iscoroutine(value):
                value = finish(value)
            payload = encode(value)
        except Exception as failure:
            error = encode_error(failure, step=command.name, attempt=1)
        return Event("step", self.tick(), command.seq, command.name, command.fingerprint, payload, error)

    def answer(self, which: str | Command) -> None:
        """Executes a step and delivers its result."""
        self.deliver(self.checkpoint(self.step(which) if isinstance(which, str) else which))

    def fire(self) -> None:
        """Lets time pass to the next timer and fires it."""
        command = self.timers[0]
        self.now_us = max(self.now_us + 1, command.due_us)
        self.deliver(Event("timer", self.now_us, command.seq))

    def signal(self, name: str, payload: Any = None) -> None:
        self.deliver(Event("signal", self.tick(), name=name, payload=encode(payload)))

    def run(self, *names: str, rng: random.Random | None = None, most: int = 100_000) -> Owner:
        """Answers the named steps in that order, then everything open, timers last, until nothing is left.

        With `rng` the order is random, but a timer never fires before one that is due earlier.
        """
        for name in names:
            self.answer(name)
        for _ in range(most):
            choices: list[Command] = self.steps
            if self.machine.outcome is not None:
                return self
            timers = self.timers[:1]
            if rng is None:
                if choices:
                    self.answer(choices[0])
                elif timers:
                    self.fire()
                else:
                    return self
            elif choices or timers:
                chosen = rng.choice(choices + timers)
                if chosen.kind == "timer":
                    self.fire()
                else:
                    self.answer(chosen)
            else:
                return self
        raise AssertionError("the workflow does not end")

    # -- what came of it ---------------------------------------------------------------------------------------------

    @property
    def result(self) -> Any:
        """The workflow's result; its exception is raised."""
        assert self.machine.outcome is not None, f"it waits: {self.trace[-1]}"
        status, value = self.machine.outcome
        if status == "failed":
            raise value
        assert status == "completed", status
        return value

    def again(self, history: Iterable[Event] | None = None, definition: Workflow[Any, Any] | None = None) -> Owner:
        """A new machine (with this code, if given) that has replayed the history (this one's, if not given)."""
        other = Owner(definition or self.definition, *self.args, seed=self.seed)
        other.machine.replaying = True
        other.start()
        for event in list(self.history if history is None else history):
            other.deliver(event)
        other.machine.replaying = False
        return other

    def replays(self) -> Owner:
        """Replays, asserts that the code asked for the same at the same points, and drops the copy."""
        other = self.again()
        assert other.trace == self.trace
        assert outcome_of(other.machine) == outcome_of(self.machine)
        assert set(other.open) == set(self.open)
        other.drop()
        return self

    def drop(self) -> None:
        """Takes the instance out of memory; the thread of a `def` workflow must end."""
        if self in ALIVE:
            ALIVE.remove(self)
        self.machine.drop()
        thread = getattr(self.machine, "_thread", None)
        if thread is not None:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the thread of a dropped workflow lives on"


def finish(coro: Any) -> Any:
    """Runs a coroutine that waits for nothing but its next turn."""
    while True:
        try:
            assert coro.send(None) is None, "steps of these tests do not wait"
        except StopIteration as stop:
            return stop.value


def run(definition: Workflow[Any, Any], *args: Any) -> Owner:
    """Runs a workflow to its end and sees that its history replays."""
    owner = Owner(definition, *args).start().run()
    assert owner.machine.outcome is not None, f"it waits: {owner.trace[-1]}"
    return owner.replays()


def echo_step(name: str) -> Step[Any, Any]:
    """A step of that name that returns its first argument."""

    async def echo(value: Any = None) -> Any:
        return value

    return Step(echo, name=name)
