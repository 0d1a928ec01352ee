"""What stands in for steps in a simulation: mocks, failures asked for, and the steps themselves; all are counted."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import inspect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.errors import NonRetryable, PgDurableError
from pgdurable.retry import seconds
from pgdurable.testing._clock import VirtualClock
from pgdurable.workflow import Step

__all__ = ["Call", "Doubles", "Mock", "SimulatedFailure"]

_NOTHING = object()
# Which attempt the code that runs belongs to: its place among all of them, from 1.
_attempt: ContextVar[int] = ContextVar("pgdurable_simulated_attempt", default=0)


class SimulatedFailure(Exception):
    """What a step raises that `sim.fail` was called for, unless it said otherwise. It is tried again like any error."""


@dataclass(frozen=True)
class Call:
    """One attempt of a step.

    Attributes:
        step: its name.
        args, kwargs: as the workflow gave them.
        instance: the id of the instance, as text.
        at: when it began, by the simulation's clock.
    """

    step: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    instance: str
    at: datetime


class Mock:
    """What a step does instead of what is written. Made by `Simulation.mock`."""

    def __init__(self, returns: Any, raises: Any, side_effect: Any, takes: float, times: int | None) -> None:
        self.returns = returns
        self.raises = raises
        self.takes = takes
        self.left = times
        self.calls: list[Call] = []
        self._function: Callable[..., Any] | None = side_effect if callable(side_effect) else None
        self._values: Iterator[Any] | None = None
        if side_effect is not None and self._function is None:
            self._values = iter(side_effect)

    def outcome(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """What is called, with the step's arguments."""
        if self._function is not None:
            return self._function
        value, error = self.returns, self.raises
        if self._values is not None:
            try:
                value = next(self._values)
            except StopIteration:
                raise NonRetryable("the mock's side_effect has no more values") from None
            error = value if _is_error(value) else None
        if error is not None:
            return functools.partial(_raise, error)
        return real if value is _NOTHING else functools.partial(_give, value)


@dataclass
class _Failure:
    error: Any
    left: int
    after: bool


class Doubles:
    """The steps of one simulation.

    Args:
        reach: called at the crash points `step.begin` and `step.ran`; does not return where it crashes.
    Attributes:
        calls: every attempt of every step, in order.
        connection: what transaction steps that are not mocked get.
        loop: the event loop of the simulation.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, clock: VirtualClock, reach: Callable[[str], None]) -> None:
        self.connection: Any = None
        self.calls: list[Call] = []
        self._asleep: Counter[int] = Counter()
        self._clock = clock
        self._reach = reach
        self._mocks: dict[Any, Mock] = {}
        self._failures: dict[Any, list[_Failure]] = defaultdict(list)

    # -- what a test asks for ----------------------------------------------------------------------------------------

    def mock(self, step: Any, **how: Any) -> Mock:
        mock = Mock(**how)
        self._mocks[_key(step)] = mock
        return mock

    def unmock(self, step: Any) -> None:
        self._mocks.pop(_key(step), None)

    def fail(self, step: Any, times: int, error: Any, after: bool) -> None:
        self._failures[_key(step)].append(_Failure(error, times, after))

    def calls_of(self, step: Any) -> list[Call]:
        """The attempts of one step: the decorated function, or its name."""
        if isinstance(step, str):
            return [call for call in self.calls if call.step == step]
        return [call for call in self.calls if call.step == step.name]

    async def sleep(self, delay: float) -> None:
        """Inside a step or a mock: waits by the simulation's clock."""
        attempt = _attempt.get()
        self._asleep[attempt] += 1
        try:
            await self._clock.sleep(delay)
        finally:
            self._asleep[attempt] -= 1
            if not self._asleep[attempt]:
                del self._asleep[attempt]

    @property
    def asleep(self) -> int:
        """Attempts that wait for the simulation's clock."""
        return len(self._asleep)

    # -- what the engine gets ------------------------------------------------------------------------------------------

    def machines(self) -> tuple[Callable[..., Machine], Callable[..., Machine]]:
        """What makes the machines of `async def` and `def` workflows, whose steps are these."""
        return functools.partial(_AsyncMachine, self), functools.partial(_ThreadMachine, self)

    def of(self, step: Step[Any, Any], label: object) -> Step[Any, Any]:
        """What runs instead of a step: under the same name and policies, without jitter in its retries."""
        double = copy.copy(step)
        double.retry = dataclasses.replace(step.retry, jitter=0.0)
        instance = str(label).removeprefix("instance ")
        double.rate_limit = None  # a simulation has no other workers to share it with
        double.admitted = step.record_pending or step.max_concurrency is not None
        if step.kind in ("thread", "process"):
            double.kind = "thread"
            double.fn = self._in_thread(step, instance, self.loop)
        else:
            double.kind = "async"
            double.fn = self._in_loop(step, instance)
        double.direct = double.kind == "async" and not double.admitted and double.total_timeout is None
        functools.update_wrapper(double.fn, step.fn)
        if step.kind == "transaction":
            signature = inspect.signature(step.fn)
            vars(double.fn)["__signature__"] = signature.replace(parameters=list(signature.parameters.values())[1:])
        return double

    def _in_loop(self, step: Step[Any, Any], instance: str) -> Callable[..., Any]:
        real = functools.partial(self._transact, step, instance) if step.kind == "transaction" else step.fn

        async def call(*args: Any, **kwargs: Any) -> Any:
            work, takes, failure = self._begin(step, instance, args, kwargs, real)
            if takes:
                await self.sleep(takes)
            value = work(*args, **kwargs)
            if inspect.isawaitable(value):
                value = await value
            return self._end(value, failure)

        return call

    def _in_thread(self, step: Step[Any, Any], instance: str, loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            work, takes, failure = self._begin(step, instance, args, kwargs, step.fn)
            if takes:
                asyncio.run_coroutine_threadsafe(self.sleep(takes), loop).result()
            value = work(*args, **kwargs)
            if inspect.isawaitable(value):
                value = asyncio.run_coroutine_threadsafe(_awaited(value), loop).result()
            return self._end(value, failure)

        return call

    def _begin(
        self, step: Step[Any, Any], instance: str, args: Any, kwargs: Any, real: Callable[..., Any]
    ) -> tuple[Callable[..., Any], float, Any]:
        """What to call, how long that takes, and the error to raise afterwards."""
        self._reach("step.begin")
        call = Call(step.name, args, kwargs, instance, self._clock.now)
        self.calls.append(call)
        _attempt.set(len(self.calls))
        mock = self._mock_of(step)
        if mock is not None:
            mock.calls.append(call)
        failure = self._failure_of(step)
        if failure is not None and not failure.after:
            _raise(failure.error)
        work = real if mock is None else mock.outcome(real)
        return work, 0.0 if mock is None else mock.takes, None if failure is None else failure.error

    def _end(self, value: Any, error: Any) -> Any:
        if error is not None:
            _raise(error)
        self._reach("step.ran")
        return value

    def _mock_of(self, step: Step[Any, Any]) -> Mock | None:
        for key in (step.name, step.fn):
            mock = self._mocks.get(key)
            if mock is None:
                continue
            if mock.left is None:
                return mock
            if mock.left > 0:
                mock.left -= 1
                return mock
        return None

    def _failure_of(self, step: Step[Any, Any]) -> _Failure | None:
        for key in (step.name, step.fn):
            for failure in self._failures.get(key, ()):
                if failure.left > 0:
                    failure.left -= 1
                    return failure
        return None

    async def _transact(self, step: Step[Any, Any], instance: str, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None:
            raise NonRetryable(
                f"instance {instance}: transaction step {step.name} needs a database, and a simulation has none.\n"
                f"Say what it does: sim.mock({step.name}, returns=...). Or give what stands in for its connection: "
                "Simulation(connection=...). Or test it on a real database: the fixture durable_engine."
            )
        if step.is_async:
            return await step.fn(self.connection, *args, **kwargs)
        return await asyncio.to_thread(step.fn, self.connection, *args, **kwargs)


def duration(takes: float | timedelta) -> float:
    """The seconds a mock takes. Raises ValueError."""
    found = seconds(takes) or 0.0
    if found < 0 or math.isnan(found):
        raise ValueError(f"a mock takes no negative time, found {takes!r}")
    return found


def checked(returns: Any, raises: Any, side_effect: Any, takes: float | timedelta, times: int | None) -> dict[str, Any]:
    """What `Mock` is given. Raises ValueError where it contradicts itself."""
    if (returns is not _NOTHING) + (raises is not None) + (side_effect is not None) > 1:
        raise ValueError("mock takes one of returns=, raises= and side_effect=")
    if raises is not None and not _is_error(raises):
        raise ValueError(f"raises= is an exception or an exception type, found {raises!r}")
    if side_effect is not None and not callable(side_effect) and not isinstance(side_effect, Iterable):
        raise ValueError(f"side_effect= is a function, or an iterable of values and exceptions, found {side_effect!r}")
    if times is not None and times < 1:
        raise ValueError(f"times= is at least 1, found {times}")
    return {
        "returns": returns, "raises": raises, "side_effect": side_effect, "takes": duration(takes), "times": times,
    }  # fmt: skip


def _key(step: Any) -> Any:
    if isinstance(step, str):
        return step
    if isinstance(step, Step):
        return step.fn
    raise PgDurableError(
        f"{step!r} is no step", hint="Give the function decorated with @pgdurable.step, or the step's name."
    )


def _is_error(value: Any) -> bool:
    return isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException))


def _raise(error: Any, *args: Any, **kwargs: Any) -> Any:
    raise error


def _give(value: Any, *args: Any, **kwargs: Any) -> Any:
    return copy.deepcopy(value)


async def _awaited(value: Any) -> Any:
    return await value


class _AsyncMachine(AsyncMachine):
    def __init__(self, doubles: Doubles, *rest: Any) -> None:
        super().__init__(*rest)
        self._doubles = doubles

    def issue_step(self, step: Any, *rest: Any) -> Any:
        return super().issue_step(self._doubles.of(step, self.label), *rest)


class _ThreadMachine(ThreadMachine):
    def __init__(self, doubles: Doubles, *rest: Any) -> None:
        super().__init__(*rest)
        self._doubles = doubles

    def issue_step(self, step: Any, *rest: Any) -> Any:
        return super().issue_step(self._doubles.of(step, self.label), *rest)
