"""What there is beside steps, timers and signals: one entry per kind, each in a module of its own.

Three tables, by kind:

- `COMMANDS`: what workflow code asks for. `begin` carries a fresh command out; `resume` goes on, after a replay, with
  one that history has not answered; `give_up` hears that the code no longer waits for it.
- `ROWS`: what a row of history means in replay.
- `EVENTS`: what is done with an event of the queue: recorded, in most cases, and delivered once that is committed.

Steps, timers and signals come so often that the engine knows them without looking here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pgdurable._engine import (
    cancellation,
    children,
    deadlines,
    earlier,
    published,
    requests,
    sending,
    streams,
    updates,
)

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable._runtime.machine import Command

__all__ = ["COMMANDS", "EVENTS", "NOTES", "ROWS", "CommandKind", "Event"]


class Event(NamedTuple):
    """An event of the queue. `payload` is the JSON text."""

    seq: int
    kind: str
    name: str | None
    payload: str | None
    sent_at: Any


class CommandKind(Protocol):
    """How the engine carries out commands of one kind."""

    def begin(self, hosted: Hosted, command: Command) -> None: ...
    def resume(self, hosted: Hosted, command: Command, replayed: Replayed) -> None: ...
    def give_up(self, hosted: Hosted, command: Command, replayed: Replayed | None) -> None:
        """`replayed` is given when it was given up in replay: what of this is recorded is to be looked up there."""


COMMANDS: dict[str, CommandKind] = {
    "child": children.Kind(),
    "send": sending.Kind(),
    "reply": updates.Kind(),
    "state": published.Kind(),
    "stream": streams.Kind(),
}

NOTES = frozenset({"reply", "state", "stream"})
"""Commands that nothing answers: those of an instance's last burst are carried out too."""

ROWS: dict[str, Callable[[Hosted, Row, Replayed], None]] = {
    "cancel": cancellation.replay_row,
    "deadline": deadlines.replay_row,
    "pending": earlier.replay_pending,
    "child": children.replay_start,
    "child_end": children.replay_end,
    "child_cancel": children.replay_cancel,
    "send": sending.replay_row,
    "reply": published.replay_note,
    "state": published.replay_note,
    "stream": published.replay_note,
    "update": updates.replay_row,
}

EVENTS: dict[str, Callable[[Hosted, Event], None]] = {
    "cancel": cancellation.take_event,
    "child": children.take_event,
    "pause": requests.take_pause,
    "terminate": requests.take_terminate,
    "update": updates.take_event,
}
