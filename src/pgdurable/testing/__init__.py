"""Tests without a database: workflows in memory, by a clock that the test moves.

    async with Simulation() as sim:
        handle = await sim.start(subscription, "ada")
        await sim.advance(days=30)
        assert await handle.result() == "renewed"

`docs/guides/testing.md` tells all of it. Nothing here is imported by the rest of the package.
"""

from pgdurable.testing._crashes import crash_everywhere
from pgdurable.testing._doubles import Call, Mock, SimulatedFailure
from pgdurable.testing._replay import Replayed, replay
from pgdurable.testing._time import Stalled
from pgdurable.testing.simulation import Simulation

__all__ = ["Call", "Mock", "Replayed", "SimulatedFailure", "Simulation", "Stalled", "crash_everywhere", "replay"]
