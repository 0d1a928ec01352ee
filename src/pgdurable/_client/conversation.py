"""Asking an instance: updates, queries, published state, streams. Part of `Handle`."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgdurable._client.streams import StreamReader
from pgdurable.handlers import Handler

if TYPE_CHECKING:
    from pgdurable.client import Client

__all__ = ["Conversation"]


class Conversation:
    """See the head of this file."""

    __slots__ = ()

    if TYPE_CHECKING:
        _client: Client

        @property
        def id(self) -> str: ...
        @property
        def instance_id(self) -> uuid.UUID: ...

    async def update(
        self,
        update: str | Handler[..., Any],
        *args: Any,
        kwargs: dict[str, Any] | None = None,
        key: uuid.UUID | None = None,
        timeout: float | timedelta | None = None,
        type: Any = Any,
    ) -> Any:
        """Asks the instance for an update, and returns its handler's reply. Both survive a crash in between.

        Args:
            update: the handler's name, or the handler declared on the workflow.
            *args, kwargs: the handler's arguments.
            key: the same key again is the same request: it is carried out once, and gets the same reply. For a sender
                that was told ConnectionFailed, or has died meanwhile. Default: one that nobody else has.
            timeout: seconds (or timedelta) to wait for the reply; None: for ever. Running out of it withdraws nothing.
            type: the reply is decoded to this type. Default: what a handler that was given is annotated with.
        Raises:
            UpdateRejected: the instance did not take it. Nothing happened, and history knows nothing of it.
            UpdateFailed: the handler raised, or the instance ended before it was done.
            InstanceFinished: the instance had ended already.
            InstancePaused: it is paused. The request is kept.
            TimeoutError: no reply in time.
            ConnectionFailed: the server was away for `patience` seconds; with the same key it can be sent again.
        """
        return await self._client._update(self, update, args, kwargs, key, timeout, type)

    async def query(
        self,
        query: str | Handler[..., Any],
        *args: Any,
        kwargs: dict[str, Any] | None = None,
        timeout: float | timedelta | None = 10.0,
        type: Any = Any,
    ) -> Any:
        """What a query's handler says of the instance: running, waiting, paused or ended. Changes and records nothing.

        Answered by the worker that holds the instance, between two events, else after a replay by any that has its
        workflow; so with the state that the last event has led to.

        Args:
            query: the handler's name, or the handler declared on the workflow.
            *args, kwargs: the handler's arguments.
            timeout: seconds (or timedelta) to wait; None: for ever.
            type: the answer is decoded to this type. Default: what a handler that was given is annotated with.
        Raises:
            QueryFailed: no such query, arguments that do not fit, a handler that raised, an instance not begun.
            TimeoutError: no answer in time.
        """
        return await self._client._query(self, query, args, kwargs, timeout, type)

    async def state(self, key: str, default: Any = None, *, type: Any = Any) -> Any:
        """What the workflow publishes under this key (`pgdurable.set_state`), or `default` when there is nothing.

        Args:
            type: the value is decoded to this type.
        """
        return (await self._client._states(self, key, type)).get(key, default)

    async def states(self) -> dict[str, Any]:
        """All that the workflow publishes, by key."""
        return await self._client._states(self, None, Any)

    async def wait_state(
        self, key: str, wanted: Any, timeout: float | timedelta | None = None, *, type: Any = Any
    ) -> Any:
        """Waits until the workflow publishes what is wanted under this key, and returns it.

        Values that are published and replaced in quick succession may be missed: it is for states, not for events.

        Args:
            wanted: the value; or a function that says whether a value will do.
            timeout: seconds (or timedelta) to wait; None: for ever.
            type: values are decoded to this type.
        Raises:
            InstanceFinished: the instance has ended without it.
            TimeoutError: not in time.
        """
        return await self._client._wait_state(self, key, wanted, timeout, type)

    def stream(self, name: str, offset: int = 0, *, type: Any = Any, follow: bool = True) -> StreamReader:
        """A stream of the instance, to be read with ``async for``: from an offset, to its end.

        Each item comes once, in the order of its offset. It ends when the stream was closed, or the instance has ended.

        Args:
            offset: where to begin; ``items()`` tells the offset of each item.
            type: items are decoded to this type.
            follow: False: it ends with what there is now.
        """
        return StreamReader(self, name, offset, type, follow)
