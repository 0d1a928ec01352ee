"""Compares what a worker holds in memory with what the database has, when the connection for transitions comes back.

Memory follows from what the server has acknowledged. A server that has lost some of it (an asynchronous standby was
promoted, an older state restored, a crash with synchronous_commit off) would be given transitions that follow from
ones it does not know: histories with gaps, whose replay diverges. So before the first transition goes over a new
connection: is each instance still this worker's, is the last acknowledged row of its history there, is each signal that
is just being moved to history? If not, the worker drops everything and joins anew, and all its instances are replayed
from what the database has. One query for all, by index: it costs something only when a connection was lost.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg

from pgdurable._engine.answers import LimitedConnection
from pgdurable._engine.host import Host
from pgdurable._engine.membership import Membership
from pgdurable._engine.route import Route
from pgdurable._engine.same_server import SameServer
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

__all__ = ["Memory"]

logger = logging.getLogger("pgdurable.engine")


class Memory:
    """See the head of this file.

    Args:
        on_lost: called when the database has lost something that the memory follows from.
        on_same: called when it has all.
    """

    def __init__(
        self,
        host: Host,
        membership: Membership,
        server: SameServer,
        dsn: str,
        schema: str,
        route: Route,
        *,
        on_lost: Callable[[], None],
        on_same: Callable[[], None],
    ) -> None:
        self._host = host
        self._membership = membership
        self._server = server
        self._dsn = dsn
        self._route = route
        self._sql = named_queries("worker", schema)["compare_memory"]
        self._on_lost = on_lost
        self._on_same = on_same

    async def compare(self, server: str | None) -> bool:
        """Whether the connection that leads to this server may be used; else `on_lost` has been called.

        Raises ConnectionError when that cannot be found out.
        """
        try:
            # Not of a pool: those take no connection to a server that has not been compared.
            async with await LimitedConnection.connect(self._dsn, **self._route.options) as conn:
                row = await (await conn.execute(self._server.setup)).fetchone()
                if row is None or row[0] != server:
                    raise ConnectionError("two connections lead to different servers")
                asked = self._held()
                sent = time.monotonic()
                row = await (await conn.execute(self._sql, asked)).fetchone()
        except psycopg.Error as error:
            raise ConnectionError(server_said(error)) from None
        assert row is not None
        mine, living, behind, events, at_us = row
        if not mine or (living and (behind or events)):
            logger.error(
                "the server has lost what it had acknowledged: %s of worker %s; its instances are replayed from what "
                "is left. Was an asynchronous standby promoted, or an older state restored?",
                f"{behind} of {len(asked['ids'])} instances and {events} signals" if mine else "the whole existence",
                self._host.worker,
            )  # fmt: skip
            self._on_lost()
            return False
        self._server.known = server
        self._host.clock.learn(at_us, sent, time.monotonic())  # this server's clock may be behind the other's
        self._on_same()
        return True

    def _held(self) -> dict[str, Any]:
        host = self._host
        ids: list[uuid.UUID] = []
        events: list[int] = []
        owned: list[bool] = []
        for hosted in host.instances.values():
            ids.append(uuid.UUID(bytes=hosted.id))
            holder = hosted.holder
            # Given out, but acknowledged by nobody yet: what flies or waits in the journal, a commit under way.
            open_ = hosted.unacked + (1 if holder is not None and holder.committing else 0)
            events.append(max(hosted.next_event - 1 - open_, 0))
            owned.append(not hosted.releasing)
        consuming = list(host.consuming.items())
        return {
            "worker": host.worker, "joined": self._membership.joined, "ids": ids, "events": events, "owned": owned,
            "seqs": [seq for seq, _ in consuming], "sent": [entry[0] for _, entry in consuming],
            "receivers": [uuid.UUID(bytes=entry[1]) for _, entry in consuming],
            "places": [entry[2] for _, entry in consuming],
        }  # fmt: skip
