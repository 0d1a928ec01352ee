"""The time an instance has in all: watched where it runs, met by its code as a cancellation.

It is kept in `instances.deadline`. `start(timeout=)` sets it with the start. One from `@workflow(timeout=)` counts from
when the instance began; its worker works it out and notes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine.clock import micros
from pgdurable._runtime.machine import LATEST_US, Command
from pgdurable.errors import WorkflowTimeout

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable.errors import PgDurableError

__all__ = ["due", "note", "replay_row", "watch"]

KIND = "deadline"


def note(hosted: Hosted, deadline_us: int | None, started_us: int) -> None:
    """Says when the instance's time is over: by its row, or by its workflow's timeout."""
    timeout = hosted.definition.timeout
    if deadline_us is None:
        if timeout is None:
            return
        deadline_us = min(started_us + round(timeout * 1e6), LATEST_US)
        host = hosted.host
        host.flusher.add_write(hosted.id, KIND, 0, msgspec.json.encode({"at": deadline_us / 1e6}), _Nobody(), False)
        host.kick()
    hosted.deadline = Command(-1, KIND, None, None, None, due_us=deadline_us)


def watch(hosted: Hosted) -> None:
    """Wakes the instance when its time is over, unless it has been told so already."""
    if hosted.deadline is not None and hosted.machine.outcome is None and not hosted.machine.cancel_requested:
        hosted.host.timers.add(hosted, hosted.deadline)


def due(hosted: Hosted) -> None:
    """The time is over: recorded, then delivered."""
    if not hosted.machine.cancel_requested:
        hosted.record(KIND, _DeadlineRecord(hosted))


def replay_row(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    hosted.machine.request_timeout(error_of(hosted), micros(row[9]))


def error_of(hosted: Hosted) -> WorkflowTimeout:
    """What the code meets."""
    return WorkflowTimeout(
        f"{hosted.label}: workflow {hosted.definition.name} ran over its timeout",
        hint="See @workflow(timeout=) and start(timeout=).",
    )


class _DeadlineRecord:
    """The journal's tag for the row that says the time is over."""

    __slots__ = ("_hosted",)

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted

    def committed(self, at_us: int) -> None:
        hosted = self._hosted
        hosted.unacked -= 1
        hosted.deliver(lambda: hosted.machine.request_timeout(error_of(hosted), at_us))
        hosted.advance_order()

    def refused(self, error: PgDurableError) -> None:
        self.committed(0)


class _Nobody:
    """The tag of a write that nobody waits for."""

    def committed(self, at_us: int) -> None: ...

    def refused(self, error: Any) -> None: ...
