"""What `apply_writes` does: the rare writes that ride in a commit, on a `Store`; one function per kind, under its name.

A feature that adds a kind of its own adds its counterpart here, or in a module beside this one. Each is called with
the store, the instance's id, the place, and the body decoded; a second time changes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from pgdurable.errors import PgDurableError
from pgdurable.testing._store import Store

__all__ = ["WRITES", "apply_write", "write"]

Write = Callable[[Store, bytes, int, Any], None]
WRITES: dict[str, Write] = {}


def write(fn: Write) -> Write:
    """The function is the counterpart of the kind of write of its name."""
    WRITES[fn.__name__.rstrip("_")] = fn
    return fn


def apply_write(store: Store, id: bytes, kind: str, place: int, body: bytes | None) -> None:
    """Carries one out. Raises PgDurableError for a kind that is not known here."""
    carry_out = WRITES.get(kind)
    if carry_out is None:
        raise PgDurableError(
            f"the simulation does not know writes of kind {kind!r}",
            hint="What this workflow does needs a real database: the fixture durable_engine is an engine on one.",
        )
    carry_out(store, id, place, None if body is None else msgspec.json.decode(body))


def text_of(value: Any) -> str:
    """A decoded payload as it is stored."""
    return msgspec.json.encode(value).decode()


@write
def event(store: Store, id: bytes, place: int, body: Any) -> None:
    key = uuid.UUID(body["key"])
    if key in store.signal_keys:
        return
    store.signal_keys.add(key)
    row = store.instances.get(id)
    if row is not None and not row.ended:
        store.add_event(id, body["kind"], body.get("name"), text_of(body.get("payload")))
