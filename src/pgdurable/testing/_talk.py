"""On a `Store`, what passes between instances and the outside: published state, updates and their replies, streams.

Writes and queries under their names in SQL; see `_writes.py` and `_queries.py`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgdurable.errors import InstanceFinished, InvalidInput
from pgdurable.testing._queries import query
from pgdurable.testing._store import Store
from pgdurable.testing._writes import text_of, write

__all__ = ["Talk", "copy_talk"]


@dataclass
class _Update:
    name: str
    status: str = "requested"
    result: str | None = None
    error: str | None = None


@dataclass
class _Item:
    position: int
    kind: str
    run: int
    writer: int
    n: int
    attempt: int | None
    item: str | None
    written_at: datetime


@dataclass
class Talk:
    """The tables `states`, `updates` and `stream_items` of one instance."""

    states: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    updates: dict[uuid.UUID, _Update] = field(default_factory=dict)
    streams: dict[str, list[_Item]] = field(default_factory=dict)


def _of(store: Store, id: bytes) -> Talk:
    found: Talk = store.talk.setdefault(id, Talk())
    return found


# -- writes ----------------------------------------------------------------------------------------------------------


@write
def state(store: Store, id: bytes, place: int, body: Any) -> None:
    states = _of(store, id).states
    run = body.get("run") or 0
    there = states.get(body["key"])
    if there is None or there[:2] < (run, place):
        states[body["key"]] = (run, place, text_of(body["value"]))


@write
def stream(store: Store, id: bytes, place: int, body: Any) -> None:
    items = _of(store, id).streams.setdefault(body["stream"], [])
    run, first = body.get("run") or 0, body["n"]
    parts: list[tuple[str, str | None]] = [("item", text_of(item)) for item in body["items"]]
    if body.get("end"):
        parts.append(("end", None))
    mine = {item.n: item for item in items if (item.run, item.writer) == (run, place)}
    for n, (kind, item) in enumerate(parts, first):
        there = mine.get(n)
        if there is None:
            position = items[-1].position + 1 if items else 0
            items.append(_Item(position, kind, run, place, n, body.get("attempt"), item, store.clock.now))
        elif (there.kind, there.item, there.attempt) != (kind, item, body.get("attempt")):
            there.kind, there.item, there.attempt, there.written_at = kind, item, body.get("attempt"), store.clock.now


@write
def cut_stream(store: Store, id: bytes, place: int, body: Any) -> None:
    run = body.get("run") or 0
    for name, kept in body["keep"].items():
        for item in _of(store, id).streams.get(name, ()):
            if (item.run, item.writer) == (run, place) and item.n >= kept:
                item.kind, item.item = "void", None


@write
def update(store: Store, id: bytes, place: int, body: Any) -> None:
    there = _of(store, id).updates.get(uuid.UUID(body["key"]))
    status = body["status"]
    if there is not None and (there.status == "requested" or (there.status == "accepted" and status != "accepted")):
        there.status = status
        there.result = text_of(body["result"]) if "result" in body else None
        there.error = text_of(body["error"]) if "error" in body else None
    if "event" in body:
        store.events[id] = [event for event in store.events[id] if event.seq != int(body["event"])]


# -- queries ---------------------------------------------------------------------------------------------------------


@query
def request_update(store: Store, id: str, name: str, input: str, key: uuid.UUID) -> list[tuple[Any, ...]]:
    row = store.need(id)
    updates = _of(store, row.id).updates
    there = updates.get(key)
    if there is not None:
        if there.name != name:
            raise InvalidInput(f"key {key} of instance {id!r} is that of an update {there.name!r}, not {name!r}")
        return [(row.uuid, key)]
    if row.ended:
        raise InstanceFinished(
            f"instance {id!r} has ended ({row.status}) and takes no more updates",
            hint="Read what it left: its result, its published state, or a query.",
        )
    updates[key] = _Update(name)
    store.add_event(row.id, "update", name, f'{{"input": {input}, "key": "{key}"}}')
    return [(row.uuid, key)]


@query
def update_replies(store: Store, ids: list[uuid.UUID], keys: list[uuid.UUID]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for id, key in zip(ids, keys, strict=True):
        row = store.instances.get(id.bytes)
        there = _of(store, id.bytes).updates.get(key)
        status = None if row is None else row.status
        silent = row is None or row.ended or row.status == "paused"
        if there is not None and (silent or there.status in ("completed", "failed", "rejected")):
            found.append((id, key, there.status, there.result, there.error, status))
        elif silent:
            found.append((id, key, None, None, None, status))
    return found


@query
def states(store: Store, id: uuid.UUID, key: str | None, _: str | None) -> list[tuple[Any, ...]]:
    published = _of(store, id.bytes).states
    return [(name, value, place) for name, (_, place, value) in sorted(published.items()) if key in (None, name)]


@query
def origin(store: Store, id: uuid.UUID) -> list[tuple[Any, ...]]:
    return [(row[7],) for row in store.history.get(id.bytes, ()) if row[1] == 0 and row[2] == "forked"]


@query
def status_of(store: Store, id: uuid.UUID) -> list[tuple[Any, ...]]:
    row = store.instances.get(id.bytes)
    return [] if row is None else [(row.status,)]


@query
def stream_items(store: Store, name: str, first: int, most: int, id: uuid.UUID) -> list[tuple[Any, ...]]:
    row = store.instances.get(id.bytes)
    if row is None:
        return []
    items = [item for item in _of(store, id.bytes).streams.get(name, ()) if item.position >= first][:most]
    if not items:
        return [(row.status, *[None] * 8)]
    return [
        (row.status, item.position, item.kind, item.run, item.writer, item.n, item.attempt, item.item, item.written_at)
        for item in items
    ]


def copy_talk(store: Store, source: bytes, copy: bytes, place: int) -> None:
    """Gives a fork what its original had published and streamed before that place in its history."""
    theirs, mine = _of(store, source), _of(store, copy)
    rows = [row for row in store.history.get(source, ()) if row.event_id < place]
    for row in rows:
        if row.kind == "state":
            run = max((r.event_id for r in rows if r.kind == "continued" and r.event_id < row.event_id), default=0)
            mine.states[row.name or ""] = (run, row.seq or 0, row.payload or "null")
    writers = {row.seq for row in rows if row.kind in ("step", "stream")}
    for name, items in theirs.streams.items():
        mine.streams[name] = [_Item(**vars(item)) for item in items if item.writer in writers]
