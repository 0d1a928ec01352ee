"""Schedules that nobody has looked at for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["age"]


def age(ask: Callable[..., Any], name: str, by: str) -> None:
    """As if nobody had been there for so long.

    Args:
        ask: runs a statement, with `@.` for the namespace.
    """
    ask(
        "update @.schedules set tick_at = tick_at - %s::interval, next_at = next_at - %s::interval,"
        " since = since - %s::interval, revision = revision + 1, definition = definition ||"
        " case when definition ? 'anchor' then jsonb_build_object('anchor',"
        " to_char((definition ->> 'anchor')::timestamptz at time zone 'UTC' - %s::interval,"
        " 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')) else '{}' end where name = %s",
        by, by, by, by, name,
    )  # fmt: skip
