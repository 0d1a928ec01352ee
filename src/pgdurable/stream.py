"""Streams: what a workflow or a step writes item by item, for whoever reads along."""

from __future__ import annotations

from typing import Any

from pgdurable._runtime.current import current_attempt, current_machine
from pgdurable._runtime.machine import Machine
from pgdurable.codec import encode
from pgdurable.errors import PgDurableError

__all__ = ["Stream", "StreamPart", "stream"]


def stream(name: str) -> Stream:
    """The stream of that name of the instance whose workflow or step calls.

    Args:
        name: 1 to 512 bytes. A stream comes into being with its first item.
    """
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode()) > 512:
        raise ValueError(f"a stream's name is a text of 1 to 512 bytes without NUL, found {name!r:.80}")
    machine = current_machine()
    if machine is not None:
        return _WorkflowStream(name, machine)
    attempt = current_attempt.get(None)
    if attempt is None:
        raise PgDurableError(
            f"stream({name!r}) was called outside a workflow and outside a step",
            hint="Whoever reads it asks a handle: handle.stream(name).",
        )
    return _StepStream(name, attempt)


class Stream:
    """What `stream` gives. Items are read in the order written, each once: `handle.stream(name)`.

    A replay of the workflow writes nothing again. What an attempt of a step writes stands where the attempt before it
    wrote, item by item; so a reader never meets two copies, and one that comes later sees the last attempt alone.
    """

    def __init__(self, name: str, limit: int | None) -> None:
        self.name = name
        self._limit = limit

    def write(self, item: Any) -> Any:
        """Writes an item, anything with a JSON form. Durable no later than what the workflow or step does next.

        In an `async def` step it may be awaited: then it is durable, and a writer cannot run ahead of the database. In
        a `def` step it waits by itself when it is far ahead.

        Raises:
            CodecError: the item has no JSON form.
        """
        self._add(encode(item, what=f"an item of stream {self.name!r}", limit=self._limit))
        return self._written()

    def close(self) -> Any:
        """Ends the stream: readers stop after what has been written. It ends with its instance anyway."""
        self._add(None)
        return self._written()

    def _add(self, item: bytes | None) -> None:
        raise NotImplementedError

    def _written(self) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<stream {self.name!r}>"


class StreamPart:
    """What workflow code wrote to a stream between two events: one command, one row of history.

    Attributes:
        moment: which event it was.
        items: encoded.
        ends: whether the stream ends after them.
    """

    __slots__ = ("ends", "items", "moment")

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.items: list[bytes] = []
        self.ends = False


class _WorkflowStream(Stream):
    def __init__(self, name: str, machine: Machine) -> None:
        super().__init__(name, machine.payload_limit)
        self._machine = machine

    def _add(self, item: bytes | None) -> None:
        machine = self._machine
        issued = machine.issued
        last = issued[-1] if issued and not machine.dropped else None
        part: StreamPart
        if last is not None and last.kind == "stream" and last.name == self.name and last.step.moment == machine.moment:
            part = last.step
            if part.ends:
                return
        else:
            part = StreamPart(machine.moment)
            machine.issue("stream", self.name, None, part)
        if item is None:
            part.ends = True
        else:
            part.items.append(item)

    def _written(self) -> Any:
        return _NOTHING


class _StepStream(Stream):
    def __init__(self, name: str, attempt: Any) -> None:
        super().__init__(name, None)
        self._attempt = attempt
        self._future: Any = None

    def _add(self, item: bytes | None) -> None:
        self._future = self._attempt.running().write(self.name, item)

    def _written(self) -> Any:
        return self._future if self._future is not None else _NOTHING


class _Nothing:
    """An await of it returns at once."""

    def __await__(self) -> Any:
        return iter(())


_NOTHING = _Nothing()
