"""A journal whose database is a `Store`: the host records into it as ever, and is told of commits as ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from pgdurable._engine.journal import Journal
from pgdurable.errors import PgDurableError
from pgdurable.testing._store import Store

__all__ = ["MemoryFlusher", "MemoryJournal"]

Group: TypeAlias = tuple[list[tuple[str, tuple[Any, ...]]], list[tuple[str, Any]]]
"""Changes that are carried out together or not at all, and with what name and tag each is told of."""

logger = logging.getLogger("pgdurable.testing")


class MemoryFlusher:
    """The core's `Flusher`, as far as a host knows it: gathers what is to be committed, each with its tag.

    Args:
        on_recorded: called with the kind of what was recorded, as crash points are named.
    """

    idle = connected = True

    def __init__(self, on_recorded: Callable[[str], None]) -> None:
        self._on_recorded = on_recorded
        self.groups: list[Group] = []

    @property
    def waiting(self) -> int:
        return len(self.groups)

    def add_history(self, *values: Any) -> None:
        *row, tag = values[:11]
        event_seq = values[11] if len(values) > 11 else -1
        self._add(str(row[6]), "history", (*row, event_seq), tag)

    def add_instance(self, *values: Any) -> None:
        self._add("start", "instance", values[:-1], values[-1])

    def add_release(self, *values: Any) -> None:
        self._add("park" if values[1] == "waiting" else "end", "release", values[:-1], values[-1])

    def add_write(
        self, id: bytes, kind: str, place: int, body: bytes | None, tag: Any, joined: bool = False
    ) -> None:  # fmt: skip
        self._add(f"{kind}_write", "write", (id, kind, place, body), tag, joined)

    def _add(self, point: str, change: str, values: tuple[Any, ...], tag: Any, joined: bool = False) -> None:
        if not joined:
            self.groups.append(([], []))
        changes, tags = self.groups[-1]
        changes.append((change, values))
        tags.append((point, tag))
        self._on_recorded(point)

    def take(self) -> list[Group]:
        """What was gathered."""
        groups, self.groups = self.groups, []
        return groups


class MemoryJournal(Journal):
    """See the head of this file. Everything recorded in one turn of the event loop is one commit.

    Args:
        reach: called at the points where a crash may be asked for; returns whether it crashes there.
        crash: carries that out.
    """

    flusher: Any
    clock: Any

    def __init__(self, store: Store, worker: int, reach: Callable[[str], bool], crash: Callable[[], None]) -> None:
        # Not the base's: that prepares a connection.
        self.clock = store.clock
        self._store = store
        self._worker = worker
        self._reach = reach
        self._crash = crash
        self._loop = asyncio.get_running_loop()
        self._doomed = False
        self.dead = False
        self.commits = 0
        self.flusher = MemoryFlusher(self._recorded)

    def _recorded(self, point: str) -> None:
        # What was recorded in this turn is lost with it.
        if not self.dead and not self._doomed and self._reach(f"{point}.recorded"):
            self._doomed = True

    def kick(self) -> None:
        if not self._kicked and not self.dead:
            self._kicked = True
            self._loop.call_soon(self._pump)

    def pump_now(self) -> None:
        """Sent at the end of the turn, as everything."""

    @property
    def empty(self) -> bool:
        return self.dead or not (self.flusher.waiting or self._kicked)

    def die(self) -> None:
        """Whatever was not committed is lost; nothing is told any more."""
        self.dead = True
        self.flusher.take()

    def _pump(self) -> None:
        self._kicked = False
        if self.dead:
            return
        groups: list[Group] = self.flusher.take()
        if not groups:
            return
        if self._doomed or self._reach("commit.before"):
            self._crash()
            return
        told: list[tuple[str, Any, PgDurableError | None]] = []
        for changes, tags in groups:
            refusal: PgDurableError | None = None
            try:
                self._store.commit(changes, self._worker)
            except PgDurableError as error:
                refusal = error
            told += [(point, tag, refusal) for point, tag in tags]
        at_us = self._store.clock.now_us()
        self.commits += 1
        if self._reach("commit.after"):
            self._crash()
            return
        for point, tag, refusal in told:
            if self._reach(f"{point}.committed"):
                self._crash()
                return
            if tag is None:
                continue
            try:
                if refusal is None:
                    tag.committed(at_us)
                else:
                    tag.refused(refusal)
            except Exception:
                logger.exception("error while handing out a commit")
