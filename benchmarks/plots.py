"""Draws the figures of a run as SVG: `.venv/bin/python -m benchmarks.plots RESULTS.json [FOLDER]`.

The pictures have no background and colours of middling brightness, so they can be read on a light page and on a dark
one. The same figures give the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

__all__ = ["draw"]

INK = "#7d8590"  # text and axes: about 4:1 against white and against a dark page
BLUE, ORANGE, GREEN, PINK = "#3b82f6", "#d97706", "#16a34a", "#db2777"
STYLE = {
    "svg.hashsalt": "pgdurable",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}

Found = dict[str, dict[str, Any]]


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Writes those of the pictures whose figures are there, and returns their paths."""
    found: Found = {figure["name"]: figure for figure in results["figures"]}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for name, picture in PICTURES.items():
            drawn = picture(found)
            if drawn is None:
                continue
            drawn.text(0.995, 0.012, _caption(results), ha="right", va="bottom", fontsize=7.5)
            drawn.tight_layout(rect=(0, 0.035, 1, 1))
            path = folder / f"{name}.svg"
            drawn.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
            plt.close(drawn)
            path.write_text(_tidy(path.read_text(encoding="utf-8"), picture.__doc__ or name), encoding="utf-8")
            written.append(path)
    return written


def latency(found: Found) -> Figure | None:
    """How the latencies of a step spread, idle and at rates offered, beside bare inserts and commits."""
    lines = [
        ("transition.idle", "bare insert", "bare one-row insert, idle", INK, "--"),
        ("transition.idle", "transition", "one transition, idle", GREEN, "-"),
        ("transition.idle_busy_wait", "transition", "the same, busy waiting", GREEN, "-."),
        ("offered.1k", "step", "1,000 steps/s offered", BLUE, "-"),
        ("offered.10k", "step", "10,000 steps/s offered", ORANGE, "-"),
        ("offered.10k", "commit only", "the same, commit only", ORANGE, "--"),
        ("offered.50k", "step", "50,000 steps/s offered", PINK, "-"),
        ("offered.50k", "commit only", "the same, commit only", PINK, "--"),
    ]
    drawn, axes = _new("Latency by share of steps (ms)")
    for name, series, label, colour, style in lines:
        points = found.get(name, {}).get("series", {}).get(series)
        if points:
            # One minus the share, on a logarithmic axis turned round: every nine is as wide as the one before.
            xs = [max(1 - share, 1e-4) for share, _ in points if share <= 0.9999]
            ys = [ms for share, ms in points if share <= 0.9999]
            axes.plot(xs, ys, style, color=colour, label=label)
    if not axes.lines:
        plt.close(drawn)
        return None
    axes.set_xscale("log")
    _log_ms(axes)
    axes.set_xlim(1, 1e-4)
    axes.set_xticks([0.5, 0.1, 0.01, 0.001, 0.0001], ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"])
    axes.xaxis.minorticks_off()
    axes.legend(fontsize=8.5, loc="upper left")
    return drawn


def throughput(found: Found) -> Figure | None:
    """Durable steps/s by concurrency, beside the COPY ceiling; p50 and p99 below."""
    chosen = sorted(
        (figure for name, figure in found.items() if re.fullmatch(r"throughput\.\d+", name)),
        key=lambda figure: figure["params"]["concurrent"],
    )
    if len(chosen) < 2:
        return None
    drawn, (above, below) = plt.subplots(2, 1, figsize=(7.2, 5.2), sharex=True, height_ratios=[3, 2])
    at = [figure["params"]["concurrent"] for figure in chosen]
    above.set_title("Durable steps/s by concurrent instances (ten steps each)")
    above.plot(at, [figure["beside"]["value"] for figure in chosen], "--o", color=INK, label="COPY of the same rows")
    above.plot(at, [figure["value"] for figure in chosen], "-o", color=BLUE, label="pgdurable")
    above.set_ylim(bottom=0)
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    above.legend(fontsize=8.5, loc="upper left")
    below.set_title("Latency of a step, as the workflow sees it (ms)")
    for quantile, style, label in (("p50_ms", "-o", "p50"), ("p99_ms", "--o", "p99")):
        below.plot(at, [figure["latency"][quantile] for figure in chosen], style, color=ORANGE, label=label)
    below.set_xscale("log")
    _log_ms(below)
    below.set_xticks(at, [f"{number:,}" for number in at])
    below.xaxis.minorticks_off()
    below.legend(fontsize=8.5, loc="upper left")
    return drawn


def growth(found: Found) -> Figure | None:
    """Steps/s by the number of history rows that are there already."""
    chosen = sorted(
        (
            figure
            for name, figure in found.items()
            if name.startswith("growth.") and "rows_behind" in figure["params"] and figure["unit"] == "steps/s"
        ),
        key=lambda figure: figure["params"]["rows_behind"],
    )
    if len(chosen) < 2:
        return None
    drawn, axes = _new("Durable steps/s by history rows behind them")
    axes.bar(range(len(chosen)), [figure["value"] for figure in chosen], 0.55, color=BLUE)
    axes.set_xticks(range(len(chosen)), [_rows(figure["params"]["rows_behind"]) for figure in chosen])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for place, figure in enumerate(chosen):
        text = f"{figure['value']:,.0f}\np99 {figure['latency']['p99_ms']:.1f} ms"
        axes.annotate(text, (place, figure["value"]), (0, 3), textcoords="offset points", ha="center", fontsize=8.5)
    axes.margins(y=0.2)
    return drawn


def peers(found: Found) -> Figure | None:
    """Durable steps/s of other libraries on the same server in the same run."""
    chosen = sorted(
        (figure for name, figure in found.items() if name.startswith("peers.") and figure["unit"] == "steps/s"),
        key=lambda figure: figure["value"],
    )
    if len(chosen) < 2:
        return None
    drawn, axes = _new(
        "Durable steps/s, ten-step workflow, each at its best concurrency", height=0.7 + 0.6 * len(chosen)
    )
    names = [figure["name"].partition(".")[2] for figure in chosen]
    colours = [BLUE if name == "pgdurable" else INK for name in names]
    axes.barh(names, [figure["value"] for figure in chosen], 0.55, color=colours)
    for place, figure in enumerate(chosen):
        p50, p99 = figure["latency"]["p50_ms"], figure["latency"]["p99_ms"]
        text = f" {figure['value']:,.0f}  (p50 {p50:.1f}, p99 {p99:.1f} ms)"
        axes.annotate(text, (figure["value"], place), va="center", fontsize=8.5)
    axes.set_xscale("log")
    left = min(figure["value"] for figure in chosen)
    axes.set_xlim(10 ** (len(str(int(left))) - 2), max(figure["value"] for figure in chosen) * 20)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    return drawn


PICTURES: dict[str, Callable[[Found], Figure | None]] = {
    "latency": latency, "throughput": throughput, "growth": growth, "peers": peers,
}  # fmt: skip


def _new(title: str, height: float = 3.8) -> tuple[Figure, Axes]:
    drawn, axes = plt.subplots(figsize=(7.2, height))
    axes.set_title(title)
    return drawn, axes


def _log_ms(axes: Axes) -> None:
    """A logarithmic axis of milliseconds with ticks at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.yaxis.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _rows(number: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:g} {name}"
    return f"{number:,}"


def _caption(results: dict[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    return (
        f"{machine['cores']} cores, PostgreSQL {settings.get('server_version', '?').split()[0]}, fsync"
        f" {settings.get('fsync', '?')}, synchronous_commit {settings.get('synchronous_commit', '?')},"
        f" Python {machine['python']}, commit {machine['commit']}"
    )


def _tidy(svg: str, title: str) -> str:
    """With a title for readers, without the XML head, the metadata and needless digits: about half the bytes."""
    svg = re.sub(r"^<\?xml.*?\?>\s*<!DOCTYPE.*?>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\d+\.\d{2})\d+", r"\1", svg)
    svg = re.sub(r"\s*\n(?=[MLQCz] ?[\d-]*)", " ", svg)  # the points of a path on one line
    svg = re.sub(r"(<svg[^>]*>)", rf"\1\n <title>{title.rstrip('.')}</title>", svg, count=1)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    source = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else source.parent
    for path in draw(json.loads(source.read_text(encoding="utf-8")), folder):
        print(path)


if __name__ == "__main__":
    main()
