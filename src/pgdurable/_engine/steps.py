"""Runs steps: attempts, timeouts, retries, and the record of what came out.

A `StepRun` is one step of one instance from its command to its checkpoint; it is also the journal's tag for that
checkpoint. Transaction steps, which commit on a connection of their own, are in transactions.py.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pgdurable._engine import executors, probes
from pgdurable._engine.attempts import (
    Extra,
    TooLate,
    interruption,
    is_exhausted,
    left_for_next,
    limited_wait,
    need_extra,
    pause,
    timeout_error,
)
from pgdurable._failure import decode_error, encode_error
from pgdurable.codec import decode_stored, roundtrip
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
        "attempt", "begun", "command", "committing", "entering", "error", "event_id", "extra", "hosted",
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
        self.entering: asyncio.Task[None] | None = None
        self.extra: Extra | None = None
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
        if step.direct:
            host.steps_running += 1
            host.crew.add(self)
        elif step.total_timeout is not None and self.total_left() <= 0:
            self.out_of_time()
        elif step.admitted:
            host.admission.enter(self)  # comes back to `launch`
        else:
            self.launch()

    def launch(self) -> None:
        """The attempt runs from now on."""
        host = self.hosted.host
        step = self.command.step
        host.steps_running += 1
        if step.kind == "async" and not step.admitted:
            host.crew.add(self)
            return
        self.started = perf_counter()
        self.begun = False
        # Not loop.create_task: its Python layer costs as much as the task.
        self.task = asyncio.Task(self._work(step), loop=host.loop)
        self.waits()

    def out_of_time(self) -> None:
        """The time for all attempts is over before this one began."""
        self.timed_out = True
        self.started = perf_counter()
        need_extra(self).limit = "total"
        self.failed(StepTimeout("", step="", attempt=0, type=""))

    def _work(self, step: Any) -> Any:
        host = self.hosted.host
        if step.kind == "transaction":
            return host.transactions.run(self)
        return self._run(executors.RUNNERS[step.kind])

    async def _run(self, runner: Any) -> None:
        self.begun = True
        try:
            value = await runner(self)
        except BaseException as error:
            self.ended(None, error)
        else:
            self.ended(value, None)

    def waits(self) -> None:
        """The step does not end at once: from here on its timeouts can end it."""
        if self.command.step.limited:
            left, limit = self._left()
            self.timer = self.hosted.host.call_later(max(left, 0.0), self._on_timeout, limit)

    def total_left(self) -> float:
        """Seconds left for all attempts, of a step with such a limit."""
        return (self.command.due_us - self.hosted.host.clock.now_us()) / 1e6

    def _left(self) -> tuple[float, str]:
        """Seconds until the first limit of this attempt, and which one it is."""
        step, lasted = self.command.step, self.hosted.host.lasted
        limits = []
        if step.timeout is not None:
            limits.append((step.timeout - lasted(self.started), "attempt"))
        if step.total_timeout is not None:
            limits.append((self.total_left(), "total"))
        if step.heartbeat_timeout is not None:
            beat = self.started if self.extra is None else max(self.extra.beat, self.started)
            limits.append((step.heartbeat_timeout - lasted(beat), "heartbeat"))
        return min(limits)

    def _on_timeout(self, limit: str) -> None:
        self.timer = None
        if self.task is not None and not self.task.done() and not self.committing:
            if limit == "heartbeat" and self.extra is not None and self.extra.beat > self.started:
                left, limit = self._left()
                if left > 0.0:  # a heartbeat has come meanwhile
                    self.timer = self.hosted.host.call_later(left, self._on_timeout, limit)
                    return
            self.timed_out = True
            need_extra(self).limit = limit
            self.task.cancel()

    def cancel(self) -> None:
        """Stops the step: the workflow no longer waits for it, or the instance leaves this process."""
        if self.later is not None:
            self.later.cancel()
            self.later = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.entering is not None:
            self.entering.cancel()
            self.entering = None
            self.hosted.step_gone(self)
        elif self.queued:
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
        if self.extra is not None:
            self.extra.leave()
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
            if self.extra is not None and not self.hosted.closed:
                self.extra.end_step()
            self.hosted.step_gone(self)
            return
        if interrupted and not self.command.step.at_most_once:
            self.again_later()
            return
        if interrupted:
            error = interruption(self)
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
        if self.extra is not None:
            self.extra.end_step()
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
        if isinstance(error, TooLate):  # it has not run: that costs no attempt
            self.start()
            return
        if self.timed_out:
            error = timeout_error(self, error)
        wait = None if _is_misuse(step, command, error) else step.retry.backoff(self.attempt, error)
        if wait is not None and (step.at_most_once or step.total_timeout is not None):
            wait, error = limited_wait(self, wait, error)
        data = None if self.extra is None or self.timed_out else self.extra.recorded
        if data is None:
            data = encode_error(error, step=command.name, attempt=self.attempt)
        elapsed = (perf_counter() - self.started) * 1e3
        if wait is None and step.retry.on_exhausted == "pause" and is_exhausted(self, error):
            pause(self, data, elapsed)
        elif wait is None:
            self.value = None
            self.error = decode_error(data, step=command.name or "", attempt=self.attempt)
            if self.extra is not None:
                self.extra.end_step()
            self.event_id = hosted.record_step(self, None, data, elapsed)
        else:
            record = AttemptRecord(self, wait)
            hosted.record(
                "attempt", record, self, seq=command.seq, error=data, elapsed_ms=elapsed,
                payload=left_for_next(self, wait),
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
