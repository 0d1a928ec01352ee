"""Rows out of arrays: the same JSON and the same COPY rows as the slow roads make of the same values."""

from __future__ import annotations

import datetime as dt
import math
import os
import re
import struct
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from pgdurable._core import BadValue, Flusher, StartRows, Table, make_ids
from pgdurable._engine.ids import Ids
from pgdurable.codec import encode

UNITS_NS = {"D": 86_400_000_000_000, "h": 3_600_000_000_000, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
ONE_MIB = 1 << 20


def rows_of(array: Any, kind: str, *, swap: bool = False, unit: int = 1, size: int | None = None) -> list[bytes]:
    table = Table([(b"", array, 0, kind, size or array.itemsize, swap, unit)], b"", b"")
    return [table.row(row) for row in range(len(table))]


# --- values -------------------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.builds(lambda n, places: n / 10**places, st.integers(-(10**17), 10**17), st.integers(0, 20))


@given(st.lists(finite | decimals, min_size=1, max_size=50))
@example([0.0, -0.0, 1e-3, 9.999e-4, 1e-4, 1e-5, 9.9e-6, 1e-6, 5e-324, 1e15, 999999999999999.9, 1e16, 1e22, 1e23])
@example([0.1 + 0.2, 1 / 3, 123456.7, 2.0**53, 2.0**53 + 2, 1.7976931348623157e308, 2.2250738585072014e-308, -1.5])
@settings(max_examples=400)
def test_floats_are_written_as_the_codec_writes_them(values: list[float]) -> None:
    assert rows_of(np.array(values), "f") == [encode(value) for value in values]


def test_floats_of_every_magnitude(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, 30_000, dtype=np.uint64).view("f8")
    values = values[np.isfinite(values)]
    measured = np.round(rng.uniform(-1e6, 1e6, 20_000), 3)
    for array in (values, measured):
        assert rows_of(array, "f") == [encode(value) for value in array.tolist()]


@pytest.mark.parametrize("code", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_narrow_and_swapped_floats_are_widened_exactly(code: str, order: str, seed: int) -> None:
    size = int(code[1])
    rng = np.random.default_rng(seed)
    bits = np.arange(65536, dtype="u2") if size == 2 else rng.integers(0, 2 ** (8 * size), 5000, dtype=f"u{size}")
    array = bits.view(code)
    array = array[np.isfinite(array)].astype(order + code)
    assert rows_of(array, "f", swap=order == ">") == [encode(float(value)) for value in array]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", "iu")
@pytest.mark.parametrize("order", "<>")
@given(data=st.data())
@settings(max_examples=30)
def test_ints_of_every_width(size: int, kind: str, order: str, data: st.DataObject) -> None:
    low, high = (-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1) if kind == "i" else (0, 2 ** (8 * size) - 1)
    values = [low, high, 0, *data.draw(st.lists(st.integers(low, high), max_size=20))]
    array = np.array(values, f"{order}{kind}{size}")
    assert rows_of(array, kind, swap=order == ">") == [encode(value) for value in values]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), min_size=1))
@example(["", '\t"\\\b\f\n\r\x01\x1f\x7f', "\u2028é😀/"])
def test_text_as_unicode_and_as_utf8(values: list[str]) -> None:
    expected = [encode(value) for value in values]
    array = np.array(values, "U12")
    assert rows_of(array, "w") == expected
    assert rows_of(array.astype(">U12"), "w", swap=True) == expected
    assert rows_of(np.array([value.encode() for value in values], "S48"), "s") == expected


@given(st.lists(st.binary(max_size=12), min_size=1))
def test_bytes_as_base64(values: list[bytes]) -> None:
    array = np.array(values, "S12")
    assert rows_of(array, "x") == [encode(bytes(value)) for value in array]


def test_bools() -> None:
    assert rows_of(np.array([True, False]), "b") == [b"true", b"false"]


@given(st.lists(st.datetimes(), min_size=1))
@example([dt.datetime.min, dt.datetime.max, dt.datetime(2000, 2, 29), dt.datetime(1900, 2, 28, 23, 59, 59, 1)])
def test_times_and_dates(values: list[dt.datetime]) -> None:
    array = np.array(values, "M8[us]")
    assert rows_of(array.view("i8"), "t", unit=1000) == [encode(value) for value in values]
    days = np.array([value.date() for value in values], "M8[D]")
    assert rows_of(days.view("i8"), "d", unit=UNITS_NS["D"]) == [encode(value.date()) for value in values]


@pytest.mark.parametrize("unit", ["h", "s", "ms", "us", "ns"])
def test_times_in_every_unit(unit: str) -> None:
    array = np.array(["1969-12-31T23", "2024-02-29T07", "1700-01-01T00"], f"M8[{unit}]")
    expected = [encode(value) for value in array.astype("M8[us]").tolist()]
    assert rows_of(array.view("i8"), "t", unit=UNITS_NS[unit]) == expected


@pytest.mark.parametrize(
    ("array", "kind", "unit", "found"),
    [
        (np.array([1.0, math.nan]), "f", 1, "NaN"),
        (np.array([1.0, math.inf], "f4"), "f", 1, "infinity"),
        (np.array([1.0, -math.inf], "f2"), "f", 1, "-infinity"),
        (np.array(["a", "b\0c"]), "w", 1, r"a NUL character \(index 1\)"),
        (np.array([97, 0xD800], "u4"), "w", 1, r"a lone surrogate \(\\ud800, index 0\)"),
        (np.array([97, 0x110000], "u4"), "w", 1, "no character"),
        (np.array([b"a", b"b\0c"]), "s", 1, "a NUL character"),
        (np.array([b"a", b"\xc3\xa9\0c"]), "s", 1, "a NUL character"),
        (np.array([b"a", b"bc\xff"]), "s", 1, r"no UTF-8 \(\\xff, index 2\)"),
        (np.array(["1970-01-01", "NaT"], "M8[us]").view("i8"), "t", 1000, "NaT"),
        (np.array([0, 3_000_000]), "d", UNITS_NS["D"], "outside the years"),
        (np.array([0, -800_000]), "d", UNITS_NS["D"], "outside the years"),
        (np.array([0, 1]), "t", 1, "a fraction of a microsecond"),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_with_its_row(array: Any, kind: str, unit: int, found: str) -> None:
    table = Table([(b'"a":', array, 0, kind, array.itemsize, False, unit)])
    rows = StartRows("w", "1", "q", ONE_MIB)
    for refuses in (
        lambda: table.row(1),
        lambda: table.check(0, 2, ONE_MIB),
        lambda: table.check(0, 2, 200),
        lambda: rows.add_table(table, 0, 2, make_ids(1, 0, b"x" * 16)),
    ):
        with pytest.raises(BadValue) as caught:
            refuses()
        assert re.search(found, caught.value.args[0])
        assert caught.value.args[1:] == (0, 1)
    assert len(rows) == 1  # the row before it, whole
    table.check(0, 1, ONE_MIB)


# --- rows ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), finite, st.booleans()), min_size=1, max_size=20))
def test_a_row_is_one_object_with_sorted_keys(values: list[tuple[int, float, bool]]) -> None:
    array = np.array(values, [("n", "i4"), ("f", "f8"), ("b", "?")])
    columns = [(encode(name) + b":", array, array.dtype.fields[name][1], kind, size, False, 1)
               for name, kind, size in (("b", "b", 1), ("f", "f", 8), ("n", "i", 4))]  # fmt: skip
    table = Table(columns)
    assert [table.row(row) for row in range(len(table))] == [encode({"n": n, "f": f, "b": b}) for n, f, b in values]


def test_slices_steps_and_backwards() -> None:
    array = np.arange(20, dtype="i4").reshape(10, 2)
    for view in (array[::-1, 1], array[2:8:3, 0], array[5:5, 0]):
        assert rows_of(view, "i") == [encode(value) for value in view.tolist()]


def test_copy_rows_are_those_of_the_flusher() -> None:
    flusher = Flusher({})
    rows = StartRows("checkout é", "1", "mail", ONE_MIB)
    array = np.array([7, -8])
    table = Table([(b'"n":', array, 0, "i", 8, False, 1)])
    more = make_ids(5, 0, bytes(6) + os.urandom(10))
    rows.add_table(table, 0, 2, more)
    rows.add(b"i" * 16, b'{"n":9}')
    assert len(rows) == 3
    for id, data in ((more[:16], b'{"n":7}'), (more[16:], b'{"n":-8}'), (b"i" * 16, b'{"n":9}')):
        flusher.add_instance(id, "checkout é", "1", "pending", "mail", None, data, None)
    expected = flusher.take().rows_of(1)
    assert rows.nbytes == len(expected)
    assert rows.take() == expected
    assert (rows.take(), len(rows), rows.nbytes) == (b"", 0, 0)

    unversioned = StartRows("w", None, "q", ONE_MIB)
    unversioned.add(b"i" * 16, b"[]")
    flusher.add_instance(b"i" * 16, "w", None, "pending", "q", None, b"[]", None)
    assert unversioned.take() == flusher.take().rows_of(1)


def test_an_input_over_the_limit_is_refused_with_its_row() -> None:
    array = np.array(["a", "b", "c" * 30])
    table = Table([(b"", array, 0, "w", array.itemsize, False, 1)])
    rows = StartRows("w", None, "q", 32)
    table.check(0, 3, 34)
    with pytest.raises(OverflowError) as caught:
        table.check(0, 3, 33)
    assert caught.value.args == (34, 2)
    with pytest.raises(OverflowError):
        rows.add_table(table, 0, 3, make_ids(1, 0, os.urandom(24)))
    assert len(rows) == 2


def test_arrays_that_make_no_table_are_refused() -> None:
    one, two = np.zeros(3), np.zeros(4)
    for columns in (
        [(b"", one, 0, "f", 8, False, 1), (b"", two, 0, "f", 8, False, 1)],
        [(b"", np.zeros((2, 2)), 0, "f", 8, False, 1)],
        [(b"", one, 4, "f", 8, False, 1)],
        [(b"", one, -1, "f", 8, False, 1)],
        [(b"", one, 0, "f", 3, False, 1)],
        [(b"", one, 0, "?", 8, False, 1)],
    ):
        with pytest.raises(ValueError, match=r"^(arrays of|an array of|\d+ bytes at)"):
            Table(columns)
    with pytest.raises(BufferError if hasattr(one, "__buffer__") else TypeError):
        Table([(b"", [1, 2], 0, "i", 8, False, 1)])  # type: ignore[list-item]
    table = Table([(b"", one, 0, "f", 8, False, 1)])
    rows = StartRows("w", None, "q", 100)
    for first, last, given_ids in ((0, 4, 4), (2, 1, 0), (-1, 1, 2), (0, 2, 3)):
        with pytest.raises(ValueError, match="rows"):
            rows.add_table(table, first, last, b"i" * 16 * given_ids)
    for row in (-1, 3):
        with pytest.raises(IndexError):
            table.row(row)
    with pytest.raises(ValueError, match="16 bytes"):
        rows.add(b"short", b"{}")
    assert len(rows) == 0


def test_a_table_keeps_the_memory_it_reads() -> None:
    memory = bytearray(struct.pack("=3q", 1, 2, 3))
    table = Table([(b"", memoryview(memory).cast("q"), 0, "i", 8, False, 1)], b"", b"")
    with pytest.raises(BufferError):
        memory.clear()
    assert table.row(2) == b"3"
    del table
    memory.clear()


# --- ids ----------------------------------------------------------------------------------------------------------


def test_ids_made_in_bulk_go_on_where_single_ones_stopped() -> None:
    ids = Ids(lambda: 0)
    made = [ids.new_id() for _ in range(5000)]
    for n in (1, 3, 9000, 0, 4095):
        bulk = ids.new_ids(n)
        assert len(bulk) == 16 * n
        made += [bulk[16 * place : 16 * place + 16] for place in range(n)]
        made.append(ids.new_id())
    assert made == sorted(set(made))
    for one in made[::500]:
        assert uuid.UUID(bytes=one).version == 7
        assert uuid.UUID(bytes=one).variant == uuid.RFC_4122


def test_threads_that_make_ids_at_once_get_different_ones_in_order() -> None:
    ids = Ids(lambda: 0)
    together = threading.Barrier(4)

    def work(thread: int) -> list[bytes]:
        together.wait(20)
        made = []
        for turn in range(400):
            made += [ids.new_id() for _ in range(50)]
            bulk = ids.new_ids(turn % 8)
            made += [bulk[place : place + 16] for place in range(0, len(bulk), 16)]
        return made

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            all_made = list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)
    for made in all_made:
        assert made == sorted(made)
    # Different already in time and counter: what is random behind them need not be relied on.
    together_made = [one[:8] for made in all_made for one in made]
    assert len(set(together_made)) == len(together_made)


@given(st.integers(0, 2**48 - 2), st.integers(0, 4095), st.integers(0, 5000))
@settings(max_examples=30)
def test_bulk_ids_count_through_the_millisecond(ms: int, counter: int, n: int) -> None:
    made = make_ids(ms, counter, b"\xff" * 8 * n)
    for place in (0, n // 2, n - 1):
        if 0 <= place < n:
            one = int.from_bytes(made[16 * place : 16 * place + 16], "big")
            at = counter + place
            assert one >> 80 == ms + at // 4096
            assert one >> 64 & 0xFFFF == 0x7000 | at % 4096
            assert one & (2**64 - 1) == 0xBFFFFFFFFFFFFFFF
