"""A slice of the chaos run, for every change: `make chaos` is the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .outages import KINDS
from .run import Plan, plan, play
from .world import Settings

SECONDS = 38.0
# What needs nothing installed and no rights: a disk of its own, a standby and libfaketime come with `make chaos`.
WANTED = [kind for kind, fault in KINDS.items() if fault.needs is None]


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan(7, 60.0, WANTED, 2.0) == plan(7, 60.0, reversed(WANTED), 2.0)
    assert plan(7, 60.0, WANTED, 2.0) != plan(8, 60.0, WANTED, 2.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_has_every_kind_of_fault(seed: int) -> None:
    planned: Plan = plan(seed, 600.0, KINDS, 4.0)
    assert {one.kind for one in planned} == set(KINDS)
    assert len(planned) == 150
    assert planned == sorted(planned, key=lambda one: one.at)
    assert planned[-1].at <= 600.0


@pytest.mark.timeout(400)
async def test_a_slice_of_chaos(tmp_path: Path, seed: int) -> None:
    said: list[str] = []
    seed %= 1 << 32
    result = await play(
        Settings(seed), tmp_path / "run", plan(seed, SECONDS, WANTED, 1.8), SECONDS, say=said.append, patience=150.0
    )
    story = "\n".join(
        [f"seed {seed}, history in {tmp_path}/run", *said, str(result.unended), *map(str, result.violations)]
    )
    assert result.unended is None, story
    assert result.violations == [], story
    assert not result.missing, f"no effect: {result.missing}\n{story}"
    assert set(result.faults) == set(WANTED)
    assert result.checked["acknowledged starts"] > 50
