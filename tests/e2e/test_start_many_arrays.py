"""`start_many` from arrays and streams: what is started, what is refused, and what a broken network leaves behind."""

from __future__ import annotations

import array
import asyncio
import ctypes
import datetime as dt
import enum
import math
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import psycopg
import pytest

import pgdurable as pgd
from pgdurable.handle import Starts

from .namespace import Namespace, until
from .proxy import Proxy

FACES = pytest.mark.parametrize("face", ["engine", "client"])


class Colour(enum.Enum):
    RED = "red"


@pgd.workflow
async def measured(device: int, value: float = 0.5) -> list:
    return [device, value]


@pgd.workflow
async def anything(a: Any) -> Any:
    return a


@pgd.workflow
async def typed(
    text: str = "", data: bytes = b"", at: dt.datetime | None = None, day: dt.date | None = None, ok: bool = False
) -> str:
    return repr((text, data, at, day, ok))


@pgd.workflow
async def chosen(level: Literal[1, 2], share: Annotated[float, msgspec.Meta(ge=0)], colour: Colour = Colour.RED) -> str:
    return f"{level} {share} {colour.value}"


@pgd.workflow
async def starred(*values: int, **named: int) -> None: ...


@pgd.workflow
async def nothing() -> None: ...


def readings(n: int) -> np.ndarray:
    found = np.zeros(n, [("device", "i4"), ("value", "f8")])
    found["device"] = np.arange(n)
    found["value"] = np.arange(n) / 8
    return found


def inputs(ns: Namespace) -> list[Any]:
    return [row for (row,) in ns.sql("select input from @.instances order by id")]


# --- what is started ----------------------------------------------------------------------------------------------


@FACES
async def test_a_structured_array_starts_one_instance_per_row(ns: Namespace, face: str) -> None:
    async with ns.engine(measured) as engine, ns.client() as client:
        starts = await (engine if face == "engine" else client).start_many(measured, readings(300))
        assert isinstance(starts, Starts)
        assert len(starts) == len({h.instance_id for h in starts}) == 300
        assert [await h.result(timeout=30) for h in starts[::50]] == [[n, n / 8] for n in range(0, 300, 50)]
        assert inputs(ns) == [{"device": n, "value": n / 8} for n in range(300)]
        info = await starts[299].describe()
        assert (info.workflow, info.version, info.queue, info.priority) == ("measured", "1", "default", 0)
        assert info.submitted_by == ns.one("select current_user::text")
        assert [row.instance_id async for row in client.list(limit=3)] == [starts[-n].instance_id for n in (1, 2, 3)]


async def test_many_rows_take_few_commits(ns: Namespace) -> None:
    async with ns.client() as client:
        assert len(await client.start_many(measured, readings(45_000))) == 45_000
    assert ns.one("select count(*) from @.instances where status = 'pending' and owner is null") == 45_000
    assert ns.one("select count(distinct xmin::text) from @.instances") == 3


class Reading(ctypes.Structure):
    _fields_ = (("device", ctypes.c_int), ("spare", ctypes.c_int), ("value", ctypes.c_double))


SOURCES: dict[str, Any] = {
    "structured": lambda: readings(3),
    "a field's part": lambda: readings(9)[["value", "device"]][:3],
    "backwards": lambda: readings(3)[::-1][::-1],
    "records": lambda: readings(3).view(np.recarray),
    "columns": lambda: {"value": np.arange(3) / 8, "device": np.arange(3, dtype=">u2")},
    "steps": lambda: {"device": np.arange(6)[::2] // 2, "value": readings(3)["value"]},
    "standard library": lambda: {
        "device": array.array("l", [0, 1, 2]), "value": memoryview(array.array("d", [0, 0.125, 0.25])),
    },
    "ints for floats": lambda: {"device": np.arange(3), "value": np.zeros(3, "i1")},
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
async def test_every_kind_of_columns(ns: Namespace, name: str) -> None:
    async with ns.client() as client:
        starts = await client.start_many(measured, SOURCES[name]())
        by_name = await client.start_many("measured", SOURCES[name]())
    values = [0, 0, 0] if name == "ints for floats" else [0, 0.125, 0.25]
    assert inputs(ns) == [{"device": n, "value": values[n]} for n in range(3)] * 2
    assert len(starts) == len(by_name) == 3


async def test_structures_of_other_exporters(ns: Namespace) -> None:
    class Two(ctypes.Structure):
        _fields_ = (("device", ctypes.c_longlong), ("value", ctypes.c_double))

    async with ns.client() as client:
        await client.start_many(measured, (Two * 2)(Two(1, 0.5), Two(2, 1.5)))
        await client.start_many("other", (Two * 1)(Two(3, 2.5)))
    assert inputs(ns) == [{"device": 1, "value": 0.5}, {"device": 2, "value": 1.5}, {"device": 3, "value": 2.5}]


async def test_one_array_is_one_argument_each(ns: Namespace) -> None:
    async with ns.client() as client:
        await client.start_many(measured, np.array([7, 8]))
        await client.start_many(measured, array.array("b", [9]))
        await client.start_many("measured", np.array([0.5]))
        await client.start_many(anything, np.array(["é", "b"]))
        await client.start_many(anything, np.array([1, "x"], object))  # Python objects: one by one
    assert inputs(ns) == [
        {"device": 7},
        {"device": 8},
        {"device": 9},
        [0.5],
        {"a": "é"},
        {"a": "b"},
        {"a": 1},
        {"a": "x"},
    ]


async def test_text_bytes_times_and_bools_arrive_as_annotated(ns: Namespace) -> None:
    rows = np.zeros(2, [("text", "S4"), ("data", "S3"), ("at", "M8[ms]"), ("day", "M8[D]"), ("ok", "?")])
    rows[0] = ("aé".encode(), b"\x00\xff", "2024-02-29T12:30:00.250", "2024-02-29", True)
    rows[1] = (b"", b"", "1969-12-31T23:59:59.999", "1969-12-31", False)
    async with ns.engine(typed) as engine:
        starts = await engine.start_many(typed, rows)
        found = [await h.result(timeout=30) for h in starts]
        wide = await engine.start_many(typed, {"text": np.array(["aé", ""]), "at": rows["day"]})
        later = await wide[0].result(timeout=30)
    assert found == [
        repr(("aé", b"\x00\xff", dt.datetime(2024, 2, 29, 12, 30, 0, 250000), dt.date(2024, 2, 29), True)),
        repr(("", b"", dt.datetime(1969, 12, 31, 23, 59, 59, 999000), dt.date(1969, 12, 31), False)),
    ]
    assert later == repr(("aé", b"", dt.datetime(2024, 2, 29), None, False))


async def test_no_rows_start_nothing(ns: Namespace) -> None:
    async with ns.client() as client:
        assert len(await client.start_many(measured, readings(0))) == 0
        assert len(await client.start_many(measured, {"device": array.array("i")})) == 0
        assert await client.start_many(measured, []) == []


class Series:
    """What a data frame's column looks like: no buffer, but a method that gives one."""

    def to_numpy(self) -> np.ndarray:
        return np.array([1, 2])


async def test_columns_of_a_data_frame(ns: Namespace) -> None:
    async with ns.client() as client:
        await client.start_many(measured, {"device": Series()})
    assert inputs(ns) == [{"device": 1}, {"device": 2}]


async def test_starts_are_a_sequence_that_makes_handles_when_asked(ns: Namespace) -> None:
    async with ns.client() as client:
        starts = await client.start_many(measured, readings(5), queue="q", version="9")
        assert ns.sql("select distinct queue, version from @.instances") == [("q", "9")]
        ids = [uuid.UUID(bytes=starts.ids[16 * n : 16 * n + 16]) for n in range(5)]
        assert [h.instance_id for h in starts] == ids
        assert [h.instance_id for h in reversed(starts)] == ids[::-1]
        assert [h.instance_id for h in starts[1:3]] == ids[1:3]
        assert [h.instance_id for h in starts[::-2]] == ids[::-2]
        assert [h.id for h in starts[3:1]] == []
        assert starts[-1].id == str(starts.instance_id(4)) == str(ids[4])
        assert sys.getsizeof(starts) + sys.getsizeof(starts.ids) < 300
        for outside in (5, -6):
            with pytest.raises(IndexError):
                starts[outside]


def test_blocking_code_gets_blocking_handles(ns: Namespace) -> None:
    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[measured]) as engine:
        starts = engine.start_many(measured, readings(3))
        assert isinstance(starts, Starts)
        assert [h.result(timeout=30) for h in starts] == [[n, n / 8] for n in range(3)]
        assert [h.result(timeout=30) for h in engine.start_many(measured, (n for n in range(2)))] == [
            [0, 0.5],
            [1, 0.5],
        ]


# --- what is refused ----------------------------------------------------------------------------------------------

masked = np.ma.array([1, 2], mask=[False, True])
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "float for int": (measured, {"device": np.zeros(2)}, "device is int, found a column of float64"),
    "text for int": (measured, {"device": np.array(["1"])}, "device is int, found a column of text"),
    "int for bool": (typed, {"ok": np.zeros(1, "u1")}, "ok is bool, found a column of uint8"),
    "bool for int": (measured, np.zeros(1, "?"), "device is int, found a column of bool"),
    "text for bytes": (typed, {"data": np.array(["1"])}, "data is bytes, found a column of text"),
    "time for date": (typed, {"day": np.zeros(1, "M8[s]")}, r"day is .*date.*, found a column of datetime"),
    "missing": (measured, {"value": np.zeros(1)}, "missing device"),
    "unknown": (measured, {"device": np.zeros(1, "i4"), "x": np.zeros(1)}, "unknown x"),
    "no parameters": (nothing, np.zeros(1), "it takes no argument"),
    "only stars": (starred, {"values": np.zeros(1, "i4")}, "unknown values"),
    "lengths": (measured, {"device": np.zeros(2, "i4"), "value": np.zeros(3)}, "arrays of 2 and of 3 elements"),
    "two dimensions": (measured, np.zeros((2, 2)), "has 2 dimensions"),
    "two dimensions of time": (anything, np.zeros((2, 2), "M8[s]"), "has 2 dimensions"),
    "no dimension": (measured, np.array(7), "has 0 dimensions"),
    "a list": (measured, {"device": [1, 2]}, "column 'device' is a list, which is no array"),
    "a number": (measured, {"device": 1}, "column 'device' is a int, which is no array"),
    "no text": (measured, {1: np.zeros(1)}, "a column's name is a text, found 1"),
    "no column": (measured, {}, "without a column"),
    "complex": (anything, np.zeros(1, "c16"), "format 'Zd', which cannot be read"),
    "long double": (anything, np.zeros(1, "g"), "format 'g', which cannot be read"),
    "objects": (anything, {"a": np.array([1], object)}, "format 'O', which cannot be read"),
    "durations": (anything, np.zeros(1, "m8[s]"), r"type <m8\[s\], which cannot be read"),
    "months": (anything, np.zeros(1, "M8[M]"), r"type <M8\[M\], which cannot be read"),
    "masked": (anything, masked, "is masked"),
    "masked column": (anything, {"a": masked}, "is masked"),
    "nested": (anything, np.zeros(2, [("a", [("b", "i4")])]), "column 'a' "),
    "padding untold": (measured, (Reading * 1)(), "unknown spare"),
}  # fmt: skip


@FACES
@pytest.mark.parametrize("what", REFUSED)
async def test_columns_that_do_not_fit_are_refused(ns: Namespace, face: str, what: str) -> None:
    workflow, arguments, message = REFUSED[what]
    async with ns.engine(workflow) as engine, ns.client() as client:
        with pytest.raises(pgd.InvalidInput, match=message) as caught:
            await (engine if face == "engine" else client).start_many(workflow, arguments)
        assert workflow.name in str(caught.value)
    assert inputs(ns) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": np.arange(25_000), "value": np.r_[np.zeros(24_999), math.nan]}, "NaN at row 24999, column 'value'"),
        ({"device": np.arange(2), "value": np.array([0, -math.inf], "f4")}, ": -infinity at row 1, column 'value'"),
    ],
)  # fmt: skip
async def test_a_number_json_does_not_have_starts_nothing(ns: Namespace, arguments: Any, message: str) -> None:
    async with ns.client() as client:
        with pytest.raises(pgd.CodecError, match=message) as caught:
            await client.start_many(measured, arguments)
    assert caught.value.path == "$.value"
    assert inputs(ns) == []


async def test_text_and_times_that_cannot_be_stored_name_their_row(ns: Namespace) -> None:
    async with ns.client(payload_limit=40) as client:
        with pytest.raises(pgd.CodecError, match=r"a NUL character \(index 1\) at row 1, column 'text'"):
            await client.start_many(typed, {"text": np.array(["a", "b\0c"])})
        with pytest.raises(pgd.CodecError, match="NaT at row 0, column 'at'"):
            await client.start_many(typed, {"at": np.array(["NaT"], "M8[s]")})
        with pytest.raises(pgd.PayloadTooLarge, match="too large at row 2"):
            await client.start_many(typed, {"text": np.array(["a", "b", "c" * 40])})
    assert inputs(ns) == []


async def test_annotations_about_single_values_have_every_row_looked_at(ns: Namespace) -> None:
    fine = {"level": np.array([1, 2]), "share": np.array([0.0, 1.0]), "colour": np.array([b"red", b"red"])}
    async with ns.engine(chosen) as engine:
        starts = await engine.start_many(chosen, fine)
        assert await starts[1].result(timeout=30) == "2 1.0 red"
        for wrong in (
            {"level": np.array([1, 3])},
            {"share": np.array([0, -1.0])},
            {"colour": np.array(["red", "blue"])},
        ):
            with pytest.raises(pgd.InvalidInput, match=f"row 1: .*{next(iter(wrong))}"):
                await engine.start_many(chosen, {**fine, **wrong})
    assert len(inputs(ns)) == 2


# --- streams ------------------------------------------------------------------------------------------------------


async def counted(n: int, asked: list[int]) -> AsyncIterator[int]:
    for i in range(n):
        asked.append(i)
        yield i


def counting(n: int, asked: list[int]) -> Iterator[int]:
    for i in range(n):
        asked.append(i)
        yield i


@FACES
@pytest.mark.parametrize("stream", [counted, counting])
async def test_a_stream_gives_starts_in_its_order(ns: Namespace, face: str, stream: Any) -> None:
    async with ns.engine(measured) as engine, ns.client() as client:
        starts = await (engine if face == "engine" else client).start_many(measured, stream(700, []))
        assert isinstance(starts, Starts)
        assert [await h.result(timeout=30) for h in starts[-2:]] == [[698, 0.5], [699, 0.5]]
    assert inputs(ns) == [{"device": n} for n in range(700)]


@pytest.mark.parametrize("stream", [counted, counting])
async def test_a_stream_is_not_read_faster_than_it_is_stored(ns: Namespace, stream: Any) -> None:
    asked: list[int] = []
    async with ns.client() as client:
        with psycopg.connect(ns.dsn) as conn:
            conn.execute(f"lock table {ns.schema}.instances in exclusive mode")
            starting = asyncio.create_task(client.start_many(measured, stream(30_000, asked)))
            await until(lambda: len(asked) > 9000, "two commits are filled")
            before = -1
            while before != len(asked):  # until it has come to rest
                before = len(asked)
                await asyncio.sleep(0.2)
            assert before < 11_000
        starts = await starting
    assert len(starts) == len({h.instance_id for h in starts}) == 30_000
    assert ns.one("select count(*) from @.instances") == 30_000


async def test_a_stream_that_breaks_leaves_a_leading_part(ns: Namespace) -> None:
    def breaks() -> Iterator[int]:
        yield from range(12_000)
        raise OSError("the file ends here")

    async with ns.client() as client:
        with pytest.raises(OSError, match="the file ends here"):
            await client.start_many(measured, breaks())
    stored = [row["device"] for row in inputs(ns)]
    assert stored == list(range(len(stored)))
    assert len(stored) in (5000, 10_000)


# --- trouble ------------------------------------------------------------------------------------------------------


async def test_a_commit_whose_answer_is_lost_is_there_once(ns: Namespace) -> None:
    async with Proxy(ns.dsn) as proxy, pgd.Client(proxy.dsn, schema=ns.schema) as client:
        proxy.cut_after(b"PGCOPY", times=2)
        starts = await client.start_many(measured, readings(30_000))
        assert proxy.cuts == 2
        more = await client.start_many(measured, range(6000))
    stored = [id.bytes for (id,) in ns.sql("select id from @.instances order by id")]
    assert b"".join(stored) == starts.ids + b"".join(h.instance_id.bytes for h in more)


async def test_a_connection_that_breaks_in_the_middle_of_a_commit(ns: Namespace) -> None:
    async with Proxy(ns.dsn) as proxy, pgd.Client(proxy.dsn, schema=ns.schema) as client:

        def breaks() -> Iterator[int]:
            for n in range(20_000):
                if n % 6000 == 5999:
                    proxy.drop()
                yield n

        starts = await client.start_many(measured, breaks())
    assert [row["device"] for row in inputs(ns)] == list(range(20_000))
    assert len(starts) == 20_000


async def test_a_server_that_refuses_a_row_is_no_passing_trouble(ns: Namespace) -> None:
    ns.sql("alter table @.instances add check (input ->> 'device' <> '7')")
    async with ns.client() as client:
        with pytest.raises(pgd.PgDurableError, match="PostgreSQL refused"):
            await client.start_many(measured, readings(9))
        assert len(await client.start_many(measured, readings(7))) == 7


async def test_a_session_with_another_encoding(ns: Namespace) -> None:
    dsn = psycopg.conninfo.make_conninfo(ns.dsn, client_encoding="latin1")
    async with pgd.Client(dsn, schema=ns.schema) as client:
        await client.start_many(anything, np.array(["zażółć"]))
        await client.start_many(anything, ["zażółć"])
    assert inputs(ns) == [{"a": "zażółć"}] * 2
