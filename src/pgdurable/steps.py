"""`@step` and `@transaction`: the units of work whose results are checkpointed, and their policies.

A decorated function stays an ordinary function: called outside a workflow it runs as written.
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from pgdurable._arguments import Signature, fingerprint, isolate
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.machine import Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable._step_names import step_names
from pgdurable.retry import Retry, seconds

__all__ = ["Step", "Transaction", "step", "transaction"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Duration = float | timedelta
Executor = Literal["process"]
Isolation = Literal["read committed", "repeatable read", "serializable"]

_DEFAULT_RETRY = Retry()
_ONCE = Retry(max_attempts=1)
_ISOLATIONS = ("read committed", "repeatable read", "serializable")


class Step(Generic[P, R]):
    """A function whose result is checkpointed when workflow code calls it. See `step` for its options.

    Attributes:
        name: what history calls it.
        kind: where it runs: `async` (the service's event loop), `thread`, `process` or `transaction`.
        retry: its retry policy.
        timeout, total_timeout, heartbeat_timeout: seconds, or None.
        record_pending, at_most_once: whether each attempt is recorded before it begins, and may not be repeated.
        max_concurrency: how many attempts of this name run at once in one worker, or None.
        rate_limit: (n, seconds): how many attempts of this name begin within any such span over all workers, or None.
        direct: runs on the event loop, and nothing is looked at before it begins.
        admitted: something has to be waited for before an attempt begins.
        limited: a clock runs while an attempt does.
    """

    kind = "async"
    isolation: str | None = None
    session: Any = None

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        total_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        record_pending: bool = False,
        at_most_once: bool = False,
        executor: Executor | None = None,
        max_concurrency: int | None = None,
        rate_limit: tuple[int, Duration] | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        if not self.name or "\0" in self.name:
            raise ValueError(f"a step's name is not empty and has no NUL, found {self.name!r}")
        self.at_most_once = at_most_once
        self.record_pending = record_pending or at_most_once
        self.retry = retry if retry is not None else _ONCE if at_most_once else _DEFAULT_RETRY
        self.timeout = self._positive("timeout", timeout)
        self.total_timeout = self._positive("total_timeout", total_timeout)
        self.heartbeat_timeout = self._positive("heartbeat_timeout", heartbeat_timeout)
        self.max_concurrency = max_concurrency
        if max_concurrency is not None and (not isinstance(max_concurrency, int) or max_concurrency < 1):
            raise ValueError(f"step {self.name}: max_concurrency is at least 1 or None, found {max_concurrency!r}")
        self.rate_limit = self._rate(rate_limit)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.signature = Signature(fn, skip_first=self.kind == "transaction")
        if self.kind == "async" and not self.is_async:
            self.kind = "thread"
        if executor is not None:
            self._use_executor(executor)
        self.admitted = (
            self.record_pending or max_concurrency is not None or rate_limit is not None or self.kind == "process"
        )
        self.limited = any(limit is not None for limit in (self.timeout, self.total_timeout, self.heartbeat_timeout))
        self.direct = self.kind == "async" and not self.admitted and self.total_timeout is None
        self.__name__ = fn.__name__
        self.__qualname__ = fn.__qualname__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def _positive(self, option: str, value: Duration | None) -> float | None:
        found = seconds(value)
        if found is not None and not found > 0:
            raise ValueError(f"step {self.name}: {option} is positive, found {value!r}")
        return found

    def _rate(self, value: tuple[int, Duration] | None) -> tuple[int, float] | None:
        if value is None:
            return None
        try:
            number, span = value
            length = seconds(span) or 0.0
            fits = isinstance(number, int) and number >= 1 and length > 0
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"step {self.name}: rate_limit is (how many, seconds), such as (100, 60); found {value!r}")
        return number, length

    def _use_executor(self, executor: str) -> None:
        if executor != "process":
            raise ValueError(f"step {self.name}: executor is 'process' or left out, found {executor!r}")
        if "<" in self.fn.__qualname__:
            raise ValueError(
                f"step {self.name}: a step for a process of its own is defined at module level, where that process can "
                f"import it; found {self.fn.__qualname__}"
            )
        self.kind = "process"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        machine = current_machine()
        if machine is None:
            return self.fn(*args, **kwargs)
        return cast(R, self._call(machine, args, kwargs))

    def options(
        self,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        total_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        record_pending: bool | None = None,
        at_most_once: bool | None = None,
        max_concurrency: int | None = None,
        rate_limit: tuple[int, Duration] | None = None,
    ) -> Step[P, R]:
        """The same step with other policies for some calls: ``reserve.options(timeout=3)(sku, 1)``.

        What is left out stays as it is. Arguments: as for `step`; where it runs cannot be changed.
        """
        given = {
            "name": name, "retry": retry, "timeout": timeout, "total_timeout": total_timeout,
            "heartbeat_timeout": heartbeat_timeout, "record_pending": record_pending, "at_most_once": at_most_once,
            "max_concurrency": max_concurrency, "rate_limit": rate_limit,
        }  # fmt: skip
        kept = self._options()
        if at_most_once and retry is None and self.retry is _DEFAULT_RETRY:
            kept["retry"] = None
        return type(self)(self.fn, **{**kept, **{key: value for key, value in given.items() if value is not None}})

    def _options(self) -> dict[str, Any]:
        """What `__init__` takes to make the same step again."""
        return {
            "name": self.name, "retry": self.retry, "timeout": self.timeout, "total_timeout": self.total_timeout,
            "heartbeat_timeout": self.heartbeat_timeout, "record_pending": self.record_pending,
            "at_most_once": self.at_most_once, "executor": "process" if self.kind == "process" else None,
            "max_concurrency": self.max_concurrency, "rate_limit": self.rate_limit,
        }  # fmt: skip

    def _call(self, machine: Machine, args: Any, kwargs: Any) -> Any:
        if isinstance(machine, ThreadMachine):
            return machine.answer_of(self._issue(machine, args, kwargs))
        return self._await(machine, args, kwargs)

    def _issue(self, machine: Machine, args: Any, kwargs: Any) -> Any:
        mark = fingerprint(args, kwargs)
        args, kwargs = isolate(args, kwargs)
        command = machine.issue_step(self, self.name, args, kwargs, mark)
        if self.total_timeout is not None:
            # From the event that led to the call, which history keeps: so a crash does not reset it.
            command.due_us = machine.now_us + round(self.total_timeout * 1e6)
        return command

    async def _await(self, machine: Machine, args: Any, kwargs: Any) -> Any:
        command = self._issue(machine, args, kwargs)
        try:
            return await command.future
        except CancelledError:
            if command.future.cancelled():
                machine.cancel(command)
            raise

    def __repr__(self) -> str:
        return f"<step {self.name} ({self.kind})>"


class Transaction(Step[P, R]):
    """A step that commits together with its checkpoint. See `transaction`.

    Attributes:
        isolation: of the transaction; None: as the server has it for the role.
        session: what makes a session of SQLAlchemy's from its connection, or None.
    """

    kind = "transaction"

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        isolation: Isolation | None = None,
        session: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        for option in ("at_most_once", "record_pending", "executor"):
            if options.get(option):
                raise ValueError(f"transaction step {fn.__name__}: there is no {option}; it takes effect exactly once")
        if isolation is not None and isolation not in _ISOLATIONS:
            raise ValueError(
                f"transaction step {fn.__name__}: isolation is one of {', '.join(_ISOLATIONS)}; found {isolation!r}"
            )
        if session is not None and not callable(session):
            raise ValueError(
                f"transaction step {fn.__name__}: session is Session or AsyncSession of SQLAlchemy, or a sessionmaker; "
                f"found {session!r}"
            )
        self.isolation = isolation
        self.session = session
        super().__init__(fn, **options)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "isolation": self.isolation, "session": self.session}


def _named(step: Step[Any, Any]) -> Step[Any, Any]:
    step_names.add(step)
    return step


class _StepMaker(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Step[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Step[P, Any]: ...


class _TransactionMaker(Protocol):
    @overload
    def __call__(
        self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
    ) -> Transaction[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], T], /) -> Transaction[P, Any]: ...


@overload
def step(fn: Callable[P, Coroutine[Any, Any, T]], /) -> Step[P, Coroutine[Any, Any, T]]: ...
@overload
def step(fn: Callable[P, T], /) -> Step[P, Any]: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    total_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    record_pending: bool = False,
    at_most_once: bool = False,
    executor: Executor | None = None,
    max_concurrency: int | None = None,
    rate_limit: tuple[int, Duration] | None = None,
) -> _StepMaker: ...
def step(fn: Any = None, /, **options: Any) -> Any:
    """Makes a function a step: a unit of work whose result is checkpointed before the workflow sees it.

    After a crash a step whose checkpoint was acknowledged never runs again; one that was under way runs again, so
    a step runs at least once. `async def` steps run on the service's event loop, `def` steps in a thread.

    Args:
        name: what history calls it. Default: the function's name.
        retry: retry policy. Default `Retry()`: five attempts.
        timeout: seconds (or timedelta) one attempt may take; then it counts as failed with `StepTimeout`.
        total_timeout: seconds (or timedelta) for all attempts and the waits between them, counted from the call; then
            the workflow gets `StepTimeout`. A crash does not reset it.
        heartbeat_timeout: seconds (or timedelta) an attempt may go without `heartbeat` or `progress`; then it counts
            as failed with `HeartbeatTimeout`.
        record_pending: each attempt is recorded in history before it begins, so that after a crash the history shows
            that it may have reached the outside world. Costs one commit per attempt.
        at_most_once: on top of that, an attempt whose end is not known (the process died, or it ran over its timeout)
            is never repeated: the workflow gets `StepInterrupted` (or `StepTimeout`). An error that the function itself
            raises is tried again only with a `retry` of your own.
        executor: `process`: it runs in a process of its own, which is killed on timeout and cancellation. The function
            is at module level and its arguments have a JSON form.
        max_concurrency: at most so many attempts of this name at once in one worker; others wait, in order.
        rate_limit: (n, seconds): never more than n attempts of this name begin within any span of so many seconds, over
            all workers of the schema; others wait.

    In workflow code the call gives an awaitable (in a `def` workflow it blocks); elsewhere it is the plain function.
    """
    if fn is None:
        return lambda fn: _named(Step(fn, **options))
    return _named(Step(fn, **options))


@overload
def transaction(
    fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> Transaction[P, Coroutine[Any, Any, T]]: ...
@overload
def transaction(fn: Callable[Concatenate[Any, P], T], /) -> Transaction[P, Any]: ...
@overload
def transaction(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    total_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    max_concurrency: int | None = None,
    rate_limit: tuple[int, Duration] | None = None,
    isolation: Isolation | None = None,
    session: Callable[..., Any] | None = None,
) -> _TransactionMaker: ...
def transaction(fn: Any = None, /, **options: Any) -> Any:
    """Makes a function a transaction step: what it does in PostgreSQL and its checkpoint are one commit.

    It takes effect exactly once, whatever crashes when. The function's first parameter is the open transaction, a
    `psycopg.AsyncConnection` (`psycopg.Connection` for a `def` function, which runs in a thread); workflow code
    leaves it out. A timeout or cancellation before the commit rolls it back. A transaction that the server ends for
    the sake of others (a serialization failure, a deadlock) is run again at once, up to 20 times in a row, which does
    not count as a failed attempt.

    Args: as for `step`, and
        isolation: `read committed`, `repeatable read` or `serializable`. Default: as the server has it for the role.
        session: `Session` or `AsyncSession` of SQLAlchemy, or a sessionmaker: the first parameter is then such a
            session, in the same transaction. Needs ``pip install pgdurable[sqlalchemy]``.
    """
    if fn is None:
        return lambda fn: _named(Transaction(fn, **options))
    return _named(Transaction(fn, **options))
