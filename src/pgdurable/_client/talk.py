"""Asking instances: updates, queries, published state, streams."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgdurable._client.base import Topic
from pgdurable._client.copied import Opener
from pgdurable._engine.inputs import check_name
from pgdurable._engine.tasks import within
from pgdurable.codec import decode_stored, encode
from pgdurable.errors import (
    InstanceFinished,
    InstancePaused,
    InvalidInput,
    PgDurableError,
    QueryFailed,
    UpdateFailed,
    UpdateRejected,
)
from pgdurable.handlers import Handler
from pgdurable.retry import seconds

if TYPE_CHECKING:
    from pgdurable._client.conversation import Conversation
    from pgdurable._engine.replies import Replies, Reply

__all__ = ["ENDED", "Talk"]

ENDED = ("completed", "failed", "cancelled", "timed_out")
_NOT_SET: Any = object()


class Talk(Topic):
    """Part of `Client`: what the methods of `Handle` call."""

    if TYPE_CHECKING:
        _replies: Replies

    def _answer_here(self, id: bytes, name: str, input: bytes) -> Awaitable[bytes] | None:
        """The answer to a query of an instance in this process's memory; None: it is not there."""
        return None

    async def _update(
        self, handle: Conversation, update: str | Handler[Any, Any], args: Any, kwargs: Any, key: uuid.UUID | None,
        timeout: float | timedelta | None, type: Any,
    ) -> Any:  # fmt: skip
        name, input, type = self._request(handle, "update", update, args, kwargs, type)
        key = key or uuid.uuid4()
        if not isinstance(key, uuid.UUID):
            raise InvalidInput(f"an update's key is a uuid.UUID, found {key!r:.60}", hint="Make one: uuid.uuid4().")
        await self._admit()
        id = handle.instance_id
        if (encryption := self._database.encryption) is not None:
            input = encryption.seal(id.bytes, f"the update {name}", input)
        await self._database.rows("request_update", (str(id), name, input.decode(), key))
        wait = seconds(timeout)
        reply = await self._waited(
            self._replies.of_update(id.bytes, key), wait,
            f"instance {handle.id}: update {name!r} has no reply within {wait or 0:g} s; with its key ({key}) it can "
            "be asked for again",
        )  # fmt: skip
        return self._reply(handle, name, reply, type)

    def _reply(self, handle: Conversation, name: str, reply: Reply, type: Any) -> Any:
        status, result, error, ended = reply
        what = f"instance {handle.id}: update {name!r}"
        if status == "completed":
            return decode_stored(result or b"null", type, what=f"{what}: reply")
        if status in ("failed", "rejected"):
            kind, message, traceback = _told(error)
            if status == "rejected":
                raise UpdateRejected(f"{what} was rejected: {message}", type=kind, traceback=None)
            raise UpdateFailed(f"{what} failed: {_short(kind)}{message}", type=kind, traceback=traceback)
        if ended == "paused":
            raise InstancePaused(
                f"{what}: the instance is paused, so nobody carries it out",
                hint="It is kept: resume the instance, then ask again with the same key.",
            )
        gone = "the instance is not there any more"
        if ended is not None:
            gone = f"the instance ended {ended} before it was done"
        raise UpdateFailed(f"{what} failed: {gone}", type=None, traceback=None)

    async def _query(
        self, handle: Conversation, query: str | Handler[Any, Any], args: Any, kwargs: Any,
        timeout: float | timedelta | None, type: Any,
    ) -> Any:  # fmt: skip
        name, input, type = self._request(handle, "query", query, args, kwargs, type)
        id = handle.instance_id
        what = f"instance {handle.id}: query {name!r}"
        here = self._answer_here(id.bytes, name, input)
        if here is not None:
            try:
                return decode_stored(await here, type, what=f"{what}: answer")
            except Exception as error:
                raise QueryFailed(
                    f"{what} failed: {error.__class__.__name__}: {error}",
                    type=f"{error.__class__.__module__}.{error.__class__.__qualname__}", traceback=None,
                ) from error  # fmt: skip
        key = uuid.uuid4()
        if (encryption := self._database.encryption) is not None:
            input = encryption.seal(id.bytes, f"query {name}", input)
        question = (str(id), name, input.decode(), key)
        await self._database.one("ask", question)
        wait = seconds(timeout)
        reply = await self._waited(
            self._replies.of_query(key, question), wait,
            f"{what} has no answer within {wait or 0:g} s: does a worker that has its workflow run?",
        )  # fmt: skip
        if reply[0] == "completed":
            return decode_stored(reply[1] or b"null", type, what=f"{what}: answer")
        kind, message, traceback = _told(reply[2])
        raise QueryFailed(f"{what} failed: {_short(kind)}{message}", type=kind, traceback=traceback)

    def _request(
        self, handle: Conversation, what: str, asked: str | Handler[Any, Any], args: Any, kwargs: Any, type: Any
    ) -> tuple[str, bytes, Any]:
        """The handler's name, its arguments encoded, and what its reply is decoded to."""
        if isinstance(asked, Handler):
            if asked.query != (what == "query"):
                raise InvalidInput(f"{asked!r} is no {what}", hint="Updates are for update(), queries for query().")
            data = asked.signature.bind_input(args, kwargs or {}, limit=self.payload_limit)
            return asked.name, data, asked.signature.returns if type is Any else type
        name = check_name(asked, f"the name of {'an' if what == 'update' else 'a'} {what}")
        if args and kwargs:
            raise InvalidInput(
                f"{what} {name!r} is asked for by name: its parameters' names are not known here",
                detail="Expected positional arguments alone, or kwargs={...} alone.",
                hint="Pass all of them by name in kwargs={...}.",
            )
        text = f"instance {handle.id}: arguments of {what} {name!r}"
        return name, encode(dict(kwargs) if kwargs else list(args), what=text, limit=self.payload_limit), type

    async def _waited(self, future: asyncio.Future[Any], wait: float | None, late: str) -> Any:
        try:
            return await within(wait, future)
        except asyncio.TimeoutError:
            raise TimeoutError(late) from None
        finally:
            future.cancel()

    # -- published state -----------------------------------------------------------------------------------------

    async def _states(self, handle: Conversation, key: str | None, type: Any) -> dict[str, Any]:
        """What the instance publishes under this key, or under all."""
        found = {}
        opener = Opener(self._database, handle.instance_id)
        for name, value, place in await self._database.rows("states", (handle.instance_id, key, key)):
            value = await opener.open(value, f"state {name}", f"state {place}")
            found[name] = decode_stored(value, type, what=f"instance {handle.id}: state {name!r}")
        return found

    async def _wait_state(
        self, handle: Conversation, key: str, wanted: Any, timeout: float | timedelta | None, type: Any
    ) -> Any:
        holds: Callable[[Any], Any] = wanted if callable(wanted) else lambda value: value == wanted
        wait = seconds(timeout)
        until = None if wait is None else time.monotonic() + wait
        pause = 0.005
        while True:
            # Its status first: what it has published by its end is read after that.
            status = (await self._database.rows("status_of", (handle.instance_id,)) or [(None,)])[0][0]
            value = (await self._states(handle, key, type)).get(key, _NOT_SET)
            if value is not _NOT_SET and holds(value):
                return value
            if status is None or status in ENDED:
                raise InstanceFinished(
                    f"instance {handle.id} has ended ({status or 'it is not there any more'}), and state {key!r} is "
                    "not what was waited for",
                    detail="It was never published." if value is _NOT_SET else None,
                )
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"instance {handle.id}: state {key!r} is not what is waited for within {wait:g} s")
            await asyncio.sleep(pause if left is None else min(pause, left))
            pause = min(pause * 1.3, 0.25)


def _told(error: Any) -> tuple[str | None, str, str | None]:
    found = decode_stored(error) if error is not None else {}
    found = found if isinstance(found, dict) else {}
    return found.get("type"), str(found.get("message") or ""), found.get("traceback")


def _short(kind: str | None) -> str:
    if not kind or kind.startswith(PgDurableError.__module__):
        return ""
    return kind.removeprefix("builtins.") + ": "
