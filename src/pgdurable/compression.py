"""Compression of payloads before they leave the process, and the chain of what is done to a payload on its way.

A compressed payload is a JSON object that says so itself. So whoever reads needs no setting to read it, and payloads
of before and after one was switched on stand side by side. SQL cannot read them: leave it off where people ask in SQL
for what workflows work on; PostgreSQL compresses large values by itself, without hiding them.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pgdurable.codec import PACKED
from pgdurable.encryption import Encryption
from pgdurable.errors import PgDurableError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codecs", "Compression", "codecs_of"]


class Compression:
    """Compresses payloads of an `Engine` or `Client`: inputs, results, checkpoints, signals, errors.

    Reading needs no setting: every engine and client reads what any other has compressed (zstd: where it is installed).

    Args:
        how: `zlib`, from the standard library, or `zstd`, twice as fast and smaller: in Python 3.14's standard library,
            before that ``pip install pgdurable[zstd]``.
        over: payloads of up to so many bytes stay as they are. Default 1024.
        level: 1 (fast) to 9 (small), for zstd to 19. Default: 6, for zstd 3.
    Raises ValueError for what is not there, PgDurableError where zstd is not installed.
    """

    def __init__(self, how: Literal["zlib", "zstd"] = "zlib", *, over: int = 1024, level: int | None = None) -> None:
        if how not in ("zlib", "zstd"):
            raise ValueError(f"compression is zlib or zstd, found {how!r}")
        if over < 64:
            raise ValueError(f"over is at least 64 bytes, found {over}")
        most = 9 if how == "zlib" else 19
        if level is not None and not 1 <= level <= most:
            raise ValueError(f"the level of {how} is 1 to {most}, found {level}")
        self.how = how
        self.over = over
        self._head = b'{"%s":{"data":"' % PACKED.encode()
        self._tail = b'","how":"%s"}}' % how.encode()
        self._pack: Callable[[bytes], bytes] = (
            _zstd(level or 3) if how == "zstd" else lambda data: zlib.compress(data, level or 6)
        )

    def __repr__(self) -> str:
        return f"<Compression by {self.how} over {self.over} bytes>"

    def pack(self, data: bytes) -> bytes:
        """The JSON that stands for this JSON; the same where nothing would be won."""
        if len(data) <= self.over:
            return data
        packed = self._head + base64.b64encode(self._pack(data)) + self._tail
        return packed if len(packed) < len(data) else data


def _zstd(level: int) -> Callable[[bytes], bytes]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        try:
            import zstandard
        except ImportError as error:
            raise PgDurableError(
                "compression by zstd needs the package zstandard", hint="Install it: pip install 'pgdurable[zstd]'"
            ) from error
        return lambda data: zstandard.ZstdCompressor(level=level).compress(data)
    return lambda data: bytes(zstd.compress(data, level=level))


class Codecs:
    """What is done to payloads on their way to the database and back: compressed, then encrypted."""

    def __init__(self, compression: Compression, encryption: Encryption | None) -> None:
        self._compression = compression
        self._encryption = encryption

    def seal(self, instance: bytes, place: str, data: bytes) -> bytes:
        """The JSON that stands for this JSON in that place of that instance."""
        packed = self._compression.pack(data)
        return packed if self._encryption is None else self._encryption.seal(instance, place, packed)

    def seal_if(self, instance: bytes, place: str, data: bytes | None) -> bytes | None:
        """As `seal`; None, and what is not as it was given any more, as it is."""
        return data if data is None or data.startswith(_MARKED) else self.seal(instance, place, data)

    def open(self, instance: bytes | UUID, place: str, data: bytes | str | None) -> bytes | str | None:
        """As `Encryption.open`. What is compressed is unpacked where it is decoded."""
        return data if self._encryption is None else self._encryption.open(instance, place, data)

    def open_history(self, row: Any, *owner: Any) -> tuple[Any, ...]:
        """As `Encryption.open_history`."""
        return row if self._encryption is None else self._encryption.open_history(row, *owner)


_MARKED = b'{"$pgdurable:'


def codecs_of(compression: Compression | None, encryption: Encryption | None) -> Any:
    """What stands for both where payloads are written and read; None: nothing is done to them."""
    return encryption if compression is None else Codecs(compression, encryption)
