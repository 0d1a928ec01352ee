"""Streams: what workflow code and steps write, on its way into the flush.

Items are gathered until the end of the event loop's turn, and go as one write per stream and writer. The server gives
out their positions (`write_stream`), under the fence, and finds by writer and number what has been written before.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from pgdurable._engine.events import Note
from pgdurable._engine.published import NoteKind, settled
from pgdurable.codec import encode
from pgdurable.errors import PayloadTooLarge, PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.steps import StepRun
    from pgdurable._runtime.machine import Command
    from pgdurable.stream import StreamPart

__all__ = ["Kind", "StepWriter"]

_MOST_ITEMS = 500
_MOST_BYTES = 256 * 1024
# A thread waits when so many of its items are not known to be durable.
_AHEAD = 1000


class Kind(NoteKind):
    """Commands of workflow code that write to a stream."""

    def begin(self, hosted: Hosted, command: Command) -> None:
        part: StreamPart = command.step
        name = command.name or ""
        bodies = _bodies(hosted, name, command.seq, 0, None, part.items, part.ends)
        hosted.record(
            "stream", Note(hosted, "stream", lambda at_us: settled(hosted, command)), seq=command.seq, name=name,
            payload=encode({"ends": part.ends, "items": len(part.items)}),
            writes=tuple((hosted.id, "stream", command.seq, body) for body in bodies),
        )  # fmt: skip


def _bodies(
    hosted: Hosted, name: str, writer: int, first: int, attempt: int | None, items: list[bytes], ends: bool
) -> list[bytes]:
    """The writes for items of one writer, the first of which is its `first`."""
    if (encryption := hosted.host.encryption) is not None:
        items = [
            encryption.seal(hosted.id, f"stream {name} {hosted.run} {writer} {n}", item)
            for n, item in enumerate(items, first)
        ]
    head = b'{"stream":%s,"run":%d,"attempt":%s,"n":' % (encode(name), hosted.run, encode(attempt))
    bodies: list[bytes] = []
    at = 0
    while at < len(items) or (ends and not bodies):
        end, size = at, 0
        while end < len(items) and end - at < _MOST_ITEMS and (size == 0 or size < _MOST_BYTES):
            size += len(items[end])
            end += 1
        last = b',"end":true}' if ends and end == len(items) else b"}"
        bodies.append(head + b'%d,"items":[%s]' % (first + at, b",".join(items[at:end])) + last)
        at = end
    return bodies


class _Written:
    """The journal's tag for items of a step."""

    __slots__ = ("future", "hosted")

    def __init__(self, hosted: Hosted, future: asyncio.Future[None]) -> None:
        self.hosted = hosted
        self.future = future

    def committed(self, at_us: int) -> None:
        self.hosted.unacked -= 1
        if not self.future.done():
            self.future.set_result(None)
        self.hosted.advance_order()

    def refused(self, error: PgDurableError) -> None:
        self.hosted.unacked -= 1
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # nobody has to await it
        self.hosted.advance_order()


class _Along:
    """The tag for all but the last of several writes."""

    def committed(self, at_us: int) -> None:
        pass

    def refused(self, error: PgDurableError) -> None:
        pass


class StepWriter:
    """What the attempts of one step write. Used on the event loop's thread, but for `write`.

    Attributes:
        attempt: whose items are counted.
        counts: parts written by that attempt, by stream; those of earlier attempts with 0.
    """

    __slots__ = ("ahead", "attempt", "counts", "filling", "future", "run")

    def __init__(self, run: StepRun) -> None:
        self.run = run
        self.attempt = 0
        self.counts: dict[str, int] = {}
        self.filling: dict[str, tuple[int, list[bytes], bool]] | None = None
        self.future: asyncio.Future[None] | None = None
        self.ahead = 0

    def write(self, attempt: int, name: str, item: bytes | None) -> Any:
        """Writes an item, or the stream's end; returns something to await, where there is an event loop to do so."""
        host = self.run.hosted.host
        if item is not None and len(item) > host.payload_limit:
            raise PayloadTooLarge(
                f"{self.run.hosted.label}: step {self.run.command.name}: an item of stream {name!r} is too large",
                detail=f"expected at most {host.payload_limit:,} bytes of JSON, found {len(item):,}",
                hint="write it in pieces, or store it elsewhere and write a reference",
            )
        try:
            here = asyncio.get_running_loop() is host.loop
        except RuntimeError:
            here = False
        if here:
            return self.add(attempt, name, item)
        told = threading.Event()
        host.loop.call_soon_threadsafe(self._add_for, told, attempt, name, item)
        self.ahead += 1
        if self.ahead % _AHEAD == 0:
            while not told.wait(1.0):
                if self.run.task is None or self.run.attempt != attempt:
                    break
        return None

    def _add_for(self, told: threading.Event, attempt: int, name: str, item: bytes | None) -> None:
        if self.run.task is None or self.run.attempt != attempt:
            told.set()
            return
        self.add(attempt, name, item).add_done_callback(lambda _: told.set())

    def add(self, attempt: int, name: str, item: bytes | None) -> asyncio.Future[None]:
        """The same on the loop's thread."""
        hosted = self.run.hosted
        if self.attempt != attempt:
            self.flush()
            self.attempt = attempt
            self.counts = dict.fromkeys(self.counts, 0)
        if self.filling is None or self.future is None:
            self.filling = {}
            self.future = hosted.host.loop.create_future()
            hosted.unacked += 1
            hosted.host.loop.call_soon(self.flush)
        n = self.counts.get(name, 0)
        self.counts[name] = n + 1
        first, items, _ = self.filling.setdefault(name, (n, [], False))
        if item is None:
            self.filling[name] = (first, items, True)
            # What a step writes after the end nobody reads: but each part keeps its number.
            future = self.future
            self.flush()
            return future
        items.append(item)
        return self.future

    def flush(self) -> None:
        """Hands what was gathered to the journal."""
        filling, self.filling = self.filling, None
        if not filling or self.future is None:
            return
        hosted = self.run.hosted
        seq = self.run.command.seq
        bodies = [
            body
            for name, (first, items, ends) in filling.items()
            for body in _bodies(hosted, name, seq, first, self.attempt, items, ends)
        ]
        for body in bodies[:-1]:
            hosted.host.flusher.add_write(hosted.id, "stream", seq, body, _Along())
        hosted.host.flusher.add_write(hosted.id, "stream", seq, bodies[-1], _Written(hosted, self.future))
        hosted.host.kick()

    def cut(self) -> None:
        """The step has ended, with no attempt to follow: what earlier ones wrote beyond the last goes.

        Not sooner: who reads along passes over a place that is void, and would miss what another attempt writes there.
        """
        self.flush()
        if self.counts:
            hosted = self.run.hosted
            body = encode({"keep": self.counts, "run": hosted.run})
            hosted.host.flusher.add_write(hosted.id, "cut_stream", self.run.command.seq, body, _Along())
            hosted.host.kick()
