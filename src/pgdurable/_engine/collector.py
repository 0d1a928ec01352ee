"""Python's cyclic garbage collector, beside thousands of instances in memory.

It looks through new objects after every 700 that were made and not freed again, and through all objects once those that
outlived two such looks are a quarter of the rest. In an engine every step in flight outlives them, since a commit takes
longer than 700 objects do. So with 18,000 instances in memory 60 % of the process's time went into walking over them
(a soak at 61,000 steps/s, which fell to 16,000 and stayed there; with the threshold below it held 60,000).
Reference counting frees what an engine makes; the collector is for cycles in the user's code, which lose nothing by
being found later.
"""

from __future__ import annotations

import gc

__all__ = ["THRESHOLD", "ease", "restore"]

# The first is more than a commit's worth of steps in flight makes: some ten objects each.
THRESHOLD = (50_000, 20, 100)

# What an interpreter of any version begins with: who has chosen otherwise keeps it.
_DEFAULTS = {(700, 10, 10), (2_000, 10, 10), (2_000, 10, 0), (10_000, 10, 10)}

_open = 0
_before: tuple[int, int, int] | None = None


def ease() -> None:
    """An engine opens: the collector looks less often, unless somebody has set how often it does."""
    global _open, _before
    _open += 1
    if _open == 1 and gc.get_threshold() in _DEFAULTS:
        _before = gc.get_threshold()
        gc.set_threshold(*THRESHOLD)


def restore() -> None:
    """An engine has closed: with the last one it is as it was, unless somebody has changed it meanwhile."""
    global _open, _before
    _open -= 1
    if _open == 0 and _before is not None:
        if gc.get_threshold() == THRESHOLD:
            gc.set_threshold(*_before)
        _before = None
