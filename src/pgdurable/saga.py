"""Sagas: steps with their undoing beside them, so that a workflow that fails half-way leaves nothing half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

from pgdurable._runtime.current import current_machine
from pgdurable._runtime.machine import ContinueAsNew, InstanceDropped
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.errors import CompensationFailed, PgDurableError

__all__ = ["Saga", "saga"]

T = TypeVar("T")


class Saga:
    """See `saga`. In an async workflow use it as ``async with``, in a `def` workflow as ``with``."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, Callable[[], Any]]] = []
        self._running: set[asyncio.Future[Any]] = set()
        self._label: object = ""

    def do(
        self, action: Callable[..., Any], /, *args: Any, undo: Callable[..., Any] | None = None, **kwargs: Any
    ) -> Any:
        """Calls a step (or a child workflow, or any coroutine function) and remembers how to undo it.

        Args:
            undo: called with the action's result, should the block fail later: a step, a child workflow, or a function
                that calls some. It is only remembered once the action has succeeded. A request to cancel that comes
                while the action runs waits for its end, and so does a block that fails beside it: it is undone too.

        Await it in an async workflow; in a `def` workflow it blocks. Gives the action's result.
        """
        machine = current_machine()
        if not isinstance(machine, ThreadMachine):
            return self._do(action, args, kwargs, undo)
        if undo is None:
            return action(*args, **kwargs)
        with machine.shielded():
            result = action(*args, **kwargs)
            self.on_failure(undo, result)
        machine.meet_cancellation()
        return result

    def on_failure(self, undo: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Remembers a compensation by itself: it is called with these arguments should the block fail."""
        name = str(getattr(undo, "name", None) or getattr(undo, "__name__", repr(undo)))
        self._undo.append((name, lambda: undo(*args, **kwargs)))

    async def _do(self, action: Callable[..., Any], args: Any, kwargs: Any, undo: Callable[..., Any] | None) -> Any:
        if undo is None:
            return await _result(action(*args, **kwargs))
        running = asyncio.ensure_future(self._done(action, args, kwargs, undo))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if running.cancelled():
                raise
            # What it has done is to be undone: so its end is waited for. Failed, there is nothing to undo.
            await running
            raise

    async def _done(self, action: Callable[..., Any], args: Any, kwargs: Any, undo: Callable[..., Any]) -> Any:
        result = await _result(action(*args, **kwargs))
        self.on_failure(undo, result)
        return result

    # -- the block ---------------------------------------------------------------------------------------------------

    def _enter(self) -> Saga:
        machine = current_machine()
        if machine is None:
            raise PgDurableError(
                "a saga was entered outside workflow code",
                hint="Use it in a function decorated with @pgdurable.workflow: its compensations are durable there.",
            )
        self._label = machine.label
        return self

    def __enter__(self) -> Saga:
        return self._enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not _failed(error):
            return
        failures: list[tuple[str, BaseException]] = []
        machine = current_machine()
        assert isinstance(machine, ThreadMachine)
        with machine.shielded():
            while self._undo:
                name, call = self._undo.pop()
                try:
                    call()
                except Exception as failure:
                    failures.append((name, failure))
        self._judge(failures, error)
        machine.meet_cancellation()

    async def __aenter__(self) -> Saga:
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not _failed(error):
            return
        # A request to cancel that comes meanwhile waits for its end: half undone is what a saga is there to prevent.
        undoing = asyncio.ensure_future(self._undo_all())
        cancelled: asyncio.CancelledError | None = None
        while not undoing.done():
            try:
                await asyncio.shield(undoing)
            except asyncio.CancelledError as asked:
                if undoing.cancelled():
                    raise
                cancelled = asked
        self._judge(undoing.result(), error)
        if cancelled is not None:
            raise cancelled

    async def _undo_all(self) -> list[tuple[str, BaseException]]:
        failures: list[tuple[str, BaseException]] = []
        while self._running:  # begun beside what failed, as in a gather
            await asyncio.wait(self._running)
        while self._undo:
            name, call = self._undo.pop()
            try:
                await _result(call())
            except Exception as failure:
                failures.append((name, failure))
        return failures

    def _judge(self, failures: list[tuple[str, BaseException]], error: BaseException | None) -> None:
        if failures:
            told = "; ".join(f"{name}: {failure}" for name, failure in failures)
            raise CompensationFailed(
                f"{self._label}: the saga failed ({error}), and so did its compensation: {told}",
                failures=tuple(failure for _, failure in failures),
                hint="What they were to undo is still done: undo it by hand, or mend the cause and retry the instance.",
            ) from error


def _failed(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, (InstanceDropped, ContinueAsNew, GeneratorExit))


async def _result(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


def saga() -> Saga:
    """A block of steps that are undone, last one first, if the block fails or the instance is cancelled in it.

    ::

        async with pgd.saga() as s:
            seats = await s.do(reserve, trip, undo=release)
            payment = await s.do(charge, trip.card, trip.price, undo=refund)
            await s.do(send_tickets, trip)

    If `send_tickets` fails for good, ``refund(payment)`` runs, then ``release(seats)``, and the error goes on. They are
    steps as any other: recorded, retried by their own policy, gone on with after a crash. One that fails for good does
    not keep the others from running; `CompensationFailed` then tells of it.
    """
    return Saga()
