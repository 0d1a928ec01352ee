"""The encoder against a plain Python one: rows of all kinds, as COPY sends them and as the pipeline's arrays do."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pgdurable._core import Batch, Flusher

from . import fake
from .fake import FakeServer

EPOCH_US = 946684800000000
UUID, INT2, INT4, INT8, FLOAT4, TEXT, JSONB, TIME = 2950, 21, 23, 20, 700, 25, 3802, 1184
HISTORY = [UUID, INT4, INT4, INT4, FLOAT4, INT2, TEXT, TEXT, JSONB, JSONB]
INSTANCE = [UUID, TEXT, TEXT, TEXT, TEXT, INT8, JSONB]
RELEASE = [UUID, TEXT, JSONB, JSONB, TIME]
WRITE = [UUID, TEXT, INT4, JSONB]
COLUMNS = [HISTORY, INSTANCE, RELEASE, WRITE]
FORMATS = {INT2: "!h", INT4: "!i", INT8: "!q", FLOAT4: "!f"}


def field(type: int, value: Any) -> bytes:
    if value is None:
        return b"\xff\xff\xff\xff"
    if type == TIME:
        data = struct.pack("!q", value - EPOCH_US)
    elif type == JSONB:
        data = b"\1" + value
    elif type == TEXT:
        data = value.encode()
    elif type == INT2:
        data = struct.pack("!h", min(value, 32767))
    else:
        data = value if type == UUID else struct.pack(FORMATS[type], value)
    return struct.pack("!i", len(data)) + data


def row(types: list[int], values: tuple[Any, ...]) -> bytes:
    return struct.pack("!h", len(types)) + b"".join(map(field, types, values))


def array(type: int, values: list[Any]) -> bytes:
    nulls = any(value is None for value in values)
    return struct.pack("!iiiii", 1, nulls, type, len(values), 1) + b"".join(field(type, value) for value in values)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def whole(bits: int) -> st.SearchStrategy[int]:
    most = 2 ** (bits - 1)
    return st.sampled_from([-most, -1, 0, 1, most - 1]) | st.integers(-most, most - 1)


ids = st.binary(min_size=16, max_size=16)
texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["", "é" * 70, "\U0001f600" * 3, "x" * 200]
)
jsons = st.binary(max_size=60) | st.sampled_from([b"", b"null", b"x" * 300])
floats = st.floats(width=32, allow_nan=False)
history = st.tuples(
    ids, whole(32), maybe(whole(32)), maybe(whole(32)), maybe(floats), maybe(st.integers(-32768, 10**9)), texts,
    maybe(texts), maybe(jsons), maybe(jsons),
)  # fmt: skip
instances = st.tuples(ids, texts, maybe(texts), texts, texts, maybe(whole(64)), jsons)
wakes = st.integers(-(2**63) + EPOCH_US, 2**63 - 1)
releases = st.tuples(ids, texts, maybe(jsons), maybe(jsons), maybe(wakes))
writes = st.tuples(ids, texts, whole(32), maybe(jsons))
transitions = st.lists(
    st.tuples(st.just(0), history, st.sampled_from([-1, 0, 5, 2**63 - 1]))
    | st.tuples(st.just(1), instances, st.just(-1))
    | st.tuples(st.just(2), releases, st.just(-1))
    | st.tuples(st.just(3), writes, st.just(-1)),
    max_size=12,
)


def add(flusher: Flusher, kind: int, values: tuple[Any, ...], event: int, tag: Any) -> None:
    if kind == 0:
        flusher.add_history(*values, tag, event)
    else:
        (flusher.add_instance, flusher.add_release, flusher.add_write)[kind - 1](*values, tag)


def is_as(batch: Batch, given: list[Any], first: int) -> None:
    assert batch.tags == list(range(first, first + len(given)))
    for kind, types in enumerate(COLUMNS):
        rows = [row(types, values) for of, values, _ in given if of == kind]
        assert batch.rows_of(kind) == b"".join(rows)
        assert (*batch.counts_by_kind[:3], batch.writes)[kind] == len(rows)
    assert batch.counts_by_kind[3] == sum(event >= 0 for _, _, event in given)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    server = FakeServer(tmp_path_factory.mktemp("s"))
    yield server
    server.close()


def bound(server: FakeServer) -> list[tuple[str, list[bytes]]]:
    """The statements and parameters a client has bound."""
    found = []
    for letter, body in server.heard:
        if letter != b"B":
            continue
        _, name, rest = body.split(b"\0", 2)
        (formats,) = struct.unpack("!h", rest[:2])
        rest = rest[2 + 2 * formats :]
        (n,) = struct.unpack("!h", rest[:2])
        rest, values = rest[2:], []
        for _ in range(n):
            (size,) = struct.unpack("!i", rest[:4])
            values.append(rest[4 : 4 + size])
            rest = rest[4 + size :]
        found.append((name.decode(), values))
    return found


@settings(max_examples=150)
@given(given=transitions, again=st.booleans(), cut=st.booleans())
def test_rows_and_arrays_are_as_the_oracle_writes_them(
    server: FakeServer, given: list[Any], again: bool, cut: bool
) -> None:
    compare(server, given, again, cut)


@pytest.mark.parametrize("again", [False, True])
def test_a_batch_beyond_the_size_of_small_ones(server: FakeServer, again: bool) -> None:
    given: list[Any] = []
    for n in range(40):
        id = bytes([n]) * 16
        big = [None, b"", b"x" * (n * 997)][n % 3]
        given.append((0, (id, n, None, n, 0.5, n, "step", "é" * n, big, None), [-1, n][n % 2]))
        given.append((1, (id, "w", None, "pending", "q", n, b"y" * n * 1009), -1))
        given.append((2, (id, "completed", big, b"z" * n * 499, [None, n][n % 2]), -1))
    for cut in (False, True):
        compare(server, given, again, cut)


def compare(server: FakeServer, given: list[Any], again: bool, cut: bool) -> None:
    flusher = Flusher(fake.STATEMENTS, 1_000_000)
    for place, (kind, values, event) in enumerate(given):
        add(flusher, kind, values, event, place)
    batch = flusher.take()
    is_as(batch, given, 0)
    parts = batch.split()
    if len(given) < 2:
        assert parts == (batch,)
    first, second = parts if len(parts) == 2 else (Flusher(fake.STATEMENTS).take(), batch)
    middle = len(given) // 2
    is_as(first, given[:middle], 0)
    is_as(second, given[middle:], middle)
    if cut:
        batch, given = second, given[middle:]
    batch.again = again
    server.says = [b""]
    flusher.connect(server.dsn, 7, [])
    assert isinstance(fake.sent(flusher, batch), ConnectionError)
    suffix = "_again" if again else ""
    expected: list[tuple[str, list[bytes]]] = [
        (f"pgd_fence_{part}", [struct.pack("!q", 7)]) for part in ("lock", "look")
    ]
    columns = {
        kind: [array(type, [values[n] for of, values, _ in given if of == kind]) for n, type in enumerate(types)]
        for kind, types in enumerate(COLUMNS)
        if any(of == kind for of, _, _ in given)
    }
    if 1 in columns:
        expected += [("pgd_insert_instances" + suffix, columns[1])]
        expected += [("pgd_read_instances", columns[1][:1])] * again
    events = [event for _, _, event in given if event >= 0]
    if columns.keys() == {0} and not events and not again:
        expected = [expected[0], ("pgd_insert_history_fenced", [struct.pack("!q", 7), *columns[0]])]
    elif 0 in columns:
        expected += [("pgd_insert_history" + suffix, columns[0])]
        expected += [("pgd_read_history", columns[0][:2])] * again
    if 3 in columns:
        expected += [("pgd_apply_writes", [struct.pack("!q", 7), *columns[3]])]
    if 2 in columns:
        expected += [("pgd_release_instances", [struct.pack("!q", 7), *columns[2]])]
    if events:
        expected += [("pgd_delete_events", [array(INT8, events)])]
    assert bound(server) == expected


@settings(max_examples=50)
@given(given=st.lists(history, min_size=1, max_size=12))
def test_copy_is_header_rows_and_trailer(server: FakeServer, given: list[Any]) -> None:
    flusher = Flusher(fake.STATEMENTS, 1)
    for place, values in enumerate(given):
        add(flusher, 0, values, -1, place)
    assert fake.outcome(server, flusher, *map(fake.packed, fake.copy()))[0] == "committed"
    sent = b"".join(body for letter, body in server.heard if letter == b"d")
    assert sent == b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(row(HISTORY, values) for values in given) + b"\xff\xff"


def test_a_row_too_large_for_postgresql_is_refused_and_leaves_nothing(server: FakeServer) -> None:
    flusher = Flusher(fake.STATEMENTS)
    half = b"x" * (0x3FFF0000 // 2)
    with pytest.raises(ValueError, match="is more than PostgreSQL takes"):
        flusher.add_history(b"x" * 16, 1, 0, 0, 0.0, 1, "step", "s", half, half, None)
    assert (flusher.waiting, flusher.waiting_bytes, flusher.take().rows_of(0)) == (0, 0, b"")


def test_a_pipeline_too_large_for_postgresql_is_refused_for_its_sender_to_split(dsn: str) -> None:
    flusher = Flusher({})
    flusher.pipeline_limit = 1000
    flusher.connect(dsn, None, [])
    for _ in range(8):
        flusher.add_release(b"x" * 16, "completed", b"x" * 200, None, None, None)
    kind, batch, sqlstate, message = fake.sent(flusher, flusher.take())
    assert (kind, len(batch), sqlstate) == ("refused", 8, "54000")
    assert "1 GB" in message


def test_a_time_before_all_times_is_refused() -> None:
    flusher = Flusher({})
    with pytest.raises(OverflowError, match="no time PostgreSQL can store"):
        flusher.add_release(b"x" * 16, "waiting", None, None, -(2**63), None)
    assert flusher.waiting == 0
