"""Signals from outside: to an instance that is there, or that is started by the same call."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from pgdurable._client.base import Topic, asked_id
from pgdurable._engine.ids import check_key
from pgdurable._engine.inputs import Input, check_name, start_params
from pgdurable._secret import SHOW_VALUES
from pgdurable.codec import encode

if TYPE_CHECKING:
    from pgdurable.handle import Handle
    from pgdurable.workflow import Workflow

__all__ = ["Signals"]


class Signals(Topic):
    """Part of `Client`."""

    async def signal(self, id: str, name: str, payload: Any = None, *, key: uuid.UUID | None = None) -> None:
        """Sends a signal to an instance by id. As `Handle.signal`."""
        data = encode(payload, what=f"instance {id}: payload of signal {name!r}", limit=self.payload_limit)
        text = asked_id(id)
        check_name(name, "a signal's name")
        await self._admit()
        if (encryption := self._database.encryption) is not None:
            instance = (await self._find(text)).bytes
            data = encryption.seal(instance, f"signal {name}", data)
        await self._database.one("signal", (text, name, data.decode(), key or uuid.uuid4()))

    async def signal_with_start(
        self,
        workflow: str | Workflow[Any, Any],
        *args: Any,
        id: str,
        signal: str,
        payload: Any = None,
        key: uuid.UUID | None = None,
        kwargs: dict[str, Any] | None = None,
        version: str | None = None,
        queue: str = "default",
        priority: int = 0,
        delay: float | timedelta | None = None,
        labels: dict[str, Any] | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
    ) -> Handle[Any]:
        """Sends a signal to the instance with this id, and starts it first where there is none: both or neither.

        Two at once make one instance, which gets both signals, in the order in which they were committed.

        Args:
            workflow, *args, kwargs, version, queue, priority, delay, labels: as for `start`; without effect where the
                instance is there already.
            id: your own id, 1 to 512 bytes.
            signal: the signal's name.
            payload: what the workflow gets.
            key: the same key within the last hour sends no second signal. Default: one that nobody else has.
            connection: do so inside this connection's open transaction.
        Raises:
            InstanceFinished: the instance with this id has ended.
            InvalidId: the id is no id, or belongs to an instance of another workflow.
            InvalidInput, CodecError: arguments or payload cannot be taken.
            ConnectionFailed: the server was away for `patience` seconds. With the same `key` it can be sent again.
        """
        check_key(id)
        check_name(signal, "a signal's name")
        data = encode(payload, what=f"instance {id}: payload of signal {signal!r}", limit=self.payload_limit)
        key = key or uuid.uuid4()
        input = Input(workflow, self.payload_limit)
        options: dict[str, Any] = {
            "version": version,
            "queue": queue,
            "priority": priority,
            "delay": delay,
            "labels": labels,
        }
        await self._admit()
        encryption = self._database.encryption
        # Encryption is for one instance: where it turns out to be another, once more for that.
        there = await self._ask(connection, "find_key", (id,)) if encryption is not None else None
        while True:
            params = start_params(input, args, id=id, kwargs=kwargs, database=self._database, **options)
            meant = None
            text = data
            if encryption is not None:
                meant = there or params[-1]
                text = encryption.seal(meant.bytes, f"signal {signal}", data)
            found = await self._ask(
                connection,
                "signal_with_start",
                (*params[:3], signal, text.decode(), key, *params[3:-1], None if there else params[-1], meant),
            )
            if meant is None or found == meant:
                return self._handle(found, id, input.returns)
            there = found

    async def _ask(self, connection: psycopg.AsyncConnection[Any] | None, query: str, params: tuple[Any, ...]) -> Any:
        """The first column of a named query's first row, on a connection of the caller's or one of ours."""
        if connection is None:
            return await self._database.one(query, params)
        try:
            row = await (await connection.execute(self._database.sql[query], params)).fetchone()
        except psycopg.Error as error:
            raise self._database.explain(error) from (error if SHOW_VALUES else None)
        return None if row is None else row[0]
