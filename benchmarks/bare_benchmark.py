"""Runs a benchmark outside pytest: what `benchmarks.quick` needs of pytest-benchmark's fixture."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figures
from benchmarks.lab import Lab

__all__ = ["run"]


class _Benchmark:
    """Calls what is to be timed, and times nothing: the figures are the benchmark's own."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(
        self, target: Callable[[], Any], *, setup: Callable[[], Any] | None = None, rounds: int = 1, iterations: int = 1
    ) -> Any:
        for _ in range(rounds):
            if setup is not None:
                setup()
            result = target()
        return result


def run(bench: Callable[..., Any], dsn: str, figures: Figures, *, scale: float, rounds: int, **params: Any) -> None:
    """Runs one `bench_*` function of a benchmark file with these parameters; its figures go to `figures`."""
    lab = Lab(dsn, f"bench_{uuid.uuid4().hex[:8]}", figures, scale=scale, rounds=rounds)
    try:
        bench(_Benchmark(), lab, **params)
    finally:
        lab.close()
