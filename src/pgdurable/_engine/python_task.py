"""Runs one attempt of a Python step that a workflow in SQL asks for.

To the code of the step it is an attempt as any other: heartbeats, details of the last one, progress, a process of its
own. What it is not is a part of a workflow here: its result, and what follows a failure, are the database's business.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pgdurable._engine.attempts import Extra
from pgdurable._engine.executors import RUNNERS
from pgdurable.codec import roundtrip
from pgdurable.errors import HeartbeatTimeout, PgDurableError, StepTimeout
from pgdurable.steps import Step

if TYPE_CHECKING:
    from pgdurable._engine.host import Host

__all__ = ["PythonTask"]

_END_S = 5.0


class _Place:
    """The instance, as far as an attempt asks for it."""

    def __init__(self, host: Host, id: UUID, key: str | None) -> None:
        self.host = host
        self.id = id.bytes
        self.uuid = id
        self.key = key

    @property
    def label(self) -> str:
        return f"instance {self.key or self.uuid}"


class _Call:
    """The command, as far as an attempt asks for it."""

    def __init__(self, step: Step[Any, Any], name: str, seq: int) -> None:
        self.step = step
        self.name = name
        self.seq = seq
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.cancelled = False


class _NoStreams:
    def write(self, number: int, stream: str, item: bytes | None) -> Any:
        raise PgDurableError(
            "a step of a workflow in SQL has no streams", hint="Write to a table of yours, or say it by a heartbeat."
        )

    def flush(self) -> None:
        """Nothing was written."""

    cut = leave = flush


class PythonTask:
    """See the head of this file; a `StepRun` as far as executors, attempts and processes know one."""

    def __init__(
        self, host: Host, step: Step[Any, Any], name: str, id: UUID, key: str | None, seq: int, attempt: int,
        details: str | None,
    ) -> None:  # fmt: skip
        self.hosted = _Place(host, id, key)
        self.command = _Call(step, name, seq)
        self.attempt = attempt
        self.extra = Extra()
        self.extra.details = None if details is None else details.encode()
        self.extra.streams = _NoStreams()  # type: ignore[assignment]
        self.task: asyncio.Future[Any] | None = None
        self.timed_out = False
        self.started = perf_counter()

    async def run(self, request: dict[str, Any], timeout: float | None) -> bytes:
        """The result as JSON. Raises what the step raises, StepTimeout, HeartbeatTimeout, CodecError.

        Args:
            request: `args` and `kwargs`, as task_request makes them, decoded.
            timeout: seconds; None: as the step itself says.
        """
        step = self.command.step
        if step.kind == "transaction":
            raise PgDurableError(
                f"{self.hosted.label}: {step.name} is a transaction step, which workflows in Python have",
                hint="A workflow in SQL does the same by a step of op sql or call: it commits with its checkpoint.",
            )
        args: Any = request.get("args") or ()
        kwargs: dict[str, Any] = request.get("kwargs") or {}
        if isinstance(args, dict):  # by parameter name
            args, kwargs = (), {**args, **kwargs}
        data = step.signature.bind_input(tuple(args), dict(kwargs))
        self.command.args, self.command.kwargs = step.signature.load_input(data)
        processes = self.hosted.host.admission.processes
        if step.kind == "process":
            self.extra.process = await processes.take()
        self.started = perf_counter()
        task: asyncio.Future[Any] = asyncio.ensure_future(RUNNERS[step.kind](self))
        self.task = task
        try:
            await self._limited(task, timeout if timeout is not None else step.timeout)
        except asyncio.CancelledError:
            self.command.cancelled = True
            task.cancel()
            await asyncio.wait({task}, timeout=_END_S)
            raise
        finally:
            self.task = None
            if self.extra.process is not None:  # cancelled before it began
                processes.give_back(self.extra.process)
            self.extra.leave()
        if task.cancelled():
            raise PgDurableError(f"{self.hosted.label}: step {self.command.name} ended by a CancelledError of its own")
        payload, _ = roundtrip(
            task.result(), step.signature.returns, what=f"{self.hosted.label}: the result of step {self.command.name}",
            limit=self.hosted.host.payload_limit,
        )  # fmt: skip
        return payload

    async def _limited(self, task: asyncio.Future[Any], timeout: float | None) -> None:
        """Waits for the task's end, within the limits of the attempt."""
        silence = self.command.step.heartbeat_timeout
        while True:
            now = perf_counter()
            ends = [] if timeout is None else [(self.started + timeout - now, "attempt")]
            if silence is not None:
                ends.append((max(self.extra.beat, self.started) + silence - now, "heartbeat"))
            left, limit = min(ends) if ends else (None, "")
            done, _ = await asyncio.wait({task}, timeout=None if left is None else max(left, 0.0))
            if done:
                return
            if limit == "heartbeat" and max(self.extra.beat, self.started) + (silence or 0.0) > perf_counter():
                continue
            self.timed_out = True
            task.cancel()
            await asyncio.wait({task}, timeout=_END_S)
            raise self._over(limit, timeout if limit == "attempt" else silence)

    def _over(self, limit: str, seconds: float | None) -> StepTimeout:
        kind = HeartbeatTimeout if limit == "heartbeat" else StepTimeout
        what = (
            "gave no heartbeat for its heartbeat_timeout of"
            if limit == "heartbeat"
            else "took longer than its timeout of"
        )
        return kind(
            f"{self.hosted.label}: step {self.command.name} {what} {seconds:g} s", step=self.command.name,
            attempt=self.attempt, type=f"{kind.__module__}.{kind.__qualname__}",
        )  # fmt: skip

    def said(self) -> str | None:
        """What its heartbeats said since this was last asked, as JSON."""
        extra = self.extra
        if not extra.changed:
            return None
        extra.changed = False
        try:
            extra.settle()
        except PgDurableError:
            return None  # the next heartbeat raises it where it belongs
        return None if extra.details is None else extra.details.decode()
