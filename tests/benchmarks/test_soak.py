"""The soak's verdict: what grows is called growing, what only shakes or has filled up is not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks import soak


def noisy(values: list[float], part: float = 0.02) -> list[float]:
    chance = random.Random(1)
    return [value * chance.uniform(1 - part, 1 + part) for value in values]


@pytest.mark.parametrize(
    ("values", "growing"),
    [
        ([100.0] * 300, False),
        (noisy([100.0] * 300, 0.3), False),
        ([100 + n for n in range(300)], True),
        (noisy([100 + 0.2 * n for n in range(300)]), True),
        ([float(min(n, 60)) for n in range(300)], False),  # fills up in the first fifth, and stays
        ([100.0] * 299 + [500.0], False),
        ([100.0 - 0.1 * n for n in range(300)], False),
        ([0.0] * 300, False),
    ],
    ids=["flat", "shaking", "growing", "growing slowly", "filled up", "one peak", "shrinking", "nothing"],
)
def test_growth(values: list[float], growing: bool) -> None:
    assert soak.is_growing(values) is growing


def found(**more: Any) -> dict[str, Any]:
    samples = [dict.fromkeys(soak.SERIES, 1000.0) for _ in range(300)]
    return {"samples": samples, "money": True, "failed": 0, "ends": [0, 0], "started": 1000, "left_out": 5, **more}


def test_a_good_soak_is_called_good() -> None:
    assert soak.judge(found()) == []


@pytest.mark.parametrize("name", sorted(set(soak.SERIES) - soak.SHOWN_ONLY))
def test_each_series_that_grows_is_told(name: str) -> None:
    bad = found()
    for n, one in enumerate(bad["samples"]):
        one[name] += 10.0 * n
    (told,) = soak.judge(bad)
    assert told.startswith(f"{soak.SERIES[name][0]} grew by ")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"money": False}, "money was made or lost"),
        ({"failed": 3}, "3 instances failed or stand still"),
        ({"left_out": 11}, "11 instances of 1,011 were not offered"),
        ({"ends": [0, 3]}, "the workers ended with [0, 3]"),
    ],
)
def test_other_trouble_is_told(more: dict[str, Any], told: str) -> None:
    assert soak.judge(found(**more)) == [told]
