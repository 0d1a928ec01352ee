"""Replays a finished instance's recorded history through its workflow's code, with no database and no engine."""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, Protocol

from pgdurable._engine import kinds
from pgdurable._engine import replay as engine_replay
from pgdurable._engine.continuing import seed_of
from pgdurable._engine.earlier import Earlier
from pgdurable._engine.steps import replayed_answer
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.codec import decode_stored, encode
from pgdurable.errors import NonDeterminismError
from pgdurable.workflow import Workflow

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Row:
    """One row of `history`; payload and error are JSON texts."""

    event_id: int
    kind: str
    seq: int | None
    name: str | None
    attempt: int | None
    fingerprint: int | None
    payload: str | None
    error: str | None
    recorded_at: datetime

    @property
    def at_us(self) -> int:
        return to_us(self.recorded_at)


@dataclass
class Replayed:
    """What came out of a replay. `timers`: by command, when it was asked for and when it was due, in microseconds.

    `history`: what was replayed. `before`: the replays of the runs before it, of an instance that continued as new; the
    `output` of one that did is the input of the next.
    """

    status: str = "running"
    output: Any = None
    error: dict[str, Any] | None = None
    timers: dict[int, tuple[int, int]] = field(default_factory=dict)
    history: Sequence[Row] = ()
    before: list[Replayed] = field(default_factory=list)


class Recorded(Protocol):
    """An ended instance as the tables tell of it."""

    id: uuid.UUID
    started_at: datetime
    input: str
    history: Sequence[Row]
    status: str
    output: Any
    error: dict[str, Any] | None


def to_us(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def runs_of(history: Sequence[Row]) -> list[list[Row]]:
    """The history of an instance by its runs: each but the first begins with a row `continued`."""
    runs: list[list[Row]] = [[]]
    for row in history:
        if row.kind == "continued":
            runs.append([])
        runs[-1].append(row)
    return runs


def replay(
    definition: Workflow[Any, Any], instance_id: uuid.UUID, started_at: datetime, input: str, history: Sequence[Row]
) -> Replayed:
    """Raises NonDeterminismError where the code now differs from the history."""
    seed = instance_id.bytes
    if history and history[0].kind == "continued":
        first, *history = history
        seed = seed_of(seed, first.event_id)
        started_at, input = first.recorded_at, first.payload or ""
    args, kwargs = definition.signature.load_input(input)
    idle = threading.Semaphore(0)
    title = f"workflow {definition.name}"
    common = (str(instance_id), title, seed, to_us(started_at), lambda: definition.fn(*args, **kwargs))
    machine: Machine
    machine = AsyncMachine(*common) if definition.is_async else ThreadMachine(*common, idle.release)
    machine.replaying = True
    result = Replayed(history=history)
    notes = engine_replay.Replayed(defaultdict(Earlier), {})

    def settle() -> None:
        if not definition.is_async:
            while machine.busy:
                assert idle.acquire(timeout=30), f"{title}: its thread neither waits nor ends"
        issued, _ = machine.drain()
        for command in issued:
            if command.kind == "timer":
                result.timers[command.seq] = (machine.now_us, command.due_us)

    try:
        machine.start()
        settle()
        for row in history:
            if row.kind in ("step", "timer"):
                assert row.seq is not None
                machine.expect(row.event_id, row.seq, row.kind, row.name, row.fingerprint)
            if row.kind == "step":
                command = machine.pending.get(row.seq)
                step = command.step if command else None
                answer = replayed_answer(step, row.name, row.attempt, row.payload, row.error, str(row.name))
                machine.answer(row.seq, *answer, row.at_us)
            elif row.kind == "timer":
                machine.fire(row.seq, row.at_us)
            elif row.kind == "signal":
                machine.signal(row.name, decode_stored(row.payload), row.at_us)
            elif row.kind in kinds.ROWS:
                stub = SimpleNamespace(
                    machine=machine, label=title, definition=definition, host=SimpleNamespace(encryption=None)
                )  # fmt: skip
                entry = (
                    instance_id, row.event_id, row.kind, row.seq, row.name, row.attempt, row.fingerprint, row.payload,
                    row.error, row.recorded_at,
                )  # fmt: skip
                kinds.ROWS[row.kind](stub, entry, notes)  # type: ignore[arg-type]
            settle()
    finally:
        outcome = machine.outcome
        machine.drop()
    if outcome is not None:
        status, value = outcome
        result.status = status
        if status == "completed":
            result.output = json.loads(encode(value, what="result"))
        elif status == "continued":
            result.output = json.loads(definition.signature.bind_input(*value))
        else:
            result.error = {"type": type(value).__name__, "message": str(value)}
    return result


def compare(definition: Workflow[Any, Any], instance: Recorded) -> tuple[str | None, Replayed | None]:
    """How the instance's replay differs from what was recorded, or None; and the replay, where it came to an end."""
    before: list[Replayed] = []
    try:
        every = runs_of(instance.history)
        for rows, following in itertools.pairwise(every):
            again = replay(definition, instance.id, instance.started_at, instance.input, rows)
            before.append(again)
            if again.status != "continued" or again.output != json.loads(following[0].payload or "null"):
                told = f"{again.status} with {again.output}"
                return f"{instance} continued with {following[0].payload}, replayed it is {told}", None
        again = replay(definition, instance.id, instance.started_at, instance.input, every[-1])
    except NonDeterminismError as error:
        return f"{instance}: {error}", None
    again.before = before
    if again.status != instance.status:
        return f"{instance} was {instance.status}, replayed it is {again.status}", again
    if again.status == "completed" and again.output != instance.output:
        return f"{instance} gave {instance.output}, replayed {again.output}", again
    if again.error is not None and again.error["message"] != (instance.error or {}).get("message"):
        return f"{instance} raised {instance.error}, replayed {again.error}", again
    return None, again


def wrong_timers(instance: Recorded, again: Replayed, delays: Collection[float]) -> Iterator[str]:
    """Timers that fired early, or that nobody asked for; `delays`: the seconds its workflow asks for."""
    fired = [(row, run.timers) for run in (*again.before, again) for row in run.history if row.kind == "timer"]
    for row, timers in fired:
        if row.seq not in timers:
            continue
        asked_us, due_us = timers[row.seq]
        # Rounded to microseconds, and floats of seconds since 1970 have about a quarter of one.
        asked_s = (due_us - asked_us) / 1e6
        delay = min(delays, key=lambda known: abs(asked_s - known), default=-1.0)
        if abs(asked_s - delay) > 2e-6:
            yield f"{instance}: nobody asked for {asked_s} s: {row}"
        early_us = asked_us + delay * 1e6 - row.at_us
        if early_us > 1:
            yield f"{instance}: timer {row.seq} of {delay} s fired {early_us / 1e3:.3f} ms early"
