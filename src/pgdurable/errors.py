"""Every error pgdurable raises, in one tree under `PgDurableError`.

An error says which instance and step it speaks of, what was expected and what was found, and ends with
what to do. `detail` and `hint` hold the last two apart from the message, for programs that log fields.
"""

from __future__ import annotations

__all__ = [
    "AttemptOver",
    "CodecError",
    "CompensationFailed",
    "ConnectionFailed",
    "FencedError",
    "HeartbeatTimeout",
    "InstanceFailed",
    "InstanceFinished",
    "InstanceNotFinished",
    "InstanceNotFound",
    "InstancePaused",
    "InvalidId",
    "InvalidInput",
    "NonDeterminismError",
    "NonRetryable",
    "PayloadBroken",
    "PayloadSealed",
    "PayloadTooLarge",
    "PgDurableError",
    "Quarantined",
    "QueryFailed",
    "RetryAfter",
    "ScheduleNotFound",
    "SchemaError",
    "StepFailed",
    "StepInterrupted",
    "StepProcessDied",
    "StepTimeout",
    "UnknownWorkflow",
    "UpdateFailed",
    "UpdateRejected",
    "WorkflowIoError",
    "WorkflowTimeout",
]


class PgDurableError(Exception):
    """The root of the tree.

    Args:
        message: what went wrong, naming the instance and step where there is one.
        detail: what was expected and what was found.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.message]
        if self.detail:
            parts.append(self.detail)
        if self.hint:
            parts.append(self.hint)
        return "\n".join(parts)


class ConnectionFailed(PgDurableError):
    """The server could not be reached, refused the login, or cannot be written to. Safe to try again.

    Attributes:
        passing: whether it may work later without anybody's doing: the server is away, starting, full or read-only.
            False when user, password, database or certificate are wrong.
    """

    passing = True


class SchemaError(PgDurableError):
    """The schema is missing, older or newer than this library. The hint holds the command to run."""


class InvalidId(PgDurableError):
    """A user-chosen id is empty, too long, or already names an instance of another workflow."""


class InvalidInput(PgDurableError):
    """Arguments do not fit the workflow's parameters. Nothing was stored."""


class UnknownWorkflow(PgDurableError):
    """A name that no registered workflow has."""


class InstanceNotFound(PgDurableError):
    """No instance has this id."""


class ScheduleNotFound(PgDurableError):
    """No schedule has this name."""


class InstanceFinished(PgDurableError):
    """The instance has ended, so it takes no more signals."""


class InstanceNotFinished(PgDurableError):
    """The instance has not ended, so it cannot be deleted."""


class CodecError(PgDurableError):
    """A value cannot be stored as JSON, or stored JSON does not fit the annotated type.

    `path` leads to the offending part of the value, such as ``$.items[3].price``.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "$",
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.path = path


class PayloadTooLarge(CodecError):
    """An encoded value is over the payload limit (1 MiB unless configured)."""


class PayloadSealed(PgDurableError):
    """A stored value is encrypted, and the key is not here, or does not open it. Nothing is lost.

    A workflow that needs it is paused: give its worker the key, then resume it.

    Attributes:
        key: the key's name.
    """

    def __init__(self, message: str, *, key: str = "", detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.key = key


class PayloadBroken(CodecError):
    """A stored value is compressed or kept apart, and what stands there has been damaged or is gone."""


class FencedError(PgDurableError):
    """This worker's lease was taken over; nothing it still held was written."""


class WorkflowIoError(PgDurableError):
    """Workflow code tried real I/O or a blocking sleep. The hint says to do it in a step."""


class WorkflowTimeout(PgDurableError, TimeoutError):
    """The instance ran over its timeout, `@workflow(timeout=)` or `start(timeout=)`.

    The code meets it as a cancellation: `asyncio.CancelledError` where it waits, and `current().timed_out` is true.
    This error is `args[0]` of it, where asyncio hands that on. When the code has ended, the instance is `timed_out`.
    """


class NonDeterminismError(PgDurableError):
    """Workflow code no longer issues the commands its history records.

    The instance is paused, not failed: deploy code that fits, then resume it.
    """


class InstanceFailed(PgDurableError):
    """Raised by `result()` for an instance that ended other than `completed`.

    Attributes:
        id: the instance's id.
        status: `failed`, `cancelled` or `timed_out`.
        type: name of the exception's type in the workflow.
        traceback: its traceback as text, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        id: str,
        status: str,
        type: str | None = None,
        traceback: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.id = id
        self.status = status
        self.type = type
        self.traceback = traceback


class CompensationFailed(PgDurableError):
    """Some of a saga's compensations ended in error after their last attempt; the others were carried out.

    What made the saga fail is the `__cause__`.

    Attributes:
        failures: the errors, in the order the compensations ran.
    """

    def __init__(self, message: str, *, failures: tuple[BaseException, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.failures = failures


class InstancePaused(PgDurableError):
    """Raised by `result()` when the instance is paused and so will not end by itself."""


class Quarantined(InstancePaused):
    """Each of the last workers that ran the instance died before it got on, five in a row unless configured.

    It is paused so that it harms nobody else. Find what kills its worker (a crash in C code, memory, a blocked event
    loop), then `retry` it: nothing is lost.
    """


class _Answered(PgDurableError):
    def __init__(self, message: str, *, type: str | None, traceback: str | None) -> None:
        super().__init__(message)
        self.type = type
        self.traceback = traceback


class UpdateRejected(_Answered):
    """The instance did not take an update: its validator, its arguments or its name. Nothing was recorded.

    Attributes:
        type: full name of the exception's type.
    """


class UpdateFailed(_Answered):
    """An update that was taken was not carried out: its handler raised, or the instance ended before it was done.

    Attributes:
        type: full name of the handler's exception's type; None: the instance ended.
        traceback: its traceback as text, or None.
    """


class QueryFailed(_Answered):
    """A query has no answer: no such query, arguments that do not fit, a handler that raised, an instance not begun.

    Attributes:
        type: full name of the exception's type.
        traceback: its traceback as text, or None.
    """


class StepFailed(PgDurableError):
    """A step ended in error after its last attempt.

    Workflow code meets the step's own exception where that type can be rebuilt from its checkpoint,
    with a `StepFailed` as its `__cause__`; otherwise it meets the `StepFailed` itself.

    Attributes:
        step: name of the step.
        attempt: the attempt that ended it, counted from 1.
        type: full name of the original exception's type, such as ``shop.errors.OutOfStock``.
        traceback: the original traceback as text, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str,
        attempt: int,
        type: str,
        traceback: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.step = step
        self.attempt = attempt
        self.type = type
        self.traceback = traceback


class StepTimeout(StepFailed, TimeoutError):
    """A step's last attempt ran over its timeout, or all attempts together ran over `total_timeout`."""


class HeartbeatTimeout(StepTimeout):
    """A step's last attempt gave no sign of life for longer than `heartbeat_timeout`."""


class StepInterrupted(StepFailed):
    """An `at_most_once` step was under way when its worker died or stopped: whether it took effect is not known.

    It is not repeated. Find out at the other side what became of it, then decide in the workflow.
    """


class StepProcessDied(PgDurableError):
    """The process that ran a step (`executor="process"`) ended in the middle of it. The attempt failed.

    Attributes:
        exitcode: its exit code; negative: the signal that ended it; None: not known.
    """

    def __init__(
        self, message: str, *, exitcode: int | None = None, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.exitcode = exitcode


class AttemptOver(PgDurableError):
    """Raised by `heartbeat` and `progress` in an attempt that has timed out or was cancelled: nobody waits for it.

    A thread cannot be interrupted, so this is how the function of a `def` step learns that it may stop.
    """


class RetryAfter(Exception):
    """Raise it in a step to be tried again after this many seconds, whatever the retry policy's backoff.

    It counts as an attempt.
    """

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"retry after {seconds:g} s")
        self.seconds = float(seconds)


class NonRetryable(Exception):
    """Raise it in a step to fail it at once, whatever the retry policy allows."""
