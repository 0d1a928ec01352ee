"""Instance ids: UUIDv7 (RFC 9562), made by the client so that a start needs no round trip."""

from __future__ import annotations

import os
import time
import uuid

import cython  # type: ignore[import-untyped]  # at compile time only

from pgdurable._core import make_ids
from pgdurable.errors import InvalidId

__all__ = ["check_key", "new_id", "new_ids"]

_MAX_KEY_BYTES = 512
_pool = b""
_at = 0
_last_ms = 0
_count = 0
# Threads take turns by it where there is no GIL. With and without one, asking the system for random bytes lets others
# run: that comes first, and nothing that could let them run comes between the counter and the id made of it.
_turn = object()


def new_id() -> bytes:
    """16 bytes: milliseconds since 1970, a counter within the millisecond, random bits."""
    global _pool, _at, _last_ms, _count
    with cython.critical_section(_turn):
        if _at + 8 > len(_pool):
            _pool = os.urandom(4096)
            _at = 0
        ms = time.time_ns() // 1_000_000
        if ms > _last_ms:
            _last_ms = ms
            _count = 0
        else:
            # Ascending within this process, also when the clock is set back.
            _count += 1
            if _count > 0xFFF:
                _last_ms += 1
                _count = 0
            ms = _last_ms
        tail = bytearray(_pool[_at : _at + 8])
        _at += 8
        head = ms << 16 | 0x7000 | _count
    tail[0] = 0x80 | (tail[0] & 0x3F)
    return head.to_bytes(8, "big") + bytes(tail)


def new_ids(n: int) -> bytes:
    """The next n ids end to end, as n calls of `new_id` would give them."""
    global _last_ms, _count
    with cython.critical_section(_turn):
        ms = time.time_ns() // 1_000_000
        if ms > _last_ms:
            first_ms, first = ms, 0
        elif _count < 0xFFF:
            first_ms, first = _last_ms, _count + 1
        else:
            first_ms, first = _last_ms + 1, 0
        if n:
            _last_ms = first_ms + (first + n - 1) // 0x1000
            _count = (first + n - 1) % 0x1000
    return make_ids(first_ms, first, os.urandom(8 * n))


def _after_fork() -> None:
    global _pool, _at, _turn
    _pool, _at = b"", 0
    _turn = object()  # another thread may have been in the middle


os.register_at_fork(after_in_child=_after_fork)


def check_key(key: str) -> str:
    """A user-chosen id, or InvalidId."""
    if not isinstance(key, str):
        raise InvalidId(
            f"an id is a text of 1 to {_MAX_KEY_BYTES} bytes, found {type(key).__name__} {key!r}",
            hint="Write start(..., id=str(value)).",
        )
    try:
        nbytes = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidId(f"an id is valid Unicode text, found {key!r}", hint="Choose another id.") from None
    if not 1 <= nbytes <= _MAX_KEY_BYTES or "\0" in key:
        shown = key if nbytes <= 60 else key[:50] + "..."
        raise InvalidId(
            f"an id is a text of 1 to {_MAX_KEY_BYTES} bytes without NUL, found {nbytes} bytes: {shown!r}",
            hint="Choose another id, or leave it out: start() then makes a UUID.",
        )
    return key


def as_uuid(text: str) -> uuid.UUID | None:
    """The UUID a text spells, or None."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
