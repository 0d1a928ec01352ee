"""Reading streams: from any process, from an offset, to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pgdurable._client.copied import Opener
from pgdurable._client.talk import ENDED
from pgdurable._engine.inputs import check_name
from pgdurable.codec import decode_stored
from pgdurable.errors import InstanceNotFound

if TYPE_CHECKING:
    from pgdurable._client.conversation import Conversation

__all__ = ["StreamItem", "StreamReader"]

_AT_ONCE = 1000
_MOST_PAUSE_S = 0.25


@dataclass(frozen=True)
class StreamItem:
    """An item of a stream, and where it stands.

    Attributes:
        offset: its place; reading on begins at `offset + 1`. Offsets ascend, with gaps where an attempt of a step left
            items that the next one did not write.
        value: what was written.
        step: the number of the step that wrote it, as `seq` in history; of the workflow's own items that of their row.
        attempt: of the step; None: the workflow wrote it.
    """

    offset: int
    value: Any
    step: int
    attempt: int | None
    written_at: datetime


class StreamReader:
    """What `Handle.stream` gives: ``async for value in reader``, or ``async for item in reader.items()``.

    It ends when the stream was closed, or the instance has ended, and everything has been read. Until then it waits.
    """

    def __init__(self, handle: Conversation, name: str, offset: int, type: Any, follow: bool) -> None:
        self._handle = handle
        self.name = check_name(name, "a stream's name")
        if not isinstance(offset, int) or offset < 0:
            raise ValueError(f"a stream's offset is 0 or more, found {offset!r}")
        self._offset = offset
        self._type = type
        self._follow = follow

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for item in self.items():
            yield item.value

    async def items(self) -> AsyncIterator[StreamItem]:
        """The items with their offsets."""
        handle = self._handle
        database = handle._client._database
        id = handle.instance_id
        opener = Opener(database, id)
        next_one = self._offset
        pause = 0.005
        while True:
            # One snapshot: what an instance that has ended wrote is all there.
            rows = await database.rows("stream_items", (self.name, next_one, _AT_ONCE, id))
            if not rows:
                raise InstanceNotFound(f"instance {handle.id} is not there any more", hint="Its retention is over.")
            status = rows[0][0]
            news = False
            for _, position, kind, run, writer, n, attempt, item, written_at in rows:
                if position is None:
                    break
                news = True
                next_one = position + 1
                if kind == "end":
                    return
                if kind != "item":
                    continue
                place = f"stream {self.name} {run} {writer} {n}"
                item = await opener.open(item, place, place)
                value = decode_stored(
                    item, self._type, what=f"instance {handle.id}: stream {self.name!r} at {position}"
                )
                yield StreamItem(position, value, writer, attempt, written_at)
            if news:
                pause = 0.005
                if len(rows) == _AT_ONCE:
                    continue
            if status in ENDED or not self._follow:
                if news:
                    continue
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, _MOST_PAUSE_S)

    def __repr__(self) -> str:
        return f"<stream {self.name!r} of {self._handle.id}>"
