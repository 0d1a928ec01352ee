"""Figures: what a benchmark found, beside a floor or ceiling measured in the same run. All statistics are here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["Beside", "Figure", "Figures", "Latency", "as_json", "curve", "latency", "spread", "text_table"]


@dataclass(frozen=True)
class Latency:
    """Quantiles in milliseconds, from all samples. `count` is how many there were."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    count: int


def latency(*seconds: Sequence[float]) -> Latency:
    """The quantiles of samples in seconds; several rounds' samples are put together."""
    samples = _together(seconds)
    # Nearest rank: a quantile is a sample that was measured, never a value between two.
    p50, p99, p999 = np.quantile(samples, [0.5, 0.99, 0.999], method="inverted_cdf") * 1e3
    return Latency(float(p50), float(p99), float(p999), int(samples.size))


def _together(parts: Sequence[Sequence[float]]) -> np.ndarray:
    samples = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    if not samples.size:
        raise ValueError("no samples")
    return samples


def curve(*seconds: Sequence[float], points: int = 120) -> list[tuple[float, float]]:
    """(quantile, ms) pairs for drawing a distribution: evenly spread up to 0.9, then ever closer to 1."""
    samples = _together(seconds)
    tail = 1 - np.logspace(-1, -max(np.log10(max(samples.size, 10)), 1.0), points // 2)
    shares = np.concatenate([np.linspace(0.0, 0.9, points // 2, endpoint=False), tail])
    values = np.quantile(samples, shares, method="inverted_cdf") * 1e3
    return [(round(float(share), 7), round(float(value), 5)) for share, value in zip(shares, values, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Best, median and worst of the rounds of a figure."""
    array = np.asarray(values, dtype=np.float64)
    return {"min": float(array.min()), "median": float(np.median(array)), "max": float(array.max())}


@dataclass(frozen=True)
class Beside:
    """The floor or ceiling a figure stands beside: same run, same unit."""

    name: str
    value: float


@dataclass
class Figure:
    """One line of the result.

    Attributes:
        name: what it is, with dots: `transition.idle`. Claims (benchmarks/claims.py) go by it.
        value, unit: the figure.
        beside: the floor or ceiling, in the same unit; None only where nothing comparable exists.
        latency: quantiles. A throughput (unit `.../s`) must have them.
        note: how it was chosen, for instance "best of 3 rounds".
        params: what was varied, for instance {"concurrent": 200}.
        series: points for a plot.
        extra: other numbers worth keeping.
    """

    name: str
    value: float
    unit: str
    beside: Beside | None = None
    latency: Latency | None = None
    note: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unit.endswith("/s") and self.latency is None:
            raise ValueError(f"{self.name}: a throughput without its p99 says nothing; give latency=")

    @property
    def ratio(self) -> float | None:
        """The figure over what stands beside it."""
        return None if self.beside is None else self.value / self.beside.value

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


class Figures:
    """Collects the figures of a run."""

    def __init__(self) -> None:
        self.all: list[Figure] = []

    def add(self, figure: Figure) -> Figure:
        if any(known.name == figure.name for known in self.all):
            raise ValueError(f"there already is a figure named {figure.name}")
        self.all.append(figure)
        return figure

    def __getitem__(self, name: str) -> Figure:
        return next(figure for figure in self.all if figure.name == name)

    def ratios(self) -> dict[str, float | None]:
        return {figure.name: figure.ratio for figure in self.all}


def number(value: float) -> str:
    """A number as people read it: three figures that matter, thousands apart."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def table(figures: Iterable[Figure]) -> list[list[str]]:
    """The figures as rows of text, headed: for terminals and for Markdown."""
    rows = [["figure", "value", "p50 ms", "p99 ms", "p99.9 ms", "beside", "its value", "ratio"]]
    for figure in figures:
        quantiles = (
            ["", "", ""]
            if figure.latency is None
            else [f"{x:.2f}" for x in (figure.latency.p50_ms, figure.latency.p99_ms, figure.latency.p999_ms)]
        )
        beside = ["", "", ""]
        if figure.beside is not None and figure.ratio is not None:
            beside = [figure.beside.name, f"{number(figure.beside.value)} {figure.unit}", f"{figure.ratio:.2f}"]
        rows.append([figure.name, f"{number(figure.value)} {figure.unit}", *quantiles, *beside])
    return rows


def text_table(figures: Iterable[Figure]) -> str:
    """The same as aligned text."""
    rows = table(figures)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_json(result: dict[str, Any]) -> str:
    """The result of a run as JSON with the points of each curve on one line."""
    text = json.dumps(result, indent=1)
    text = re.sub(r"\[\s+(-?[\d.e-]+),\s+(-?[\d.e-]+)\s+\]", r"[\1, \2]", text)
    return re.sub(r"(\[-?[\d.e-]+, -?[\d.e-]+\],)\n\s+(?=\[)", r"\1 ", text) + "\n"
