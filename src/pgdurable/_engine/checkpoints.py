"""What a transaction step's checkpoint is written with, and whether one took effect whose commit was not answered."""

from __future__ import annotations

import asyncio
import logging
import re
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from pgdurable._engine.answers import LimitedConnection
from pgdurable._engine.clock import micros
from pgdurable._engine.connections import is_passing
from pgdurable._engine.route import Route
from pgdurable._engine.same_server import SameServer
from pgdurable._engine.step_connection import StepTexts
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries
from pgdurable.codec import roundtrip
from pgdurable.encryption import place_of
from pgdurable.errors import CodecError

if TYPE_CHECKING:
    from pgdurable._engine.host import Host
    from pgdurable._engine.steps import StepRun

__all__ = ["FORMATS", "Checkpoints"]

logger = logging.getLogger("pgdurable.steps")

# Written out, so that no SQL is put together.
_BEGIN = {
    None: "begin",
    "read committed": "begin isolation level read committed",
    "repeatable read": "begin isolation level repeatable read",
    "serializable": "begin isolation level serializable",
}
# Of the checkpoint's parameters: uuid, three ints, a real, a smallint, two texts, a bigint. The id goes in binary.
_TYPES = [2950, 23, 23, 23, 700, 21, 25, 25, 20]
FORMATS = [pq.Format.BINARY, *[pq.Format.TEXT] * 8]


class Checkpoints:
    """See the head of this file.

    Args:
        dsn: for the connection that asks what became of a transaction.
    Attributes:
        statement: writes a checkpoint, with the parameters of `row`.
        texts: the same, and the fence, for an `AsyncStepConnection`, with the parameters of `binary_row`.
    """

    def __init__(self, host: Host, dsn: str, schema: str, route: Route, server: SameServer) -> None:
        self._host = host
        self._dsn = dsn
        self._route = route
        self._server = server
        queries = named_queries("worker", schema)
        # The fence is held from the very beginning: whoever takes this worker over ends the sessions that hold it,
        # and so frees the rows they have locked. It travels with the first statement, or (`def`) with BEGIN.
        self._fence = queries["fence_transaction"]
        self.statement = queries["checkpoint_transaction"]
        self._settle = queries["settle_transaction"]
        self._read = queries["read_checkpoint"]
        numbers = map("${}".format, range(1, 100))
        self.texts = StepTexts(
            queries["fence_transaction"].replace("%s", "$1").encode(),
            re.sub("%s", lambda _: next(numbers), self.statement).encode(),
            _TYPES,
        )

    def begin(self, run: StepRun) -> str:
        """Begins the transaction of a `def` step, and takes the fence."""
        # Written out: several commands in one message take no parameters.
        isolation = run.command.step.isolation
        return f"{_BEGIN[isolation]}; " + self._fence.replace("%s", str(int(run.hosted.worker)))

    def payload(self, run: StepRun, value: Any) -> bytes:
        """What a step returned, as it is written. Raises BadResult and the like, see StepRun."""
        command = run.command
        try:
            payload, run.value = roundtrip(
                value, command.step.signature.returns, what=command.name or "", limit=self._host.payload_limit
            )
        except CodecError as refused:
            raise run._bad_result(refused) from None
        encryption = self._host.encryption
        if encryption is not None:
            payload = encryption.seal(run.hosted.id, place_of("step", command.seq, None, None), payload)
        return payload

    def row(self, run: StepRun, payload: bytes) -> tuple[Any, ...]:
        """The parameters of `statement`."""
        command = run.command
        return (
            run.hosted.uuid, run.event_id, command.seq, command.fingerprint, (perf_counter() - run.started) * 1e3,
            run.attempt, command.name, payload.decode(), run.hosted.worker,
        )  # fmt: skip

    def binary_row(self, run: StepRun, payload: bytes) -> list[bytes | None]:
        """As `row`, for the checkpoint in libpq's own form."""
        command = run.command
        mark = command.fingerprint
        return [
            run.hosted.id, b"%d" % run.event_id, b"%d" % command.seq, None if mark is None else b"%d" % mark,
            b"%.6g" % ((perf_counter() - run.started) * 1e3), b"%d" % run.attempt,
            None if command.name is None else command.name.encode(), payload, b"%d" % run.hosted.worker,
        ]  # fmt: skip

    async def outcome(self, run: StepRun) -> int | None:
        """Whether a transaction whose connection broke at its commit took effect: its time, or None.

        A void row in the checkpoint's place decides it. It waits for the old transaction if that still runs; if
        the void gets in, the old transaction can never commit.
        """
        wait = 0.02
        command = run.command
        while True:
            try:
                # Not of the pool: its connections may all be held by steps that wait for locks of a step that waits
                # for this instance's order, which is held until the outcome is known.
                async with await LimitedConnection.connect(self._dsn, **self._route.options) as conn:
                    await self._server.configure(conn)
                    cursor = await conn.execute(self._settle, (
                        run.hosted.uuid, run.event_id, command.seq, run.attempt, command.name, run.hosted.worker,
                    ))  # fmt: skip
                    if await cursor.fetchone() is not None:
                        return None
                    cursor = await conn.execute(self._read, (run.hosted.uuid, run.event_id))
                    row = await cursor.fetchone()
                    return None if row is None else micros(row[0])
            except psycopg.Error as error:
                if not is_passing(error):
                    raise
                logger.debug("outcome of %s not known yet: %s", run.command.name, server_said(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
