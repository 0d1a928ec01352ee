"""Patches: recorded where an instance meets one for the first time, before anything begins that follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgdurable._failure import encode_error
from pgdurable.errors import PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._runtime.machine import Command

__all__ = ["hold"]


class PatchRecord:
    """The journal's tag for a patch: once it is committed, what the code asked for after it begins."""

    __slots__ = ("hosted", "name", "rest")

    def __init__(self, hosted: Hosted, name: str, rest: list[Command]) -> None:
        self.hosted = hosted
        self.name = name
        self.rest = rest

    def committed(self, at_us: int) -> None:
        hosted = self.hosted
        hosted.unacked -= 1
        if not hosted.closed and not hosted.releasing:
            hosted.carry_out([command for command in self.rest if not command.cancelled])
            if not hosted.steps:
                hosted.host.parking.idle(hosted)
        hosted.advance_order()

    def refused(self, error: PgDurableError) -> None:
        hosted = self.hosted
        hosted.unacked -= 1
        error.message = f"{hosted.label}: patch {self.name!r} could not be recorded: {error.message}"
        hosted.host.release(hosted, "failed", error=encode_error(error))


def hold(hosted: Hosted, mark: Command, rest: list[Command]) -> None:
    """Records a patch; what was asked for after it waits for the commit."""
    tag: Any = PatchRecord(hosted, mark.name or "", rest)
    hosted.record("patch", tag, name=mark.name)
