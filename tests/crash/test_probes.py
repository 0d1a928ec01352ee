"""kill -9 of the worker at every named point, once in its first life and once while it recovers from that."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from pgdurable._engine import probes

from .driver import PATIENCE_S, Scenario

# The counts at which the first and the second worker die. A wave of work passes most points a dozen times.
COUNTS = {
    "keyed_start.committed": (1, 2),
    "claim.returned": (1, 2),
    "park.committed": (1, 2),
    "attempt.committed": (1, 3),
    "timer.due": (2, 4),
    "timer.committed": (1, 4),
    "signal.recorded": (2, 5),
    "signal.committed": (1, 6),
    "flush.sent": (3, 12),
    "step.begin": (1, 20),
    "step.ran": (3, 17),
    "step.recorded": (2, 11),
    "step.committed": (1, 14),
    "transaction.ran": (1, 9),
    "transaction.checkpointed": (2, 8),
    "transaction.committed": (1, 7),
}
DEFAULT = (1, 5)
# Points that these workflows do not pass: who kills there.
ELSEWHERE = {
    "schedule.computed": "test_schedules.py",
    "schedule.committed": "test_schedules.py",
    "pending.committed": "test_step_options.py",
    **dict.fromkeys(
        (
            "update.recorded",
            "update.committed",
            "update.rejected",
            "reply.committed",
            "state.committed",
            "stream.committed",
        ),
        "test_talk.py",
    ),
}
HERE = [point for point in probes.POINTS if point not in ELSEWHERE]
GROUPS = [HERE[i::2] for i in range(2)]


async def die_twice(dsn: str, folder: Path, seed: int, point: str) -> None:
    async with Scenario(dsn, folder, seed) as scenario:
        first, second = COUNTS.get(point, DEFAULT)
        worker = await scenario.begin(f"{point}:{first}")
        scenario.wave(worker)
        await died_there(scenario, point, first)
        worker = await scenario.begin(f"{point}:{second}")
        if scenario.workers[0].ids:
            # So that it dies over what it took over.
            taken = asyncio.ensure_future(scenario.taken_over(scenario.workers[0].ids[0]))
            dead = asyncio.ensure_future(worker.ended())
            await asyncio.wait([taken, dead], return_when=asyncio.FIRST_COMPLETED)
            taken.cancel()
        if worker.alive:
            scenario.wave(worker)
        await died_there(scenario, point, second)
        await scenario.begin()
        await scenario.finish()


async def died_there(scenario: Scenario, point: str, count: int) -> None:
    worker = scenario.workers[-1]
    try:
        status = await asyncio.wait_for(asyncio.shield(worker.ended()), PATIENCE_S / 2)
    except asyncio.TimeoutError:
        raise AssertionError(f"{point} was not reached {count} times:\n{worker.said()}") from None
    assert status == -signal.SIGKILL, f"{point}: the worker ended with {status}:\n{worker.said()}"


@pytest.mark.parametrize("points", GROUPS, ids=lambda points: f"{points[0]}...")
async def test_killed_at_every_probe_point(dsn: str, tmp_path: Path, seed: int, points: list[str]) -> None:
    async def one(point: str) -> None:
        try:
            await die_twice(dsn, tmp_path / point, seed, point)
        except AssertionError as error:
            raise AssertionError(f"killed at {point}:\n{error}") from None

    results = await asyncio.gather(*map(one, points), return_exceptions=True)
    failures = [r for r in results if r is not None]
    assert not failures, "\n\n".join(str(f) for f in failures)


def test_every_point_is_in_a_group() -> None:
    assert sorted([*(point for group in GROUPS for point in group), *ELSEWHERE]) == sorted(probes.POINTS)
    for point, file in ELSEWHERE.items():
        assert f'"{point}"' in (Path(__file__).parent / file).read_text()
    assert set(COUNTS) <= set(probes.POINTS)
