"""Python values to the JSON that jsonb holds, and back to the annotated type.

Here: values. Not here: what goes into a call (`Signature`, `fingerprint`, `isolate`) and what comes out when it
fails (`encode_error`, `decode_error`): these are in `_arguments.py` and `_failure.py`.

The rule everything rests on: what a workflow sees live and what it sees in replay, after the value has been
through a jsonb column, are equal, dict order and int-or-float included. jsonb reorders keys by length,
writes 1e22 as an integer and drops the sign of -0.0. So `encode` sorts keys, writes large floats in full with
a fraction (``10000000000000000.0``) and refuses what jsonb cannot hold, and `decode_stored` sorts again.

msgspec does the work. It writes NaN as null, does not sort keys other than str and knows no paths, so
cheap looks at the bytes decide whether a value must go through `_Plain`, slower and exact, which finds
the path of whatever is wrong.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import pathlib
import re
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import accumulate
from math import isfinite
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from pgdurable._mismatch import NotRebuilt, mismatch, raised, type_name
from pgdurable._secret import SHOW_VALUES
from pgdurable.errors import CodecError, PayloadBroken, PayloadSealed, PayloadTooLarge

__all__ = [
    "MAX_DEPTH",
    "MAX_INT_DIGITS",
    "decode",
    "decode_stored",
    "encode",
    "roundtrip",
]

MAX_DEPTH = 200
"""Deepest nesting of arrays and objects: Python's default recursion limit is 1000, shared with the caller."""

MAX_INT_DIGITS = 308
"""Longest int: what every JSON reader can also take as a double. msgspec and jsonb would take more."""


# --- what msgspec leaves to us -------------------------------------------------------------------------------


def _is_pydantic(cls: type) -> bool:
    return hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_dump")


def enc_hook(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, deque):
        return list(value)
    raise NotImplementedError(f"{type(value).__module__}.{type(value).__qualname__} has no JSON form")


def dec_hook(cls: Any, value: Any) -> Any:
    if isinstance(cls, type):
        if _is_pydantic(cls):
            # As JSON, not as Python objects: a strict model takes a datetime's text only from JSON.
            return cls.model_validate_json(_encode(value))  # type: ignore[attr-defined]
        if issubclass(cls, (str, pathlib.PurePath)):
            if isinstance(value, str):
                return cls(value)
        elif issubclass(cls, (int, float)):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return cls(value)
        elif issubclass(cls, deque) and isinstance(value, list):
            return cls(value)
    raise NotRebuilt(f"{getattr(cls, '__qualname__', cls)} cannot be rebuilt from JSON")


_encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=enc_hook, order="sorted").encode
_decode_any: Callable[[bytes], Any] = msgspec.json.Decoder().decode
# A float's text passes through untouched: 12.30 written by hand stays 12.30 for a Decimal.
_decode_verbatim: Callable[[bytes], Any] = msgspec.json.Decoder(
    float_hook=lambda text: msgspec.Raw(text.encode())
).decode

_decoders: dict[Any, Callable[[bytes], Any]] = {Any: _decode_any, object: _decode_any}


def _decoder(annotation: Any) -> Callable[[bytes], Any]:
    try:
        found = _decoders.get(annotation)
    except TypeError:  # unhashable, such as Annotated[int, []]
        return msgspec.json.Decoder(annotation, dec_hook=dec_hook).decode
    if found is None:
        found = msgspec.json.Decoder(annotation, dec_hook=dec_hook).decode
        _decoders[annotation] = found
    return found


# --- encode --------------------------------------------------------------------------------------------------

SAFE = frozenset({
    type(None), bool, int, str, bytes, dt.datetime, dt.date, dt.time, dt.timedelta, UUID, Decimal,
})  # fmt: skip
"""Types whose JSON is never null unless they are None."""

_TOO_LONG = b"0" * (MAX_INT_DIGITS + 1)
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
_EXPONENT = re.compile(rb"e[1-9]")  # a literal head, so that the search runs at memchr speed
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_FLOAT = re.compile(_STRING.pattern + rb"|(-?\d+(?:\.\d+)?e\d+|-0\.0(?![0-9e]))", re.DOTALL)
_STEP = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEP)


def _full_float(match: re.Match[bytes]) -> bytes:
    text = match.group(1)
    if text is None:
        return match.group()
    if text == b"-0.0":
        return b"0.0"
    full = format(Decimal(text.decode()), "f")
    return (full if "." in full else full + ".0").encode()


def _depth(data: bytes) -> int:
    brackets = _STRING.sub(b"", data).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _nulls_are_none(value: Any, depth: int = 0) -> bool:
    """Whether every null in this value's JSON stands for None; False also when that is not quickly seen."""
    kind = type(value)
    if kind in SAFE:
        return True
    if kind is float:
        return isfinite(value)
    if depth > MAX_DEPTH:
        return False
    items: Any
    if kind is dict:
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    elif hasattr(kind, "__struct_fields__"):
        items = [getattr(value, name) for name in kind.__struct_fields__]
    elif hasattr(kind, "__dataclass_fields__"):
        items = [getattr(value, name, None) for name in kind.__dataclass_fields__]
    else:
        return False
    for item in items:  # noqa: SIM110 - all() over a generator is a third slower here
        if type(item) not in SAFE and not _nulls_are_none(item, depth + 1):
            return False
    return True


# On 30 bytes: b"..." in bytes takes 220 ns, a byte in bytes 22, decoding 44, "..." in str 28, a regex with a literal
# head 130, one that begins with alternatives 350 (ten times as long per byte). Hence the forms of the looks below.


def _is_plain_atom(value: Any, data: bytes) -> bool:
    kind = type(value)
    if kind is str:
        return 0x5C not in data
    if kind is int:
        return len(data) <= MAX_INT_DIGITS
    if kind is float:
        return bool(-1e16 < value < 1e16 and value != 0.0)
    return kind is bool or value is None


def _is_suspicious(value: Any, data: bytes, text: str) -> bool:
    if "null" in text and not _nulls_are_none(value):
        return True
    if "\\u0000" in text:
        return True
    if len(data) <= MAX_INT_DIGITS:
        return False
    if _TOO_LONG in data.translate(_DIGITS):
        return True
    return data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH


def _in_full(data: bytes) -> bytes:
    if _EXPONENT.search(data) or data.find(b"-0.0") >= 0:
        return _FLOAT.sub(_full_float, data)
    return data


def encode(value: Any, *, what: str = "value", limit: int | None = None) -> bytes:
    """Canonical JSON of `value`: keys and sets sorted, as jsonb can hold it without changing it.

    Args:
        value: JSON values, dataclasses, datetimes, UUIDs, Decimals, enums, bytes, tuples, sets, paths, msgspec
            structs, attrs classes, pydantic models, nested as you like up to 200 deep. Ints of up to 308 digits.
        what: names the value in messages, such as ``result of step "reserve"``.
        limit: largest number of bytes, or None for no limit.

    Returns:
        UTF-8 JSON without spaces. Equal values give equal bytes in every process.

    Raises:
        CodecError: something in the value has no faithful JSON; `.path` leads to it.
        PayloadTooLarge: the JSON is over `limit`.
    """
    try:
        data = _encode(value)
    except Exception:
        data = _in_full(_encode_slowly(value, what))
    else:
        if not _is_plain_atom(value, data):
            text = data.decode()
            if text.startswith('{"$pgdurable:'):
                _refuse(what, "$", "a key that begins with $pgdurable:", "such a key says how a value is stored")
            if _is_suspicious(value, data, text):
                data = _in_full(_encode_slowly(value, what))
            elif "-0.0" in text or _EXPONENT.search(data):
                data = _in_full(data)
    if limit is not None and len(data) > limit:
        raise PayloadTooLarge(
            f"{what} is too large",
            detail=f"expected at most {limit:,} bytes of JSON, found {len(data):,}",
            hint="store it elsewhere and pass a reference, or raise the payload limit",
        )
    return data


def _encode_slowly(value: Any, what: str) -> bytes:
    try:
        return _encode(_Plain(what).convert(value, "$"))
    except CodecError:
        raise
    except RecursionError:
        _refuse(what, "$", "nesting too deep for the stack that is left", "make it flatter")
    except Exception as error:
        _refuse(what, "$", raised(error), "pass values that have a JSON form")


def _refuse(what: str, path: str, found: str, hint: str) -> NoReturn:
    # `from None`: what led here may hold the value.
    raise CodecError(f"{what} cannot be stored as JSON: {found} at {path}", path=path, hint=hint) from None


def _join(path: str, key: str) -> str:
    if key.isidentifier():
        return f"{path}.{key}"
    return f"{path}[{key!r}]"


def clean(text: str) -> str:
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


class _Plain:
    """Turns one value into dicts, lists and atoms, or refuses it with the path of what is wrong."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.inside: set[int] = set()

    def convert(self, value: Any, path: str) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, enum.Enum):
            return self.convert(value.value, path)
        if isinstance(value, str):
            return self.text(str.__str__(value), path, "string")
        if isinstance(value, int):
            number = int.__index__(value)
            # One bit is 0.30103 digits. Never turn an int of unknown size into text: that is quadratic.
            if number.bit_length() > 1024 or abs(number) >= 10**MAX_INT_DIGITS:
                digits = f"an int of about {number.bit_length() * 30103 // 100000 + 1} digits"
                _refuse(self.what, path, digits, f"ints go up to {MAX_INT_DIGITS} digits: pass a string")
            return number
        if isinstance(value, float):
            if not isfinite(value):
                _refuse(self.what, path, str(value).replace("nan", "NaN"), "JSON has no NaN or infinity: use None")
            return float.__float__(value)
        if isinstance(value, msgspec.Raw):
            return self.convert(self.from_raw(value, path), path)
        return self.container(value, path)

    def text(self, value: str, path: str, what: str) -> str:
        if "\0" in value:
            place = f"a NUL character (index {value.index(chr(0))}) in a {what}"
            _refuse(self.what, path, place, "jsonb holds no NUL: remove it or pass bytes")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            place = f"a lone surrogate (\\u{ord(value[error.start]):04x}, index {error.start}) in a {what}"
            _refuse(self.what, path, place, "clean the text, or pass bytes")
        return value

    def from_raw(self, value: msgspec.Raw, path: str) -> Any:
        try:
            return _decode_any(bytes(value))
        except Exception as error:
            _refuse(self.what, path, f"msgspec.Raw that is no JSON ({error})", "pass valid JSON")

    def container(self, value: Any, path: str) -> Any:
        if id(value) in self.inside:
            _refuse(self.what, path, f"a cycle (this {type(value).__name__} contains itself)", "break the cycle")
        if len(self.inside) >= MAX_DEPTH:
            hint = f"make it flatter: at most {MAX_DEPTH} levels"
            _refuse(self.what, path[:60] + "...", f"more than {MAX_DEPTH} levels of nesting", hint)
        self.inside.add(id(value))
        try:
            return self.contents(value, path)
        finally:
            self.inside.discard(id(value))

    def contents(self, value: Any, path: str) -> Any:
        cls = type(value)
        if isinstance(value, Mapping):
            return self.mapping(value, path)
        if isinstance(value, (list, tuple, deque)):
            return [self.convert(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, (set, frozenset)):
            try:
                ordered = sorted(value)
            except TypeError:
                return sorted((self.convert(item, f"{path}[...]") for item in value), key=_encode)
            return [self.convert(item, f"{path}[{index}]") for index, item in enumerate(ordered)]
        if isinstance(value, msgspec.Struct):
            return self.struct(value, path)
        if dataclasses.is_dataclass(cls):
            return self.fields(value, [(name, name) for name in cls.__dataclass_fields__], path)
        if hasattr(cls, "__attrs_attrs__"):
            return self.fields(value, [(field.name, field.name) for field in cls.__attrs_attrs__], path)
        if _is_pydantic(cls):
            plain = self.hooked(value, path)
            if cls.model_config.get("ser_json_inf_nan", "null") == "null":
                # Only pydantic's other dump still has the NaN that this one made None.
                self.finite(value.model_dump(by_alias=True), path)
            return self.convert(plain, path)
        try:
            return msgspec.to_builtins(value)  # dates, UUID, Decimal, bytes: to text
        except Exception:
            return self.convert(self.hooked(value, path), path)

    def hooked(self, value: Any, path: str) -> Any:
        try:
            return enc_hook(value)
        except NotImplementedError:
            found = f"an object of type {type_name(type(value))}"
            _refuse(self.what, path, found, "pass JSON values, a dataclass, a msgspec struct or a pydantic model")
        except Exception as error:
            found = f"{type_name(type(value))} that does not dump ({raised(error)})"
            _refuse(self.what, path, found, "make its dump to JSON work")

    def finite(self, value: Any, path: str) -> None:
        if isinstance(value, float):
            self.convert(value, path)
        elif isinstance(value, dict):
            for key, item in value.items():
                self.finite(item, _join(path, str(key)))
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                self.finite(item, f"{path}[{index}]")

    def fields(self, value: Any, names: list[tuple[str, str]], path: str) -> dict[str, Any]:
        pairs = [(key, getattr(value, name, msgspec.UNSET)) for key, name in names]
        return {key: self.convert(item, _join(path, key)) for key, item in pairs if item is not msgspec.UNSET}

    def struct(self, value: Any, path: str) -> Any:
        config, names = value.__struct_config__, value.__struct_fields__
        if config.array_like:
            head = [config.tag] if config.tag is not None else []
            return head + [self.convert(getattr(value, name), f"{path}[{i}]") for i, name in enumerate(names)]
        plain = self.fields(value, list(zip(value.__struct_encode_fields__, names, strict=True)), path)
        if config.tag is not None:
            plain[config.tag_field] = config.tag
        return plain

    def mapping(self, value: Mapping[Any, Any], path: str) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in value.items():
            text = self.key(key, path)
            if text in plain:
                found = f"two keys that are both {text!r} in JSON"
                _refuse(self.what, path, found, "use keys of one type")
            plain[text] = self.convert(item, _join(path, text))
        return plain

    def key(self, key: Any, path: str) -> str:
        if isinstance(key, float) and not isfinite(key):
            _refuse(self.what, path, f"a dict key that is {key}", "use finite numbers or str as keys")
        if not isinstance(key, (str, enum.Enum)):
            try:
                # None, bool and containers are refused by msgspec on the way back, so already here.
                if key is None or isinstance(key, bool):
                    raise TypeError
                (key,) = msgspec.to_builtins({key: 0}, str_keys=True)
            except Exception:
                found = f"a dict key of type {type_name(type(key))}"
                _refuse(self.what, path, found, "use str keys, or a list of pairs")
        while isinstance(key, enum.Enum):
            key = key.value if isinstance(key.value, str) else str(self.convert(key.value, path))
        return self.text(str.__str__(key), _join(path, str.__str__(key)), "key")


# --- decode --------------------------------------------------------------------------------------------------


def decode(data: bytes, type: Any = Any, *, what: str = "value") -> Any:
    """The value that `data`, bytes made by `encode`, holds, as `type`.

    Raises:
        CodecError: the JSON does not fit `type`, or `type` is nothing that JSON can be turned into.
    """
    try:
        return _decoder(type)(data)
    except Exception as error:
        raise mismatch(error, type, what) from (error if SHOW_VALUES else None)


# A value that is not plain JSON says what it is: an object with one key that begins so. No value of the user's does.
MARK = "$pgdurable:"
SEALED = "$pgdurable:sealed"
"""The one key of a JSON object that stands for an encrypted value; see encryption.py."""
PACKED = "$pgdurable:packed"
"""The one key of a JSON object that stands for a compressed value; see compression.py."""
ASIDE = "$pgdurable:aside"
"""The one key of a JSON object that stands for a value kept in the table `payloads`."""
_MARK_HEAD = f'{{"{MARK}'.encode()
_SEALED_HEAD, _PACKED_HEAD, _ASIDE_HEAD = (f'{{"{key}"'.encode() for key in (SEALED, PACKED, ASIDE))
_MOST_UNPACKED = 1 << 28


def _sealed(raw: bytes) -> PayloadSealed:
    try:
        box = dict(_decode_any(raw)[SEALED])
    except Exception:
        box = {}
    key, why = str(box.get("key", "")), box.get("why") or "no encryption is set up here"
    return PayloadSealed(
        f"encrypted with key {key!r}: {why}" if key else f"an encrypted value cannot be read: {why}",
        key=key,
        hint="Nothing is lost. Give Engine or Client encryption=Encryption(...) with the right key; then resume what "
        "is paused: pgdurable resume ID.",
    )


def _unmarked(raw: bytes) -> bytes:
    """What a marked value stands for. Raises PayloadSealed where it cannot be read, PayloadBroken where it is none."""
    if raw.startswith(_SEALED_HEAD):
        raise _sealed(raw)
    if raw.startswith(_PACKED_HEAD):
        return _unpacked(raw)
    if raw.startswith(_ASIDE_HEAD):
        raise PayloadBroken("kept apart for its size, and not there", hint="Was the table payloads changed by hand?")
    value = _decode_any(raw)
    if len(value) == 1:
        raise PayloadSealed(
            f"written in a form that this version does not know, {next(iter(value))!r}",
            key="", hint="Update pgdurable here; then resume what is paused: pgdurable resume ID.",
        )  # fmt: skip
    return raw


def _unpacked(raw: bytes) -> bytes:
    try:
        box = _decode_any(raw)[PACKED]
        how, packed = str(box["how"]), base64.b64decode(box["data"], validate=True)
        if how == "zlib":
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(packed, _MOST_UNPACKED)
            if not unpacker.eof:
                raise ValueError("it is cut short, or unpacks to more than 256 MiB")
            return data
        if how == "zstd":
            return _unpack_zstd(packed)
    except ImportError:
        raise PayloadSealed(
            "compressed by zstd, which is not installed here", key="",
            hint="pip install 'pgdurable[zstd]'; then resume what is paused: pgdurable resume ID.",
        ) from None  # fmt: skip
    except Exception as error:
        raise PayloadBroken(f"compressed, and what stands there has been damaged ({raised(error)})") from None
    raise PayloadSealed(
        f"compressed by {how!r}, which this version does not know", key="", hint="Update pgdurable here."
    )


def _unpack_zstd(packed: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        import zstandard

        if zstandard.frame_content_size(packed) > _MOST_UNPACKED:
            raise ValueError("it unpacks to more than 256 MiB") from None
        return bytes(zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MOST_UNPACKED))
    unpacker = zstd.ZstdDecompressor()
    data = unpacker.decompress(packed, _MOST_UNPACKED)
    if not unpacker.eof:
        raise ValueError("it is cut short, or unpacks to more than 256 MiB")
    return bytes(data)


def canonical(data: bytes | str) -> bytes:
    """jsonb's text in the order that `encode` gives: jsonb puts short keys first.

    jsonb always writes ``": "`` after a key and `encode` never does, so what has at most one needs no sorting.
    """
    raw = data.encode() if isinstance(data, str) else bytes(data)
    if raw.startswith(_MARK_HEAD):
        raw = _unmarked(raw)
    if raw.count(b'": ') > 1:
        return _encode(_decode_verbatim(raw))
    return raw


def decode_stored(data: bytes | str, type: Any = Any, *, what: str = "value") -> Any:
    """The value that jsonb's text holds, as `type`: equal to what `decode` made of the bytes that were stored.

    Raises:
        CodecError: the JSON does not fit `type`.
    """
    try:
        raw = canonical(data)
    except (PayloadSealed, PayloadBroken) as unread:
        unread.message = f"{what} is {unread.message}"
        raise
    except Exception as error:
        raise mismatch(error, type, what) from (error if SHOW_VALUES else None)
    return decode(raw, type, what=what)


_ATOMS = frozenset({str, int, bool, type(None)})
_typeof = type


def roundtrip(value: Any, type: Any = Any, *, what: str = "value", limit: int | None = None) -> tuple[bytes, Any]:
    """The JSON to store, and the value as a replay will see it.

    str, int, bool, None and float under `Any` or their own type come back as they are.

    Raises:
        CodecError: no faithful JSON, or it does not fit `type`: the message names found and expected types.
        PayloadTooLarge: over `limit` bytes.
    """
    data = encode(value, what=what, limit=limit)
    kind = _typeof(value)
    if type is Any or type is kind:
        if kind in _ATOMS:
            return data, value
        if kind is float:
            return data, value + 0.0  # -0.0 becomes 0.0
    return data, decode(data, type, what=what)
