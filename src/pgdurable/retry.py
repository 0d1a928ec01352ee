"""Retry policies: when a step's failed attempt is followed by another, and after how long."""

from __future__ import annotations

import random as _random
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pgdurable.errors import CodecError, NonRetryable, RetryAfter, WorkflowIoError

__all__ = ["Retry", "seconds"]


def seconds(value: float | timedelta | None) -> float | None:
    """A duration in seconds, given as a number of seconds or a timedelta."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return None if value is None else float(value)


@dataclass(frozen=True)
class Retry:
    """A retry policy. Attempts are durable: a crash resets neither their count nor the backoff.

    Example: ``@pgd.step(retry=pgd.Retry(max_attempts=8, initial=0.5, never_retry_on=(CardDeclined,)))``.

    Args:
        max_attempts: tries in all, the first included; None: without end. Default 5.
        initial: seconds (or timedelta) before the second attempt. Default 0.1.
        multiplier: growth of the wait from one attempt to the next. Default 2.
        max_interval: longest wait in seconds (or timedelta). Default 60.
        jitter: share of the wait that is random, 0 to 1; it is added or taken off. Default 0.1.
        retry_on: exception types that are tried again. Default every Exception.
        never_retry_on: exception types that are not, even if in `retry_on`.
        on_exhausted: what follows the last attempt. `fail`: its error is raised in the workflow. `pause`: the instance
            is paused with the step's error; once the cause is mended, `retry` (or `resume`) lets the step begin again,
            with a fresh count. An error that is never tried again is raised in the workflow all the same. Default
            `fail`.

    `NonRetryable` is never tried again; `RetryAfter` sets its own wait.
    """

    max_attempts: int | None = 5
    initial: float | timedelta = 0.1
    multiplier: float = 2.0
    max_interval: float | timedelta = 60.0
    jitter: float = 0.1
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    never_retry_on: tuple[type[BaseException], ...] = ()
    on_exhausted: Literal["fail", "pause"] = "fail"

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"Retry(max_attempts=...) is at least 1 or None, found {self.max_attempts}")
        for name in ("initial", "max_interval"):
            if not (seconds(getattr(self, name)) or 0.0) >= 0.0:
                raise ValueError(f"Retry({name}=...) is not negative, found {getattr(self, name)}")
        if not self.multiplier >= 1.0:
            raise ValueError(f"Retry(multiplier=...) is at least 1, found {self.multiplier}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"Retry(jitter=...) is from 0 to 1, found {self.jitter}")
        if self.on_exhausted not in ("fail", "pause"):
            raise ValueError(f"Retry(on_exhausted=...) is 'fail' or 'pause', found {self.on_exhausted!r}")

    def tries_again(self, error: BaseException) -> bool:
        """Whether this error is one that another attempt may follow, if any is left."""
        if isinstance(error, RetryAfter):
            return True
        if isinstance(error, (NonRetryable, CodecError, WorkflowIoError, *self.never_retry_on)):
            return False
        return isinstance(error, self.retry_on)

    def backoff(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after this failed attempt (counted from 1), or None when it was the last."""
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        if not self.tries_again(error):
            return None
        if isinstance(error, RetryAfter):
            return max(error.seconds, 0.0)
        initial = seconds(self.initial) or 0.0
        longest = seconds(self.max_interval) or 0.0
        try:
            wait = min(initial * self.multiplier ** (attempt - 1), longest)
        except OverflowError:
            wait = longest
        return wait * (1.0 + self.jitter * (2.0 * _random.random() - 1.0))
