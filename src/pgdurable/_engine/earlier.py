"""What history says of a step that it does not answer: its attempts before, and how a resumed instance goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine.attempts import interruption, need_extra, place_of_details
from pgdurable._engine.steps import StepRun
from pgdurable.encryption import is_sealed

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.replay import Replayed, Row
    from pgdurable._runtime.machine import Command

__all__ = ["Earlier", "replay_pending"]


def replay_pending(hosted: Hosted, row: Row, replayed: Replayed) -> None:
    """A row of kind `pending`: an attempt was about to begin."""
    _, event_id, _, seq, name, attempt, mark, *_ = row
    hosted.machine.expect(event_id, seq, "step", name, mark)
    replayed.attempts[seq].began(attempt)


class _Left(msgspec.Struct):
    retry_in: float = 0.0
    paused: bool = False
    details: msgspec.Raw = msgspec.Raw(b"null")  # msgspec takes no `Raw | None`


_read = msgspec.json.Decoder(_Left).decode


class Earlier:
    """The attempts of one step so far.

    Attributes:
        attempt: the next one.
        wait: the seconds it was to wait, from `failed_us` on.
        pending: the last one that history says was about to begin.
        details: of the last heartbeat, as they are stored.
    """

    __slots__ = ("attempt", "details", "failed_us", "pending", "wait")

    def __init__(self) -> None:
        self.attempt = 1
        self.wait = 0.0
        self.failed_us = 0
        self.pending = 0
        self.details: bytes | None = None

    def failed(self, attempt: int, payload: str | None, at_us: int) -> None:
        """A row of kind `attempt`: one that failed and is tried again."""
        left = _read(payload or "{}")
        # One that paused its instance was the last of its count; somebody has resumed it since.
        self.attempt = 1 if left.paused else attempt + 1
        if left.paused:
            self.pending = 0
        self.wait = left.retry_in
        self.failed_us = at_us
        if bytes(left.details) != b"null":
            self.details = bytes(left.details)

    def began(self, attempt: int) -> None:
        """A row of kind `pending`."""
        self.pending = attempt

    def heard(self, row: Row | None) -> None:
        """What the table of attempts kept of one that was never heard of again."""
        if row is not None and row[5] >= self.attempt:
            self.details = row[7].encode()

    def go_on(self, hosted: Hosted, command: Command) -> None:
        """Begins the next attempt, in what is left of the wait before it."""
        run = StepRun(hosted, command, self.attempt)
        hosted.steps[command.seq] = run
        if self.details is not None:
            need_extra(run).details = self._opened(hosted, command.seq, self.details)
        if command.step.at_most_once and self.pending >= self.attempt:
            run.failed(interruption(run))
            return
        left = self.wait - max(hosted.host.clock.now_us() - self.failed_us, 0) / 1e6 if self.wait else 0.0
        run.start(max(left, 0.0))

    def _opened(self, hosted: Hosted, seq: int, details: bytes) -> bytes | None:
        encryption = hosted.host.encryption
        if encryption is not None:
            opened: Any = encryption.open(hosted.id, place_of_details(seq), details)
            details = opened.encode() if isinstance(opened, str) else opened
        return None if is_sealed(details) else details  # without its key the attempt begins from nothing
