"""`@workflow`, and the registry of workflows. Steps are in steps.py.

A decorated function stays an ordinary function: called outside a workflow it runs as written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import EllipsisType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from pgdurable._arguments import Signature
from pgdurable._runtime.current import current_machine
from pgdurable.batch import Batch, check_batch
from pgdurable.child import call_child
from pgdurable.errors import UnknownWorkflow
from pgdurable.handlers import Handler
from pgdurable.retry import seconds
from pgdurable.steps import Step, Transaction, step, transaction

__all__ = ["Registry", "Step", "Transaction", "Workflow", "registry", "step", "transaction", "workflow"]

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
S = TypeVar("S")


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
        timeout: float | timedelta | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        self.version = version
        self.policies: dict[str, float | None] = {}
        if not isinstance(retention, EllipsisType):
            self.policies["retention"] = seconds(retention)
            if not (self.policies["retention"] or 0.0) >= 0.0:
                raise ValueError(f"workflow {self.name}: retention is not negative, found {retention!r}")
        self.timeout = seconds(timeout)
        if self.timeout is not None:
            if not self.timeout > 0:
                raise ValueError(f"workflow {self.name}: timeout is positive, found {timeout!r}")
            self.policies["timeout"] = self.timeout
        for what, value in (("name", self.name), ("version", self.version)):
            if not isinstance(value, str) or not value or "\0" in value or len(value.encode()) > 512:
                raise ValueError(f"a workflow's {what} is a text of 1 to 512 bytes without NUL, found {value!r}")
        self.title = f"workflow {self.name} v{version}"
        self.updates: dict[str, Handler[Any, Any]] = {}
        self.queries: dict[str, Handler[Any, Any]] = {}
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

    @overload
    def update(self, fn: Callable[Q, S], /) -> Handler[Q, S]: ...
    @overload
    def update(self, name: str | None = None, /) -> Callable[[Callable[Q, S]], Handler[Q, S]]: ...
    def update(self, fn: Any = None, /) -> Any:
        """Declares a handler of updates outside the body: ``@checkout.update``. Its first parameter is what was
        exposed. As `pgdurable.on_update` otherwise.
        """
        return self._declare(fn, query=False)

    @overload
    def query(self, fn: Callable[Q, S], /) -> Handler[Q, S]: ...
    @overload
    def query(self, name: str | None = None, /) -> Callable[[Callable[Q, S]], Handler[Q, S]]: ...
    def query(self, fn: Any = None, /) -> Any:
        """Declares a handler of queries outside the body: ``@checkout.query``. Its first parameter is what was
        exposed. As `pgdurable.on_query` otherwise.
        """
        return self._declare(fn, query=True)

    def _declare(self, fn: Any, *, query: bool) -> Any:
        if fn is None or isinstance(fn, str):
            return lambda function: self._declared(function, fn, query)
        return self._declared(fn, None, query)

    def _declared(self, fn: Any, name: str | None, query: bool) -> Handler[Any, Any]:
        if not query and not self.is_async and inspect.iscoroutinefunction(fn):
            raise ValueError(f"{self.title}: a handler of a `def` workflow is `def` too, {fn.__qualname__} is async")
        handler: Handler[Any, Any] = Handler(fn, name, query=query, declared=True)
        (self.queries if query else self.updates)[handler.name] = handler
        return handler

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


@overload
def workflow(fn: Callable[P, R], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, name: str | None = None, version: str = "1", retention: float | timedelta | EllipsisType | None = ...,
    batch: Batch | None = None, timeout: float | timedelta | None = None,
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
            removed with their history, and their ids are free again. Default: what the
            setting `pgdurable.retention` says, 30 days unless changed. It is stored in `workflows.policies` when a
            worker starts.
        batch: it takes many inputs at once, gathered by a `Batch`; its one parameter is their list.
        timeout: seconds (or timedelta) an instance may take from when it begins to run, waits included. Then its code
            meets `asyncio.CancelledError` with a `WorkflowTimeout` as `args[0]`, may clean up by steps, and the
            instance ends `timed_out`; its children are cancelled as by any cancellation. It is kept across crashes, in
            `instances.deadline`; `start(timeout=...)` sets another. Default: none.
    """

    def register(fn: Any) -> Workflow[Any, Any]:
        definition = Workflow(fn, **options)
        registry.add(definition)
        return definition

    return register if fn is None else register(fn)
