"""Instances that were forked: what of their history is another's, and what of that follows.

The first row of such a history, event 0 of the kind `forked`, says of which instances the copied rows are, up to where.
The originals' random numbers go on until there, and their rows are encrypted for them; then the instance is itself.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pgdurable._engine.clock import micros
from pgdurable.codec import decode_stored

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable.compression import Codecs
    from pgdurable.encryption import Encryption

__all__ = ["Origin", "opened", "origin_of"]


class Origin:
    """Where a fork comes from.

    Attributes:
        input_of: the instance whose input it was given; None: its own.
        started_us: when the first of its originals began, which its code has as its own beginning.
    """

    def __init__(self, payload: Any) -> None:
        found = decode_stored(payload)
        self._roots = [(int(root["before"]), uuid.UUID(root["instance"])) for root in found["roots"]]
        self._passed = 0
        self.input_of = None if found["input_of"] is None else uuid.UUID(found["input_of"])
        self.started_us = micros(datetime.fromisoformat(found["started_at"].replace("Z", "+00:00")))

    @property
    def originals(self) -> list[uuid.UUID]:
        """The instances whose rows were copied, the first one first."""
        return [instance for _, instance in self._roots]

    def owner(self, event_id: int) -> uuid.UUID | None:
        """The instance that a row was recorded by; None: the fork itself."""
        return next((instance for before, instance in self._roots if event_id < before), None)

    def begin(self, hosted: Hosted) -> None:
        """Gives the machine, before it runs, the beginning that the copied history has."""
        hosted.machine.seed = self._roots[0][1].bytes
        hosted.machine.now_us = self.started_us
        self._passed = 0

    def reach(self, hosted: Hosted, event_id: int) -> None:
        """Before this row is delivered, or after the last: whose random numbers are drawn from here on."""
        while self._passed < len(self._roots) and event_id >= self._roots[self._passed][0]:
            self._passed += 1
            left = self._roots[self._passed :]
            hosted.machine.reseed(left[0][1].bytes if left else hosted.id)

    def open(self, encryption: Encryption | Codecs, row: Any) -> Any:
        """A row of its history, decrypted."""
        return encryption.open_history(row, self.owner(row[1]))


def opened(encryption: Any, id: uuid.UUID, input: Any, history: list[Any]) -> tuple[Any, list[Any]]:
    """An instance's input and history, from its event 0 if it has one, decrypted: some of it for its originals."""
    origin = origin_of(history)
    whose = id if origin is None or origin.input_of is None else origin.input_of
    rows = [encryption.open_history(row) if origin is None else origin.open(encryption, row) for row in history]
    return encryption.open(whose, "input", input), rows


def origin_of(history: list[Any]) -> Origin | None:
    """Of rows as `replay` takes them: where the instance was forked from, if it was."""
    if history and history[0][1] == 0 and history[0][2] == "forked":
        return Origin(history[0][7])
    return None
