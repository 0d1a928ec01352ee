"""What the topics of a client have in common."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from pgdurable.errors import InstanceNotFound

if TYPE_CHECKING:
    from pgdurable._engine.database import Database
    from pgdurable.handle import Handle

__all__ = ["Topic", "asked_id"]


class Topic:
    """What the methods of a topic find in the `Client` they are part of."""

    if TYPE_CHECKING:
        payload_limit: int
        schema: str
        _database: Database

        async def _admit(self) -> None: ...
        async def _find(self, id: str) -> uuid.UUID: ...
        def _handle(self, instance_id: uuid.UUID, id: str | None, type: Any) -> Handle[Any]: ...


def asked_id(id: str | uuid.UUID) -> str:
    """The text of an id that is looked for; what no id can be raises InstanceNotFound."""
    text = str(id)
    try:
        found = text.encode()
    except UnicodeEncodeError:
        found = b"\0"
    if b"\0" in found:
        raise InstanceNotFound(f"no instance has the id {text!r:.100}", hint="Ids are valid Unicode without NUL.")
    return text
