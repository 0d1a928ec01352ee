"""Retrying an instance that has failed: which step made it fail, and what has to be undone of its history.

Only its code can tell. So it is replayed once by itself, up to its end, and the exception that ended it is held against
those that its steps' failures were delivered as. What the failure led to is undone: the failed step with its attempts,
and every answer to something the code asked for after it. What had been asked for before and was answered later (steps
that ran beside it) stays, and so do signals. Of one that ran over its deadline, the row that told it so is undone, and
what that led to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from pgdurable._runtime.thread import Slot
from pgdurable.errors import NonDeterminismError, PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted

__all__ = ["Failures", "is_asked_for", "to_undo"]

logger = logging.getLogger("pgdurable.engine")

_OUTSIDE = ("signal", "forked", "retry", "patch")


class _Failure(NamedTuple):
    """A failure that was delivered: its place in history, its command, how many commands had been issued before."""

    event_id: int
    seq: int
    issued: int
    error: BaseException | None


class Failures:
    """Watches a replay: keeps each exception that is delivered to the code, with its place."""

    def __init__(self) -> None:
        self.seen: list[_Failure] = []
        self.timeout: _Failure | None = None
        self._command: Any = None
        self._issued = 0

    def before(self, hosted: Hosted, row: Any) -> None:
        """To be called before a row is delivered."""
        self._command = None if row[3] is None else hosted.machine.pending.get(row[3])
        self._issued = hosted.machine.next_seq
        if row[2] == "deadline" and self.timeout is None:
            self.timeout = _Failure(row[1], -1, self._issued, None)

    def after(self, row: Any) -> None:
        """To be called when the code has run."""
        error = None if self._command is None else _error_of(self._command.future)
        if error is not None or (row[2] == "step" and row[8] is not None):
            self.seen.append(_Failure(row[1], row[3], self._issued, error))

    def cause(self, error: BaseException) -> _Failure | None:
        """The failure that an exception of the workflow is, or comes from: the nearest, of several the first."""
        by_error = {id(failure.error): failure for failure in self.seen if failure.error is not None}
        for nearest in _origins(error):
            found = [by_error[id(one)] for one in nearest if id(one) in by_error]
            if found:
                return min(found)
        return None


def _error_of(future: Any) -> BaseException | None:
    if not future.done():
        return None
    if isinstance(future, Slot):
        return future.error
    return None if future.cancelled() else future.exception()


def _origins(error: BaseException) -> Iterator[list[BaseException]]:
    """The exception, then what it was raised from, or while handling; the members of groups with the group."""
    met: set[int] = set()
    level = [error]
    while level:
        flat: list[BaseException] = []
        for one in level:
            flat.append(one)
            flat.extend(getattr(one, "exceptions", ()))
        flat = [one for one in flat if id(one) not in met]
        yield flat
        met.update(map(id, flat))
        level = [o for one in flat for o in (one.__cause__, one.__context__) if o is not None and id(o) not in met]


def is_asked_for(history: list[Any]) -> bool:
    """Whether an instance was retried and nothing has happened since."""
    return bool(history) and history[-1][2] == "retry"


def to_undo(hosted: Hosted, history: list[Any], failures: Failures, trouble: PgDurableError | None) -> list[int]:
    """The events to undo, of an instance that has been replayed to its end; none where no step made it fail.

    Args:
        trouble: why the replay came to no end: where the code has changed, the last failure is undone.
    """
    outcome = hosted.machine.outcome
    if trouble is None and hosted.machine.timed_out:
        # It has new time: what its code did about the end of the old is undone.
        place = min(row[1] for row in history if row[2] == "deadline")
        return [row[1] for row in history if row[1] >= place and row[2] not in _OUTSIDE]
    cause: _Failure | None = None
    if trouble is not None:
        if isinstance(trouble, NonDeterminismError) and failures.seen:
            cause = failures.seen[-1]
    elif outcome is not None and failures.timeout is not None:
        cause = failures.timeout
    elif outcome is not None and outcome[0] == "failed":
        cause = failures.cause(outcome[1])
    if cause is None:
        return []
    failed = {cause.seq} | {f.seq for f in failures.seen if f.event_id > cause.event_id}
    return [
        event_id
        for _, event_id, kind, seq, *_ in history
        if kind not in _OUTSIDE
        and not kind.startswith("undone ")
        and (seq in failed if seq is not None and seq < cause.issued else event_id >= cause.event_id)
    ]
