"""Where a simulated process is to die, and scenarios that are run with a crash at each commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Crashes", "SimulatedCrash", "crash_everywhere"]


class SimulatedCrash(BaseException):
    """Ends the step in which a simulated process has died."""


class Crashes:
    """The points at which it is to die next."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def at(self, point: str, n: int) -> None:
        if n < 1:
            raise ValueError(f"a crash at the n-th time: n is at least 1, found {n}")
        self._left[point] = n

    def reach(self, point: str) -> bool:
        """Whether to die here."""
        left = self._left.get(point)
        if left is None:
            return False
        if left > 1:
            self._left[point] = left - 1
            return False
        del self._left[point]
        return True


async def crash_everywhere(scenario: Callable[[Any], Awaitable[Any]], **options: Any) -> int:
    """Runs a scenario as it is, and then again with a crash before and after each commit of that run.

    A crash before a commit loses what it would have stored; after it, nobody has been told of it. Everything a
    scenario asserts should hold in all of these runs: what it must not assert is how often a step was tried.

    Args:
        scenario: an async function that is given a `Simulation` of its own each time.
        options: for `Simulation`.
    Returns:
        How many runs there were.
    Raises:
        What the scenario raises, with a note (Python 3.11 and later) that says where it had crashed.
    """
    from pgdurable.testing.simulation import Simulation

    async with Simulation(**options) as sim:
        await scenario(sim)
        commits = sim.commits
    for n in range(1, commits + 1):
        for point in ("commit.before", "commit.after"):
            async with Simulation(**options) as sim:
                sim.crash_at(point, n)
                try:
                    await scenario(sim)
                except BaseException as error:
                    if hasattr(error, "add_note"):
                        error.add_note(f"the process had crashed at {point} {n} of {commits}")
                    raise
    return 1 + 2 * commits
