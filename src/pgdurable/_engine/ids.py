"""Instance ids: UUIDv7 (RFC 9562) by the database's clock, made by the client so that a start needs no round trip."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from weakref import WeakSet

import cython  # type: ignore[import-untyped]  # at compile time only

from pgdurable._core import make_ids
from pgdurable.errors import InvalidId

__all__ = ["Ids", "as_uuid", "check_key"]

_MAX_KEY_BYTES = 512


class Ids:
    """Makes ids of one namespace, which ascend: an id begins with the time by the database's clock.

    The partitions of history are ranges of ids, so what a client's own clock says must not matter.

    Args:
        now_us: the database's time in microseconds since 1970, or 0 while it is not known: then this machine's is used.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._pool = b""
        self._at = 0
        self._last_ms = 0
        self._count = 0
        # Threads take turns by it where there is no GIL. With and without one, asking for the time and for random bytes
        # lets others run: that comes first, and nothing that could let them run comes between the counter and the id
        # made of it.
        self._turn = object()
        _all.add(self)

    def _now_ms(self) -> int:
        now_us = self._now_us()
        return (now_us if now_us else time.time_ns() // 1000) // 1000

    def new_id(self) -> bytes:
        """16 bytes: milliseconds since 1970, a counter within the millisecond, random bits."""
        with cython.critical_section(self._turn):
            ms = self._now_ms()
            if self._at + 8 > len(self._pool):
                self._pool = os.urandom(4096)
                self._at = 0
            if ms > self._last_ms:
                self._last_ms = ms
                self._count = 0
            else:
                # Ascending within this process, also when the clock is set back.
                self._count += 1
                if self._count > 0xFFF:
                    self._last_ms += 1
                    self._count = 0
                ms = self._last_ms
            tail = bytearray(self._pool[self._at : self._at + 8])
            self._at += 8
            head = ms << 16 | 0x7000 | self._count
        tail[0] = 0x80 | (tail[0] & 0x3F)
        return head.to_bytes(8, "big") + bytes(tail)

    def new_ids(self, n: int) -> bytes:
        """The next n ids end to end, as n calls of `new_id` would give them."""
        with cython.critical_section(self._turn):
            ms = self._now_ms()
            if ms > self._last_ms:
                first_ms, first = ms, 0
            elif self._count < 0xFFF:
                first_ms, first = self._last_ms, self._count + 1
            else:
                first_ms, first = self._last_ms + 1, 0
            if n:
                self._last_ms = first_ms + (first + n - 1) // 0x1000
                self._count = (first + n - 1) % 0x1000
        return make_ids(first_ms, first, os.urandom(8 * n))

    def after_fork(self) -> None:
        """In a forked child: the random bytes at hand are the parent's."""
        self._pool, self._at = b"", 0
        self._turn = object()  # another thread may have been in the middle


_all: WeakSet[Ids] = WeakSet()


def _after_fork() -> None:
    for ids in list(_all):
        ids.after_fork()


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
