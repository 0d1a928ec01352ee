"""kill -9 of workers at random moments. The same for longer: python -m tests.crash.soak."""

from __future__ import annotations

import os
from pathlib import Path

from .driver import Scenario
from .soak import soak


async def test_killed_at_random_moments(dsn: str, tmp_path: Path, seed: int) -> None:
    async with Scenario(dsn, tmp_path, seed) as scenario:
        await soak(scenario, kills=int(os.environ.get("PGDURABLE_TEST_KILLS", "8")), seed=seed)
