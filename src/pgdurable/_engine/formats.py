"""How the payloads of an instance are written, as a whole: `instances.format`. This version writes and knows the first.

A single value of a later form says so itself (see codec.py). This is for a change that no value can tell of.
"""

from __future__ import annotations

from pgdurable.errors import PgDurableError

__all__ = ["unknown_format"]

KNOWN = 1


def unknown_format(label: object, found: int) -> PgDurableError:
    """What is said of an instance of a later format: it is paused, and never run."""
    return PgDurableError(
        f"{label}: its payloads are written in format {found}, and this version of pgdurable knows none after {KNOWN}",
        detail="A later version of pgdurable has started it.",
        hint="Let workers of that version, or a later one, run it: upgrade these, or stop them; then resume it.",
    )
