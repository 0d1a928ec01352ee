"""The tables, in memory: what PostgreSQL holds and does for the real engine, for one simulation.

A `commit` takes what one flush takes. What SQL functions do for clients is in `_queries.py`, under the names of the
queries that call them; the rare writes that ride in a flush are in `_writes.py`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from pgdurable.errors import InstanceNotFound, PgDurableError
from pgdurable.testing._clock import VirtualClock

__all__ = ["ENDED", "Event", "HistoryRow", "InstanceRow", "Store"]

ENDED = ("completed", "failed", "cancelled", "timed_out")


@dataclass
class InstanceRow:
    """A row of `instances`; payloads as stored."""

    id: bytes
    workflow: str
    version: str | None
    status: str
    input: str
    created_at: datetime
    key: str | None = None
    queue: str = "default"
    priority: int = 0
    owner: int | None = None
    parent: uuid.UUID | None = None
    parent_seq: int | None = None
    parent_close: str | None = None
    takeovers: int = 0
    submitted_by: str = "simulation"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wake_us: int | None = None
    deadline: datetime | None = None
    output: str | None = None
    error: str | None = None
    labels: str | None = None
    partition: str = ""
    dedup: str | None = None
    debounce: str | None = None
    first_event: int = 0

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=self.id)

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class HistoryRow(NamedTuple):
    """A row of `history`, in the order of columns that a worker loads."""

    instance_id: uuid.UUID
    event_id: int
    kind: str
    seq: int | None
    name: str | None
    attempt: int | None
    fingerprint: int | None
    payload: str | None
    error: str | None
    recorded_at: datetime
    elapsed_ms: float | None = None


class Event(NamedTuple):
    """A row of `events`."""

    seq: int
    kind: str
    name: str | None
    payload: str | None
    sent_at: datetime


class Store:
    """See the head of this file.

    Attributes:
        talk: what instances say to the outside, see _talk.py.
        copied: copies, for a fork, what else the tables hold of an instance from before a place in its history.
        new_id: makes the ids of instances.
        on_work: called when something waits for a worker.
        on_end: called with the id of an instance that has ended or was paused.
        version: counts up with every change.

    Args:
        apply_write: carries out a rare write: store, instance, kind, place, body.
    """

    def __init__(self, clock: VirtualClock, apply_write: Callable[..., None]) -> None:
        self.clock = clock
        self.apply_write = apply_write
        self.instances: dict[bytes, InstanceRow] = {}
        self.keys: dict[str, bytes] = {}
        self.history: dict[bytes, list[HistoryRow]] = defaultdict(list)
        self.events: dict[bytes, list[Event]] = defaultdict(list)
        self.signal_keys: set[uuid.UUID] = set()
        self.talk: dict[bytes, Any] = {}
        self.copied: Callable[[Store, bytes, bytes, int], None] = lambda store, source, copy, place: None
        self.last_event = 0
        self.version = 0
        self.new_id: Callable[[], bytes] = lambda: uuid.uuid4().bytes
        self.on_work: Callable[[], None] = lambda: None
        self.on_end: Callable[[bytes], None] = lambda id: None

    # -- what clients do --------------------------------------------------------------------------------------------

    def add_instance(self, row: InstanceRow) -> None:
        self.version += 1
        self.instances[row.id] = row
        if row.key is not None:
            self.keys[row.key] = row.id
        self.on_work()

    def add_event(self, id: bytes, kind: str, name: str | None, payload: str | None) -> int:
        """Adds to the event queue; returns its place there."""
        self.version += 1
        self.last_event += 1
        self.events[id].append(Event(self.last_event, kind, name, payload, self.clock.now))
        self.on_work()
        return self.last_event

    def find(self, text: str) -> InstanceRow | None:
        """By user-chosen id, else by UUID."""
        id = self.keys.get(text)
        if id is None:
            try:
                id = uuid.UUID(text).bytes
            except ValueError:
                return None
        return self.instances.get(id)

    def holder(self, queue: str, dedup: str) -> InstanceRow | None:
        """The living instance that holds a key of a queue."""
        for row in self.instances.values():
            if row.dedup == dedup and row.queue == queue and not row.ended:
                return row
        return None

    def need(self, text: str) -> InstanceRow:
        """As `find`. Raises InstanceNotFound."""
        row = self.find(text)
        if row is None:
            raise InstanceNotFound(
                f"no instance has the id {text!r}",
                hint="Ids are those given to start(id=...), or handle.id; sim.list() shows those there are.",
            )
        return row

    def end(self, row: InstanceRow, status: str, *, output: str | None = None, error: str | None = None) -> None:
        """A status in which nobody runs it."""
        self.version += 1
        row.status, row.output, row.error = status, output, error
        row.owner = row.wake_us = None
        if row.ended:
            row.started_at = row.started_at or row.created_at
            row.finished_at = self.clock.now
            self.events.pop(row.id, None)
            self._tell_family(row)
        self.on_end(row.id)

    def _tell_family(self, row: InstanceRow) -> None:
        """What the trigger instance_ended does: the parent hears of the end, children are asked to cancel."""
        parent = None if row.parent is None else self.instances.get(row.parent.bytes)
        if parent is not None and not parent.ended:
            told = {"id": str(row.uuid), "seq": row.parent_seq, "status": row.status,
                    "output": _raw(row.output), "error": _raw(row.error)}  # fmt: skip
            self.add_event(parent.id, "child", row.workflow, msgspec.json.encode(told).decode())
        for child in list(self.instances.values()):
            if child.parent == row.uuid and child.parent_close == "cancel":
                self.request_cancel(child, f"its parent {row.uuid} has ended ({row.status})")

    def request_cancel(self, row: InstanceRow, reason: str | None) -> bool:
        """Asks an instance to cancel; what has not begun is cancelled at once. Returns whether it had not ended."""
        if row.ended:
            return False
        if row.status in ("pending", "paused") and row.owner is None and row.started_at is None:
            self.end(row, "cancelled", error=self.end_error("Cancelled", "it was cancelled before it began", reason))
            return True
        there = any(event.kind == "cancel" for event in self.events.get(row.id, ()))
        if not there and not any(
            entry.kind == "cancel" and entry.event_id > row.first_event for entry in self.history.get(row.id, ())
        ):
            self.add_event(row.id, "cancel", None, msgspec.json.encode({"reason": reason}).decode())
        if row.status == "paused" and row.error is None:  # it goes on, to clean up
            row.status, row.owner, row.wake_us = "pending", None, self.clock.now_us()
        self.on_work()
        return True

    def end_error(self, kind: str, message: str, reason: str | None) -> str:
        """The error of an instance that somebody ended."""
        told = {"type": f"pgdurable.errors.{kind}", "message": message + (f": {reason}" if reason else ""),
                "reason": reason, "by": "simulation"}  # fmt: skip
        return msgspec.json.encode(told).decode()

    def forget(self, row: InstanceRow) -> None:
        """Removes an instance and what is kept of it."""
        self.version += 1
        for table in (self.instances, self.history, self.events, self.talk):
            table.pop(row.id, None)
        self.keys = {key: id for key, id in self.keys.items() if id != row.id}

    # -- what a worker does -----------------------------------------------------------------------------------------

    def claimable(self, runs: Callable[[InstanceRow], bool]) -> list[InstanceRow]:
        """The instances that wait for a worker now, and that `runs` says can run."""
        now_us = self.clock.now_us()
        return [row for row in self.instances.values() if self._waits(row, now_us) and runs(row)]

    def _waits(self, row: InstanceRow, now_us: int) -> bool:
        if row.owner is not None:
            return False
        if row.status == "running":
            return True  # its worker has died
        if row.status == "waiting" and self.events.get(row.id):
            return True
        return row.status in ("pending", "waiting") and row.wake_us is not None and row.wake_us <= now_us

    def next_due_us(self, runs: Callable[[InstanceRow], bool]) -> int | None:
        """When the next instance that nobody has, and that `runs` says can run, is to."""
        dues = [
            row.wake_us
            for row in self.instances.values()
            if row.owner is None and row.status in ("pending", "waiting") and row.wake_us is not None and runs(row)
        ]
        return min(dues) if dues else None

    def claim(self, row: InstanceRow, worker: int, version: str) -> None:
        self.version += 1
        row.started_at = row.started_at or (row.created_at if row.status == "running" else self.clock.now)
        row.owner, row.status, row.wake_us = worker, "running", None
        row.version = row.version or version

    def take_over(self, worker: int) -> None:
        """The worker has died: its instances are free for another."""
        for row in self.instances.values():
            if row.owner == worker:
                row.owner = None
                row.takeovers += 1
        self.version += 1

    def commit(self, changes: Iterable[tuple[str, tuple[Any, ...]]], worker: int) -> int:
        """Carries out changes that belong together; returns the time of the commit. Raises PgDurableError: none is."""
        self.version += 1
        written = []
        try:
            for kind, values in sorted(changes, key=lambda change: change[0] == "write"):
                if kind == "history":
                    written.append(values[0])
                getattr(self, f"_commit_{kind}")(worker, *values)
        except PgDurableError:  # only writes are refused; with them goes the row they belong to
            for id in written:
                self.history[id].pop()
            raise
        return self.clock.now_us()

    def _commit_history(
        self, worker: int, id: bytes, event_id: int, seq: int | None, mark: int | None, elapsed_ms: float | None,
        attempt: int | None, kind: str, name: str | None, payload: bytes | None, error: bytes | None, event: int,
    ) -> None:  # fmt: skip
        self.history[id].append(
            HistoryRow(uuid.UUID(bytes=id), event_id, kind, seq, name, attempt, mark, _text(payload), _text(error),
                       self.clock.now, elapsed_ms)
        )  # fmt: skip
        if event >= 0:
            self.events[id] = [waiting for waiting in self.events[id] if waiting.seq != event]

    def _commit_instance(
        self, worker: int, id: bytes, workflow: str, version: str | None, status: str, queue: str,
        owner: int | None, input: bytes,
    ) -> None:  # fmt: skip
        now = self.clock.now
        row = InstanceRow(id, workflow, version, status, input.decode(), now, queue=queue, owner=owner)
        if owner is None:
            row.wake_us = self.clock.now_us()
        else:
            row.started_at = now
        self.add_instance(row)

    def _commit_release(
        self, worker: int, id: bytes, status: str, output: bytes | None, error: bytes | None, wake_us: int | None
    ) -> None:
        row = self.instances[id]
        if row.owner != worker:
            return
        if status in ENDED or status == "paused":
            self.end(row, status, output=_text(output), error=_text(error))
            return
        row.status, row.output, row.error, row.wake_us, row.owner = status, None, None, wake_us, None

    def _commit_write(self, worker: int, id: bytes, kind: str, place: int, body: bytes | None) -> None:
        self.apply_write(self, id, kind, place, body)


def _raw(text: str | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if text is None else text.encode())


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()
