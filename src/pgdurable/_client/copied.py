"""Reading what a fork has of the instances it was forked from: it is encrypted for them, as rows of history are."""

from __future__ import annotations

import uuid
from typing import Any

from pgdurable._engine.database import Database
from pgdurable._engine.forks import Origin
from pgdurable.encryption import is_sealed

__all__ = ["Opener"]


class Opener:
    """Opens published state and items of streams of one instance, its own and those that were copied to it."""

    def __init__(self, database: Database, id: uuid.UUID) -> None:
        self._database = database
        self._id = id
        self._originals: list[uuid.UUID] | None = None

    async def open(self, value: bytes | str, place: str, copied_from: str) -> Any:
        """As `Encryption.open`. Without encryption the value as it is.

        Args:
            place: where the instance itself seals it.
            copied_from: where it stood in the instance it was copied from.
        """
        encryption = self._database.encryption
        if encryption is None:
            return value
        opened: Any = encryption.open(self._id, place, value)
        if not is_sealed(opened):
            return opened
        if self._originals is None:
            found = await self._database.one("origin", (self._id,))
            self._originals = [] if found is None else Origin(found).originals
        for original in self._originals:
            theirs: Any = encryption.open(original, copied_from, value)
            if not is_sealed(theirs):
                return theirs
        return opened
