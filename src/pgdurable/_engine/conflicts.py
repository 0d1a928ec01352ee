"""Transactions that the server ended for the sake of others: run again at once, and no failed attempt."""

from __future__ import annotations

import random

import psycopg

__all__ = ["MOST_CONFLICTS", "conflict_wait", "is_conflict"]

MOST_CONFLICTS = 20
"""In a row; after that it is a failed attempt."""

_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock
_LONGEST_S = 0.25


def is_conflict(error: BaseException | None) -> bool:
    """Whether it is such an error, or one that another library made of it."""
    for _ in range(5):
        if error is None:
            return False
        if isinstance(error, psycopg.Error) and error.sqlstate in _CONFLICTS:
            return True
        inner = getattr(error, "orig", None)  # SQLAlchemy's
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return False


def conflict_wait(conflicts: int) -> float:
    """Seconds to wait after so many in a row: at random, so that those who met do not meet again."""
    return random.random() * min(0.002 * 1.5**conflicts, _LONGEST_S)
