"""Handle: one instance, wherever it runs; and what is read of it."""

from __future__ import annotations

import asyncio
import shlex
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import msgspec

from pgdurable.codec import decode_stored
from pgdurable.errors import CodecError, InstanceFailed, InstancePaused, PayloadSealed, PgDurableError, Quarantined
from pgdurable.retry import seconds

if TYPE_CHECKING:
    from pgdurable.client import Client

__all__ = ["Entry", "Handle", "InstanceInfo", "Starts"]

T = TypeVar("T")
H = TypeVar("H")


@dataclass(frozen=True)
class Entry:
    """One row of an instance's history.

    Attributes:
        event_id: its place; counts up, gaps allowed.
        kind: `started`, `step`, `attempt`, `timer`, `signal`, `void`, or the final status.
        seq: number of the command it answers, or None.
        name: of the step or signal.
        attempt: which try, from 1.
        value: result of a step, payload of a signal, input or output of the instance.
        error: a failure as a dict with `type`, `message`, `traceback`; or None.
        elapsed_ms: how long the attempt ran.
        at: database time.
    """

    event_id: int
    kind: str
    seq: int | None
    name: str | None
    attempt: int | None
    value: Any
    error: dict[str, Any] | None
    elapsed_ms: float | None
    at: datetime


@dataclass(frozen=True)
class InstanceInfo:
    """The state of one instance. `id` is the user-chosen id, or `instance_id` as text."""

    id: str
    instance_id: uuid.UUID
    workflow: str
    version: str | None
    status: str
    queue: str
    priority: int
    owner: int | None
    parent: uuid.UUID | None
    takeovers: int
    submitted_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    wake_at: datetime | None
    deadline: datetime | None
    input: Any = None
    output: Any = None
    error: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None


class Handle(Generic[T]):
    """One instance, wherever it runs.

    Attributes:
        id: the user-chosen id, or the instance's UUID as text. Signals and SQL functions take it.
        instance_id: the instance's UUID.
    """

    __slots__ = ("_bytes", "_client", "_id", "_instance_id", "_type")

    def __init__(self, client: Client, instance_id: uuid.UUID | bytes, id: str | None = None, type: Any = Any) -> None:
        self._client = client
        # A UUID and its text are made when asked for: who starts thousands and waits for their results needs neither.
        self._instance_id = None if isinstance(instance_id, bytes) else instance_id
        self._bytes = instance_id if isinstance(instance_id, bytes) else instance_id.bytes
        self._id = id
        self._type = type

    @property
    def id(self) -> str:
        """The user-chosen id, or the instance's UUID as text."""
        return self._id if self._id is not None else str(self.instance_id)

    @property
    def instance_id(self) -> uuid.UUID:
        """The instance's UUID."""
        found = self._instance_id
        if found is None:
            found = self._instance_id = uuid.UUID(bytes=self._bytes)
        return found

    async def status(self) -> str:
        """pending, running, waiting, paused, completed, failed, cancelled or timed_out."""
        return (await self._client._describe(self.instance_id)).status

    async def describe(self) -> InstanceInfo:
        """The whole state of the instance."""
        return await self._client._describe(self.instance_id)

    async def result(self, timeout: float | timedelta | None = None) -> T:
        """The workflow's result, decoded to its annotated type, once the instance has ended.

        Args:
            timeout: seconds (or timedelta) to wait; None: for ever. Running out of it does not touch the instance.
        Raises:
            InstanceFailed: it ended failed, cancelled or timed_out.
            InstancePaused: it is paused, and will not end before somebody resumes it.
            TimeoutError: it has not ended in time. Safe to call again.
        """
        wait = seconds(timeout)
        future = self._client._outcome_of(self._bytes)
        try:
            status, output, error = await self._client._wait(future, wait)
        except asyncio.TimeoutError:
            raise TimeoutError(f"instance {self.id} has not ended within {wait:g} s") from None
        finally:
            if not future.done() or future.cancelled():
                self._client._forget_outcome(self._bytes, future)
        if status == "completed":
            try:
                result: T = decode_stored(output or b"null", self._type)
            except CodecError:
                result = decode_stored(output or b"null", self._type, what=f"instance {self.id}: result")
            return result
        raise _unhappy_end(self.id, status, error, self._client.schema)

    async def signal(self, name: str, payload: Any = None, *, key: uuid.UUID | None = None) -> None:
        """Sends a signal; it is durable when this returns. Signals of one sender arrive in order, each once.

        Args:
            name: what the workflow waits for.
            payload: what it gets.
            key: a signal with the same key as one sent within the last hour is not sent: for a sender that was told
                ConnectionFailed, or that has died meanwhile, and sends again. Default: one that nobody else has.
        Raises:
            InstanceFinished: the instance has ended.
            CodecError: the payload is not JSON.
            ConnectionFailed: the server was away for the client's `patience`. Whether the signal was sent is not known;
                with the same `key` it can be sent again.
        """
        await self._client.signal(self.id, name, payload, key=key)

    async def retry(self) -> bool:
        """Lets an instance that was quarantined, or is paused for another reason, try again with a clean record.

        Returns whether it was paused (True too where that answer was lost).
        """
        rows, lost = await self._client._asked("retry", (self.id,))
        return bool(rows[0][0]) or lost

    async def resume(self) -> bool:
        """Lets a paused instance go on. Returns whether it was paused (True too where that answer was lost)."""
        rows, lost = await self._client._asked("resume", (self.id,))
        return bool(rows[0][0]) or lost

    async def history(self) -> AsyncIterator[Entry]:
        """The instance's history in order, from its start; its end, if it has ended, comes last."""
        client = self._client
        info = await client._describe(self.instance_id)
        yield Entry(0, "started", None, info.workflow, None, info.input, None, None, info.started_at or info.created_at)
        last = 0
        while True:
            rows = await client._rows("history", (self.instance_id, last, 1000))
            for row in rows:
                if (encryption := client._database.encryption) is not None:
                    event_id, kind, seq, name, attempt, payload, error, *_ = row
                    opened = encryption.open_history(
                        (self._bytes, event_id, kind, seq, name, attempt, None, payload, error, None)
                    )
                    row = (*row[:5], *opened[7:9], *row[7:])
                event_id, kind, seq, name, attempt, payload, error, elapsed_ms, at = row
                yield Entry(
                    event_id, kind, seq, name, attempt, from_json(payload), from_json(error), elapsed_ms, at
                )  # fmt: skip
                last = event_id
            if len(rows) < 1000:
                break
        if info.finished_at is not None:
            yield Entry(last + 1, info.status, None, None, None, info.output, info.error, None, info.finished_at)

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"


class Starts(Sequence[H]):
    """The handles of many starts, in order, each made when it is asked for: it holds 16 bytes per instance.

    Attributes:
        ids: the instances' UUIDs as bytes, 16 each.
    """

    __slots__ = ("_make", "ids")

    def __init__(self, ids: bytes, make: Callable[[uuid.UUID], H]) -> None:
        self.ids = ids
        self._make = make

    def instance_id(self, index: int) -> uuid.UUID:
        """The UUID of one instance."""
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"start {index} of {len(self)}")
        return uuid.UUID(bytes=self.ids[16 * place : 16 * place + 16])

    def __len__(self) -> int:
        return len(self.ids) // 16

    @overload
    def __getitem__(self, index: int) -> H: ...
    @overload
    def __getitem__(self, index: slice) -> Starts[H]: ...
    def __getitem__(self, index: int | slice) -> H | Starts[H]:
        if not isinstance(index, slice):
            return self._make(self.instance_id(index))
        first, last, step = index.indices(len(self))
        if step == 1:
            return Starts(self.ids[16 * first : 16 * max(first, last)], self._make)
        return Starts(b"".join(self.ids[16 * i : 16 * i + 16] for i in range(first, last, step)), self._make)

    def map(self, function: Callable[[H], T]) -> Starts[T]:
        """The same instances, each handle passed through a function when it is asked for."""
        make = self._make
        return Starts(self.ids, lambda instance_id: function(make(instance_id)))

    def __repr__(self) -> str:
        return f"<Starts of {len(self)} instances>"


def from_json(text: str | bytes | None) -> Any:
    """The value for people to look at: what is encrypted stays so."""
    try:
        return None if text is None else decode_stored(text)
    except PayloadSealed:
        return msgspec.json.decode(text or b"null")


def info_of(row: Any, *payloads: Any) -> InstanceInfo:
    id, key, *rest = row
    return InstanceInfo(key if key is not None else str(id), id, *rest, *payloads)


def _unhappy_end(id: str, status: str, error: Any, schema: str) -> PgDurableError:
    option = "" if schema == "durable" else f" --schema {schema}"
    found = decode_stored(error) if isinstance(error, (str, bytes)) else (error or {})
    found = found if isinstance(found, dict) else {}
    message, kind = found.get("message") or "", found.get("type")
    shown = (kind or "").removeprefix("builtins.")
    if kind == f"{Quarantined.__module__}.{Quarantined.__name__}" and status == "paused":
        return Quarantined(
            f"instance {id} is quarantined: {message}",
            hint="Find out what kills the worker (its log, the kernel's log), mend it, then: "
            f"pgdurable retry {shlex.quote(id)}{option}",
        )
    if status == "paused":
        return InstancePaused(
            f"instance {id} is paused: {message}",
            hint=f"Deploy code that fits, then: pgdurable resume {shlex.quote(id)}{option}",
        )
    return InstanceFailed(
        f"instance {id} ended {status}" + (f": {shown}: {message}" if shown else ""),
        id=id, status=status, type=kind, traceback=found.get("traceback"),
        hint=f"pgdurable show {shlex.quote(id)}{option} shows what it did.",
    )  # fmt: skip
