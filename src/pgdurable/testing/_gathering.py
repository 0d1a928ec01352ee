"""On a `Store`, what the queries do by which starts wait for others: debounced ones, and batches.

A simulation has no lines: limits of queues are not kept, and whatever is due runs.
"""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import Any

from pgdurable.testing._clock import at_time
from pgdurable.testing._queries import query
from pgdurable.testing._store import InstanceRow, Store

__all__ = ["start_batched", "start_debounced"]

_SECOND_US = 1_000_000


def _open(store: Store, debounce: str, *place: Any) -> InstanceRow | None:
    """What still waits for calls with this key; `place`: workflow, queue, partition and version."""
    for row in store.instances.values():
        gathers = row.debounce == debounce and row.owner is None and row.status == "pending" and row.started_at is None
        if gathers and (row.workflow, row.queue, row.partition, row.version) == place:
            return row
    return None


@query
def start_debounced(
    store: Store, workflow: str, input: str, key: str, wait: float, limit: float | None, version: str | None,
    queue: str, priority: int, labels: str | None, instance: uuid.UUID, partition: str | None, only_it: bool,
) -> list[tuple[Any, ...]]:  # fmt: skip
    there = _open(store, key, workflow, queue, partition or "", version)
    wake_us = store.clock.now_us() + round(wait * _SECOND_US)
    if there is None:
        if instance.bytes not in store.instances:
            store.add_instance(
                InstanceRow(
                    instance.bytes, workflow, version, "pending", input, store.clock.now, queue=queue,
                    priority=priority, wake_us=wake_us, labels=labels, partition=partition or "", debounce=key,
                )
            )  # fmt: skip
        return [(str(instance),)]
    if only_it and there.uuid != instance:
        return [(None,)]
    latest = there.created_at + timedelta(seconds=limit if limit is not None else 10 * wait)
    if at_time(wake_us) > latest:
        wake_us -= round((at_time(wake_us) - latest) / timedelta(microseconds=1))
    there.input, there.labels = input, labels or there.labels
    there.wake_us = max(there.wake_us or 0, wake_us)
    store.version += 1
    return [(str(there.uuid),)]


@query
def find_debounced(
    store: Store, workflow: str, key: str, version: str | None, queue: str, partition: str | None
) -> list[tuple[Any, ...]]:
    there = _open(store, key, workflow, queue, partition or "", version)
    return [(None if there is None else there.uuid,)]


@query
def start_batched(
    store: Store, workflow: str, parameter: str, ids: list[uuid.UUID], inputs: list[str], most: int, wait: float,
    version: str | None, queue: str, priority: int, partition: str | None,
) -> list[tuple[Any, ...]]:  # fmt: skip
    found = []
    for id, input in zip(ids, inputs, strict=True):
        row = _open(store, "\x01batch", workflow, queue, partition or "", version)
        if row is None:
            row = InstanceRow(
                id.bytes, workflow, version, "pending", json.dumps({parameter: []}), store.clock.now, queue=queue,
                priority=priority, wake_us=store.clock.now_us() + round(wait * _SECOND_US), partition=partition or "",
                debounce="\x01batch",
            )  # fmt: skip
            store.add_instance(row)
        gathered = [*json.loads(row.input)[parameter], json.loads(input)]
        row.input = json.dumps({parameter: gathered})
        if len(gathered) >= most:
            row.debounce, row.wake_us = None, store.clock.now_us()
        store.version += 1
        store.on_work()
        found.append((str(row.uuid),))
    return found
