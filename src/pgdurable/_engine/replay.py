"""Brings a claimed instance to where its history ends, and on from there."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pgdurable._engine import kinds
from pgdurable._engine.clock import micros
from pgdurable._engine.earlier import Earlier
from pgdurable._engine.forks import origin_of
from pgdurable._engine.retries import Failures, to_undo
from pgdurable._engine.steps import replayed_answer
from pgdurable._failure import encode_error
from pgdurable.codec import decode_stored
from pgdurable.errors import NonDeterminismError, PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted

__all__ = ["Replayed", "Row", "replay", "run_again", "undone_by_retry"]

logger = logging.getLogger("pgdurable.engine")

Attempts = dict[int, Earlier]
Row: TypeAlias = Any
"""(instance_id, event_id, kind, seq, name, attempt, fingerprint, payload, error, recorded_at), payloads as texts."""


class Replayed(NamedTuple):
    """What history says of commands that it does not answer.

    Attributes:
        attempts: of steps, by their number.
        notes: what each kind of `kinds.py` wants to remember of a command, by its number.
    """

    attempts: Attempts
    notes: dict[int, Any]


async def replay(hosted: Hosted, history: list[Any]) -> None:
    """Runs the code against its recorded events, then starts what history does not answer.

    An instance whose code no longer fits its history, or whose history cannot be read, is paused with the reason.

    Args:
        history: rows (instance_id, event_id, kind, seq, name, attempt, fingerprint, payload, error, recorded_at).
    """
    hosted.machine.replaying = True
    try:
        replayed = await run_again(hosted, history)
    except NonDeterminismError as error:
        logger.error("%s", error)
        hosted.host.release(hosted, "paused", error=encode_error(error, keep_traceback=False))
        return
    except PgDurableError as error:
        logger.error("%s: its history cannot be replayed: %s", hosted.label, error)
        hosted.host.release(hosted, "paused", error=encode_error(error))
        return
    except Exception as error:
        logger.exception("%s: its history cannot be replayed", hosted.label)
        hosted.host.release(hosted, "paused", error=encode_error(error))
        return
    if replayed is None:
        return
    machine = hosted.machine
    machine.replaying = False
    machine.history = ()
    _, given_up = machine.drain()
    if machine.outcome is None:
        _go_on(hosted, replayed)
    else:
        for command in list(machine.pending.values()):
            if command.kind in kinds.NOTES:
                kinds.COMMANDS[command.kind].resume(hosted, command, replayed)
    for command in given_up:
        if command.kind in kinds.COMMANDS:
            kinds.COMMANDS[command.kind].give_up(hosted, command, replayed)
    hosted.after_burst()


async def undone_by_retry(hosted: Hosted, history: list[Any]) -> list[int]:
    """The events that an instance's retry undoes. To be replayed without them by another machine."""
    hosted.machine.replaying = True
    failures = Failures()
    trouble: PgDurableError | None = None
    try:
        await run_again(hosted, history, failures)
    except PgDurableError as error:
        trouble = error
    except Exception:
        return []  # whatever it is, the replay that follows tells of it
    return to_undo(hosted, history, failures, trouble)


async def run_again(hosted: Hosted, history: list[Row], failures: Failures | None = None) -> Replayed | None:
    """Delivers the recorded events. None: the instance has left memory meanwhile.

    Args:
        failures: watches.
    """
    machine = hosted.machine
    label = hosted.label
    attempts: Attempts = defaultdict(Earlier)
    replayed = Replayed(attempts, {})
    machine.history = history
    origin = origin_of(history)
    if origin is not None:
        origin.begin(hosted)
    machine.start()
    await hosted.settle()
    for row in history:
        _, event_id, kind, seq, name, attempt, mark, payload, error, recorded_at = row
        hosted.next_event = event_id + 1
        if origin is not None:
            origin.reach(hosted, event_id)
        if failures is not None:
            failures.before(hosted, row)
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
            attempts[seq].failed(attempt, payload, at_us)
        elif kind in kinds.ROWS:
            kinds.ROWS[kind](hosted, row, replayed)
        if machine.busy:
            await hosted.settle()
        if hosted.closed:
            return None
        if failures is not None:
            failures.after(row)
    if origin is not None:
        origin.reach(hosted, hosted.next_event)
    return replayed


def _go_on(hosted: Hosted, replayed: Replayed) -> None:
    """Starts what the replayed code waits for and history does not answer."""
    host = hosted.host
    for command in list(hosted.machine.pending.values()):
        if command.kind == "timer":
            host.timers.add(hosted, command)
            continue
        if command.kind != "step":
            kinds.COMMANDS[command.kind].resume(hosted, command, replayed)
            continue
        earlier = replayed.attempts[command.seq]
        if host.kept:
            earlier.heard(host.kept.pop((hosted.id, command.seq), None))
        earlier.go_on(hosted, command)
