"""What comes out of a call that fails: exceptions as JSON, and back without running any code of theirs."""

from __future__ import annotations

import datetime as dt
import sys
import traceback as tb
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from pgdurable.codec import (
    clean,
    decode_stored,
    encode,
)
from pgdurable.errors import HeartbeatTimeout, NonRetryable, StepFailed, StepInterrupted, StepTimeout

__all__ = ["decode_error", "encode_error"]

_MESSAGE_CHARS = 4_096
_TRACEBACK_CHARS = 12_288
_STATE_BYTES = 16_384

# Of ours, which are rebuilt with what the checkpoint knows of the step.
_OWN: dict[str, type[StepFailed]] = {
    f"{cls.__module__}.{cls.__qualname__}": cls for cls in (StepTimeout, HeartbeatTimeout, StepInterrupted)
}
_TAG = "$type"
_TAGGED: dict[type, str] = {
    tuple: "tuple", bytes: "bytes", Decimal: "Decimal", UUID: "UUID", dt.datetime: "datetime",
    dt.date: "date", dt.time: "time", dt.timedelta: "timedelta",
}  # fmt: skip
_UNTAGGED = {name: cls for cls, name in _TAGGED.items()}


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters left out ...\n{text[-half:]}"


def _tagged(value: Any) -> Any:
    """An exception's argument with its type beside it: there is no annotation to decode it by."""
    kind = type(value)
    if kind in _TAGGED:
        return {_TAG: _TAGGED[kind], "value": list(map(_tagged, value)) if kind is tuple else value}
    if kind is list:
        return [_tagged(item) for item in value]
    if kind is dict:
        if _TAG in value:
            raise ValueError(f"a key {_TAG!r} is taken")
        return {key: _tagged(item) for key, item in value.items()}
    return value


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: _untagged(item) for key, item in value.items()}
    cls, inner = _UNTAGGED[value[_TAG]], value["value"]
    return tuple(map(_untagged, inner)) if cls is tuple else msgspec.convert(inner, cls)


def _state(value: Any) -> msgspec.Raw | None:
    try:
        return msgspec.Raw(encode(_tagged(value), limit=_STATE_BYTES))
    except Exception:
        return None


def encode_error(
    exc: BaseException, *, step: str | None = None, attempt: int | None = None, keep_traceback: bool = True
) -> bytes:
    """The JSON object of an exception: type, message, traceback, and args and attrs if they have a JSON form.

    Never raises; at most some 64 KiB: long texts lose their middle, large arguments are left out.
    """
    cls = type(exc)
    # Before Python 3.11 asyncio and concurrent.futures each had their own.
    name = "builtins.TimeoutError" if cls.__name__ == "TimeoutError" else f"{cls.__module__}.{cls.__qualname__}"
    error: dict[str, Any] = {"type": clean(name)}
    try:
        error["message"] = _shorten(clean(str(exc)), _MESSAGE_CHARS)
    except Exception as failure:
        error["message"] = f"(its message could not be made: {type(failure).__name__})"
    if keep_traceback:
        try:
            text = "".join(tb.format_exception(cls, exc, exc.__traceback__))
            error["traceback"] = _shorten(clean(text), _TRACEBACK_CHARS)
        except Exception as failure:
            error["traceback"] = f"(its traceback could not be made: {type(failure).__name__})"
    for key, value in (("args", list(exc.args)), ("attrs", getattr(exc, "__dict__", {}))):
        state = _state(value)
        if state is not None:
            error[key] = state
    if isinstance(exc, NonRetryable):
        error["retryable"] = False
    if step is not None:
        error["step"] = clean(step)
    if attempt is not None:
        error["attempt"] = attempt
    return msgspec.json.encode(error, order="sorted")


def _exception_class(name: str) -> type[Exception] | None:
    """The class of that full name if its module is loaded. Imports nothing and runs no one's `__getattr__`."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        if found is None:
            continue
        for part in parts[cut:]:
            try:
                found = object.__getattribute__(found, "__dict__").get(part)
            except AttributeError:
                return None
            if isinstance(found, type):
                found_type: type = found
                # A class's __dict__ is a slot of `type`, not of `object`.
                if part is parts[-1]:
                    return found_type if issubclass(found_type, Exception) else None
                found = _Namespace(type.__dict__["__dict__"].__get__(found_type))
        return None
    return None


class _Namespace:
    def __init__(self, names: Mapping[str, Any]) -> None:
        self.__dict__.update(names)


def _rebuilt(stored: Mapping[str, Any]) -> Exception | None:
    args, attrs = stored.get("args"), stored.get("attrs")
    if not isinstance(args, list) or not isinstance(attrs, dict):
        return None
    cls = _exception_class(str(stored.get("type")))
    # UnicodeError's subclasses keep their fields in C and only __init__ fills them.
    if cls is None or issubclass(cls, UnicodeError):
        return None
    try:
        values = tuple(_untagged(args))
        exc = cls.__new__(cls, *values)
        if type(exc) is not cls and not (cls is OSError and isinstance(exc, OSError)):
            return None
        exc.args = values
        exc.__dict__.update(_untagged(attrs))
        str(exc)
    except Exception:
        return None
    return exc


def decode_error(data: bytes | str, *, step: str, attempt: int) -> BaseException:
    """The exception to raise in the workflow for what `encode_error` stored; the same live and in replay.

    The original type is rebuilt only if its module is loaded, it is a subclass of Exception, and all its
    arguments and attributes had a JSON form. Its `__init__` is not run; nothing is imported. Its `__cause__`
    is then a `StepFailed` with the type's name, message and traceback; otherwise that is what is returned.
    """
    stored = decode_stored(data, what=f"error of step {step!r}")
    if not isinstance(stored, dict):
        stored = {"type": "unknown", "message": str(stored)}
    name, message = str(stored.get("type", "unknown")), str(stored.get("message", ""))
    short = name.removeprefix("builtins.")
    own = _OWN.get(name)
    text = f"step {step!r} failed on attempt {attempt}: {short}: {message}" if own is None else message
    cause = (own or StepFailed)(text, step=step, attempt=attempt, type=short, traceback=stored.get("traceback"))
    if own is not None:
        return cause
    exc = _rebuilt(stored)
    if exc is None:
        cause.hint = "the original exception could not be rebuilt here; .type and .traceback tell what it was"
        return cause
    exc.__cause__ = cause
    return exc
