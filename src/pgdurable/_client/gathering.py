"""Starts that wait for others: debounced ones, and inputs that are gathered for a batch."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg

from pgdurable._client.base import Topic
from pgdurable._engine.bulk import batches
from pgdurable._engine.gathering import Debounced, batched_params, element
from pgdurable._engine.inputs import Input
from pgdurable._secret import SHOW_VALUES

if TYPE_CHECKING:
    from pgdurable.handle import Handle

__all__ = ["Gathering"]


class Gathering(Topic):
    """What `start` and `start_many` do where starts wait for others."""

    async def _gather(
        self, input: Input, args: Any, connection: psycopg.AsyncConnection[Any] | None, **options: Any
    ) -> Handle[Any]:
        """A start that waits for others: debounced, or one input of a batch."""

        async def ask(query: str, params: tuple[Any, ...]) -> Any:
            if connection is None:
                return await self._database.one(query, params)
            try:
                row = await (await connection.execute(self._database.sql[query], params)).fetchone()
            except psycopg.Error as error:
                raise self._database.explain(error) from (error if SHOW_VALUES else None)
            return None if row is None else row[0]

        if connection is None:
            await self._admit()
        if options["debounce"] is None and options["key"] is None:
            data = [element(input, args, options.pop("kwargs"))]
            started = await ask("start_batched", batched_params(input, data, self._database, **options))
        else:
            start = Debounced(input, args, self._database, **options)
            while (started := await ask("start_debounced", start.params)) is None:
                start.aim(await ask("find_debounced", start.key))
        return self._handle(uuid.UUID(started), None, input.returns)

    def _gather_blocking(
        self, connection: psycopg.Connection[Any], input: Input, args: tuple[Any, ...], **options: Any
    ) -> Handle[Any]:
        """The same inside a blocking connection's open transaction."""

        def ask(query: str, params: tuple[Any, ...]) -> Any:
            row = connection.execute(self._database.sql[query], params).fetchone()
            return None if row is None else row[0]

        if options.get("debounce") is None and options.get("key") is None:
            data = [element(input, args, options.pop("kwargs", None))]
            started = ask("start_batched", batched_params(input, data, self._database, **options))
        else:
            start = Debounced(input, args, self._database, **options)
            while (started := ask("start_debounced", start.params)) is None:
                start.aim(ask("find_debounced", start.key))
        return self._handle(uuid.UUID(started), None, input.returns)

    async def _gather_many(self, input: Input, arguments: Any, **options: Any) -> list[Handle[Any]]:
        """Many inputs of batches: the instance that has each."""
        found: list[Handle[Any]] = []
        async for some in batches(arguments, 1000):
            data = [element(input, argument if isinstance(argument, tuple) else (argument,), None) for argument in some]
            await self._admit()
            rows = await self._database.rows("start_batched", batched_params(input, data, self._database, **options))
            found += [self._handle(uuid.UUID(id), None, input.returns) for (id,) in rows]
        return found
