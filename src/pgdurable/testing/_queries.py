"""What the named queries of sql/queries/client.sql do, on a `Store`: one function per query, under its name.

A feature that adds a query of its own adds its counterpart here, or in a module beside this one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pgdurable._engine.clock import micros
from pgdurable.errors import InstanceFinished, InvalidId
from pgdurable.testing._clock import at_time
from pgdurable.testing._store import ENDED, InstanceRow, Store

__all__ = ["QUERIES", "query"]

Query = Callable[..., list[tuple[Any, ...]]]
QUERIES: dict[str, Query] = {}
"""By name. Each is called with the store and the query's parameters, and returns its rows."""


def query(fn: Query) -> Query:
    """The function is the counterpart of the query of its name."""
    QUERIES[fn.__name__.rstrip("_")] = fn
    return fn


@query
def start(
    store: Store, workflow: str, input: str, id: str | None, version: str | None, queue: str, priority: int,
    delay: float, labels: str | None, instance: uuid.UUID, dedup: str | None = None, partition: str | None = None,
) -> list[tuple[Any, ...]]:  # fmt: skip
    held = None if dedup is None else store.holder(queue, dedup)
    if held is not None:
        if held.workflow != workflow:
            raise InvalidId(
                f"key {dedup!r} of queue {queue!r} is held by an instance of workflow {held.workflow!r}",
                hint="Choose another key, or wait for its end.",
            )
        return [(str(held.uuid),)]
    if id is not None and id in store.keys:
        there = store.instances[store.keys[id]]
        if there.workflow != workflow:
            raise InvalidId(
                f"id {id!r} is an instance of workflow {there.workflow!r}, not of {workflow!r}",
                hint="Choose another id for this start.",
            )
        return [(id,)]
    if instance.bytes not in store.instances:
        wake_us = store.clock.now_us() + round(timedelta(seconds=delay) / timedelta(microseconds=1))
        store.add_instance(
            InstanceRow(
                instance.bytes, workflow, version, "pending", input, store.clock.now, key=id, queue=queue,
                priority=priority, wake_us=wake_us, labels=labels, dedup=dedup, partition=partition or "",
            )
        )  # fmt: skip
    return [(id or str(instance),)]


@query
def start_with_timeout(store: Store, *params: Any) -> list[tuple[Any, ...]]:
    *started, timeout = params
    rows = start(store, *started)
    row = store.instances.get(started[8].bytes)  # the new one, unless the id was there already
    if row is not None and row.deadline is None:
        row.deadline = at_time(max(row.wake_us or 0, store.clock.now_us()) + round(timeout * 1e6))
    return rows


@query
def find_instance(store: Store, id: str) -> list[tuple[Any, ...]]:
    row = store.find(id)
    return [(None if row is None else row.uuid,)]


@query
def signal(store: Store, id: str, name: str, payload: str, key: uuid.UUID | None = None) -> list[tuple[Any, ...]]:
    row = store.need(id)
    if key is not None:
        if key in store.signal_keys:
            return [(None,)]
        store.signal_keys.add(key)
    if row.ended:
        raise InstanceFinished(
            f"instance {id!r} has ended ({row.status}) and takes no more signals",
            hint="Start another instance, or send the signal before the workflow ends.",
        )
    return [(store.add_event(row.id, "signal", name, payload),)]


@query
def find_key(store: Store, id: str) -> list[tuple[Any, ...]]:
    found = store.keys.get(id)
    return [] if found is None else [(uuid.UUID(bytes=found),)]


@query
def signal_with_start(
    store: Store, workflow: str, input: str, id: str, name: str, payload: str, key: uuid.UUID, version: str | None,
    queue: str, priority: int, delay: float, labels: str | None, instance: uuid.UUID | None, meant: uuid.UUID | None,
) -> list[tuple[Any, ...]]:  # fmt: skip
    there = store.keys.get(id)
    if meant is not None and meant != instance and there != meant.bytes:
        return [(None if there is None else uuid.UUID(bytes=there),)]
    start(store, workflow, input, id, version, queue, priority, delay, labels, instance or uuid.UUID(int=0))
    target = uuid.UUID(bytes=store.keys[id])
    if meant is None or target == meant:
        signal(store, id, name, payload, key)
    return [(target,)]


@query
def outcomes(store: Store, ids: list[uuid.UUID]) -> list[tuple[Any, ...]]:
    rows = [store.instances[id.bytes] for id in ids if id.bytes in store.instances]
    return [(row.uuid, row.status, row.output, row.error) for row in rows if row.status in (*ENDED, "paused")]


def _state(row: InstanceRow) -> tuple[Any, ...]:
    wake_at = None if row.wake_us is None else at_time(row.wake_us)
    return (
        row.uuid, row.key, row.workflow, row.version, row.status, row.queue, row.priority, row.owner, row.parent,
        row.takeovers, row.submitted_by, row.created_at, row.started_at, row.finished_at, wake_at, row.deadline,
    )  # fmt: skip


@query
def describe(store: Store, id: uuid.UUID) -> list[tuple[Any, ...]]:
    row = store.instances.get(id.bytes)
    return [] if row is None else [(*_state(row), row.input, row.output, row.error, row.labels)]


@query
def history(store: Store, id: uuid.UUID, after: int, limit: int) -> list[tuple[Any, ...]]:
    rows = [row for row in store.history.get(id.bytes, ()) if row.event_id > after]
    rows.sort(key=lambda row: row.event_id)
    return [
        (row.event_id, row.kind, row.seq, row.name, row.attempt, row.payload, row.error, row.elapsed_ms,
         row.recorded_at)
        for row in rows[:limit]
    ]  # fmt: skip


@query
def waiting_events(store: Store, id: uuid.UUID) -> list[tuple[Any, ...]]:
    return [tuple(event) for event in store.events.get(id.bytes, ())[:100]]


@query
def list_instances(store: Store, **wanted: Any) -> list[tuple[Any, ...]]:
    rows = [
        row
        for row in sorted(store.instances.values(), key=lambda row: row.id, reverse=True)
        if wanted["status"] in (None, row.status)
        and wanted["workflow"] in (None, row.workflow)
        and (wanted["before"] is None or row.id < wanted["before"].bytes)
    ]
    return [_state(row) for row in rows[: wanted["limit"]]]


@query
def time(store: Store) -> list[tuple[Any, ...]]:
    return [(micros(store.clock.now),)]
