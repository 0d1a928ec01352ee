"""Draws a soak: one small picture a series, all over the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.plots import BLUE, STYLE
from benchmarks.soak import SERIES

__all__ = ["draw"]


def draw(found: dict[str, Any], path: Path) -> None:
    """Writes the SVG. Each axis begins at zero: what is flat looks flat."""
    samples = found["samples"]
    with mpl.rc_context(STYLE):
        figure, places = plt.subplots(4, 3, figsize=(10, 9), sharex=True)
        for axes, (name, (title, unit, of)) in zip(places.flat, SERIES.items(), strict=True):
            points = [(one["t"] / 60, one[name] / unit) for one in samples if one.get(name) is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], color=BLUE, linewidth=1.2)
            axes.set_ylim(0, 1.15 * max((y for _, y in points), default=1) or 1)
            axes.set_title(f"{title}, {of}" if of else title)
        for axes in places[-1]:
            axes.set_xlabel("minutes")
        figure.tight_layout()
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
