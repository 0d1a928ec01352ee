"""Cancelling an instance that runs: the request is an event of the queue, met by the code as a CancelledError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgdurable._engine.clock import micros
from pgdurable._engine.events import consume
from pgdurable.codec import decode_stored

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.kinds import Event
    from pgdurable._engine.replay import Replayed, Row

__all__ = ["replay_row", "take_event"]


def take_event(hosted: Hosted, event: Event) -> None:
    """A request to cancel: recorded, then delivered."""
    reason = _reason(event.payload)
    consume(
        hosted, event, "cancel", lambda at_us: hosted.machine.request_cancel(reason, at_us),
        payload=(event.payload or "null").encode(),
    )  # fmt: skip


def replay_row(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    hosted.machine.request_cancel(_reason(row[7]), micros(row[9]))


def _reason(payload: Any) -> str | None:
    found = decode_stored(payload) if payload is not None else None
    reason = found.get("reason") if isinstance(found, dict) else None
    return None if reason is None else str(reason)
