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
from pgdurable.testing._clock import at_time
from pgdurable.testing._queries import signal
from pgdurable.testing._store import InstanceRow, Store

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
def child(store: Store, id: bytes, place: int, body: Any) -> None:
    child_id = uuid.UUID(body["id"])
    key, owner = body["key"], body["owner"]
    if key is not None and store.keys.get(key, child_id.bytes) != child_id.bytes:
        raise PgDurableError(f"PGD04: id {key!r} is that of another instance")
    parent = store.instances.get(id)
    if parent is None or child_id.bytes in store.instances:
        return
    delay_us = round((body.get("delay") or 0.0) * 1e6)
    labels = body.get("labels")
    store.add_instance(
        InstanceRow(
            child_id.bytes, body["workflow"], body["version"], "pending" if owner is None else "running",
            text_of(body["input"]), store.clock.now, key=key, queue=body.get("queue") or "default",
            partition=body.get("partition") or "", priority=body.get("priority") or 0, owner=owner,
            parent=parent.uuid, parent_seq=place, parent_close=body["parent_close"], submitted_by=parent.submitted_by,
            wake_us=store.clock.now_us() + delay_us, labels=None if labels is None else text_of(labels),
        )
    )  # fmt: skip


@write
def deadline(store: Store, id: bytes, place: int, body: Any) -> None:
    row = store.instances.get(id)
    if row is not None and row.deadline is None and not row.ended:
        row.deadline = at_time(round(body["at"] * 1e6))


@write
def cancel(store: Store, id: bytes, place: int, body: Any) -> None:
    row = store.instances.get(id)
    if row is not None:
        store.request_cancel(row, body.get("reason"))


@write
def continue_(store: Store, id: bytes, place: int, body: Any) -> None:
    row = store.instances.get(id)
    if row is None or row.first_event >= place:
        return
    row.first_event = place
    for child in list(store.instances.values()):
        if child.parent == row.uuid and child.parent_close == "cancel" and not child.ended:
            store.request_cancel(child, f"its parent {row.uuid} continues as new")


@write
def send_signal(store: Store, id: bytes, place: int, body: Any) -> None:
    signal(store, body["id"], body["name"], text_of(body["payload"]), uuid.UUID(body["key"]))


@write
def send_cancel(store: Store, id: bytes, place: int, body: Any) -> None:
    store.request_cancel(store.need(body["id"]), body["payload"])


@write
def event(store: Store, id: bytes, place: int, body: Any) -> None:
    key = uuid.UUID(body["key"])
    if key in store.signal_keys:
        return
    store.signal_keys.add(key)
    row = store.instances.get(id)
    if row is not None and not row.ended:
        store.add_event(id, body["kind"], body.get("name"), text_of(body.get("payload")))
