"""What is common to the events of the queue that an instance takes: recorded in its order, delivered once committed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgdurable._engine import probes
from pgdurable._failure import decode_error, encode_error

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.kinds import Event
    from pgdurable._runtime.machine import Command
    from pgdurable.errors import PgDurableError

__all__ = ["Note", "consume", "refuse"]

logger = logging.getLogger("pgdurable.engine")


class Note:
    """The journal's tag for a row of history that is nobody's step.

    Args:
        told: called with the commit's time; what it tells the machine it does through `deliver`.
        on_refused: called when the database would not store the row. Default: that is logged.
    """

    __slots__ = ("hosted", "on_refused", "told", "what")

    def __init__(
        self,
        hosted: Hosted,
        what: str,
        told: Callable[[int], None] | None = None,
        on_refused: Callable[[PgDurableError], None] | None = None,
    ) -> None:
        self.hosted = hosted
        self.what = what
        self.told = told
        self.on_refused = on_refused

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach(f"{self.what}.committed")
        hosted = self.hosted
        hosted.unacked -= 1
        if self.told is not None:
            self.told(at_us)
        hosted.advance_order()

    def refused(self, error: PgDurableError) -> None:
        hosted = self.hosted
        hosted.unacked -= 1
        if self.on_refused is not None:
            self.on_refused(error)
        else:
            logger.error("%s: %s could not be recorded: %s", hosted.label, self.what, error)
        hosted.advance_order()


def refuse(hosted: Hosted, command: Command, error: PgDurableError, fail: Callable[[BaseException, int], None]) -> None:
    """Records that a command could not be carried out, and calls `fail` with the error and its time once committed."""
    data = encode_error(error)
    failure = decode_error(data, step=command.name or "", attempt=1)

    def told(at_us: int) -> None:
        hosted.deliver(lambda: fail(failure, at_us))

    hosted.record(
        command.kind, Note(hosted, command.kind, told), seq=command.seq, name=command.name, mark=command.fingerprint,
        error=data,
    )  # fmt: skip


def consume(hosted: Hosted, event: Event, kind: str, deliver: Callable[[int], None], **row: Any) -> None:
    """Moves an event to history, as a row of this kind, and calls `deliver` with its time once that is committed.

    Args:
        row: what else the row has, as for `Hosted.record`.
    """
    host = hosted.host
    assert hosted.consumed is not None
    hosted.consumed.add(event.seq)
    host.parking.busy(hosted)

    def told(at_us: int) -> None:
        host.consuming.pop(event.seq, None)
        hosted.deliver(lambda: deliver(at_us))

    def refused(error: PgDurableError) -> None:
        host.consuming.pop(event.seq, None)
        logger.error("%s: event %s (%s) could not be recorded: %s", hosted.label, event.seq, kind, error)

    event_id = hosted.record(kind, Note(hosted, kind, told, refused), event_seq=event.seq, **row)
    host.consuming[event.seq] = (event.sent_at, hosted.id, event_id)
    if probes.armed:
        probes.reach(f"{kind}.recorded")
