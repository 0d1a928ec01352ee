"""Runs steps: attempts, timeouts, retries, and the record of what came out.

A `StepRun` is one step of one instance from its command to its checkpoint; it is also the journal's tag for that
checkpoint. Transaction steps, which commit on a connection of their own, are in transactions.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pgdurable._engine import probes
from pgdurable._failure import decode_error, encode_error
from pgdurable.codec import decode_stored, encode, roundtrip
from pgdurable.errors import CodecError, NonRetryable, PgDurableError, StepTimeout

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._runtime.machine import Command

__all__ = ["AttemptRecord", "StepRun"]

logger = logging.getLogger("pgdurable.steps")

_AGAIN_AFTER_S = 1.0


class StepRun:
    """One step under way. `committed` and `refused` are the journal's answer to its checkpoint."""

    __slots__ = (
        "attempt", "begun", "command", "committing", "error", "event_id", "hosted",
        "later", "queued", "started", "task", "timed_out", "timer", "value",
    )  # fmt: skip

    def __init__(self, hosted: Hosted, command: Command, attempt: int = 1) -> None:
        self.hosted = hosted
        self.command = command
        self.attempt = attempt
        self.value: Any = None
        self.error: BaseException | None = None
        self.event_id = 0
        self.task: asyncio.Task[None] | None = None
        self.later: asyncio.TimerHandle | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.timed_out = False
        self.committing = False
        self.queued = False
        self.begun = False
        self.started = 0.0

    # -- running -----------------------------------------------------------------------------------------------

    def start(self, delay: float = 0.0) -> None:
        """Begins the attempt, `delay` seconds from now."""
        host = self.hosted.host
        self.timed_out = False
        if delay > 0:
            self.later = host.call_later(delay, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self.later = None
        host = self.hosted.host
        if host.draining or self.hosted.closed or self.hosted.pausing:
            return
        step = self.command.step
        if probes.armed:
            probes.reach("step.begin")
        host.steps_running += 1
        if step.kind == "async":
            host.crew.add(self)
            return
        self.started = perf_counter()
        self.begun = False
        work = host.transactions.run(self) if step.kind == "transaction" else self._run_thread()
        # Not loop.create_task: its Python layer costs as much as the task.
        self.task = asyncio.Task(work, loop=host.loop)
        self.waits()

    def waits(self) -> None:
        """The step does not end at once: from here on its timeout can end it."""
        timeout = self.command.step.timeout
        if timeout is not None:
            host = self.hosted.host
            self.timer = host.call_later(timeout - host.lasted(self.started), self._on_timeout)

    async def _run_thread(self) -> None:
        self.begun = True
        command = self.command
        host = self.hosted.host
        try:
            context = contextvars.copy_context()
            value, failure = await host.loop.run_in_executor(
                host.threads, lambda: context.run(_outcome, command.step.fn, command.args, command.kwargs or {})
            )
            if failure is not None:
                raise failure
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                logger.warning(
                    "%s: step %s runs in a thread, which Python cannot interrupt; it goes on and its result is dropped",
                    self.hosted.label, command.name,
                )  # fmt: skip
            self.ended(None, error)
        else:
            self.ended(value, None)

    def _on_timeout(self) -> None:
        self.timer = None
        if self.task is not None and not self.task.done() and not self.committing:
            self.timed_out = True
            self.task.cancel()

    def cancel(self) -> None:
        """Stops the step: the workflow no longer waits for it, or the instance leaves this process."""
        if self.later is not None:
            self.later.cancel()
            self.later = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.queued:
            self.queued = False
            self._never_began()
        elif self.task is not None and not self.task.done() and not self.committing:
            self.task.cancel()
            if not self.begun and self.command.step.kind != "async":
                self._never_began()

    def _never_began(self) -> None:
        """Cancelled in the turn of the event loop that began it: nothing of it will tell its end."""
        self.end_attempt()
        self.hosted.step_gone(self)

    # -- what came out -------------------------------------------------------------------------------------------

    def end_attempt(self) -> bool:
        """Bookkeeping at the end of an attempt. Returns whether anybody still wants its outcome."""
        self.hosted.host.step_ended()
        self.task = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return not (self.command.cancelled or self.hosted.closed)

    def interrupted(self, error: BaseException | None) -> bool:
        """Whether the process was told to stop, or somebody cancelled the task, as asyncio does when its loop ends.

        That is no outcome of the step. Python before 3.11 does not tell it from a CancelledError of the step's own.
        """
        if isinstance(error, KeyboardInterrupt):
            return True
        if not isinstance(error, asyncio.CancelledError) or self.timed_out or self.command.cancelled:
            return False
        cancelling = getattr(self.task, "cancelling", None)
        return cancelling is None or cancelling() > 0

    def again_later(self) -> None:
        """The attempt was interrupted: it does not count, and begins anew unless the engine ends meanwhile."""
        self.start(_AGAIN_AFTER_S)

    def ended(self, value: Any, error: BaseException | None) -> None:
        interrupted = self.interrupted(error)
        if not self.end_attempt():
            self.hosted.step_gone(self)
            return
        if interrupted:
            self.again_later()
            return
        if error is not None:
            self.failed(error)
            return
        if probes.armed:
            probes.reach("step.ran")
        hosted, command = self.hosted, self.command
        try:
            payload, self.value = roundtrip(
                value, command.step.signature.returns, what=command.name or "", limit=hosted.host.payload_limit
            )
        except CodecError as refused:
            self.failed(self._bad_result(refused))
            return
        self.event_id = hosted.record_step(self, payload, None, (perf_counter() - self.started) * 1e3)
        if probes.armed:
            probes.reach("step.recorded")

    def _bad_result(self, refused: CodecError) -> CodecError:
        refused.message = (
            f"{self.hosted.label}: the result of step {self.command.name} cannot be stored: {refused.message}"
        )
        refused.args = (refused.message,)
        return refused

    def failed(self, error: BaseException) -> None:
        """The attempt ended in error: record it, and try again or give up by the step's policy."""
        step, command, hosted = self.command.step, self.command, self.hosted
        if self.timed_out:
            error = StepTimeout(
                f"{hosted.label}: step {command.name} took longer than its timeout of {step.timeout:g} s",
                step=command.name or "", attempt=self.attempt, type="pgdurable.errors.StepTimeout",
            )  # fmt: skip
        wait = None if _is_misuse(step, command, error) else step.retry.backoff(self.attempt, error)
        data = encode_error(error, step=command.name, attempt=self.attempt)
        elapsed = (perf_counter() - self.started) * 1e3
        if wait is None:
            self.value = None
            self.error = decode_error(data, step=command.name or "", attempt=self.attempt)
            self.event_id = hosted.record_step(self, None, data, elapsed)
        else:
            record = AttemptRecord(self, wait)
            hosted.record(
                "attempt", record, self, seq=command.seq, error=data, elapsed_ms=elapsed,
                payload=encode({"retry_in": wait}),
            )  # fmt: skip

    # -- the journal's answer -----------------------------------------------------------------------------------

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach("step.committed")
        hosted = self.hosted
        hosted.unacked -= 1
        hosted.host.steps_done += 1
        hosted.steps.pop(self.command.seq, None)
        if not hosted.closed:
            if hosted.machine.busy or hosted.pending_deliveries:
                hosted.deliver(lambda: hosted.machine.answer(self.command.seq, self.value, self.error, at_us))
            else:
                hosted.machine.answer(self.command.seq, self.value, self.error, at_us)
                hosted.after_burst()
        if hosted.holder is not None:
            hosted.advance_order()

    def refused(self, error: PgDurableError) -> None:
        """The database would not store the result: the step fails with that."""
        self.hosted.unacked -= 1
        if self.error is not None or self.hosted.closed:
            logger.error("%s: step %s: even its error cannot be stored: %s",
                         self.hosted.label, self.command.name, error)  # fmt: skip
            return
        self.failed(NonRetryable(f"{self.hosted.label}: the result of step {self.command.name}: {error}"))


class AttemptRecord:
    """The journal's tag for a failed attempt that will be followed by another."""

    __slots__ = ("run", "wait")

    def __init__(self, run: StepRun, wait: float) -> None:
        self.run = run
        self.wait = wait

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach("attempt.committed")
        run = self.run
        run.hosted.unacked -= 1
        run.hosted.advance_order()
        if not (run.hosted.closed or run.command.cancelled):
            run.attempt += 1
            run.start(self.wait)

    def refused(self, error: PgDurableError) -> None:
        logger.error("%s: a failed attempt could not be recorded: %s", self.run.hosted.label, error)
        self.committed(0)


def _outcome(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, BaseException | None]:
    """(value, exception): an executor's future takes no StopIteration, and a coroutine cannot raise one."""
    try:
        return fn(*args, **kwargs), None
    except StopIteration as error:
        failure = RuntimeError("a step raised StopIteration")
        failure.__cause__ = error
        return None, failure
    except BaseException as error:
        return None, error


def _is_misuse(step: Any, command: Command, error: BaseException) -> bool:
    """Whether the call itself was wrong (arguments that do not fit): trying again cannot help."""
    if not isinstance(error, TypeError):
        return False
    args = (None, *command.args) if step.kind == "transaction" else command.args
    try:
        inspect.signature(step.fn).bind(*args, **(command.kwargs or {}))
    except TypeError:
        return True
    return False


def replayed_answer(
    step: Any, name: str, attempt: int, payload: str | None, error: str | None, what: str
) -> tuple[Any, BaseException | None]:
    """(value, exception) of a recorded step, as the live run saw it."""
    if error is not None:
        return None, decode_error(error.encode(), step=name, attempt=attempt)
    if payload is None:
        return None, None
    return decode_stored(payload, step.signature.returns if step is not None else Any, what=what), None
