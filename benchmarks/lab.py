"""What a benchmark works with: a schema of its own, an event loop, engines, and a place for its figures."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg

import pgdurable as pgd
from benchmarks.figures import Beside, Figure, Figures, Latency
from pgdurable._store.migrations import migrate
from pgdurable.cli.bench_floor import Bare
from pgdurable.cli.bench_load import WORKFLOWS

__all__ = ["Lab"]

T = TypeVar("T")


class Lab:
    """Given to a benchmark by the fixture `lab`.

    Attributes:
        dsn, schema: the server, and a fresh migrated schema that is dropped afterwards.
        short: whether to be as quick as possible (`--short`): one small round of everything.
        scale: what part of the full load to put on; see `scaled`.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        figures: Figures,
        *,
        short: bool = False,
        scale: float = 1.0,
        rounds: int | None = None,
        benchmark: Any = None,
    ) -> None:
        self.dsn = dsn
        self.schema = schema
        self.short = short
        self.scale = min(scale, 0.2) if short else scale
        self._rounds = 1 if short else rounds
        self._figures = figures
        self._benchmark = benchmark
        self._loop = asyncio.new_event_loop()
        migrate(dsn, schema)
        # The collector stays on, as in production, but has not to look through what pytest and numpy have made.
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        gc.unfreeze()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("set client_min_messages = warning")
            conn.execute(f"drop schema if exists {self.schema} cascade")

    def scaled(self, number: float, least: int = 1) -> int:
        """The part of a number of instances, turns or the like that this run is to do."""
        return max(round(number * self.scale), least)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end on the benchmark's own event loop."""
        return self._loop.run_until_complete(work)

    @asynccontextmanager
    async def engine(  # type: ignore[no-untyped-def]
        self, workflows: Iterable[Any] = (), *, dsn: str | None = None, **options: Any
    ):
        """An engine on the benchmark's schema, with the workflows of `bench_load` and more of one's own."""
        known = [*WORKFLOWS, *workflows]
        async with pgd.Engine(dsn or self.dsn, schema=self.schema, workflows=known, **options) as engine:
            yield engine

    def bare(self) -> Bare:
        """A bare libpq connection, for floors and ceilings; to be used in a `with` block."""
        return Bare(self.dsn)

    def execute(self, *statements: str) -> None:
        """Runs SQL in which `@` is the schema, each statement in a transaction of its own."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.replace("@", self.schema))

    def calm(self) -> None:
        """Leaves no work of the last round to this one: tables vacuumed, a checkpoint done where the role may."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(f"vacuum analyze {self.schema}.instances, {self.schema}.history, {self.schema}.events")
            try:
                conn.execute("checkpoint")
            except psycopg.errors.InsufficientPrivilege:
                pass

    def rounds(
        self,
        benchmark: Any,
        work: Callable[[], T],
        *,
        before: Callable[[], Any] | None = None,
        after: Callable[[T], Any] | None = None,
        rounds: int = 3,
    ) -> list[T]:
        """What `work` returned in each round. pytest-benchmark times `work` alone, not what runs before and after."""
        found: list[T] = []
        settled = 0

        def settle() -> None:
            nonlocal settled
            if after is not None and settled < len(found):
                settled = len(found)
                after(found[-1])

        def setup() -> None:
            settle()
            if before is not None:
                before()

        benchmark.pedantic(lambda: found.append(work()), setup=setup, rounds=self._rounds or rounds, iterations=1)
        settle()
        return found

    def figure(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        beside: tuple[str, float] | None = None,
        latency: Latency | None = None,
        note: str = "",
        params: dict[str, Any] | None = None,
        series: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Figure:
        """Adds a figure to the run's results and to pytest-benchmark's record. See `figures.Figure`."""
        figure = self._figures.add(
            Figure(
                name, value, unit, None if beside is None else Beside(*beside), latency, note,
                params or {}, series or {}, extra,
            )
        )  # fmt: skip
        if self._benchmark is not None:
            short = {key: item for key, item in figure.as_dict().items() if key not in ("series", "name")}
            self._benchmark.extra_info[name] = short
        return figure
