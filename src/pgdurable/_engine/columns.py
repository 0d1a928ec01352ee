"""Arrays as the arguments of many starts: which they are, and whether they fit the workflow's parameters.

Only the buffer protocol and, for what it cannot say, numpy's `__array_interface__` are used: numpy is never imported.
Types are compared once per column. Only annotations that say something about single values (`Literal`, constraints,
enums) have every row looked at.
"""

from __future__ import annotations

import datetime as dt
import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from pgdurable._core import BadValue, Table
from pgdurable.errors import CodecError, InvalidInput, PayloadTooLarge
from pgdurable.workflow import Workflow

__all__ = ["Array", "Columns", "columns_of"]

_CHECK_AT_ONCE = 2000
_HOUR_NS = 3_600_000_000_000
_UNITS_NS = {"D": 24 * _HOUR_NS, "h": _HOUR_NS, "m": _HOUR_NS // 60, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
# struct's codes and the two that PEP 3118 adds; sizes come from the array.
_KINDS = {**dict.fromkeys("bhilqn", "i"), **dict.fromkeys("BHILQN", "u"), **dict.fromkeys("efd", "f"), "?": "b"}
_SIZES = {
    "b": 1,
    "B": 1,
    "?": 1,
    "h": 2,
    "H": 2,
    "e": 2,
    "i": 4,
    "I": 4,
    "l": 4,
    "L": 4,
    "f": 4,
    "q": 8,
    "Q": 8,
    "d": 8,
}
_FORMAT = re.compile(r"([@=<>!^|]?)(\d*|\(\d+\))([a-zA-Z?])")
_FIELD = re.compile(r"([@=<>!^|]?)(\d*|\(\d+\))([a-zA-Z?])(?::([^:]*):)?")
_SWAPPED = {">": sys.byteorder == "little", "!": sys.byteorder == "little", "<": sys.byteorder == "big"}
_CALLED = {
    "i": "int", "u": "int", "f": "float", "b": "bool", "x": "bytes", "w": "text", "d": "date", "t": "datetime",
}  # fmt: skip


class _Lends(Protocol):
    def __buffer__(self, flags: int, /) -> memoryview: ...


class _Shows(Protocol):
    @property
    def __array_interface__(self) -> Any: ...


Array = _Lends | _Shows
"""What a type checker takes for an array: it has the buffer protocol (before Python 3.12: numpy's other one)."""


class _Column(NamedTuple):
    array: Any
    offset: int
    kind: str
    size: int
    swap: bool
    unit: int

    def __str__(self) -> str:
        bits = f"{8 * self.size}" if self.kind in "iuf" else ""
        return ("u" if self.kind == "u" else "") + _CALLED[self.kind] + bits


class Columns:
    """The table that the arrays make, and the names of its columns for messages."""

    def __init__(self, what: str, table: Table, names: list[str], definition: Workflow[Any, Any] | None) -> None:
        self.what = what
        self.table = table
        self._names = names
        self._load = definition.signature.load_input if definition is not None else None

    def __len__(self) -> int:
        return len(self.table)

    def check(self, first: int, last: int, limit: int) -> None:
        """Raises CodecError, PayloadTooLarge or InvalidInput for what is wrong in these rows."""
        try:
            self.table.check(first, last, limit)
        except BadValue as error:
            found, place, row = error.args
            name = self._names[place]
            raise CodecError(
                f"{self.what} cannot be stored as JSON: {found} at row {row}" + (f", column {name!r}" if name else ""),
                path=f"$.{name}" if name else "$",
                hint="Nothing was started. Leave such rows out, or replace the value.",
            ) from None
        except OverflowError as error:
            size, row = error.args
            raise PayloadTooLarge(
                f"{self.what} is too large at row {row}",
                detail=f"expected at most {limit:,} bytes of JSON, found {size:,}",
                hint="store it elsewhere and pass a reference, or raise the payload limit",
            ) from None
        if self._load is not None:
            for row in range(first, last):
                try:
                    self._load(self.table.row(row))
                except InvalidInput as error:
                    error.message = f"row {row}: {error.message}"
                    raise

    def types_are_enough(self) -> None:
        """The columns' types say that every row fits."""
        self._load = None


def columns_of(arguments: Any, definition: Workflow[Any, Any] | None, name: str) -> Columns | None:
    """The columns that `start_many` was given, checked against the workflow's parameters; None: no arrays.

    Raises InvalidInput for arrays that cannot be read, or do not fit.
    """
    what = f"input of {name!r}"
    found = _read(arguments, what)
    if found is None:
        return None
    loose = False
    if isinstance(found, _Column):
        named = {"": found}
        if definition is not None:
            first = next((p.name for p in definition.signature.parameters if p.kind not in _STARRED), None)
            if first is None:
                raise _unfit(what, definition, "it takes no argument", "an array of one column")
            named = {first: found}
    else:
        named = dict(sorted(found.items()))
    if definition is not None:
        loose = _fit(what, definition, named)
    keyed = not (isinstance(found, _Column) and definition is None)
    rows = [(msgspec.json.encode(key) + b":" if keyed else b"", *column) for key, column in named.items()]
    around = (b"{", b"}") if keyed else (b"[", b"]")
    try:
        table = Table(rows, *around)
    except ValueError as error:
        raise InvalidInput(
            f"{what}: the columns make no table: {error}", hint="Pass one-dimensional arrays of one length."
        ) from None
    columns = Columns(what, table, list(named), definition)
    if not loose:
        if len(table):
            columns.check(0, 1, sys.maxsize)
        columns.types_are_enough()
    return columns


# --- what the workflow takes -------------------------------------------------------------------------------------

_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_TAKES: dict[Any, str] = {
    int: "iu", float: "fiu", bool: "b", str: "w", bytes: "x", dt.datetime: "t", dt.date: "d", type(None): "",
    Any: "iufbxwdt", object: "iufbxwdt",
}  # fmt: skip


def _takes(annotation: Any) -> str | None:
    """The kinds of columns whose every value fits an annotation; None when the values have to be looked at."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [_takes(part) for part in typing.get_args(annotation)]
        return None if None in parts else "".join(part or "" for part in parts)
    try:
        return _TAKES.get(annotation)
    except TypeError:
        return None


def _fit(what: str, definition: Workflow[Any, Any], named: dict[str, _Column]) -> bool:
    """Chooses how columns are written. Returns whether single values have to be looked at."""
    parameters = {p.name: p for p in definition.signature.parameters if p.kind not in _STARRED}
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in named]
    unknown = [name for name in named if name not in parameters]
    if missing or unknown:
        wrong = ["missing " + ", ".join(missing)] * bool(missing) + ["unknown " + ", ".join(unknown)] * bool(unknown)
        raise _unfit(what, definition, "; ".join(wrong), ", ".join(f"{n}: {c}" for n, c in named.items()))
    loose = False
    for name, column in list(named.items()):
        annotation = parameters[name].annotation
        takes = _takes(annotation)
        if takes is None:
            loose = True
            if column.kind == "x" and annotation is not bytes:
                named[name] = column._replace(kind="s")
            continue
        if column.kind == "x" and "x" not in takes and "w" in takes:
            named[name] = column._replace(kind="s")  # an array's bytes for a str are its UTF-8
        elif column.kind == "d" and "d" not in takes and "t" in takes:
            named[name] = column._replace(kind="t")
        elif column.kind not in takes:
            wanted = getattr(annotation, "__name__", None) or str(annotation)
            raise _unfit(what, definition, f"{name} is {wanted}, found a column of {column}", f"{name}: {column}")
    return loose


def _unfit(what: str, definition: Workflow[Any, Any], problem: str, found: str) -> InvalidInput:
    signature = inspect.Signature(definition.signature.parameters)
    return InvalidInput(
        f"{what} does not fit its parameters: {problem}",
        detail=f"expected {definition.name}{signature}, found {found}",
        hint="pass one column per parameter, of its type: array.astype(...), or rename the columns",
    )


# --- reading arrays ----------------------------------------------------------------------------------------------


def _read(arguments: Any, what: str) -> dict[str, _Column] | _Column | None:
    if isinstance(arguments, Mapping):
        columns = {}
        for name, array in arguments.items():
            if not isinstance(name, str):
                raise InvalidInput(f"{what}: a column's name is a text, found {name!r}")
            columns[name] = _one(array, f"{what}: column {name!r}")
        if not columns:
            raise InvalidInput(f"{what}: a dict of columns without a column", hint="For no start pass an empty list.")
        return columns
    names = getattr(getattr(arguments, "dtype", None), "names", None)
    if names and not isinstance(arguments, type):
        return {name: _one(arguments[name], f"{what}: column {name!r}") for name in names}
    view = _view(arguments)
    if view is None:
        return _moments(arguments, what)
    if view.format == "O":
        return None  # Python objects after all
    if view.format.startswith("T{"):
        return _fields(arguments, view, what)
    return _one(arguments, what)


def _view(array: Any) -> memoryview | None:
    try:
        return memoryview(array)
    except (TypeError, ValueError, BufferError):
        return None


def _one(array: Any, what: str) -> _Column:
    to_numpy = getattr(array, "to_numpy", None)  # what data frames call it
    if to_numpy is not None and _view(array) is None:
        array = to_numpy()
    if getattr(array, "mask", None) is not None:
        raise InvalidInput(f"{what} is masked", hint="Choose what stands for the masked values: array.filled(...).")
    view = _view(array)
    if view is None:
        found = _moments(array, what)
        if found is not None:
            return found
        raise InvalidInput(
            f"{what} is a {type(array).__name__}, which is no array",
            hint="Pass something with the buffer protocol: numpy.asarray(...), array.array(...).",
        )
    if view.ndim != 1:
        raise InvalidInput(
            f"{what} has {view.ndim} dimensions, expected one",
            hint='Pass a structured array, or a dict of columns: {"name": array[:, 0], ...}.',
        )
    match = _FORMAT.fullmatch(view.format)
    column = match and _column(array, 0, view.itemsize, match.group(1), match.group(3))
    if not column:
        raise _unreadable(what, view.format)
    return column


def _column(array: Any, offset: int, size: int, order: str, code: str) -> _Column | None:
    if code in "sc":
        return _Column(array, offset, "x", size, False, 1)
    if code in "wu" and size % 4 == 0:
        return _Column(array, offset, "w", size, _SWAPPED.get(order, False), 1)
    kind = _KINDS.get(code)
    if kind is None or size not in (1, 2, 4, 8):
        return None
    return _Column(array, offset, kind, size, _SWAPPED.get(order, False), 1)


def _unreadable(what: str, format: str) -> InvalidInput:
    return InvalidInput(
        f"{what} has elements of format {format!r}, which cannot be read",
        detail="Expected ints, floats of 16 to 64 bits, bools, bytes, text, datetime64, or a flat structure of these.",
        hint='Convert it (array.astype(...)), or pass a dict of columns: {"name": array, ...}.',
    )


def _moments(array: Any, what: str) -> _Column | None:
    """A numpy array of datetime64, which numpy does not lend as a buffer."""
    interface = getattr(array, "__array_interface__", None)
    if not isinstance(interface, dict) or interface.get("typestr", "")[1:2] not in ("M", "m"):
        return None
    typestr = interface["typestr"]
    unit = re.fullmatch(r"(.)M8\[(\w+)\]", typestr)
    if unit is None or unit.group(2) not in _UNITS_NS:
        raise InvalidInput(
            f"{what} has elements of type {typestr}, which cannot be read",
            hint="Convert it: array.astype('datetime64[us]'), or for a duration to a number of seconds.",
        )
    kind = "d" if unit.group(2) == "D" else "t"
    if len(interface["shape"]) != 1:
        raise InvalidInput(f"{what} has {len(interface['shape'])} dimensions, expected one")
    return _Column(array.view("i8"), 0, kind, 8, _SWAPPED.get(unit.group(1), False), _UNITS_NS[unit.group(2)])


def _fields(array: Any, view: memoryview, what: str) -> dict[str, _Column]:
    """The fields of a structure's PEP 3118 format, ``T{<i:device:4x<d:value:}``."""
    columns: dict[str, _Column] = {}
    inner, at, offset, order = view.format[2:-1], 0, 0, "@"
    while at < len(inner):
        match = _FIELD.match(inner, at)
        if match is None:
            raise _unreadable(what, view.format)
        at = match.end()
        order = match.group(1) or order
        count = match.group(2).strip("()")
        code, name = match.group(3), match.group(4)
        times = int(count or 1)
        if code == "x":
            offset += times
            continue
        size = _SIZES.get(code, 0)
        if code in "lLnN" and order in "@^":
            size = 8 if sys.maxsize > 2**32 else 4
        if code in "scwu":
            size = times * (4 if code in "wu" else 1)
        elif times != 1:
            size = 0
        if order == "@" and code not in "scwu" and size:
            offset += -offset % size
        column = _column(array, offset, size, order, code) if size and name else None
        if column is None or not name:
            raise _unreadable(f"{what}: column {name!r}" if name else what, view.format)
        columns[name] = column
        offset += size
    padded = offset <= view.itemsize < offset + 16 if order == "@" else offset == view.itemsize
    if not padded or not columns:
        raise _unreadable(what, view.format)  # it does not say all: ctypes before Python 3.12 leaves out the padding
    return columns
