"""The machine of a `def` workflow: its code runs in a thread of its own, one burst at a time.

The same numbering, history and rules as for async workflows. The thread and the owner take turns: while the
thread runs, `busy` is true and the owner leaves the machine alone; when the thread waits, `on_idle` is called
(from the thread) and the owner goes on.
"""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pgdurable._runtime.current import bind_thread
from pgdurable._runtime.machine import Command, ContinueAsNew, InstanceDropped, Machine

__all__ = ["Slot", "ThreadMachine"]

logger = logging.getLogger("pgdurable.workflow")

_mine = threading.local()  # .fiber: the one whose thread this is


class Slot:
    """Where a command's answer goes in a `def` workflow."""

    __slots__ = ("_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, value: Any) -> None:
        self._value = value
        self._done = True

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._done = True

    @property
    def error(self) -> BaseException | None:
        """The exception it was answered with."""
        return self._error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class Fiber:
    """One thread of an instance's code: the workflow's own, or a handler's."""

    __slots__ = ("begun", "run", "thread", "turn")

    def __init__(self, run: Callable[[Fiber], None], name: str) -> None:
        self.run = run
        self.turn = threading.Semaphore(0)
        self.begun = False
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)

    def go_on(self) -> None:
        """Its code runs, until it gives the turn to another."""
        if self.begun:
            self.turn.release()
        else:
            self.begun = True
            self.thread.start()


class ThreadMachine(Machine):
    """Runs a `def` workflow.

    Its code is one thread, and each handler of an update under way is another. One of them runs at a time: each event
    lets all of them look, in the order in which they began, whether it is what they wait for, again and again until
    none has got on.

    Args:
        body: the workflow's call.
        on_idle: called from the workflow's thread each time it waits or has ended.
    """

    def __init__(
        self,
        label: object,
        workflow: str,
        seed: bytes,
        started_us: int,
        body: Callable[[], Any],
        on_idle: Callable[[], None],
    ) -> None:
        super().__init__(label, workflow, seed, started_us)
        self._body = body
        self._on_idle = on_idle
        self._main = Fiber(self._run, f"workflow {label}")
        self._fibers = [self._main]
        self._again = False
        self._ended: tuple[str, Any] | None = None
        self._cancel_now = False
        self._shields = 0

    def start(self) -> None:
        self.busy = True
        try:
            self._main.go_on()
        except BaseException:
            self.busy = False
            raise

    @property
    def _thread(self) -> threading.Thread | None:
        """The workflow's own, once begun."""
        return self._main.thread if self._main.begun else None

    def new_future(self) -> Slot:
        return Slot()

    def burst(self) -> None:
        self.busy = True
        self._again = False
        self._fibers[0].go_on()

    def wait(self, slot: Slot) -> Any:
        """Blocks the workflow's code until the slot has its answer, and gives that.

        Raises CancelledError when the instance is to be cancelled.
        """
        if not slot.done():
            while not slot.done():
                self.wait_any()
            self.got_on()
        return slot.result()

    def answer_of(self, command: Command) -> Any:
        """As `wait`, for a command's answer; one that is not waited for any more is given up."""
        try:
            return self.wait(command.future)
        except CancelledError:
            self.cancel(command)
            raise

    def wait_any(self) -> None:
        """Blocks the code until another event has been delivered, or other code of the instance has got on.

        Whoever has waited, and goes on, says so by `got_on`.
        """
        fiber = _mine.fiber
        if not self.dropped:
            self._pass_on(self._fibers.index(fiber) + 1, fiber)
            fiber.turn.acquire()
        if self.dropped:
            self.raise_dropped()
        self.meet_cancellation()

    def meet_cancellation(self) -> None:
        """Raises CancelledError in the workflow's own code if a request to cancel has come that it has not met yet."""
        if self._cancel_now and not self._shields and _mine.fiber is self._main:
            self._cancel_now = False
            self.got_on()
            raise CancelledError(*(() if self.cancel_reason is None else (self.cancel_reason,)))

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Within it the workflow's own code meets no request to cancel: one that comes is kept until it waits again."""
        own = _mine.fiber is self._main  # handlers are not asked to cancel anyway
        self._shields += own
        try:
            yield
        finally:
            self._shields -= own

    def got_on(self) -> None:
        """Code has done something that other code of the instance may wait for."""
        self._again = True

    def _pass_on(self, place: int, fiber: Fiber | None = None) -> None:
        """The turn goes to the next fiber; after the last one to the first, or the machine is idle."""
        if self.dropped:
            return
        fibers = self._fibers
        if self.outcome is None:
            if place >= len(fibers) and self._again and fibers and fibers != [fiber]:
                self._again = False
                place = 0
            if place < len(fibers):
                fibers[place].go_on()
                return
        self._tell_idle()

    def cancel_code(self) -> None:
        self._cancel_now = True

    def spawn(self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._fibers.append(Fiber(partial(self._handle, call, done), f"handler of {self.label}"))

    def ask_code(self, call: Callable[[], Any]) -> Any:
        bind_thread(self)
        try:
            return call()
        finally:
            bind_thread(None)

    def drop(self) -> None:
        super().drop()
        self.pending.clear()
        for fiber in list(self._fibers):
            fiber.turn.release()

    def raise_dropped(self) -> None:
        super().raise_dropped()
        fiber = getattr(_mine, "fiber", None)
        if fiber is not None:
            logger.error(
                "%s: code does not end when its instance leaves memory: it catches every exception", self.label
            )
            while True:  # it would only spin; a daemon thread that waits costs next to nothing
                fiber.turn.acquire()

    def _tell_idle(self) -> None:
        self.busy = False
        try:
            self._on_idle()
        except RuntimeError:  # the owner's event loop is closed: it dropped us meanwhile
            if not self.dropped:
                raise

    def _run(self, fiber: Fiber) -> None:
        _mine.fiber = fiber
        bind_thread(self)
        try:
            self._ended = ("completed", self._body())
        except InstanceDropped:
            return
        except CancelledError:
            self._ended = ("cancelled", None)
        except ContinueAsNew as again:
            self._ended = ("continued", again.arguments)
        except BaseException as error:
            self._ended = ("failed", error)
        finally:
            bind_thread(None)
        self._gone(fiber)

    def _handle(self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None], fiber: Fiber) -> None:
        _mine.fiber = fiber
        bind_thread(self)
        try:
            try:
                value, error = call(), None
            except InstanceDropped:
                return
            except BaseException as failure:
                value, error = None, failure
            if self.dropped:
                return
            done(value, error)
        finally:
            bind_thread(None)
        self._gone(fiber)

    def _gone(self, fiber: Fiber) -> None:
        """Its code has ended."""
        if self.dropped:
            return
        place = self._fibers.index(fiber)
        del self._fibers[place]
        self.got_on()
        waits = self._ended is not None and self._ended[0] in ("completed", "continued")
        if self._ended is not None and not (waits and self.desk and self.desk.open):
            self.outcome = self._ended  # else it completes when the last handler has
        self._pass_on(place)
