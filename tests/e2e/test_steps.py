"""Steps: values in and out, attempts, retries, timeouts, and how their errors reach the workflow."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import threading
import time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

import pgdurable as pgd

from .namespace import Namespace, until

FAST = pgd.Retry(max_attempts=3, initial=0.01, multiplier=1.0, jitter=0.0)
ONCE = pgd.Retry(max_attempts=1)


# --- outside workflows --------------------------------------------------------------------------------------------


@pgd.step
async def add(a: int, b: int = 1) -> int:
    return a + b


@pgd.step(retry=FAST)
def add_in_thread(a: int, b: int = 1) -> int:
    return a + b


@pgd.transaction
async def plain_transaction(tx: str, a: int) -> str:
    return f"{tx}{a}"


async def test_outside_a_workflow_a_step_is_the_plain_function() -> None:
    assert await add(1) == 2
    assert add_in_thread(1, b=4) == 5
    assert await plain_transaction("connection", 1) == "connection1"
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        add_in_thread()


async def test_a_step_called_in_another_step_is_the_plain_function(ns: Namespace) -> None:
    @pgd.step
    async def outer(n: int) -> int:
        return await add(n) + add_in_thread(n)

    @pgd.workflow
    async def nested(n: int) -> int:
        return await outer(n)

    async with ns.engine(nested) as engine:
        h = await engine.start(nested, 1)
        assert await h.result(timeout=20) == 4
        assert ns.history(h, "name") == [("outer",)]


# --- values -------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal
    colour: Colour | None = None


@dataclasses.dataclass
class Order:
    id: UUID
    at: dt.datetime
    lines: list[Line] = dataclasses.field(default_factory=list)


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


class Customer(pydantic.BaseModel):
    name: str
    born: dt.date
    vip: bool = False


class Place(msgspec.Struct, tag="place"):
    name: str


VALUES: list[tuple[Any, Any]] = [
    (Any, {"a": [1, 2.5, "x", None, True], "b": {}}),
    (int, 2**63),
    (float, 1e22),
    (float, -0.5),
    (str, "zażółć \U0001f40d \\u0000 \x7f"),
    (bool, False),
    (None, None),
    (bytes, b"\x00\xff" * 9),
    (dt.datetime, dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.timezone(dt.timedelta(hours=2)))),
    (dt.date, dt.date(2024, 2, 29)),
    (dt.time, dt.time(1, 2, 3)),
    (dt.timedelta, dt.timedelta(days=2, microseconds=7)),
    (UUID, UUID("0190a0b0-1234-7abc-8def-0123456789ab")),
    (Decimal, Decimal("123456789012345678901234567890.50")),
    (Colour, Colour.BLUE),
    (list[int], [3, 1, 2]),
    (tuple[int, str], (1, "x")),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1, 2})),
    (dict[int, str], {1: "a", 20: "b"}),
    (dict[str, Decimal], {"z": Decimal("1.10"), "a": Decimal("2")}),
    (Line, Line("s", Decimal("9.90"), Colour.RED)),
    (Order, Order(UUID(int=5), dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc), [Line("s", Decimal("1.0"))])),
    (Point, Point(1, 2.5)),
    (list[Point], [Point(1), Point(2, 0.1)]),
    (Place | None, Place("x")),
    (Customer, Customer(name="Ann", born=dt.date(1990, 5, 17), vip=True)),
    (dict[str, Customer], {"a": Customer(name="Bo", born=dt.date(2000, 1, 1))}),
]


def _echo(kind: Any, number: int) -> tuple[Any, list[Any]]:
    arrived: list[Any] = []

    async def step(value: Any) -> Any:
        arrived.append(value)
        return value

    async def workflow(value: Any, keyword: Any) -> Any:
        arrived.append(value)
        arrived.append(keyword)
        result = await made(value)
        arrived.append(result)
        return result

    step.__annotations__ = {"value": kind, "return": kind}
    workflow.__annotations__ = {"value": kind, "keyword": kind, "return": kind}
    made = pgd.step(step)
    return pgd.Workflow(workflow, name=f"echo_{number}"), arrived


async def test_values_of_every_type_pass_through_input_step_and_result(ns: Namespace) -> None:
    echoes = [(*_echo(kind, number), kind, value) for number, (kind, value) in enumerate(VALUES)]
    async with ns.engine(*(workflow for workflow, *_ in echoes)) as engine:
        handles = [await engine.start(workflow, value, kwargs={"keyword": value}) for workflow, _, _, value in echoes]
        for (_, arrived, kind, value), handle in zip(echoes, handles, strict=True):
            found = [await handle.result(timeout=20), *arrived]
            # in the workflow twice, in the step, from the step, and the instance's result
            assert found == [value] * 5, kind
            assert {type(one) for one in found} == {type(value)}, kind


async def test_a_step_gets_arguments_of_its_own(ns: Namespace) -> None:
    @pgd.step
    async def spoil(items: list[int]) -> list[int]:
        items.append(9)
        return items

    @pgd.workflow
    async def spoiled() -> list:
        items = [1]
        return [await spoil(items), items]

    async with ns.engine(spoiled) as engine:
        assert await (await engine.start(spoiled)).result(timeout=20) == [[1, 9], [1]]


async def test_thousands_of_parallel_steps_each_get_their_own_result(ns: Namespace) -> None:
    @pgd.workflow
    async def wide(n: int) -> list[int]:
        return await asyncio.gather(*(add(i) for i in range(n)))

    async with ns.engine(wide) as engine:
        h = await engine.start(wide, 3000)
        assert await h.result(timeout=60) == list(range(1, 3001))
        rows = ns.sql("select event_id, seq from @.history order by event_id")
        assert [event_id for event_id, _ in rows] == list(range(1, 3001))
        assert sorted(seq for _, seq in rows) == list(range(3000))
        metrics = engine.metrics()
    assert metrics["steps_done"] == 3000
    assert metrics["flushes"] < 1000


# --- retries ------------------------------------------------------------------------------------------------------


async def test_failed_attempts_are_recorded_and_wait_longer_each_time(ns: Namespace) -> None:
    tries: list[int] = []

    @pgd.step(retry=pgd.Retry(max_attempts=5, initial=0.05, multiplier=2.0, jitter=0.0))
    async def third_time() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError(f"try {len(tries)}")
        return "ok"

    @pgd.workflow
    async def retried() -> str:
        return await third_time()

    async with ns.engine(retried) as engine:
        h = await engine.start(retried)
        assert await h.result(timeout=20) == "ok"
    rows = ns.history(h, "kind, attempt, error ->> 'message', payload, recorded_at, elapsed_ms is not null")
    assert [row[:3] for row in rows] == [("attempt", 1, "try 1"), ("attempt", 2, "try 2"), ("step", 3, None)]
    assert [row[3] for row in rows] == [{"retry_in": 0.05}, {"retry_in": 0.1}, "ok"]
    assert all(row[5] for row in rows)
    assert (rows[1][4] - rows[0][4]).total_seconds() >= 0.05
    assert (rows[2][4] - rows[1][4]).total_seconds() >= 0.1
    assert ns.sql("select status, attempt from @.steps order by event_id") == [
        ("retried", 1), ("retried", 2), ("completed", 3),
    ]  # fmt: skip


async def test_the_last_attempt_s_error_reaches_the_workflow(ns: Namespace) -> None:
    @pgd.step(retry=FAST)
    def never() -> None:
        raise LookupError("gone", 3)

    @pgd.workflow
    async def caught() -> list:
        try:
            await never()
        except LookupError as error:
            cause = error.__cause__
            assert isinstance(cause, pgd.StepFailed)
            return [type(error).__name__, list(error.args), cause.step, cause.attempt, cause.type, cause.traceback]
        return []

    async with ns.engine(caught) as engine:
        *found, traceback = await (await engine.start(caught)).result(timeout=20)
    assert found == ["LookupError", ["gone", 3], "never", 3, "LookupError"]
    assert 'raise LookupError("gone", 3)' in traceback


async def test_an_uncaught_error_of_a_step_fails_the_instance(ns: Namespace) -> None:
    @pgd.step(retry=ONCE)
    async def broken() -> None:
        raise ValueError("no luck")

    @pgd.workflow
    async def uncaught() -> None:
        await broken()

    async with ns.engine(uncaught) as engine:
        h = await engine.start(uncaught)
        with pytest.raises(pgd.InstanceFailed, match="ended failed: ValueError: no luck") as failed:
            await h.result(timeout=20)
        assert (failed.value.id, failed.value.status) == (h.id, "failed")
        assert "no luck" in failed.value.traceback
        assert ns.sql("select status, type, message from @.failures") == [("failed", "builtins.ValueError", "no luck")]


async def test_policies_decide_what_is_tried_again(ns: Namespace) -> None:
    counts: dict[str, int] = {}

    def policy(**options: Any) -> pgd.Retry:
        return pgd.Retry(**{"max_attempts": 3, "initial": 0.0, **options})

    class Special(ValueError):
        pass

    def failing(name: str, error: BaseException, retry: pgd.Retry) -> Any:
        async def step() -> None:
            counts[name] = counts.get(name, 0) + 1
            raise error

        return pgd.step(name=name, retry=retry)(step)

    steps = [
        failing("default", ValueError(), policy()),
        failing("once", ValueError(), policy(max_attempts=1)),
        failing("non_retryable", pgd.NonRetryable("no"), policy()),
        failing("in_retry_on", Special(), policy(retry_on=(ValueError,))),
        failing("not_in_retry_on", KeyError(), policy(retry_on=(ValueError,))),
        failing("never_retry_on", Special(), policy(retry_on=(ValueError,), never_retry_on=(Special,))),
    ]

    @pgd.workflow
    async def all_of_them() -> list[str]:
        results = await asyncio.gather(*(step() for step in steps), return_exceptions=True)
        return [type(result).__name__ for result in results]

    async with ns.engine(all_of_them) as engine:
        names = await (await engine.start(all_of_them)).result(timeout=20)
    assert counts == {
        "default": 3, "once": 1, "non_retryable": 1, "in_retry_on": 3, "not_in_retry_on": 1, "never_retry_on": 1,
    }  # fmt: skip
    assert names == ["ValueError", "ValueError", "NonRetryable", "StepFailed", "KeyError", "StepFailed"]


async def test_retry_after_sets_its_own_wait_and_counts_as_an_attempt(ns: Namespace) -> None:
    @pgd.step(retry=pgd.Retry(max_attempts=2, initial=30))
    async def busy() -> None:
        raise pgd.RetryAfter(0.15, "busy")

    @pgd.workflow
    async def patient() -> str:
        try:
            await busy()
        except pgd.RetryAfter as error:
            return f"{error} {error.seconds}"
        return ""

    async with ns.engine(patient) as engine:
        h = await engine.start(patient)
        assert await h.result(timeout=20) == "busy 0.15"
    (first, wait, at), (second, _, later) = ns.history(h, "attempt, payload, recorded_at")
    assert (first, wait, second) == (1, {"retry_in": 0.15}, 2)
    assert (later - at).total_seconds() >= 0.15


async def test_arguments_that_do_not_fit_are_not_tried_again(ns: Namespace) -> None:
    @pgd.workflow
    async def misuse() -> str:
        try:
            await add(1, 2, 3)
        except TypeError as error:
            return str(error)
        return ""

    async with ns.engine(misuse) as engine:
        h = await engine.start(misuse)
        assert "positional arguments" in await h.result(timeout=20)
        assert ns.history(h, "kind, attempt") == [("step", 1)]


async def test_attempts_are_durable_a_second_engine_goes_on_counting(ns: Namespace) -> None:
    tries: list[str] = []
    hang = asyncio.Event()
    place = ["first"]

    @pgd.step(retry=pgd.Retry(max_attempts=4, initial=0.01, jitter=0.0))
    async def unlucky() -> None:
        tries.append(place[0])
        if len(tries) == 3:
            hang.set()
            await asyncio.sleep(60)
        raise OSError("not yet")

    @pgd.workflow
    async def counted() -> str:
        try:
            await unlucky()
        except OSError as error:
            return f"{error} {error.__cause__.attempt}"
        return ""

    engine = ns.engine(counted)
    await engine.open()
    h = await engine.start(counted)
    await until(hang.is_set, "the third attempt runs")
    await engine.stop(drain=0)
    await engine.close()
    place[0] = "second"
    async with ns.engine(counted) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == "not yet 4"
    # The third attempt left no trace, so it was made again.
    assert tries == ["first"] * 3 + ["second"] * 2
    assert ns.history(h) == [
        ("attempt", "unlucky", 1), ("attempt", "unlucky", 2), ("attempt", "unlucky", 3), ("step", "unlucky", 4),
    ]  # fmt: skip


async def test_a_wait_between_attempts_survives_the_engine(ns: Namespace) -> None:
    tries: list[float] = []

    @pgd.step(retry=pgd.Retry(max_attempts=2))
    async def later() -> str:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise pgd.RetryAfter(1.0)
        return "ok"

    @pgd.workflow
    async def waits() -> str:
        return await later()

    engine = ns.engine(waits)
    async with engine:
        h = await engine.start(waits)
        await until(lambda: ns.history(h), "the first attempt is recorded")
    async with ns.engine(waits) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == "ok"
    (_, failed), (_, done) = ns.history(h, "attempt, recorded_at")
    assert (done - failed).total_seconds() >= 1.0
    assert tries[1] - tries[0] < 10


# --- timeouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_step_over_its_timeout_fails_and_the_workflow_may_catch_it(ns: Namespace, in_thread: bool) -> None:
    go = threading.Event()
    cancelled: list[bool] = []

    @pgd.step(timeout=0.05, retry=pgd.Retry(max_attempts=2, initial=0.0))
    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    @pgd.step(name="slow", timeout=0.05, retry=pgd.Retry(max_attempts=2, initial=0.0))
    def slow_in_thread() -> None:
        go.wait(60)

    step = slow_in_thread if in_thread else slow

    @pgd.workflow
    async def impatient() -> list:
        try:
            await step()
        except TimeoutError as error:
            return [error.step, error.attempt, str(error)] if type(error) is pgd.StepTimeout else [error]
        return []

    async with ns.engine(impatient) as engine:
        h = await engine.start(impatient)
        try:
            name, attempt, text = await h.result(timeout=20)
        finally:
            go.set()
    assert (name, attempt) == ("slow", 2)
    assert text == f"instance {h.id}: step slow took longer than its timeout of 0.05 s"
    assert ns.history(h, "kind, attempt") == [("attempt", 1), ("step", 2)]
    assert len(cancelled) == (0 if in_thread else 2)


async def test_a_step_in_time_is_not_touched_by_its_timeout(ns: Namespace) -> None:
    @pgd.workflow
    async def quick() -> int:
        return await add.options(timeout=30)(1)

    async with ns.engine(quick) as engine:
        assert await (await engine.start(quick)).result(timeout=20) == 2


async def test_a_step_the_workflow_no_longer_waits_for_is_cancelled(ns: Namespace) -> None:
    events: list[str] = []

    @pgd.step
    async def endless() -> None:
        events.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    @pgd.workflow
    async def gives_up() -> str:
        try:
            await asyncio.wait_for(endless(), 0.1)
        except asyncio.TimeoutError:
            return "gave up"
        return ""

    async with ns.engine(gives_up) as engine:
        h = await engine.start(gives_up)
        assert await h.result(timeout=20) == "gave up"
        await until(lambda: events == ["begun", "cancelled"], "the step was cancelled")
    assert ns.history(h, "kind") == [("timer",)]


# --- errors -------------------------------------------------------------------------------------------------------


class OutOfStock(Exception):
    def __init__(self, sku: str, left: int = 0) -> None:
        super().__init__(sku, left)
        self.sku = sku
        self.left = left


def _unimportable() -> BaseException:
    class Hidden(Exception):
        def __init__(self, socket: object) -> None:
            super().__init__("a hidden thing")
            self.socket = socket  # has no JSON form

    return Hidden(threading.Lock())


@pgd.step(retry=ONCE)
async def fails(how: str) -> None:
    raise OutOfStock("sku-9", left=2) if how == "importable" else _unimportable()


@pgd.workflow
async def sees(how: str) -> list:
    found: list = []
    try:
        await fails(how)
    except OutOfStock as error:
        found = ["OutOfStock", error.sku, error.left, str(error), error.__cause__.traceback]
    except pgd.StepFailed as error:
        found = ["StepFailed", error.type, error.step, error.attempt, str(error), error.traceback]
    seen_errors.append(found)
    await pgd.wait_signal("go")
    return found


seen_errors: list[list] = []


@pytest.mark.parametrize("how", ["importable", "unimportable"])
async def test_errors_arrive_as_themselves_or_as_step_failed_live_and_in_replay(ns: Namespace, how: str) -> None:
    seen_errors.clear()
    async with ns.engine(sees) as engine:
        h = await engine.start(sees, how)
        await until(lambda: seen_errors, "the error was seen live")
    async with ns.engine(sees) as engine:
        h = await engine.get(h.id)
        await h.signal("go")
        result = await h.result(timeout=20)
    assert seen_errors[0] == seen_errors[1] == result
    if how == "importable":
        assert result[:3] == ["OutOfStock", "sku-9", 2]
    else:
        assert result[0] == "StepFailed"
        assert result[1] == "e2e.test_steps._unimportable.<locals>.Hidden"
        assert result[2:4] == ["fails", 1]
        assert result[4].startswith("step 'fails' failed on attempt 1: ")
        assert "a hidden thing\n" in result[4]
    assert "in fails" in result[-1]


async def test_a_def_step_runs_in_a_thread_of_the_pool(ns: Namespace) -> None:
    where: list[str] = []

    @pgd.step
    def where_am_i() -> str:
        where.append(threading.current_thread().name)
        return "there"

    @pgd.workflow
    async def elsewhere() -> str:
        return await where_am_i()

    async with ns.engine(elsewhere) as engine:
        assert await (await engine.start(elsewhere)).result(timeout=20) == "there"
    assert where[0].startswith("pgdurable-step")
