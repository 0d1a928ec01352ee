"""What code that runs may know of itself: `current`, in workflow code and in steps."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgdurable._runtime.current import current_attempt, current_machine
from pgdurable.codec import decode_stored
from pgdurable.errors import AttemptOver, PgDurableError

__all__ = ["Current", "current", "current_or_none"]


@dataclass(frozen=True)
class Current:
    """Which instance the code belongs to, and in a step which attempt of which step.

    In workflow code that meets `asyncio.CancelledError`, `timed_out` and `cancel_reason` say why, wherever it waited.

    Attributes:
        id: the instance's user-chosen id, or `instance_id` as text.
        instance_id: its UUID.
        workflow, version: which workflow it is an instance of.
        parent: the UUID of the instance that started it as its child, or None.
        deadline: when the whole instance times out, or None.
        labels: its labels; empty where it has none. Not to be changed.
        step: in a step its name, else None.
        attempt: in a step which attempt this is, counted from 1, else None.
        replaying: in workflow code, whether history is being replayed just now. Not for branching: what a workflow does
            must not depend on it.
        timed_out: in workflow code, whether it ran over its deadline: the cancellation it meets is that one.
        cancel_reason: in workflow code, what was said with the request to cancel, or of the deadline; None: nothing.
    """

    id: str
    instance_id: uuid.UUID
    workflow: str
    version: str
    parent: uuid.UUID | None = None
    deadline: datetime | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    step: str | None = None
    attempt: int | None = None
    replaying: bool = False
    timed_out: bool = False
    cancel_reason: str | None = None


def current() -> Current:
    """What the code that calls it belongs to: ids, workflow, deadline, labels; in a step also step and attempt.

    In workflow code all of it but `replaying` is the same in replay.

    Raises PgDurableError outside of workflow code and steps.
    """
    found = current_or_none()
    if found is None:
        raise PgDurableError(
            "current was called outside workflow code and steps",
            hint="Call it in a workflow or a step that runs, or in a task or thread that has the step's context.",
        )
    return found


def current_or_none() -> Current | None:
    """As `current`; None outside of workflow code and steps."""
    machine = current_machine()
    if machine is not None:
        reason = None if machine.cancel_reason is None else str(machine.cancel_reason)
        return _of(machine.label, None, None, machine.replaying, machine.timed_out, reason)
    attempt = current_attempt.get(None)
    if attempt is not None and not hasattr(attempt, "run"):  # of the task that steps share
        try:
            attempt = attempt.running()
        except AttemptOver:
            return None
    run = getattr(attempt, "run", None)
    if attempt is None or run is None:
        return None
    return _of(run.hosted.label, run.command.name, attempt.number, False)


def _of(
    label: Any, step: str | None, attempt: int | None, replaying: bool, timed_out: bool = False,
    reason: str | None = None,
) -> Current:  # fmt: skip
    id = uuid.UUID(bytes=label.id)
    deadline, parent, labels = label.about or (None, None, None)
    return Current(
        label.key if label.key is not None else str(id), id, label.definition.name, label.definition.version, parent,
        deadline, {} if labels is None else decode_stored(labels), step, attempt, replaying,
        timed_out, reason,
    )  # fmt: skip
