"""The leanest group commit: rows that arrive while one commit is under way share the next one. No workflows.

What `bench_offered_load` stands beside. One libpq connection, one prepared statement that takes two arrays, so one
round trip per commit whatever the number of rows; everything but the ids is constant.
"""

from __future__ import annotations

import asyncio
import struct
import time

from psycopg import pq

from pgdurable.cli.bench_floor import Bare

UUID_OID, INT_OID = 2950, 23


class GroupCommit:
    """Writes rows like those of a step to `bare_history`.

    Attributes:
        samples: seconds from each row's due time to its commit's being known.
    """

    def __init__(self, bare: Bare, schema: str) -> None:
        self.samples: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._conn = bare.pq
        self._filling: list[tuple[bytes, int, float]] = []
        self._flying: list[tuple[bytes, int, float]] = []
        self._idle: asyncio.Future[None] | None = None
        bare.run("deallocate all")
        bare.prepare(
            b"group",
            f"insert into {schema}.bare_history"
            " (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload)"
            " select id, n, n, 12345, 0.02, 1, 'step', 'arrive', '7' from unnest($1::uuid[], $2::int[]) as u (id, n)",
        )
        self._conn.nonblocking = 1
        self._loop.add_reader(self._conn.socket, self._readable)

    def add(self, instance: bytes, event: int, due: float) -> None:
        """A row that was due at this time (of `time.perf_counter`)."""
        self._filling.append((instance, event, due))
        if not self._flying:
            self._send()

    async def drained(self) -> None:
        """Waits until everything has been committed; then the connection is the caller's again."""
        if self._flying or self._filling:
            self._idle = self._loop.create_future()
            await self._idle
        self._loop.remove_reader(self._conn.socket)
        self._conn.nonblocking = 0

    def _send(self) -> None:
        rows = self._flying = self._filling
        self._filling = []
        params = [
            _array(UUID_OID, [row[0] for row in rows]),
            _array(INT_OID, [struct.pack("!i", row[1]) for row in rows]),
        ]
        self._conn.send_query_prepared(b"group", params, [1, 1])
        while self._conn.flush():
            pass

    def _readable(self) -> None:
        conn = self._conn
        conn.consume_input()
        while not conn.is_busy():
            result = conn.get_result()
            if result is not None:
                if result.status != pq.ExecStatus.COMMAND_OK:
                    raise RuntimeError(result.error_message.decode())
                continue
            now = time.perf_counter()
            self.samples += [now - due for _, _, due in self._flying]
            self._flying = []
            if self._filling:
                self._send()
            elif self._idle is not None and not self._idle.done():
                self._idle.set_result(None)
            return


def _array(oid: int, items: list[bytes]) -> bytes:
    """A one-dimensional array in PostgreSQL's binary form."""
    size = struct.pack("!i", len(items[0]))
    return struct.pack("!iiIii", 1, 0, oid, len(items), 1) + b"".join([part for item in items for part in (size, item)])
