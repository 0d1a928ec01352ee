"""What a workflow answers to while it runs: updates, queries, and waiting for what they bring about.

Inside a workflow's body handlers are closures over its variables; declared outside, on the `Workflow`, they get what
the body gave to `expose`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from pgdurable._arguments import Signature
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.desk import Desk, desk_of
from pgdurable._runtime.machine import LATEST_US, Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.errors import PgDurableError
from pgdurable.retry import seconds

__all__ = ["Handler", "expose", "find_handler", "on_query", "on_update", "outside", "wait_until"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Decorator = Callable[[Callable[P, R]], "Handler[P, R]"]


class Handler(Generic[P, R]):
    """A function that answers updates or queries. Called, it is that function.

    Attributes:
        name: by which it is asked for.
        declared: on the `Workflow`, and not within its body; its first parameter is then what was exposed.
    """

    def __init__(self, fn: Callable[P, R], name: str | None, *, query: bool, declared: bool) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        self.query = query
        self.declared = declared
        self.check: Callable[..., Any] | None = None
        self._signature: Signature | None = None
        self.__name__ = fn.__name__
        self.__qualname__ = fn.__qualname__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        what = "query" if query else "update"
        if not isinstance(self.name, str) or not self.name or "\0" in self.name or len(self.name.encode()) > 512:
            raise ValueError(f"{what}'s name is a text of 1 to 512 bytes without NUL, found {self.name!r}")
        if query and inspect.iscoroutinefunction(fn):
            raise ValueError(f"query {self.name}: its handler is `def`: it only reads, so there is nothing to await")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def validator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates the function that looks at a request first. What it raises rejects the update: it leaves no trace.

        It gets the handler's arguments, sees the workflow's variables as the handler will, and may change nothing.
        """
        if self.query:
            raise ValueError(f"query {self.name} has nothing to validate")
        if inspect.iscoroutinefunction(fn):
            raise ValueError(f"the validator of update {self.name} is `def`: there is nothing it could await")
        self.check = fn
        return fn

    @property
    def signature(self) -> Signature:
        """Its parameters, without what is exposed; read when first asked for."""
        if self._signature is None:
            self._signature = Signature(self.fn, name=self.name, skip_first=self.declared)
        return self._signature

    def bound(self, fn: Callable[..., Any], machine: Machine, input: bytes | str) -> Callable[[], Any]:
        """The call of the handler, or of its validator, for arguments as stored.

        Raises InvalidInput when they do not fit its parameters, PgDurableError when nothing was exposed yet.
        """
        args, kwargs = self.signature.load_input(input)
        if self.declared:
            desk: Desk | None = machine.desk
            if desk is None or desk.exposed is None:
                raise PgDurableError(
                    f"{machine.label}: {self.name} has nothing to work on",
                    detail="It is declared outside the workflow's body, which has not called pgdurable.expose yet.",
                    hint="Call it first thing in the workflow.",
                )
            args = (*desk.exposed, *args)
        return partial(fn, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<{'query' if self.query else 'update'} {self.name}>"


def find_handler(machine: Machine, declared: dict[str, Handler[Any, Any]], name: str, *, query: bool) -> Any:
    """The handler of that name, or PgDurableError with those there are."""
    desk: Desk | None = machine.desk
    own = {} if desk is None else desk.queries if query else desk.updates
    found = own.get(name) or declared.get(name)
    if found is None:
        what = "query" if query else "update"
        there = ", ".join(map(repr, sorted({*own, *declared})))
        raise PgDurableError(
            f"{machine.label} ({machine.workflow}) has no {what} {name!r}",
            detail=f"It has {there}." if there else "It has none.",
            hint=f"Declare it with @pgdurable.on_{what} at the top of the workflow, or with @workflow.{what}.",
        )
    return found


@overload
def on_update(fn: Callable[P, R], /) -> Handler[P, R]: ...
@overload
def on_update(name: str | None = None, /) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
def on_update(fn: Any = None, /) -> Any:
    """In a workflow's body: the function under it answers updates of its name, or of the name given.

    A request is decoded to the handler's annotations; shown to its `.validator`, if it has one; recorded; then the
    handler runs beside the workflow's code, in the instance's own order, and what it returns is the reply. It may run
    steps and wait, and has the workflow's variables. The workflow completes when its handlers have; where it fails or
    is cancelled, open requests are answered with `UpdateFailed`.

    Register handlers first thing: a request of a name that is not there is rejected.
    """
    return _register("on_update", fn, query=False)


@overload
def on_query(fn: Callable[P, R], /) -> Handler[P, R]: ...
@overload
def on_query(name: str | None = None, /) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
def on_query(fn: Any = None, /) -> Any:
    """In a workflow's body: the `def` function under it answers queries of its name, or of the name given.

    It only reads what the workflow's code keeps in its variables. It is called between two events, on the worker that
    holds the instance, or after a replay; nothing of it is recorded. Asking for steps, timers and the like raises.
    """
    return _register("on_query", fn, query=True)


def _register(what: str, fn: Any, *, query: bool) -> Any:
    machine = current_machine()
    if machine is None:
        outside(what)
    if fn is None or isinstance(fn, str):
        return lambda function: _registered(machine, function, fn, query)
    return _registered(machine, fn, None, query)


def _registered(machine: Machine, fn: Any, name: str | None, query: bool) -> Handler[Any, Any]:
    if isinstance(machine, ThreadMachine) and inspect.iscoroutinefunction(fn):
        raise ValueError(f"{machine.label}: a handler in a `def` workflow is `def` too, {fn.__qualname__} is async")
    handler: Handler[Any, Any] = Handler(fn, name, query=query, declared=False)
    desk = desk_of(machine)
    (desk.queries if query else desk.updates)[handler.name] = handler
    return handler


def expose(value: T) -> T:
    """Gives the handlers declared on the `Workflow` what they work on, and returns it: their first parameter.

    Call it first thing in the workflow's body.
    """
    machine = current_machine()
    if machine is None:
        outside("expose")
    desk_of(machine).exposed = (value,)
    return value


def wait_until(condition: Callable[[], Any], timeout: float | timedelta | None = None) -> Any:
    """Waits until `condition()` is true: of variables that handlers, or other tasks of the workflow, change.

    It is looked at after each event of the instance, and costs no history. In an async workflow await it; in a `def`
    workflow it blocks.

    Args:
        condition: only reads the workflow's variables.
        timeout: seconds (or timedelta) to wait; None: for ever.
    Raises:
        TimeoutError: it did not become true in time; the same in replay.
    """
    machine = current_machine()
    if machine is None:
        outside("wait_until")
    wait = seconds(timeout)
    if isinstance(machine, ThreadMachine):
        return _wait_until_blocking(machine, condition, wait)
    return _wait_until(machine, condition, wait)


async def _wait_until(machine: Machine, condition: Callable[[], Any], timeout: float | None) -> None:
    if condition():
        return
    future = machine.new_future()
    desk_of(machine).conditions.append((condition, future))
    if timeout is None:
        await future
        return
    try:
        await asyncio.wait_for(future, timeout)
    except asyncio.TimeoutError:
        raise _too_late(machine, timeout) from None


def _wait_until_blocking(machine: ThreadMachine, condition: Callable[[], Any], timeout: float | None) -> None:
    timer = None
    slot = machine.new_future()
    while not condition():
        if slot.done() or (timeout is not None and timeout <= 0):
            machine.got_on()
            raise _too_late(machine, timeout)
        if timeout is not None and timer is None:
            timer = machine.issue_timer(min(round(machine.now_us + timeout * 1e6), LATEST_US), slot)
        try:
            machine.wait_any()
        except asyncio.CancelledError:
            if timer is not None:
                machine.cancel(timer)
            raise
    machine.got_on()
    if timer is not None:
        machine.cancel(timer)


def _too_late(machine: Machine, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"{machine.label}: what it waits for has not come about within {timeout:g} s")


def outside(what: str) -> NoReturn:
    """Raises the error of a call that belongs into workflow code."""
    raise PgDurableError(
        f"{what} was called outside workflow code",
        hint="Call it in a function decorated with @pgdurable.workflow, not in a step or elsewhere.",
    )
