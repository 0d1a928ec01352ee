"""On a `Store`, what is done to instances from outside: cancel, terminate, pause, resume, retry, fork, delete.

Each function is what the SQL function of its name (or its name with `_instance`) does. `Connection` stands in for the
one on which the engine tells of requests it has met.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

from pgdurable._engine.forks import origin_of
from pgdurable.errors import InstanceNotFinished, InvalidId, InvalidInput
from pgdurable.testing._queries import query
from pgdurable.testing._store import ENDED, Event, HistoryRow, InstanceRow, Store

__all__ = ["NAMES", "Connection", "is_asked", "undo"]

_COULD = {
    "cancel": ("pending", "running", "waiting", "paused"),
    "terminate": ("pending", "running", "waiting", "paused"),
    "pause": ("pending", "running", "waiting"),
    "resume": ("paused", "running", "waiting"),
    "retry": ("failed", "timed_out", "paused"),
    "fork": ("pending", "running", "waiting", "paused", *ENDED),
    "delete": ENDED,
}


def _has(store: Store, row: InstanceRow, kind: str) -> bool:
    return any(event.kind == kind for event in store.events.get(row.id, ()))


def _drop(store: Store, row: InstanceRow, *kinds: str) -> bool:
    """Takes events of these kinds out of the queue; returns whether there were any."""
    before = store.events.get(row.id, [])
    store.events[row.id] = [event for event in before if event.kind not in kinds]
    return len(store.events[row.id]) < len(before)


def is_asked(store: Store, id: bytes) -> bool:
    """Whether an instance is asked to pause or to end, which a worker has to know before it begins anything."""
    return any(event.kind in ("pause", "terminate") for event in store.events.get(id, ()))


def end_terminated(store: Store, row: InstanceRow, reason: str | None) -> None:
    store.end(row, "cancelled", error=store.end_error("Terminated", "it was terminated", reason))


def _pause(store: Store, row: InstanceRow) -> bool:
    if row.status not in ("pending", "running", "waiting"):
        return False
    if row.owner is None:
        row.status, row.error = "paused", None
        store.version += 1
        store.on_end(row.id)
    elif not _has(store, row, "pause"):
        store.add_event(row.id, "pause", None, "null")
    return True


def _terminate(store: Store, row: InstanceRow, reason: str | None) -> bool:
    if row.ended:
        return False
    if row.owner is None:
        end_terminated(store, row, reason)
    elif not _has(store, row, "terminate"):
        store.add_event(row.id, "terminate", None, json.dumps({"reason": reason}))
    return True


def _resume(store: Store, row: InstanceRow) -> bool:
    store.version += 1
    withdrawn = _drop(store, row, "pause")
    if row.status == "paused":
        now_us = store.clock.now_us()
        row.status, row.owner, row.error = "pending", None, None
        row.wake_us = max(row.wake_us or 0, now_us) if row.started_at is None else now_us
        withdrawn = True
    store.on_work()
    return withdrawn


def _retry(store: Store, row: InstanceRow) -> bool:
    if row.status not in ("failed", "timed_out"):
        return _resume(store, row)
    row.status, row.owner, row.error, row.output, row.finished_at = "pending", None, None, None, None
    row.wake_us = store.clock.now_us()
    row.started_at = row.started_at or row.created_at
    if row.deadline is not None and row.deadline < store.clock.now:
        row.deadline = store.clock.now + (row.deadline - row.created_at)
    _drop(store, row, "cancel", "terminate", "pause")
    _add_history(store, row.id, "retry")
    store.version += 1
    store.on_work()
    return True


def _add_history(store: Store, id: bytes, kind: str) -> None:
    rows = store.history[id]
    place = max((entry.event_id for entry in rows), default=0) + 1
    payload = json.dumps({"by": "simulation"})
    rows.append(
        HistoryRow(uuid.UUID(bytes=id), place, kind, None, None, None, None, payload, None, store.clock.now)
    )  # fmt: skip


def _delete(store: Store, row: InstanceRow) -> bool:
    if not row.ended:
        return False
    store.forget(row)
    return True


def _fork(
    store: Store, source: InstanceRow, from_event: int | None, version: str | None, input: str | None,
    new_id: str | None, queue: str | None, copy: uuid.UUID,
) -> str:  # fmt: skip
    if from_event is not None and from_event < 1:
        raise InvalidInput(f"events are counted from 1: there is no event {from_event} to fork from")
    if new_id is not None and new_id in store.keys:
        if store.instances[store.keys[new_id]].workflow != source.workflow:
            raise InvalidId(f"id {new_id!r} is taken by an instance of another workflow", hint="Choose another id.")
        return new_id
    rows = sorted(store.history.get(source.id, ()), key=lambda entry: entry.event_id)
    again = from_event is None and source.status in ("failed", "timed_out")
    last = rows[-1].event_id if rows else 0
    place = 1 if from_event is None and not again else min(from_event or last + 1, last + 1)
    now = store.clock.now
    deadline = None if source.deadline is None else now + (source.deadline - source.created_at)
    origin = {} if origin_of(rows) is None else json.loads(rows[0].payload or "{}")
    roots, since = [], 0
    for root in [*origin.get("roots", []), {"instance": str(source.uuid), "before": place}]:
        if since < place:
            roots.append({"instance": root["instance"], "before": min(root["before"], place)})
        since = root["before"]
    started = (source.started_at or source.created_at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    payload = {
        "roots": roots,
        "started_at": origin.get("started_at", started),
        "input_of": origin.get("input_of", str(source.uuid)) if input is None else None,
    }
    first = HistoryRow(
        copy, 0, "forked", None, source.key or str(source.uuid), None, None, json.dumps(payload), None, now
    )
    store.history[copy.bytes] = [first] + [
        row._replace(instance_id=copy)
        for row in rows
        if 0 < row.event_id < place and not row.kind.startswith("undone ")
    ]
    if again:
        _add_history(store, copy.bytes, "retry")
    store.add_instance(
        InstanceRow(
            copy.bytes, source.workflow, version or source.version, "pending", input or source.input, now, key=new_id,
            queue=queue or source.queue, priority=source.priority, wake_us=store.clock.now_us(), started_at=now,
            deadline=deadline, labels=source.labels,
        )
    )  # fmt: skip
    store.copied(store, source.id, copy.bytes, place)
    return new_id or str(copy)


# -- what clients ask ------------------------------------------------------------------------------------------------


@query
def cancel(store: Store, id: str, reason: str | None) -> list[tuple[Any, ...]]:
    return [(store.request_cancel(store.need(id), reason),)]


@query
def terminate(store: Store, id: str, reason: str | None) -> list[tuple[Any, ...]]:
    return [(_terminate(store, store.need(id), reason),)]


@query
def pause(store: Store, id: str) -> list[tuple[Any, ...]]:
    return [(_pause(store, store.need(id)),)]


@query
def unheard(store: Store, id: uuid.UUID) -> list[tuple[Any, ...]]:
    return [(any(event.kind == "pause" and event.name is None for event in store.events.get(id.bytes, ())),)]


@query
def resume(store: Store, id: str) -> list[tuple[Any, ...]]:
    return [(_resume(store, store.need(id)),)]


@query
def retry(store: Store, id: str) -> list[tuple[Any, ...]]:
    return [(_retry(store, store.need(id)),)]


@query
def delete(store: Store, id: str) -> list[tuple[Any, ...]]:
    row = store.need(id)
    if not _delete(store, row):
        raise InstanceNotFinished(
            f"instance {id!r} is {row.status}: only instances that have ended can be deleted",
            hint="End it first: handle.terminate(), or cancel.",
        )
    return [(True,)]


@query
def fork(store: Store, id: str, *how: Any) -> list[tuple[Any, ...]]:
    return [(_fork(store, store.need(id), *how),)]


@query
def input_of(store: Store, id: uuid.UUID) -> list[tuple[Any, ...]]:
    origin = origin_of(store.history.get(id.bytes, []))
    return [] if origin is None else [(None if origin.input_of is None else str(origin.input_of),)]


@query
def bulk_bounds(store: Store, newer: float | None, _: float | None, older: float | None) -> list[tuple[Any, ...]]:
    def before(span: float | None) -> int:
        return max(int((store.clock.seconds() - (span or 0.0)) * 1000), 0) << 80

    since = uuid.UUID(int=0 if newer is None else before(newer))
    # The newest ids are of this very millisecond: they are meant as well.
    return [(since, uuid.UUID(int=before(older) + (1 << 80) * (1 << 8 if older is None else 1)))]


@query
def bulk_step(
    store: Store, operation: str, since: uuid.UUID, before: uuid.UUID, fits: str, options: str, most: int, dry: bool
) -> list[tuple[Any, ...]]:
    wanted, how = json.loads(fits), json.loads(options)
    rows = [row for row in list(store.instances.values()) if since.bytes <= row.id < before.bytes]
    if "ids" in wanted:
        found = [store.find(id) for id in wanted["ids"]]
        rows = [row for row in found if row is not None and since.bytes <= row.id < before.bytes]
    rows.sort(key=lambda row: row.id)
    done = idle = 0
    for row in rows:
        if not _fits(row, wanted):
            continue
        acted = row.status in _COULD[operation]
        if acted and not dry:
            acted = _carry_out(store, operation, row, how)
        done, idle = done + acted, idle + (not acted)
    return [(rows[-1].uuid if rows else None, len(rows), done, idle, [])]


def _fits(row: InstanceRow, wanted: dict[str, Any]) -> bool:
    labels = json.loads(row.labels or "{}")
    error = str(json.loads(row.error or "{}").get("type", "")).rpartition(".")[2]
    ended = row.finished_at
    return (
        all(wanted.get(name) in (None, getattr(row, name)) for name in ("workflow", "version", "queue"))
        and row.status in wanted.get("status", (row.status,))
        and wanted.get("error") in (None, error)
        and wanted.get("parent") in (None, str(row.parent))
        and all(labels.get(name) == value for name, value in wanted.get("labels", {}).items())
        and ("finished_before" not in wanted or (ended is not None and ended < _time(wanted["finished_before"])))
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _carry_out(store: Store, operation: str, row: InstanceRow, how: dict[str, Any]) -> bool:
    reason = how.get("reason")
    if operation == "fork":
        copy = uuid.UUID(bytes=store.new_id())
        name = (row.key or str(row.uuid)) + how.get("suffix", "-fork")
        _fork(store, row, how.get("from_event"), how.get("version"), None, name, None, copy)
        return True
    if operation == "cancel":
        return store.request_cancel(row, reason)
    if operation == "terminate":
        return _terminate(store, row, reason)
    return {"pause": _pause, "resume": _resume, "retry": _retry, "delete": _delete}[operation](store, row)


# -- what a worker tells ---------------------------------------------------------------------------------------------


class _Names(dict[str, str]):
    """Named queries whose text is their name."""

    def __missing__(self, name: str) -> str:
        return name


NAMES = _Names()


class Connection:
    """What `Requests.look` is given: it executes three queries, by name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def execute(self, name: str, params: tuple[Any, ...]) -> Connection:
        self._rows: list[tuple[Any, ...]] = getattr(self, f"_{name}")(*params) or []
        return self

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

    def _hear(self, worker: int, ids: list[uuid.UUID]) -> None:
        for id in ids:
            self._store.events[id.bytes] = [
                event._replace(name="heard") if event.kind == "pause" else event
                for event in self._store.events.get(id.bytes, ())
            ]
        self._store.version += 1

    def _heed(self, worker: int, ids: list[uuid.UUID]) -> list[tuple[uuid.UUID, str]]:
        found = []
        for id in ids:
            row = self._store.instances.get(id.bytes)
            if row is None or row.owner != worker:
                continue
            asked = _drop(self._store, row, "pause")
            ending: Event | None = next(
                (event for event in self._store.events.get(row.id, ()) if event.kind == "terminate"), None
            )
            self._store.version += 1
            if ending is not None:
                end_terminated(self._store, row, json.loads(ending.payload or "{}").get("reason"))
            elif asked and not _has(self._store, row, "cancel"):
                row.status, row.owner, row.error, row.wake_us = "paused", None, None, None
                self._store.on_end(row.id)
            else:
                row.status, row.owner, row.wake_us = "waiting", None, self._store.clock.now_us()
            found.append((id, row.status))
        self._store.on_work()
        return found

    def _still_owned(self, ids: list[uuid.UUID], worker: int) -> list[tuple[uuid.UUID]]:
        rows = [self._store.instances.get(id.bytes) for id in ids]
        return [(row.uuid,) for row in rows if row is not None and row.owner == worker]


def undo(store: Store, id: bytes, events: list[int]) -> None:
    """Marks rows of history as undone, for a retry."""
    store.history[id] = [
        row._replace(kind=f"undone {row.kind}") if row.event_id in events else row for row in store.history[id]
    ]
    store.version += 1
