"""The history of a run: one file, one JSON line per event, written by every process of it.

Each line is one write to a file opened for appending, so the order of the lines is the order in which things
happened, for all processes together, whatever their clocks say. It survives kill -9 of any of them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

__all__ = ["Event", "History", "read"]

Event = dict[str, Any]


class History:
    """Where a process notes what it does. `by` is the process's name in the run."""

    def __init__(self, path: Path | str, by: str) -> None:
        self.by = by
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, event: str, **what: Any) -> None:
        """Appends an event. `at_us` is this process's clock, which a fault may have set wrong on purpose."""
        line = {"event": event, "by": self.by, "at_us": time.time_ns() // 1000, **what}
        # A newline before it too: what a killed process left half written spoils no line but its own.
        os.write(self._fd, b"\n" + json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def read(path: Path | str) -> list[Event]:
    """The events, in order. A line that was cut short by a kill is left out: nobody was told of it."""
    events = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return events
