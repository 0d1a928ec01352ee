"""The two worlds a scenario runs in, under one face, and the decorator that makes it run in both."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, overload

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine.tasks import end_tasks
from pgdurable.testing import Simulation, crash_everywhere
from pgdurable.workflow import Registry, Workflow, registry

__all__ = ["World", "scenario"]

PATIENCE_S = 20.0


class World:
    """A place where workflows run.

    Attributes:
        client: what a user holds there, which lives on when the worker crashes: a `Client`, or the `Simulation`.
        simulated: which.
    """

    simulated: bool
    client: Any

    async def start(self, workflow: Workflow[Any, Any], *args: Any, **options: Any) -> pgd.Handle[Any]:
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    async def crash(self) -> None:
        """The worker dies; another has taken over when this returns."""
        raise NotImplementedError

    async def deploy(self, *workflows: Workflow[Any, Any]) -> None:
        """As `crash`; the other worker has these workflows and no others."""
        raise NotImplementedError

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Waits until a condition (a function, or coroutine function) holds; returns what it gave."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"not within {PATIENCE_S:g} s: {what}")
            await self.pass_time(0.005)

    async def status_is(self, handle: pgd.Handle[Any], status: str) -> None:
        async def there() -> bool:
            return await handle.status() == status

        await self.until(there, f"instance {handle.id} is {status}")

    async def has(self, handle: pgd.Handle[Any], *kinds: str) -> None:
        """Waits until the instance's history has rows of these kinds, in order, and no others."""

        async def there() -> bool:
            return [entry.kind for entry in await self.entries(handle)] == list(kinds)

        await self.until(there, f"the history of {handle.id} is {kinds}")

    async def entries(self, handle: pgd.Handle[Any]) -> list[pgd.Entry]:
        """Its history, without its start and end."""
        ends = ("started", "completed", "failed", "cancelled", "timed_out")
        return [entry async for entry in handle.history() if entry.kind not in ends]


class Simulated(World):
    simulated = True

    def __init__(self, sim: Simulation) -> None:
        self.client = sim

    async def start(self, workflow: Workflow[Any, Any], *args: Any, **options: Any) -> pgd.Handle[Any]:
        return await self.client.start(workflow, *args, **options)

    async def pass_time(self, seconds: float) -> None:
        await self.client.advance(seconds)

    async def crash(self) -> None:
        await self.client.crash()

    async def deploy(self, *workflows: Workflow[Any, Any]) -> None:
        await self.client.crash(workflows=workflows)


class Real(World):
    """One engine after the other on one schema."""

    simulated = False

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self._registry = Registry(registry)
        self.client: Any = None

    async def open(self) -> None:
        if self.client is None:
            self.client = pgd.Client(self.dsn, schema=self.schema)
            await self.client.open()
        # Soon parked, soon looked for: nothing here is to wait for its second.
        self.engine = pgd.Engine(
            self.dsn, schema=self.schema, workflows=self._registry, poll_interval=0.05, park_after=0.02
        )
        await self.engine.open()

    async def start(self, workflow: Workflow[Any, Any], *args: Any, **options: Any) -> pgd.Handle[Any]:
        known = Registry(self._registry)
        known.add(workflow)
        if len(known) != len(self._registry) or known.get(workflow.name, workflow.version) is not workflow:
            pytest.fail(f"{workflow} was defined after the engine was opened: define it at module level")
        handle = await self.engine.start(workflow, *args, **options)
        handle._client = self.client  # which outlives the engine
        return handle

    async def close(self) -> None:
        await self.engine.close()
        await self.client.close()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def crash(self) -> None:
        await self._end()
        await self.open()

    async def deploy(self, *workflows: Workflow[Any, Any]) -> None:
        await self._end()
        self._registry = Registry(workflows)
        await self.open()

    async def _end(self) -> None:
        """Ends the engine as a crash would, and fences it by what other workers would call."""
        old = self.engine
        worker = old._worker
        host = worker.host
        for task in [*worker._tasks, *([worker._incarnation.rejoining] if worker._incarnation.rejoining else [])]:
            task.cancel()
        host.fenced = True
        await worker.journal.discard()
        host.drop_everything()
        await end_tasks(*worker._tasks, worker._incarnation.rejoining)
        await host.transactions.close()
        host.threads.shutdown(wait=False, cancel_futures=True)
        old._worker = None
        await old.close()
        await asyncio.to_thread(self._take_over, host.worker)

    def _take_over(self, worker: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while time.monotonic() < deadline:
                row = conn.execute(
                    f"select state, {self.schema}.take_over(id, beat, null) from {self.schema}.workers where id = %s",
                    (worker,),
                ).fetchone()
                if row is None or row[0] == "dead" or row[1]:
                    return
        raise AssertionError(f"worker {worker} cannot be taken over")


Scenario = Callable[[World], Awaitable[None]]


@overload
def scenario(fn: Scenario, /) -> Any: ...
@overload
def scenario(*, crashes: bool = True) -> Callable[[Scenario], Any]: ...
def scenario(fn: Any = None, /, *, crashes: bool = True) -> Any:
    """Makes an async function of a `World` a test of both; see this package's docstring.

    Args:
        crashes: whether it holds with a crash at every commit as well.
    """
    if fn is None:
        return functools.partial(scenario, crashes=crashes)
    places = ["simulation", "crashes", "postgres"] if crashes else ["simulation", "postgres"]

    @pytest.mark.parametrize("place", places)
    async def test(place: str, request: pytest.FixtureRequest) -> None:
        if place == "simulation":
            async with Simulation() as sim:
                await fn(Simulated(sim))
        elif place == "crashes":
            await crash_everywhere(lambda sim: fn(Simulated(sim)))
        else:
            world = Real(request.getfixturevalue("dsn"), request.getfixturevalue("shared_schema"))
            await world.open()
            try:
                await fn(world)
            finally:
                await world.close()

    functools.update_wrapper(test, fn)
    del test.__wrapped__  # type: ignore[attr-defined]
    test.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("place", "request")]
    )
    return test
