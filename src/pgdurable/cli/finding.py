"""One line of what `doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["fine", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the report, with what to do about it."""

    level: Level
    text: str
    hint: str | None = None
