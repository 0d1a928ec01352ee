"""What some attempts have beside a `StepRun`: limits over several of them, heartbeats, a place in a queue.

Most attempts have none of this; then `StepRun.extra` is None.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine.streams import StepWriter
from pgdurable._failure import encode_error
from pgdurable.codec import decode_stored, encode
from pgdurable.errors import AttemptOver, CodecError, HeartbeatTimeout, StepFailed, StepInterrupted, StepTimeout

if TYPE_CHECKING:
    from pgdurable._engine.steps import StepRun

__all__ = [
    "Attempt",
    "Extra",
    "TooLate",
    "interruption",
    "is_exhausted",
    "left_for_next",
    "limited_wait",
    "need_extra",
    "pause",
    "place_of_details",
    "sealed_details",
    "timeout_error",
]

logger = logging.getLogger("pgdurable.steps")

# Details are encoded when they come, but not more often than this; the last ones in any case.
_ENCODE_EVERY_S = 0.1
_NOTHING: Any = object()


class TooLate(Exception):
    """The attempt could not begin while its place in the rate was its own: it has not run, and asks for another."""


class Extra:
    """See the head of this file.

    Attributes:
        limit: which limit ended the attempt: `attempt`, `total` or `heartbeat`.
        beat: when the last heartbeat came, by perf_counter.
        details: what it said, as JSON; kept for the next attempt.
        progress: (done, total), or None.
        changed: something of this is not in the database yet.
        noted: the database knows that the attempt runs.
        until: by monotonic(), until when the attempt may begin.
        release: gives back the place in the step's queue.
        process: the process that is to run it.
        streams: what it writes to streams.
        recorded: the JSON of the error, where it was made in another process.
        last: what the last attempt failed with, in short.
    """

    __slots__ = (
        "beat",
        "changed",
        "details",
        "encoded",
        "last",
        "latest",
        "limit",
        "noted",
        "process",
        "progress",
        "recorded",
        "release",
        "streams",
        "until",
    )  # fmt: skip

    def __init__(self) -> None:
        self.streams: StepWriter | None = None
        self.limit = ""
        self.beat = 0.0
        self.details: bytes | None = None
        self.encoded = 0.0
        self.latest: Any = _NOTHING
        self.progress: tuple[float, float | None] | None = None
        self.changed = False
        self.noted = False
        self.until = 0.0
        self.release: Callable[[], None] | None = None
        self.process: Any = None
        self.recorded: bytes | None = None
        self.last = ""

    def say(self, details: Any) -> None:
        now = perf_counter()
        self.beat = now
        if details is None:
            return
        if now - self.encoded >= _ENCODE_EVERY_S:
            self.details = encode(details, what="details of a heartbeat")
            self.latest = _NOTHING
            self.encoded = now
        else:
            self.latest = details
        self.changed = True

    def heard(self, details: bytes | None) -> None:
        """A heartbeat from another process."""
        self.beat = perf_counter()
        if details is not None:
            self.details = details
            self.changed = True

    def settle(self) -> None:
        """Encodes what came since."""
        latest, self.latest = self.latest, _NOTHING
        if latest is not _NOTHING:
            self.details = encode(latest, what="details of a heartbeat")

    def check_time(self) -> None:
        """Raises TooLate when the attempt's place in the rate is no longer its own."""
        if self.until and monotonic() > self.until:
            raise TooLate

    def take_release(self) -> Callable[[], None] | None:
        release, self.release = self.release, None
        return release

    def leave(self) -> None:
        """The attempt is over."""
        self.until = 0.0
        if self.streams is not None:
            self.streams.flush()
        release = self.take_release()
        if release is not None:
            release()

    def end_step(self) -> None:
        """No attempt will follow. To be called in the turn in which the step's end is recorded: they share a commit."""
        if self.streams is not None:
            self.streams.cut()


def need_extra(run: StepRun) -> Extra:
    if run.extra is None:
        run.extra = Extra()
    return run.extra


class Attempt:
    """One attempt, as the code of its step sees it: heartbeats, progress, what the last attempt left.

    Held by a context variable, so it outlives the attempt where a thread does; then it says so.
    """

    __slots__ = ("number", "run")

    def __init__(self, run: StepRun) -> None:
        self.run = run
        self.number = run.attempt

    def running(self) -> Attempt:
        run = self.run
        if run.attempt != self.number or run.task is None or run.timed_out or run.command.cancelled:
            raise AttemptOver(
                f"{run.hosted.label}: attempt {self.number} of step {run.command.name} has timed out or was cancelled",
                hint="Nobody waits for its result: let the function end.",
            )
        return self

    def heartbeat(self, details: Any) -> None:
        need_extra(self.run).say(details)

    def progress(self, done: float, total: float | None) -> None:
        extra = need_extra(self.run)
        extra.beat = perf_counter()
        extra.progress = (done, total)
        extra.changed = True

    def write(self, stream: str, item: bytes | None) -> Any:
        """Writes an item to a stream, or the stream's end."""
        extra = need_extra(self.run)
        if extra.streams is None:
            extra.streams = StepWriter(self.run)
        return extra.streams.write(self.number, stream, item)

    def details(self) -> bytes | None:
        extra = self.run.extra
        if extra is None:
            return None
        extra.settle()
        return extra.details


# -- errors that an attempt ends with ------------------------------------------------------------------------------


def _named(cls: type[StepFailed], run: StepRun, what: str, hint: str | None = None) -> StepFailed:
    name = run.command.name or ""
    text = f"{run.hosted.label}: step {name} {what}"
    type = f"{cls.__module__}.{cls.__qualname__}"
    return cls(text, step=name, attempt=run.attempt, type=type, hint=hint)


def timeout_error(run: StepRun, last: BaseException) -> StepFailed:
    """Says which limit a timed-out attempt ran over."""
    step = run.command.step
    limit = run.extra.limit if run.extra is not None else "attempt"
    if limit == "heartbeat":
        return _named(
            HeartbeatTimeout, run, f"gave no heartbeat for its heartbeat_timeout of {step.heartbeat_timeout:g} s"
        )
    if limit == "total":
        return _total(run, last)
    return _named(StepTimeout, run, f"took longer than its timeout of {step.timeout:g} s")


def _total(run: StepRun, last: BaseException) -> StepFailed:
    step = run.command.step
    what = f"took longer than its total_timeout of {step.total_timeout:g} s, in {run.attempt} attempt"
    what += "" if run.attempt == 1 else "s"
    text = _short(last) or ("" if run.extra is None else run.extra.last)
    if text:
        what += f"; the last one failed with {text}"
    return _named(StepTimeout, run, what)


def _short(error: BaseException) -> str:
    """A failure in a line; nothing for what only says that an attempt was cut off."""
    if isinstance(error, (StepTimeout, asyncio.CancelledError)):
        return ""
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__


def interruption(run: StepRun) -> StepFailed:
    """What an at_most_once step ends with that was under way when its worker ended."""
    return _named(
        StepInterrupted, run,
        f"was under way (attempt {run.attempt}) when its worker stopped; as at_most_once it is not repeated",
        "Whether it took effect is known at the other side only.",
    )  # fmt: skip


def limited_wait(run: StepRun, wait: float, error: BaseException) -> tuple[float | None, BaseException]:
    """(wait, error) of a failed attempt that its policy would try again, with what the step's limits make of it."""
    step = run.command.step
    if step.at_most_once and isinstance(error, (StepTimeout, StepInterrupted)):
        return None, error  # what became of it is not known
    if step.total_timeout is not None:
        if run.timed_out and run.extra is not None and run.extra.limit == "total":
            return None, error
        if wait >= run.total_left():
            return None, _total(run, error)
        need_extra(run).last = _short(error)
    return wait, error


def left_for_next(run: StepRun, wait: float) -> bytes:
    """What history keeps of a failed attempt for the next one: the wait, and the details of its last heartbeat."""
    kept: dict[str, Any] = {"retry_in": wait}
    extra = run.extra
    if extra is not None:
        extra.limit, extra.recorded = "", None
        extra.progress = None
        details = sealed_details(run)
        if details is not None:
            kept["details"] = msgspec.Raw(details)
    return encode(kept)


def sealed_details(run: StepRun) -> bytes | None:
    """The details as they are stored: encrypted, if the engine encrypts."""
    extra = run.extra
    if extra is None:
        return None
    try:
        extra.settle()
    except CodecError as error:
        logger.error("%s: step %s: %s", run.hosted.label, run.command.name, error)
    encryption = run.hosted.host.encryption
    if extra.details is None or encryption is None:
        return extra.details
    return encryption.seal(run.hosted.id, place_of_details(run.command.seq), extra.details)


def place_of_details(seq: int) -> str:
    """What encrypted details are bound to, beside their instance."""
    return f"details {seq}"


# -- pausing when the attempts are used up -------------------------------------------------------------------------


def is_exhausted(run: StepRun, error: BaseException) -> bool:
    """Whether it was only the number of attempts that ended the step."""
    retry = run.command.step.retry
    if retry.max_attempts is None or run.attempt < retry.max_attempts or not retry.tries_again(error):
        return False
    return not (isinstance(error, StepInterrupted) or (run.extra is not None and run.extra.limit == "total"))


def pause(run: StepRun, data: bytes, elapsed_ms: float) -> None:
    """Records the last attempt as one that is tried again, and pauses the instance; resumed, the count begins anew."""
    hosted = run.hosted
    record = _PauseRecord(run, data)
    placed = hosted.record(
        "attempt", record, run, seq=run.command.seq, error=data, elapsed_ms=elapsed_ms,
        payload=encode({"retry_in": 0.0, "paused": True}),
    )  # fmt: skip
    if placed:  # both in one commit
        record.release()


class _PauseRecord:
    """The journal's tag for the last attempt of a step that pauses its instance."""

    __slots__ = ("_data", "_released", "_run")

    def __init__(self, run: StepRun, data: bytes) -> None:
        self._run = run
        self._data = data
        self._released = False

    def release(self) -> None:
        if not self._released and not self._run.hosted.closed:
            self._released = True
            hosted = self._run.hosted
            hosted.host.release(hosted, "paused", error=self._reason())

    def _reason(self) -> bytes:
        run = self._run
        data = self._data
        if run.hosted.host.encryption is not None:  # the reason of a pause can be read by everybody
            text = "its error is in the history, encrypted"
            data = encode_error(StepFailed(text, step="", attempt=0, type=""), keep_traceback=False)
        stored = decode_stored(data)
        name = str(stored.get("type") or "error").removeprefix("builtins.")
        stored["message"] = (
            f"step {run.command.name} failed on attempt {run.attempt}, its last, with {name}: {stored.get('message')}"
        )
        stored["step"], stored["attempt"] = run.command.name, run.attempt
        return encode({key: value for key, value in stored.items() if key not in ("args", "attrs")})

    def committed(self, at_us: int) -> None:
        hosted = self._run.hosted
        hosted.unacked -= 1
        hosted.steps.pop(self._run.command.seq, None)
        hosted.advance_order()
        self.release()

    def refused(self, error: Exception) -> None:
        self.committed(0)
