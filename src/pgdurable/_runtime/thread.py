"""The machine of a `def` workflow: its code runs in a thread of its own, one burst at a time.

The same numbering, history and rules as for async workflows. The thread and the owner take turns: while the
thread runs, `busy` is true and the owner leaves the machine alone; when the thread waits, `on_idle` is called
(from the thread) and the owner goes on.
"""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

from pgdurable._runtime.current import bind_thread
from pgdurable._runtime.machine import Command, ContinueAsNew, InstanceDropped, Machine

__all__ = ["Slot", "ThreadMachine"]

logger = logging.getLogger("pgdurable.workflow")


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


class ThreadMachine(Machine):
    """Runs a `def` workflow.

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
        self._turn = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._cancel_now = False

    def start(self) -> None:
        self.busy = True
        self._thread = threading.Thread(target=self._run, name=f"workflow {self.label}", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.busy = False
            raise

    def new_future(self) -> Slot:
        return Slot()

    def burst(self) -> None:
        self.busy = True
        self._turn.release()

    def wait(self, slot: Slot) -> Any:
        """Blocks the workflow's code until the slot has its answer, and gives that.

        Raises CancelledError when the instance is to be cancelled.
        """
        while not slot.done():
            self.wait_any()
        return slot.result()

    def answer_of(self, command: Command) -> Any:
        """As `wait`, for a command's answer; one that is not waited for any more is given up."""
        try:
            return self.wait(command.future)
        except CancelledError:
            self.cancel(command)
            raise

    def wait_any(self) -> None:
        """Blocks the workflow's code until the next event has been delivered."""
        if not self.dropped:
            self._tell_idle()
            self._turn.acquire()
        if self.dropped:
            self.raise_dropped()
        if self._cancel_now:
            self._cancel_now = False
            raise CancelledError(*(() if self.cancel_reason is None else (self.cancel_reason,)))

    def cancel_code(self) -> None:
        self._cancel_now = True

    def drop(self) -> None:
        super().drop()
        self.pending.clear()
        self._turn.release()

    def raise_dropped(self) -> None:
        super().raise_dropped()
        if threading.current_thread() is self._thread:
            logger.error(
                "%s: code does not end when its instance leaves memory: it catches every exception", self.label
            )
            while True:  # it would only spin; a daemon thread that waits costs next to nothing
                self._turn.acquire()

    def _tell_idle(self) -> None:
        self.busy = False
        try:
            self._on_idle()
        except RuntimeError:  # the owner's event loop is closed: it dropped us meanwhile
            if not self.dropped:
                raise

    def _run(self) -> None:
        bind_thread(self)
        try:
            self.outcome = ("completed", self._body())
        except InstanceDropped:
            return
        except CancelledError:
            if self.dropped:
                return
            self.outcome = ("cancelled", None)
        except ContinueAsNew as again:
            self.outcome = ("continued", again.arguments)
        except BaseException as error:
            if self.dropped:
                return
            self.outcome = ("failed", error)
        finally:
            bind_thread(None)
        if not self.dropped:
            self._tell_idle()
