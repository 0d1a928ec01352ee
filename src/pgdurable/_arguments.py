"""What goes into a call: parameters as one JSON object, fingerprints and isolated copies of arguments.

A workflow's input is stored by parameter name, so that SQL and people can read and write it; a client that
has only the workflow's name sends a list. Both become typed arguments here.
"""

from __future__ import annotations

import copy
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any
from zlib import crc32

import msgspec

from pgdurable._mismatch import mismatch, type_name
from pgdurable._secret import SHOW_VALUES
from pgdurable.codec import (
    SAFE,
    canonical,
    dec_hook,
    decode,
    enc_hook,
    encode,
)
from pgdurable.errors import CodecError, InvalidInput, PayloadBroken

__all__ = ["Signature", "fingerprint", "isolate"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_EMPTY = inspect.Parameter.empty


def _fingerprint_hook(value: Any) -> Any:
    try:
        return enc_hook(value)
    except Exception:
        return type_name(type(value))


_encode_fingerprint = msgspec.json.Encoder(enc_hook=_fingerprint_hook, order="sorted").encode


def _fingerprint_one(value: Any) -> bytes:
    for attempt in (_encode_fingerprint, encode):
        try:
            return attempt(value)
        except Exception:
            continue
    return type_name(type(value)).encode("utf-8", "replace")


def fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """A signed 32-bit number that equal call arguments share in every process. Never raises.

    An argument without a JSON form (a connection, a lambda) counts by its type's name.
    """
    try:
        data = _encode_fingerprint((args, kwargs) if kwargs else args)
    except Exception:
        parts = [_fingerprint_one(value) for value in args]
        parts += [_fingerprint_one(name) + b":" + _fingerprint_one(kwargs[name]) for name in sorted(kwargs)]
        data = b"\n".join(parts)
    number = crc32(data)
    return number - 0x1_0000_0000 if number & 0x8000_0000 else number


_IMMUTABLE = SAFE | {float}


def _immutable(value: Any) -> bool:
    kind = type(value)
    return kind in _IMMUTABLE or (kind is tuple and all(map(_immutable, value)))


def _isolated(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _IMMUTABLE or (kind is tuple and _immutable(value)):
        return value
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value


def isolate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments a step may change without the workflow seeing it.

    Immutable values pass as they are; others are deep copies; what cannot be copied passes as it is.
    """
    for value in args:
        if type(value) not in _IMMUTABLE:
            break
    else:
        if not kwargs:
            return args, kwargs
    memo: dict[int, Any] = {}
    copies = tuple([_isolated(value, memo) for value in args])
    return copies, {name: _isolated(value, memo) for name, value in kwargs.items()}


def _parameters(func: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(func, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(func)


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types an annotation is made of; what Literal and Annotated hold beside a type is none."""
    yield annotation
    origin = typing.get_origin(annotation)
    if origin is not typing.Literal:
        for part in typing.get_args(annotation)[: 1 if origin is typing.Annotated else None]:
            yield from _leaves(part)


def _hint(func: Callable[..., Any], annotation: Any) -> Any:
    """The annotation resolved, or None where a name in it cannot be."""

    def stub() -> None: ...

    stub.__annotations__ = {"value": annotation}
    try:
        hints = typing.get_type_hints(stub, globalns=getattr(func, "__globals__", {}), include_extras=True)
    except Exception:
        return None
    hint = hints["value"]
    return None if any(isinstance(leaf, (str, typing.ForwardRef)) for leaf in _leaves(hint)) else hint


class Signature:
    """The parameters of a workflow or step, read once.

    Attributes:
        name: what messages call the function.
        parameters: the parameters, annotations resolved, without the injected first one.
        returns: the annotation of what a call gives once awaited, Any when there is none.
        unresolved: parameters (or "return") whose annotation names something that does not exist at
            module level: taken as Any.
    """

    def __init__(self, func: Callable[..., Any], *, name: str | None = None, skip_first: bool = False) -> None:
        func = inspect.unwrap(func)
        raw = _parameters(func)
        self.name = name or getattr(func, "__qualname__", repr(func))
        self.unresolved: tuple[str, ...] = ()
        parameters = list(raw.parameters.values())[1 if skip_first else 0 :]
        self.parameters = tuple(
            parameter.replace(annotation=self._resolve(func, parameter.name, parameter.annotation))
            for parameter in parameters
        )
        self.returns = _awaited(self._resolve(func, "return", raw.return_annotation))
        self._signature = raw.replace(parameters=self.parameters, return_annotation=_EMPTY)
        self._names = tuple(p.name for p in self.parameters)
        kinds = {p.kind for p in self.parameters}
        positional = [p for p in self.parameters if p.kind in _POSITIONAL]
        self._required = frozenset(
            p.name for p in self.parameters if p.default is _EMPTY and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        )
        self._most = len(positional)
        self._least = sum(p.default is _EMPTY for p in positional)
        keyword_needed = any(p.kind is p.KEYWORD_ONLY and p.default is _EMPTY for p in self.parameters)
        # Positional arguments are a plain zip unless *args or a required keyword could be in play.
        self._zips = not keyword_needed and inspect.Parameter.VAR_POSITIONAL not in kinds
        self._plain = kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
        self._decode: Callable[[bytes], Any] | None = None

    def __repr__(self) -> str:
        return f"<Signature {self.name}{self._signature}>"

    def _resolve(self, func: Callable[..., Any], name: str, annotation: Any) -> Any:
        if annotation is _EMPTY or annotation in (typing.NoReturn, "NoReturn", "Never"):
            return Any
        if annotation is None:
            return type(None)
        hint = _hint(func, annotation)
        if hint is None:
            self.unresolved += (name,)
            return Any
        return Any if hint is typing.NoReturn or getattr(hint, "_name", None) == "Never" else hint

    # --- to JSON ---------------------------------------------------------------------------------------------

    def bind_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, limit: int | None = None) -> bytes:
        """The JSON object of what was passed, by parameter name; defaults are not filled in.

        Raises:
            InvalidInput: the arguments do not bind to the parameters.
            CodecError: an argument has no faithful JSON; its path begins with the parameter, ``$.sku``.
            PayloadTooLarge: over `limit` bytes.
        """
        if not kwargs and self._zips and self._least <= len(args) <= self._most:
            passed = dict(zip(self._names, args))  # noqa: B905 - shorter args are the point
        else:
            try:
                passed = dict(self._signature.bind(*args, **kwargs).arguments)
            except TypeError as error:
                found = f"{len(args)} positional" + (f" and {', '.join(sorted(kwargs))}" if kwargs else "")
                raise self._invalid(str(error), found) from None
        return encode(passed, what=f"input of {self.name!r}", limit=limit)

    def _invalid(self, problem: str, found: str) -> InvalidInput:
        return InvalidInput(
            f"input of {self.name!r} does not fit its parameters: {problem}",
            detail=f"expected {self.name}{self._signature}, found {found}",
            hint="pass the parameters by position or by name, as for a plain call",
        )

    # --- from JSON -------------------------------------------------------------------------------------------

    def load_input(self, data: bytes | str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Typed arguments for the call, from an object by parameter name or a list of positional arguments.

        Args:
            data: what `bind_input` made, or the text of the jsonb column.

        Raises:
            InvalidInput: a parameter is missing, unknown or of another type than annotated.
        """
        decoder = self._decode or self._decoder()
        try:
            raw = canonical(data)
            if raw[:1] == b"[":
                raw = self._named(raw)
            values = msgspec.structs.astuple(decoder(raw))
        except PayloadBroken:
            raise
        except (msgspec.MsgspecError, CodecError, RecursionError, ValueError, TypeError) as error:
            raise self._unfit(data, error) from (error if SHOW_VALUES else None)
        if self._plain:
            given = 0
            for value in values:
                if value is msgspec.UNSET:
                    break
                given += 1
            if given == len(values) or all(value is msgspec.UNSET for value in values[given:]):
                return values[:given], {}
        return self._spread(values)

    def _decoder(self) -> Callable[[bytes], Any]:
        fields: list[tuple[str, Any, Any]] = []
        for index, p in enumerate(self.parameters):
            hint = p.annotation
            if p.kind is p.VAR_POSITIONAL:
                hint = list[hint]  # type: ignore[valid-type]
            elif p.kind is p.VAR_KEYWORD:
                hint = dict[str, hint]  # type: ignore[valid-type]
            try:
                msgspec.json.Decoder(hint)
            except TypeError as error:
                raise self._invalid(f"annotation of {p.name}: {error}", "nothing that could be decoded") from None
            needed = p.name in self._required
            fields.append((f"p{index}", hint, msgspec.NODEFAULT if needed else msgspec.UNSET))
        struct = msgspec.defstruct(
            "Input",
            fields,
            kw_only=True,
            forbid_unknown_fields=True,
            rename={f"p{index}": name for index, name in enumerate(self._names)},
        )
        self._decode = msgspec.json.Decoder(struct, dec_hook=dec_hook).decode
        return self._decode

    def _named(self, raw: bytes) -> bytes:
        items = decode(raw, list[msgspec.Raw])
        positional = [p.name for p in self.parameters if p.kind in _POSITIONAL]
        named: dict[str, Any] = dict(zip(positional, items))  # noqa: B905 - shorter lists are the point
        rest = items[len(positional) :]
        if rest:
            star = [p.name for p in self.parameters if p.kind is p.VAR_POSITIONAL]
            if not star:
                raise ValueError(f"takes at most {len(positional)} positional arguments, got {len(items)}")
            named[star[0]] = rest
        return msgspec.json.encode(named)

    def _spread(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        unset = msgspec.UNSET
        pairs = list(zip(self.parameters, values, strict=True))
        forced = -1  # the last parameter that must go by position, so that those before it must too
        for index, (p, value) in enumerate(pairs):
            if (p.kind is p.POSITIONAL_ONLY and value is not unset) or (
                p.kind is p.VAR_POSITIONAL and value is not unset and value
            ):
                forced = index
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        gap = False
        for index, (p, value) in enumerate(pairs):
            if p.kind is p.VAR_POSITIONAL:
                args.extend(value or ())
            elif p.kind is p.VAR_KEYWORD:
                kwargs.update(value or {})
            elif p.kind is p.KEYWORD_ONLY or (gap and index > forced):
                if value is not unset:
                    kwargs[p.name] = value
            elif value is not unset:
                args.append(value)
            elif index <= forced:
                args.append(p.default)
            else:
                gap = True
        return tuple(args), kwargs

    def _unfit(self, data: bytes | str, error: Exception) -> InvalidInput:
        try:
            stored = decode(canonical(data))
        except CodecError as broken:
            return self._invalid(str(broken.__context__), "no JSON")
        if isinstance(stored, list):
            found = f"a list of {len(stored)}"
        elif isinstance(stored, dict):
            found = ", ".join(stored) or "no parameters"
            missing = [name for name in self._names if name in self._required and name not in stored]
            unknown = [name for name in stored if name not in self._names]
            wrong = (["missing " + ", ".join(missing)] if missing else []) + (
                ["unknown " + ", ".join(unknown)] if unknown else []
            )
            if wrong:
                return self._invalid("; ".join(wrong), found)
        else:
            return self._invalid("it is neither an object nor a list", f"{type(stored).__name__}")
        if isinstance(error, msgspec.MsgspecError):
            problem = mismatch(error, "of that parameter", "input")
            text = (problem.detail or "").partition("; ")[2]
            return self._invalid(f"{text[:1].upper()}{text[1:]} at {problem.path}", found)
        return self._invalid(str(error), found)


def _awaited(annotation: Any) -> Any:
    """The type that awaiting gives: a coroutine's last parameter."""
    if typing.get_origin(annotation) in (Coroutine, Awaitable):
        parts = typing.get_args(annotation)
        return parts[-1] if parts else Any
    return annotation
