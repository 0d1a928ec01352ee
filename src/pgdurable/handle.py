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

from pgdurable._client.conversation import Conversation
from pgdurable._engine.forks import origin_of
from pgdurable._engine.ids import check_key
from pgdurable._engine.inputs import Input
from pgdurable.codec import decode_stored
from pgdurable.errors import (
    CodecError,
    InstanceFailed,
    InstancePaused,
    PayloadBroken,
    PayloadSealed,
    PgDurableError,
    Quarantined,
)
from pgdurable.retry import seconds

if TYPE_CHECKING:
    from pgdurable.client import Client

__all__ = ["Entry", "Handle", "InstanceInfo", "RunningStep", "Starts"]

T = TypeVar("T")
H = TypeVar("H")


@dataclass(frozen=True)
class Entry:
    """One row of an instance's history.

    Attributes:
        event_id: its place; counts up, gaps allowed.
        kind: `started`, `step`, `attempt`, `pending`, `timer`, `signal`, `deadline`, `void`..., or the final status.
            With `undone ` before it: a row that a retry has undone. `retry`: it was retried here; `forked` (event 0):
            it is a copy of another.
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
class RunningStep:
    """A step that has run for a second or more, or has called `heartbeat` or `progress`; as of about a second ago.

    Attributes:
        name, attempt: which step, and which try, from 1.
        started_at: when the attempt began.
        beat_at: when it last gave a sign of life, or `started_at`.
        done, total: what it last said by `progress`, or None.
    """

    name: str
    attempt: int
    started_at: datetime
    beat_at: datetime
    done: float | None = None
    total: float | None = None


@dataclass(frozen=True)
class InstanceInfo:
    """The state of one instance. `id` is the user-chosen id, or `instance_id` as text.

    `running_steps`: its long steps (`RunningStep`) that run now.
    """

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
    running_steps: tuple[RunningStep, ...] = ()


class Handle(Conversation, Generic[T]):
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

    async def cancel(self, reason: str | None = None) -> bool:
        """Asks the instance to end; the request is durable when this returns.

        Its code meets `asyncio.CancelledError` where it waits, and may clean up in steps, which are as durable as any.
        One that has not begun ends at once; one that somebody paused goes on to clean up. Asking again changes nothing.
        `result()` then raises InstanceFailed with the status cancelled, unless the instance completed first.

        Args:
            reason: recorded with the request, up to 4 KiB.
        Returns:
            Whether it had not ended (True too where that answer was lost).
        Safe to call again.
        """
        return await self._ask("cancel", reason)

    async def terminate(self, reason: str | None = None) -> bool:
        """Ends the instance where it stands, without any clean-up; the request is durable when this returns.

        A step that runs is cancelled; a `def` step, which Python cannot interrupt, goes on and its result is dropped.
        Its status becomes cancelled, with an error of the type `Terminated`, unless it completed first.

        Args:
            reason: recorded with it, up to 4 KiB.
        Returns:
            Whether it had not ended (True too where that answer was lost).
        Safe to call again.
        """
        return await self._ask("terminate", reason)

    async def pause(self, timeout: float | timedelta | None = 10.0) -> bool:
        """Lets the instance stand still until it is resumed. Once this has returned, no step of it begins.

        Steps that run are finished and checkpointed; then its status is paused. Timers go on running and fire when it
        is resumed; signals are kept. One that only had to finish its last step may still complete.

        Args:
            timeout: seconds (or timedelta) to wait until its worker knows. The request is durable before that.
        Returns:
            Whether it was neither paused nor ended (True too where that answer was lost).
        Raises:
            TimeoutError: its worker has not answered; it hangs, perhaps. Whoever takes the instance over pauses it.
        """
        asked = await self._ask("pause")
        wait = seconds(timeout)
        give_up = None if wait is None else asyncio.get_running_loop().time() + wait
        pause = 0.002
        while asked and await self._client._database.one("unheard", (self.instance_id,)):
            if give_up is not None and asyncio.get_running_loop().time() >= give_up:
                raise TimeoutError(
                    f"instance {self.id}: its worker has not said within {wait:g} s that it pauses; the request stands"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        return asked

    async def resume(self) -> bool:
        """Lets a paused instance go on, or one that is about to pause.

        Returns whether it was paused, or about to be (True too where that answer was lost).
        """
        return await self._ask("resume")

    async def retry(self) -> bool:
        """Lets an instance that failed or timed out go on from the step that failed.

        Checkpoints before that step stay. The step, and what its failure led to, is undone in the instance's history
        (still to be seen there, as `undone ...`) and done anew, with all its attempts. Where no step made it fail,
        its code runs on from where it raised, so deploy a mended one first. What was done outside meanwhile is not
        undone: where the failure led to compensations, fork from a point before instead.

        A paused instance goes on as by `resume`, with a clean record if it was quarantined.

        Returns:
            Whether it had failed, timed out, or was paused (True too where that answer was lost).
        """
        return await self._ask("retry")

    async def fork(
        self,
        *args: Any,
        from_event: int | None = None,
        version: str | None = None,
        kwargs: dict[str, Any] | None = None,
        id: str | None = None,
        queue: str | None = None,
    ) -> Handle[T]:
        """Starts a copy of the instance that goes on from a place in its history; the instance itself is left alone.

        What came before event `from_event` is copied: checkpoints, signals, state, streams and children that had been
        started. What was under way there is done anew. Random numbers and `now()` are, up to there, the original's.

        Args:
            *args, kwargs: another input, as for `start`. Code that uses it before `from_event` no longer fits its
                history, and is paused.
            from_event: an `event_id` of `history()`. Default: of one that failed or timed out, the step that failed;
                else the start.
            version: run the copy by this version of the workflow. Default: the instance's.
            id: an id of your own for the copy; the same id again gives the same copy and starts nothing.
            queue: default: the instance's.
        Raises:
            InvalidId: the id belongs to an instance of another workflow.
            InvalidInput: an argument is none, or a child that was started before `from_event` still runs.
        """
        client = self._client
        new = uuid.UUID(bytes=client._database.ids.new_id())
        data: bytes | None = None
        if args or kwargs:
            info = await client._describe(self.instance_id)
            data = Input(info.workflow, client.payload_limit).encode(args, kwargs)
            if (encryption := client._database.encryption) is not None:
                data = encryption.seal(new.bytes, "input", data)
        key = None if id is None else check_key(id)
        params = (self.id, from_event, version, None if data is None else data.decode(), key, queue, new)
        made = await client._database.one("fork", params)
        found = uuid.UUID(made) if id is None else await client._database.one("find_instance", (id,))
        return Handle(client, found, id, self._type)

    async def delete(self) -> None:
        """Removes the instance with its history, signals and keys; its id is free again. It is gone when this returns.

        Raises:
            InstanceNotFinished: it has not ended. Terminate it first.
            InstanceNotFound: it is gone already.
        """
        await self._client._asked("delete", (self.id,))

    async def _ask(self, operation: str, *more: Any) -> bool:
        rows, lost = await self._client._asked(operation, (self.id, *more))
        return bool(rows[0][0]) or lost

    async def history(self) -> AsyncIterator[Entry]:
        """The instance's history in order, from its start; its end, if it has ended, comes last."""
        client = self._client
        info = await client._describe(self.instance_id)
        yield Entry(0, "started", None, info.workflow, None, info.input, None, None, info.started_at or info.created_at)
        last = -1  # a fork has an event 0, which says of what
        origin = None
        while True:
            rows = await client._rows("history", (self.instance_id, last, 1000))
            for row in rows:
                if (encryption := client._database.encryption) is not None:
                    event_id, kind, seq, name, attempt, payload, error, *_ = row
                    sealed = (self._bytes, event_id, kind, seq, name, attempt, None, payload, error, None)
                    if event_id == 0:
                        origin = origin_of([sealed])
                    opened = encryption.open_history(sealed) if origin is None else origin.open(encryption, sealed)
                    row = (*row[:5], *opened[7:9], *row[7:])
                event_id, kind, seq, name, attempt, payload, error, elapsed_ms, at = row
                yield Entry(
                    event_id, kind, seq, name, attempt, from_json(payload), from_json(error), elapsed_ms, at
                )  # fmt: skip
                last = event_id
            if len(rows) < 1000:
                break
        if info.finished_at is not None:
            yield Entry(
                max(last, 0) + 1, info.status, None, None, None, info.output, info.error, None, info.finished_at
            )

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
    except (PayloadSealed, PayloadBroken):
        return msgspec.json.decode(text or b"null")


def info_of(row: Any, *payloads: Any) -> InstanceInfo:
    id, key, *rest = row
    return InstanceInfo(key if key is not None else str(id), id, *rest, *payloads)


def running_steps(text: str | None = None) -> tuple[RunningStep, ...]:
    """Those of a JSON array."""
    return () if text is None else msgspec.json.decode(text, type=tuple[RunningStep, ...])


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
    if status == "paused" and not found:
        return InstancePaused(
            f"instance {id} is paused", hint=f"To let it go on: pgdurable resume {shlex.quote(id)}{option}"
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
