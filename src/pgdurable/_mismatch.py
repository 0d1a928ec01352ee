"""Says what does not fit where a stored value is decoded: the place and the types, not the value."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pgdurable._secret import SHOW_VALUES
from pgdurable.errors import CodecError

__all__ = ["NotRebuilt", "mismatch", "raised", "type_name"]

_ITS_VALUE = re.compile(r"(Invalid (?:enum )?value) .*", re.DOTALL)


def mismatch(error: Exception, annotation: Any, what: str) -> CodecError:
    """The `CodecError` for what msgspec raised while decoding `what` as `annotation`."""
    text, _, path = str(error).rpartition(" - at `")
    if not text:
        text, path = str(error), "$`"
    text = _without_value(error, text)
    path = path.rstrip("`")
    wanted = getattr(annotation, "__qualname__", None) or str(annotation)
    if isinstance(error, RecursionError):
        text = "nesting too deep for the stack that is left"
    text = text[:1].lower() + text[1:]
    return CodecError(
        f"{what} does not fit its annotation {wanted}: {text} at {path}",
        path=path,
        detail=f"annotation: {wanted}; {text}",
        hint="change the annotation, or the value that goes with it",
    )


def _without_value(error: Exception, text: str) -> str:
    """What msgspec says is wrong, without the value it is wrong of."""
    cause = error.__cause__
    if SHOW_VALUES or isinstance(error, (RecursionError, CodecError)):
        return text
    if cause is None:
        return _ITS_VALUE.sub(r"\1", text) if isinstance(error, (msgspec.MsgspecError, TypeError)) else raised(error)
    # Raised by the type itself, which dec_hook has called.
    if type(cause).__name__ == "ValidationError" and type(cause).__module__.startswith("pydantic"):
        found = cause.errors(include_url=False, include_input=False, include_context=False)  # type: ignore[attr-defined]
        return "; ".join(f"{'.'.join(map(str, each['loc'])) or '$'}: {_wrong(each)}" for each in found)
    if isinstance(cause, NotRebuilt):
        return str(cause)
    return raised(cause) if isinstance(cause, Exception) else type_name(type(cause))


def _wrong(found: dict[str, Any]) -> str:
    """What pydantic says, where that is its own text."""
    return str(found["type"] if found["type"] in ("value_error", "assertion_error") else found["msg"])


def raised(error: Exception) -> str:
    """An exception of somebody else's code: its text may hold the value."""
    return f"{type(error).__name__}: {error}" if SHOW_VALUES else f"it raises {type_name(type(error))}"


def type_name(cls: Any) -> str:
    module, name = getattr(cls, "__module__", "?"), getattr(cls, "__qualname__", repr(cls))
    return name if module == "builtins" else f"{module}.{name}"


class NotRebuilt(TypeError):
    """Ours: its text holds no value."""
