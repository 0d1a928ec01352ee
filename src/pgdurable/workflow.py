"""What a user decorates: `@workflow`, `@step`, `@transaction`; and the registry of workflows.

A decorated function stays an ordinary function: called outside a workflow it runs as written.
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from types import EllipsisType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from pgdurable._arguments import Signature, fingerprint, isolate
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.machine import Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.batch import Batch, check_batch
from pgdurable.child import call_child
from pgdurable.errors import UnknownWorkflow
from pgdurable.retry import Retry, seconds

__all__ = ["Registry", "Step", "Transaction", "Workflow", "registry", "step", "transaction", "workflow"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_DEFAULT_RETRY = Retry()


class Step(Generic[P, R]):
    """A function whose result is checkpointed when workflow code calls it.

    Attributes:
        name: what history calls it.
        kind: `async` (runs on the service's event loop), `thread`, or `transaction`.
        retry: its retry policy.
        timeout: seconds one attempt may take, or None.
    """

    kind = "async"

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        if not self.name or "\0" in self.name:
            raise ValueError(f"a step's name is not empty and has no NUL, found {self.name!r}")
        self.retry = retry if retry is not None else _DEFAULT_RETRY
        self.timeout = seconds(timeout)
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"step {self.name}: timeout is positive, found {timeout!r}")
        self.is_async = inspect.iscoroutinefunction(fn)
        self.signature = Signature(fn, skip_first=self.kind == "transaction")
        if self.kind == "async" and not self.is_async:
            self.kind = "thread"
        self.__name__ = fn.__name__
        self.__qualname__ = fn.__qualname__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

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
        timeout: float | timedelta | None = None,
    ) -> Step[P, R]:
        """The same step with other policies for some calls: ``reserve.options(timeout=3)(sku, 1)``."""
        return type(self)(
            self.fn,
            name=name or self.name,
            retry=retry or self.retry,
            timeout=self.timeout if timeout is None else timeout,
        )

    def _call(self, machine: Machine, args: Any, kwargs: Any) -> Any:
        if isinstance(machine, ThreadMachine):
            return machine.answer_of(self._issue(machine, args, kwargs))
        return self._await(machine, args, kwargs)

    def _issue(self, machine: Machine, args: Any, kwargs: Any) -> Any:
        mark = fingerprint(args, kwargs)
        args, kwargs = isolate(args, kwargs)
        return machine.issue_step(self, self.name, args, kwargs, mark)

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
    """A step that commits together with its checkpoint. See `transaction`."""

    kind = "transaction"


class Workflow(Generic[P, R]):
    """A registered workflow: name, version, policies, and the function that is its body."""

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        version: str = "1",
        retention: float | timedelta | EllipsisType | None = ...,
        batch: Batch | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        self.version = version
        self.policies: dict[str, float | None] = {}
        if not isinstance(retention, EllipsisType):
            self.policies["retention"] = seconds(retention)
            if not (self.policies["retention"] or 0.0) >= 0.0:
                raise ValueError(f"workflow {self.name}: retention is not negative, found {retention!r}")
        for what, value in (("name", self.name), ("version", self.version)):
            if not isinstance(value, str) or not value or "\0" in value or len(value.encode()) > 512:
                raise ValueError(f"a workflow's {what} is a text of 1 to 512 bytes without NUL, found {value!r}")
        self.title = f"workflow {self.name} v{version}"
        self.is_async = inspect.iscoroutinefunction(fn)
        self.signature = Signature(fn)
        self.batch = batch
        if batch is not None:
            check_batch(self.name, self.signature)
        self.__name__ = fn.__name__
        self.__qualname__ = fn.__qualname__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        machine = current_machine()
        if machine is not None:
            return cast(R, call_child(machine, self, args, kwargs))
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name} v{self.version}>"


class Registry:
    """Workflows by name and version. The version registered last under a name is its current one."""

    def __init__(self, workflows: Iterable[Workflow[Any, Any]] = ()) -> None:
        self._by_key: dict[tuple[str, str], Workflow[Any, Any]] = {}
        self._current: dict[str, Workflow[Any, Any]] = {}
        for definition in workflows:
            self.add(definition)

    def add(self, definition: Workflow[Any, Any]) -> None:
        """Registers a workflow. Raises ValueError when another function has the same name and version."""
        key = (definition.name, definition.version)
        there = self._by_key.get(key)
        if there is not None and _another(there, definition):
            raise ValueError(
                f"workflow {definition.name!r} version {definition.version!r} is both "
                f"{there.__module__}.{there.__qualname__} and {definition.__module__}.{definition.__qualname__}; "
                "give one of them another name= or version="
            )
        self._by_key[key] = definition
        self._current[definition.name] = definition

    def get(self, name: str, version: str | None = None) -> Workflow[Any, Any]:
        """The workflow of that name and version (None: the current one). Raises UnknownWorkflow."""
        found = self._current.get(name) if version is None else self._by_key.get((name, version))
        if found is None:
            raise UnknownWorkflow(
                f"no workflow {name!r}{f' version {version!r}' if version else ''} is registered in this process",
                detail=f"Registered: {', '.join(sorted(f'{n} v{v}' for n, v in self._by_key)) or 'none'}.",
                hint="Import the module that defines it before the engine starts.",
            )
        return found

    def is_current(self, definition: Workflow[Any, Any]) -> bool:
        return self._current.get(definition.name) is definition

    def __iter__(self) -> Any:
        return iter(list(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)


def _another(one: Workflow[Any, Any], other: Workflow[Any, Any]) -> bool:
    """Whether these are two functions of the source, not one that was defined again."""
    if "<locals>" in one.__qualname__ + other.__qualname__:
        return False
    if one.__qualname__ != other.__qualname__:
        return True
    if one.__module__ == other.__module__:
        return False  # reloaded
    # The program's own file may be imported by its name as well.
    return _file_of(one.fn) != _file_of(other.fn)


def _file_of(fn: Any) -> str | None:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return None if code is None else code.co_filename


registry = Registry()
"""Every workflow this process has imported."""


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
    *, name: str | None = None, retry: Retry | None = None, timeout: float | timedelta | None = None
) -> _StepMaker: ...
def step(fn: Any = None, /, **options: Any) -> Any:
    """Makes a function a step: a unit of work whose result is checkpointed before the workflow sees it.

    After a crash a step whose checkpoint was acknowledged never runs again; one that was under way runs again, so
    a step runs at least once. `async def` steps run on the service's event loop, `def` steps in a thread.

    Args:
        name: what history calls it. Default: the function's name.
        retry: retry policy. Default `Retry()`: five attempts.
        timeout: seconds (or timedelta) one attempt may take; then it counts as failed with `StepTimeout`.

    In workflow code the call gives an awaitable (in a `def` workflow it blocks); elsewhere it is the plain function.
    """
    if fn is None:
        return lambda fn: Step(fn, **options)
    return Step(fn, **options)


@overload
def transaction(
    fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /
) -> Transaction[P, Coroutine[Any, Any, T]]: ...
@overload
def transaction(fn: Callable[Concatenate[Any, P], T], /) -> Transaction[P, Any]: ...
@overload
def transaction(
    *, name: str | None = None, retry: Retry | None = None, timeout: float | timedelta | None = None
) -> _TransactionMaker: ...
def transaction(fn: Any = None, /, **options: Any) -> Any:
    """Makes a function a transaction step: what it does in PostgreSQL and its checkpoint are one commit.

    It takes effect exactly once, whatever crashes when. The function's first parameter is the open transaction, a
    `psycopg.AsyncConnection` (`psycopg.Connection` for a `def` function, which runs in a thread); workflow code
    leaves it out. A timeout or cancellation before the commit rolls it back.

    Args: as for `step`.
    """
    if fn is None:
        return lambda fn: Transaction(fn, **options)
    return Transaction(fn, **options)


@overload
def workflow(fn: Callable[P, R], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, name: str | None = None, version: str = "1", retention: float | timedelta | EllipsisType | None = ...,
    batch: Batch | None = None,
) -> Callable[[Callable[P, R]], Workflow[P, R]]: ...  # fmt: skip
def workflow(fn: Any = None, /, **options: Any) -> Any:
    """Registers a function as a workflow: plain Python that survives any crash.

    Its code is replayed from history, so it reaches the outside world through steps only, and takes time, chance
    and ids from `now()`, `random()` and `uuid4()`. asyncio's sleep, gather, wait_for, timeout, TaskGroup, wait,
    Queue, Lock, Semaphore and Event work as they do anywhere, durably. Called in the code of another workflow it is a
    child: an instance of its own, whose result is awaited (see `start_child` for the other ways).

    Args:
        name: how it is started. Default: the function's name.
        version: a worker runs only instances of versions it has. Default "1".
        retention: seconds (or timedelta) for which ended instances are kept; None: for ever. Afterwards they are
            removed with their history, and their ids are free again. Default: what `settings.retention` of the schema
            says, 30 days unless changed. It is stored in `workflows.policies` when a worker starts.
        batch: it takes many inputs at once, gathered by a `Batch`; its one parameter is their list.
    """

    def register(fn: Any) -> Workflow[Any, Any]:
        definition = Workflow(fn, **options)
        registry.add(definition)
        return definition

    return register if fn is None else register(fn)
