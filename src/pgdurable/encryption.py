"""Encryption of what workflows work on, before it leaves the process: inputs, results, checkpoints, signals, errors.

AES-256-GCM with a key of its own for each instance, derived from yours: so the random nonces of one key never come
near the number at which two may meet, however many instances there are. A ciphertext is bound to its instance and to
its place in it; put anywhere else it is refused. The key's name stands beside it, so keys can be changed while
instances run.
"""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

import msgspec

from pgdurable.codec import SEALED
from pgdurable.errors import PgDurableError

__all__ = ["Encryption", "is_sealed", "place_of", "sealed_with"]

_KEY_BYTES = 32
_NONCE_BYTES = 12
_MOST_CIPHERS = 4096
# Of these rows of history the payload is the engine's own, and written by SQL functions too.
_PLAIN = ("attempt", "forked", "retry", "patch")
_PURPOSE = b"pgdurable payload 1 "


class _Box(msgspec.Struct):
    key: str
    data: str
    why: str | None = None


_Envelope = msgspec.defstruct("_Envelope", [("box", _Box)], rename={"box": SEALED})
_read = msgspec.json.Decoder(_Envelope).decode


class Encryption:
    """The keys with which an `Engine` or `Client` encrypts payloads: inputs, results, signals, errors.

    Ids, names of workflows, steps and signals, labels, times and the fingerprints of arguments stay readable: people
    and the engine look for them. Nothing is lost where a key is missing: the instance is paused, and goes on once the
    key is there and it is resumed. Needs the package cryptography: ``pip install pgdurable[crypto]``.

    Args:
        keys: name to key, 32 bytes or their base64 as `new_key` makes it. All of them decrypt.
        write: name of the key that encrypts. Default: the last one.
        plain: what becomes of payloads that are not encrypted, such as those of SQL's `start`, or of the time before.
            `refuse`: they are as if their key was missing; so nobody with access to the tables can slip one in.
    Raises ValueError for a key that is none.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes | str],
        *,
        write: str | None = None,
        plain: Literal["accept", "refuse"] = "accept",
    ) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise PgDurableError(
                "encryption needs the package cryptography", hint="Install it: pip install 'pgdurable[crypto]'"
            ) from error
        self._cipher, self._invalid = AESGCM, InvalidTag
        self._keys = {_name(name): _key(name, key) for name, key in keys.items()}
        if not self._keys:
            raise ValueError("encryption needs at least one key")
        self.write = next(reversed(self._keys)) if write is None else write
        if self.write not in self._keys:
            raise ValueError(f"there is no key named {self.write!r} to write with; there are {self.names}")
        if plain not in ("accept", "refuse"):
            raise ValueError(f"plain is accept or refuse, found {plain!r}")
        self._refuses_plain = plain == "refuse"
        self._ciphers: dict[tuple[str, bytes], Any] = {}
        self._head = msgspec.json.encode(self.write)

    @staticmethod
    def new_key() -> str:
        """A new key at random, as text that `keys` takes. Keep it where your passwords are."""
        return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode()

    @property
    def names(self) -> str:
        """The keys' names, for messages."""
        return ", ".join(map(repr, self._keys))

    def __repr__(self) -> str:
        return f"<Encryption with keys {self.names}, writing with {self.write!r}>"

    def _of(self, key: str, instance: bytes) -> Any:
        cipher = self._ciphers.get((key, instance))
        if cipher is None:
            if len(self._ciphers) >= _MOST_CIPHERS:
                self._ciphers.clear()
            cipher = self._cipher(hmac.digest(self._keys[key], _PURPOSE + instance, "sha256"))
            self._ciphers[key, instance] = cipher
        return cipher

    def seal(self, instance: bytes, place: str, data: bytes) -> bytes:
        """The JSON that stands for this JSON in that place of that instance."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed: bytes = nonce + self._of(self.write, instance).encrypt(nonce, data, place.encode())
        text = base64.b64encode(sealed)
        return b'{"%s":{"data":"%s","key":%s}}' % (SEALED.encode(), text, self._head)

    def seal_if(self, instance: bytes, place: str, data: bytes | None) -> bytes | None:
        """As `seal`; None, and what is sealed already, as it is."""
        return data if data is None or is_sealed(data) else self.seal(instance, place, data)

    def open(self, instance: bytes | UUID, place: str, data: bytes | str | None) -> bytes | str | None:
        """The JSON that was sealed; what is not, as it is. Where that cannot be: JSON that the codec says so of.

        Never raises, since whoever reads rows reads those of many instances.
        """
        if data is None:
            return None
        if not is_sealed(data):
            return _unreadable("", f"it is not encrypted, and {self!r} refuses that") if self._refuses_plain else data
        try:
            box = _read(data).box  # type: ignore[attr-defined]
            sealed = base64.b64decode(box.data, validate=True)
        except (msgspec.MsgspecError, ValueError):
            return _unreadable("", "what stands there has been damaged")
        if box.key not in self._keys:
            return _unreadable(box.key, f"there is no such key here; there are {self.names}")
        raw = instance.bytes if isinstance(instance, UUID) else instance
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            opened: bytes = self._of(box.key, raw).decrypt(nonce, rest, place.encode())
        except (self._invalid, ValueError):
            why = "it does not open it: another key had that name, or the data was changed or moved"
            return _unreadable(box.key, why)
        return opened

    def open_history(self, row: Any, owner: UUID | None = None) -> tuple[Any, ...]:
        """A row of history (instance_id, event_id, kind, seq, name, attempt, _, payload, error, ...), opened.

        Args:
            owner: the instance it was recorded by, where it was copied from another.
        """
        id, _, kind, seq, name, attempt, _, payload, error, *_ = row
        id = id if owner is None else owner
        kind = kind.removeprefix("undone ")
        place = place_of(kind, seq, name, attempt)
        if kind not in _PLAIN and payload is not None:
            payload = _text(self.open(id, place, payload))
        if error is not None:
            error = _text(self.open(id, place + " error", error))
        return (*row[:7], payload, error, *row[9:])


class SealedFlusher:
    """Stands before the core's `Flusher`, and encrypts (or compresses) what goes into it."""

    def __init__(self, flusher: Any, encryption: Any) -> None:
        self._flusher = flusher
        self._encryption = encryption

    def __getattr__(self, name: str) -> Any:
        return getattr(self._flusher, name)

    def add_instance(self, id: bytes, *rest: Any) -> None:
        *before, input, tag = rest
        self._flusher.add_instance(id, *before, self._encryption.seal(id, "input", input), tag)

    def add_history(
        self, id: bytes, event_id: int, seq: int | None, mark: int | None, elapsed_ms: float | None,
        attempt: int | None, kind: str, name: str | None, payload: bytes | None, error: bytes | None, *rest: Any,
    ) -> None:  # fmt: skip
        seal = self._encryption.seal_if
        place = place_of(kind, seq, name, attempt)
        if kind not in _PLAIN:
            payload = seal(id, place, payload)
        error = seal(id, place + " error", error)
        self._flusher.add_history(id, event_id, seq, mark, elapsed_ms, attempt, kind, name, payload, error, *rest)

    def add_release(self, id: bytes, status: str, output: bytes | None, error: bytes | None, *rest: Any) -> None:
        seal = self._encryption.seal_if
        if status == "paused":  # a reason of the engine's, for people without keys
            self._flusher.add_release(id, status, output, error, *rest)
            return
        self._flusher.add_release(id, status, seal(id, "output", output), seal(id, "error", error), *rest)


def place_of(kind: str, seq: int | None, name: str | None, attempt: int | None) -> str:
    """What a payload of history is bound to, beside its instance."""
    if kind == "signal":
        return f"signal {name}"
    if kind == "update":
        return f"request of update {name}"
    return f"attempt {seq} {attempt}" if kind == "attempt" else f"{kind} {seq}"


def sealed_with(value: Any) -> tuple[str, int] | None:
    """Of a decoded payload that is still encrypted: the key's name and the number of bytes; else None."""
    box = value.get(SEALED) if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(box, dict) or not isinstance(box.get("data"), str):
        return None
    return str(box.get("key")), max(len(box["data"]) * 3 // 4 - _NONCE_BYTES - 16, 0)


def is_sealed(data: bytes | str) -> bool:
    """Whether this JSON is the encrypted form of another."""
    return data.startswith(f'{{"{SEALED}"') if isinstance(data, str) else data.startswith(b'{"%s"' % SEALED.encode())


def _unreadable(key: str, why: str) -> bytes:
    return msgspec.json.encode({SEALED: {"data": "", "key": key, "why": why}})


def _text(data: bytes | str | None) -> str | None:
    return data.decode() if isinstance(data, bytes) else data


def _name(name: str) -> str:
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 100:
        raise ValueError(f"a key's name is text of 1 to 100 characters, found {name!r:.60}")
    return name


def _key(name: str, key: bytes | str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(key) if isinstance(key, str) else bytes(key)
    except (ValueError, TypeError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise ValueError(f"key {name!r} is not {_KEY_BYTES} bytes, nor their base64: Encryption.new_key() makes one")
    return raw
