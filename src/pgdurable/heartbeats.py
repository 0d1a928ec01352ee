"""What the code of a step calls while it runs: signs of life, details for the next attempt, progress."""

from __future__ import annotations

from typing import Any

from pgdurable._runtime.current import current_attempt, current_machine
from pgdurable.codec import decode
from pgdurable.errors import PgDurableError

__all__ = ["heartbeat", "heartbeat_details", "progress"]


def heartbeat(details: Any = None) -> None:
    """Says that the step is alive, and keeps details for its next attempt.

    Call it as often as you like, in `async def`, `def` and process steps, and in tasks and threads that they start with
    their context: it costs about a microsecond. It starts the step's `heartbeat_timeout` anew. The details are in the
    database about a second later, and with a failed attempt at once; an attempt after a crash finds those.

    Args:
        details: a value with a JSON form, such as how far the step has come. None: those of before stay.
    Raises:
        AttemptOver: the attempt has timed out or was cancelled, so the function may end. A thread learns it this way.
        CodecError: the details have no JSON form. They are looked at ten times a second, not every time.
    """
    _attempt("heartbeat").heartbeat(details)


def heartbeat_details(type: Any = Any) -> Any:
    """What the last `heartbeat` of this step said, in this attempt or in the one before it; None: nothing yet.

    Args:
        type: they are decoded to this type.
    """
    found = _attempt("heartbeat_details").details()
    return None if found is None else decode(found, type, what="details of a heartbeat")


def progress(done: float, total: float | None = None) -> None:
    """Shows how far the step has come: in `pgdurable show`, `describe()` and the view `running_steps`.

    It counts as a heartbeat too. Stored about once a second, for as long as the attempt runs.

    Args:
        done: what is done, in a unit of yours.
        total: what there is to do in all, or None.
    Raises:
        AttemptOver: as for `heartbeat`.
    """
    for number in (done, total):
        if number is not None and not isinstance(number, (int, float)):
            raise TypeError(f"progress(done, total) takes numbers, found {number!r}")
    _attempt("progress").progress(float(done), None if total is None else float(total))


def _attempt(what: str) -> Any:
    found = current_attempt.get(None)
    if found is None or current_machine() is not None:
        raise PgDurableError(
            f"{what} was called outside a step",
            hint="Call it in the function of a step while the step runs, or in a task or thread that has its context.",
        )
    return found.running()
