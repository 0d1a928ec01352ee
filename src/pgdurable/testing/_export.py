"""The format in which histories leave a database: JSON lines, one line that says what an instance is, one per event.

    {"format": "pgdurable.history", "version": 1, "payloads": "kept", "instance": {"id": ..., "workflow": ..., ...}}
    {"event_id": 1, "kind": "step", "seq": 0, "name": "charge", "payload": {...}, "at": "2030-01-01T00:00:00Z", ...}
    {"end": 1}

A file may hold many instances, one after the other. `payloads` is `kept`, or `redacted`: then texts and numbers were
replaced by others of the same shape. What was encrypted in the database is so here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec

from pgdurable.encryption import sealed_with
from pgdurable.errors import InvalidInput

__all__ = ["Recorded", "read_histories", "redacted", "write_history"]

_FORMAT = "pgdurable.history"
_VERSION = 1
_PAYLOADS = ("input", "output", "error")
# Of these kinds the payload is the engine's own, and nobody's secret.
_OWN_PAYLOADS = ("attempt", "timer", "child", "forked", "patch")
# Of an error, and of a child's end, what is told as it is and what is replaced; a traceback is left out.
_KEPT = ("type", "step", "attempt", "retryable", "id", "seq", "status")
_REDACTED = ("message", "args", "attrs", "output", "error")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass
class Recorded:
    """One instance of a file.

    Attributes:
        id: its user-chosen id, or its UUID as text.
        redacted: whether its payloads were replaced.
        rows: of its history, in the columns that replay takes; payloads as JSON texts.
    """

    id: str
    instance_id: UUID
    workflow: str
    version: str | None
    status: str
    started_at: datetime
    input: str
    redacted: bool
    rows: list[tuple[Any, ...]] = field(default_factory=list)


# -- writing ---------------------------------------------------------------------------------------------------------


def write_history(instance: tuple[Any, ...], rows: Iterable[tuple[Any, ...]], *, redact: bool = False) -> Iterator[str]:
    """The lines of one instance.

    Args:
        instance: id, key, workflow, version, status, created_at, started_at, finished_at, input, output, error.
        rows: event_id, kind, seq, name, attempt, fingerprint, payload, error, recorded_at. Payloads are JSON texts.
        redact: replace texts and numbers of payloads.
    """
    names = "id key workflow version status created_at started_at finished_at input output error".split()
    told = dict(zip(names, instance, strict=True))
    told["id"] = str(told["id"])
    for name in _PAYLOADS:
        told[name] = _payload(told[name], redact, name == "error")
    yield _line(
        {"format": _FORMAT, "version": _VERSION, "payloads": "redacted" if redact else "kept", "instance": told}
    )
    count = 0
    for event_id, kind, seq, name, attempt, fingerprint, payload, error, at in rows:
        count += 1
        shaped = _payload(payload, redact and kind not in _OWN_PAYLOADS, kind == "child_end")
        yield _line(
            {
                "event_id": event_id, "kind": kind, "seq": seq, "name": name, "attempt": attempt,
                "fingerprint": fingerprint, "payload": shaped, "error": _payload(error, redact, True), "at": at,
            }
        )  # fmt: skip
    yield _line({"end": count})


def _line(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _payload(text: str | None, redact: bool, is_error: bool) -> Any:
    if text is None:
        return None
    if not redact:
        return msgspec.Raw(text.encode())
    value = msgspec.json.decode(text)
    if sealed_with(value) is not None:
        return value  # it tells nobody anything as it is
    if not is_error or not isinstance(value, dict):
        return redacted(value)
    kept = {name: value[name] for name in _KEPT if name in value}
    rest = {name: redacted(value[name]) for name in _REDACTED if name in value}
    return {**kept, **rest}


def redacted(value: Any) -> Any:
    """Another value of the same shape: keys, lengths, true, false and null stay, texts and numbers do not.

    What reads as a date, a number or a UUID is replaced by one, so that it is decoded to the same type.
    """
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, str):
        if _UUID.fullmatch(value):
            return str(UUID(int=0))
        if date := _DATE.fullmatch(value):
            return "2000-01-01T00:00:00Z" if date[1] else "2000-01-01"
        return re.sub(r"\d", "0", value) if _NUMBER.fullmatch(value) else "x" * len(value)
    if isinstance(value, bool) or value is None:
        return value
    return 0 if isinstance(value, int) else 0.0


# -- reading ---------------------------------------------------------------------------------------------------------


class _Instance(msgspec.Struct):
    id: UUID
    workflow: str
    status: str
    created_at: datetime
    input: msgspec.Raw
    key: str | None = None
    version: str | None = None
    started_at: datetime | None = None


class _Row(msgspec.Struct):
    event_id: int
    kind: str
    at: datetime
    seq: int | None = None
    name: str | None = None
    attempt: int | None = None
    fingerprint: int | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _Head(msgspec.Struct):
    format: Literal["pgdurable.history"]
    version: int
    payloads: Literal["kept", "redacted"]
    instance: _Instance


_read_row = msgspec.json.Decoder(_Row).decode


def read_histories(source: str | bytes | Path | Iterable[str], name: str = "the history") -> list[Recorded]:
    """The instances of a file, of its text, or of its lines. Raises InvalidInput that names the line."""
    if isinstance(source, Path):
        name, source = str(source), source.read_text(encoding="utf-8")
    if isinstance(source, bytes):
        source = source.decode()
    lines = source.splitlines() if isinstance(source, str) else source
    found: list[Recorded] = []
    open_: Recorded | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            open_ = _take(line.encode(), found, open_)
        except (msgspec.MsgspecError, ValueError) as error:
            raise InvalidInput(
                f"{name}, line {number}: {error}",
                hint="Histories are what `pgdurable export ID... > file` writes, or sim.export(handle).",
            ) from None
    if open_ is not None or not found:
        where = f"the history of instance {open_.id} is cut off" if open_ is not None else "there is no instance in it"
        raise InvalidInput(f"{name}: {where}", hint="Export it again: pgdurable export ID... > file")
    return found


def _take(line: bytes, found: list[Recorded], open_: Recorded | None) -> Recorded | None:
    """Takes in a line; returns the instance whose lines follow."""
    what: dict[str, msgspec.Raw] = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    if "format" in what:
        if open_ is not None:
            raise ValueError(f"another instance begins before the history of {open_.id} has ended")
        version = msgspec.json.decode(what.get("version", b"0"))
        if version != _VERSION:
            raise ValueError(f"this is version {version} of the format; this library reads version {_VERSION}")
        head = msgspec.json.decode(line, type=_Head)
        row = head.instance
        found.append(
            Recorded(
                row.key or str(row.id), row.id, row.workflow, row.version, row.status, row.started_at or row.created_at,
                _text(row.input) or "{}", head.payloads == "redacted",
            )
        )  # fmt: skip
        return found[-1]
    if open_ is None:
        raise ValueError("there is no instance that this event belongs to")
    if "end" in what:
        if msgspec.json.decode(what["end"]) != len(open_.rows):
            raise ValueError(
                f"instance {open_.id} has {len(open_.rows)} events here, {bytes(what['end']).decode()} there"
            )
        return None
    event = _read_row(line)
    open_.rows.append(
        (open_.instance_id, event.event_id, event.kind, event.seq, event.name, event.attempt, event.fingerprint,
         _text(event.payload), _text(event.error), event.at)
    )  # fmt: skip
    return open_


def _text(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).decode()
    return None if text == "null" else text
