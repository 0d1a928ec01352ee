"""What a step may ask for besides retries: a pause when they are used up, limits over all attempts, a record of each
attempt before it begins, heartbeats and progress, and how all of it goes on in another engine."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until

FAST = pgd.Retry(max_attempts=3, initial=0.01, multiplier=1.0, jitter=0.0)


async def crash(engine: pgd.Engine) -> None:
    """Leaves what runs where it is, as far as that goes without killing the process."""
    await engine.stop(drain=0)
    await engine.close()


# --- pause when exhausted -----------------------------------------------------------------------------------------


async def test_a_step_may_pause_its_instance_and_begins_anew_when_that_is_resumed(ns: Namespace) -> None:
    tries: list[int] = []
    broken = [True]

    @pgd.step(retry=pgd.Retry(max_attempts=2, initial=0.0, on_exhausted="pause"))
    async def charge() -> str:
        tries.append(1)
        if broken[0]:
            raise ConnectionError("bank is closed")
        return "paid"

    @pgd.workflow
    async def order() -> str:
        return await charge()

    async with ns.engine(order, poll_interval=0.1) as engine:
        h = await engine.start(order)
        with pytest.raises(pgd.InstancePaused, match=r"step charge failed on attempt 2, its last.*bank is closed"):
            await h.result(timeout=20)
        error = (await h.describe()).error
        assert (error["type"], error["step"], error["attempt"]) == ("builtins.ConnectionError", "charge", 2)
        assert "bank is closed" in error["traceback"]
        # Still broken: two more attempts, then paused again.
        ns.sql("select @.retry(%s)", h.id)
        await until(lambda: len(tries) == 4, "two more attempts")
        await status_is(h, "paused")
        broken[0] = False
        ns.sql("select @.retry(%s)", h.id)
        assert await h.result(timeout=20) == "paid"
    assert ns.history(h) == [("attempt", "charge", 1), ("attempt", "charge", 2)] * 2 + [("step", "charge", 1)]


async def test_the_count_of_a_paused_step_is_fresh_in_another_engine(ns: Namespace) -> None:
    broken = [True]
    tries: list[int] = []

    @pgd.step(retry=pgd.Retry(max_attempts=1, on_exhausted="pause"))
    def charge() -> str:
        tries.append(1)
        if broken[0]:
            raise ConnectionError("closed")
        return "paid"

    @pgd.workflow
    async def order() -> str:
        return await charge()

    async with ns.engine(order) as engine:
        h = await engine.start(order)
        await status_is(h, "paused")
    broken[0] = False
    async with ns.engine(order) as engine:
        ns.sql("select @.resume(%s)", h.id)
        assert await (await engine.get(h.id)).result(timeout=20) == "paid"
    assert len(tries) == 2


async def test_what_is_never_tried_again_does_not_pause(ns: Namespace) -> None:
    @pgd.step(retry=pgd.Retry(max_attempts=1, on_exhausted="pause"))
    async def charge() -> str:
        raise pgd.NonRetryable("no such card")

    @pgd.workflow
    async def order() -> str:
        try:
            return await charge()
        except pgd.NonRetryable as error:
            return str(error)

    async with ns.engine(order) as engine:
        assert await (await engine.start(order)).result(timeout=20) == "no such card"


def test_a_policy_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"on_exhausted=.* is 'fail' or 'pause', found 'stop'"):
        pgd.Retry(on_exhausted="stop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_timeout": 0}, "step f: total_timeout is positive, found 0"),
        ({"heartbeat_timeout": -1}, "heartbeat_timeout is positive"),
        ({"max_concurrency": 0}, "max_concurrency is at least 1"),
        ({"rate_limit": (0, 1)}, r"rate_limit is \(how many, seconds\)"),
        ({"rate_limit": 5}, r"rate_limit is \(how many, seconds\)"),
        ({"executor": "thread"}, "executor is 'process' or left out"),
        ({"executor": "process"}, "defined at module level"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    async def f() -> None: ...

    with pytest.raises(ValueError, match=message):
        pgd.step(**options)(f)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_most_once": True}, "no at_most_once; it takes effect exactly once"),
        ({"record_pending": True}, "no record_pending"),
        ({"isolation": "snapshot"}, "isolation is one of read committed, repeatable read, serializable"),
        ({"session": "Session"}, "session is Session or AsyncSession"),
    ],
)
def test_a_transaction_refuses_what_it_cannot_be(options: Any, message: str) -> None:
    async def f(tx: Any) -> None: ...

    with pytest.raises(ValueError, match=message):
        pgd.transaction(**options)(f)


def test_options_for_some_calls_keep_the_rest() -> None:
    @pgd.step(
        timeout=1, total_timeout=2, heartbeat_timeout=3, record_pending=True, max_concurrency=4, rate_limit=(5, 6)
    )
    async def f() -> None: ...

    other = f.options(timeout=7, retry=FAST)
    assert (other.timeout, other.retry) == (7, FAST)
    assert (other.total_timeout, other.heartbeat_timeout, other.record_pending) == (2, 3, True)
    assert (other.max_concurrency, other.rate_limit) == (4, (5, 6))
    assert f.timeout == 1

    @pgd.step
    async def g() -> None: ...

    assert g.retry.max_attempts == 5
    assert g.options(at_most_once=True).retry.max_attempts == 1
    assert g.options(at_most_once=True, retry=FAST).retry is FAST
    assert g.options(at_most_once=True).record_pending


# --- a limit over all attempts ------------------------------------------------------------------------------------


async def test_all_attempts_together_have_a_limit(ns: Namespace) -> None:
    @pgd.step(total_timeout=0.3, retry=pgd.Retry(max_attempts=None, initial=0.05, multiplier=1.0, jitter=0.0))
    async def unlucky() -> None:
        raise OSError("not yet")

    @pgd.workflow
    async def limited() -> str:
        try:
            await unlucky()
        except pgd.StepTimeout as error:
            return str(error)
        return ""

    async with ns.engine(limited) as engine:
        h = await engine.start(limited)
        text = await h.result(timeout=20)
    assert "step unlucky took longer than its total_timeout of 0.3 s, in " in text
    assert text.endswith("the last one failed with OSError: not yet")
    rows = ns.sql("select status, extract(epoch from recorded_at - min(recorded_at) over ())::float8 from @.steps")
    assert rows[-1][0] == "timed_out"
    assert rows[-1][1] < 0.3
    assert {status for status, _ in rows[:-1]} == {"retried"}


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_attempt_ends_when_the_time_for_all_is_over(ns: Namespace, in_thread: bool) -> None:
    go = threading.Event()

    @pgd.step(total_timeout=0.2, timeout=30)
    async def slow() -> None:
        await asyncio.sleep(60)

    @pgd.step(name="slow", total_timeout=0.2, timeout=30)
    def slow_in_thread() -> None:
        go.wait(60)

    step = slow_in_thread if in_thread else slow

    @pgd.workflow
    async def limited() -> str:
        try:
            await step()
        except pgd.StepTimeout as error:
            return str(error)
        return ""

    async with ns.engine(limited) as engine:
        h = await engine.start(limited)
        assert "step slow took longer than its total_timeout of 0.2 s, in 1 attempt" in await h.result(timeout=20)
        assert ns.history(h) == [("step", "slow", 1)]
        go.set()


async def test_a_limit_over_all_attempts_survives_the_engine(ns: Namespace) -> None:
    tries: list[int] = []

    @pgd.step(total_timeout=1.0)
    async def hangs() -> None:
        tries.append(1)
        await asyncio.sleep(60)

    @pgd.workflow
    async def limited() -> str:
        try:
            await hangs()
        except pgd.StepTimeout as error:
            return str(error)
        return ""

    engine = ns.engine(limited)
    await engine.open()
    began = time.monotonic()
    h = await engine.start(limited)
    await until(lambda: tries, "the step runs")
    await crash(engine)
    async with ns.engine(limited) as engine:
        assert "total_timeout of 1 s" in await (await engine.get(h.id)).result(timeout=20)
    assert time.monotonic() - began < 10
    assert len(tries) == 2
    # And where the time was over before anybody took it up, it does not run again.
    engine = ns.engine(limited)
    await engine.open()
    h = await engine.start(limited)
    await until(lambda: len(tries) == 3, "the step runs")
    await crash(engine)
    await asyncio.sleep(1.0)
    async with ns.engine(limited) as engine:
        assert "total_timeout of 1 s" in await (await engine.get(h.id)).result(timeout=20)
    assert len(tries) == 3


# --- recorded before it begins ------------------------------------------------------------------------------------


async def test_a_pending_attempt_is_in_history_before_it_begins(ns: Namespace) -> None:
    seen: list[Any] = []
    handles: list[Any] = []
    tries: list[int] = []

    @pgd.step(record_pending=True, retry=FAST)
    async def call_out() -> str:
        seen.append(ns.history(handles[0]))
        tries.append(1)
        if len(tries) == 1:
            raise OSError("once")
        return "ok"

    @pgd.workflow
    async def calls() -> str:
        await pgd.wait_signal("go")
        return await call_out()

    async with ns.engine(calls) as engine:
        h = await engine.start(calls)
        handles.append(h)
        await h.signal("go")
        assert await h.result(timeout=20) == "ok"
    first = [("signal", "go", None), ("pending", "call_out", 1)]
    second = [*first, ("attempt", "call_out", 1), ("pending", "call_out", 2)]
    assert seen == [first, second]
    assert ns.history(h) == [*second, ("step", "call_out", 2)]
    assert [status for (status,) in ns.sql("select status from @.steps order by event_id")] == [
        "pending", "retried", "pending", "completed",
    ]  # fmt: skip


@pytest.mark.parametrize("in_thread", [False, True])
async def test_at_most_once_is_not_repeated_after_a_crash(ns: Namespace, in_thread: bool) -> None:
    calls: list[int] = []
    go = threading.Event()

    @pgd.step(at_most_once=True)
    async def pay() -> str:
        calls.append(1)
        await asyncio.sleep(60)
        return "paid"

    @pgd.step(name="pay", at_most_once=True)
    def pay_in_thread() -> str:
        calls.append(1)
        go.wait(60)
        return "paid"

    step = pay_in_thread if in_thread else pay

    @pgd.workflow
    async def order() -> list[Any]:
        try:
            return [await step()]
        except pgd.StepInterrupted as error:
            return [error.step, error.attempt, str(error)]

    engine = ns.engine(order)
    await engine.open()
    h = await engine.start(order)
    await until(lambda: calls, "the step runs")
    await crash(engine)
    go.set()
    async with ns.engine(order) as engine:
        name, attempt, text = await (await engine.get(h.id)).result(timeout=20)
    assert (name, attempt) == ("pay", 1)
    assert "was under way (attempt 1) when its worker stopped; as at_most_once it is not repeated" in text
    assert len(calls) == 1
    assert ns.history(h) == [("pending", "pay", 1), ("step", "pay", 1)]
    # Replayed once more, it is the same.
    assert ns.one("select error ->> 'type' from @.history where kind = 'step'") == "pgdurable.errors.StepInterrupted"


async def test_at_most_once_that_had_not_begun_runs_after_a_crash(ns: Namespace) -> None:
    calls: list[int] = []

    @pgd.step(at_most_once=True, retry=pgd.Retry(max_attempts=2))
    async def pay() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise pgd.RetryAfter(0.5)
        return "paid"

    @pgd.workflow
    async def order() -> str:
        return await pay()

    engine = ns.engine(order)
    await engine.open()
    h = await engine.start(order)
    await until(lambda: len(ns.history(h)) == 2, "the first attempt is recorded")
    await crash(engine)
    async with ns.engine(order) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == "paid"
    assert len(calls) == 2


async def test_at_most_once_over_its_timeout_is_not_tried_again(ns: Namespace) -> None:
    calls: list[int] = []

    @pgd.step(at_most_once=True, timeout=0.05, retry=FAST)
    async def pay() -> None:
        calls.append(1)
        await asyncio.sleep(60)

    @pgd.workflow
    async def order() -> str:
        try:
            await pay()
        except pgd.StepTimeout as error:
            return str(error)
        return ""

    async with ns.engine(order) as engine:
        assert "its timeout of 0.05 s" in await (await engine.start(order)).result(timeout=20)
    assert len(calls) == 1


# --- heartbeats and progress --------------------------------------------------------------------------------------


async def test_details_of_a_heartbeat_reach_the_next_attempt(ns: Namespace) -> None:
    found: list[Any] = []

    @pgd.step(retry=FAST)
    async def copies() -> int:
        done = pgd.heartbeat_details(int) or 0
        found.append(done)
        for n in range(done, done + 3):
            pgd.heartbeat(n + 1)
        if len(found) < 3:
            raise OSError("cut off")
        return done

    @pgd.step(name="copies", retry=FAST)
    def copies_in_thread() -> int:
        return asyncio.run(copies.fn())

    @pgd.workflow
    async def both(in_thread: bool) -> int:
        return await (copies_in_thread if in_thread else copies)()

    async with ns.engine(both) as engine:
        for in_thread in (False, True):
            found.clear()
            h = await engine.start(both, in_thread)
            assert await h.result(timeout=20) == 6
            assert found == [0, 3, 6]
            left = ns.history(h, "payload")
            assert left[0] == ({"retry_in": 0.01, "details": 3},)


async def test_details_of_a_failed_attempt_survive_the_engine(ns: Namespace) -> None:
    found: list[Any] = []

    @pgd.step(retry=FAST)
    async def copies() -> Any:
        found.append(pgd.heartbeat_details())
        if len(found) == 1:
            pgd.heartbeat({"done": 7})
            raise pgd.RetryAfter(0.5)
        return found[-1]

    @pgd.workflow
    async def resumes() -> Any:
        return await copies()

    engine = ns.engine(resumes)
    await engine.open()
    h = await engine.start(resumes)
    await until(lambda: ns.history(h), "the first attempt is recorded")
    await crash(engine)
    async with ns.engine(resumes) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == {"done": 7}
    assert found == [None, {"done": 7}]


async def test_details_survive_a_crash_in_the_middle_of_an_attempt(ns: Namespace) -> None:
    found: list[Any] = []
    stay = [True]

    @pgd.step
    async def copies() -> Any:
        found.append(pgd.heartbeat_details())
        if stay[0]:
            pgd.heartbeat({"done": 7})
            await asyncio.sleep(60)
        return found[-1]

    @pgd.workflow
    async def resumes() -> Any:
        return await copies()

    engine = ns.engine(resumes)
    await engine.open()
    h = await engine.start(resumes)
    await until(lambda: ns.sql("select details from @.attempts"), "the heartbeat is stored")
    await crash(engine)
    stay[0] = False
    async with ns.engine(resumes) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == {"done": 7}
    assert found == [None, {"done": 7}]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_step_that_gives_no_heartbeat_times_out(ns: Namespace, in_thread: bool) -> None:
    go = threading.Event()
    over: list[type[BaseException]] = []

    @pgd.step(heartbeat_timeout=0.3, retry=pgd.Retry(max_attempts=1))
    async def stuck() -> None:
        for _ in range(8):
            pgd.heartbeat()
            await asyncio.sleep(0.1)
        await asyncio.sleep(60)

    @pgd.step(name="stuck", heartbeat_timeout=0.3, retry=pgd.Retry(max_attempts=1))
    def stuck_in_thread() -> None:
        for _ in range(8):
            pgd.heartbeat()
            time.sleep(0.1)
        go.wait(60)
        try:
            pgd.heartbeat()
        except pgd.AttemptOver as error:
            over.append(type(error))

    step = stuck_in_thread if in_thread else stuck

    @pgd.workflow
    async def watched() -> list[Any]:
        began = pgd.now()
        try:
            await step()
        except pgd.HeartbeatTimeout as error:
            return [str(error), (pgd.now() - began).total_seconds()]
        return []

    async with ns.engine(watched) as engine:
        text, took = await (await engine.start(watched)).result(timeout=20)
        assert "step stuck gave no heartbeat for its heartbeat_timeout of 0.3 s" in text
        assert took > 0.8
        assert ns.one("select status from @.steps") == "timed_out"
        go.set()
        if in_thread:
            await until(lambda: over == [pgd.AttemptOver], "the thread is told that its attempt is over")


async def test_progress_and_slow_steps_show_while_they_run(ns: Namespace) -> None:
    go = asyncio.Event()

    @pgd.step
    async def slow() -> None:
        pgd.progress(3, 10)
        await go.wait()

    @pgd.step
    async def silent() -> None:
        await go.wait()

    @pgd.step
    async def fast() -> None:
        await asyncio.sleep(0)

    @pgd.workflow
    async def three() -> None:
        await asyncio.gather(slow(), silent(), *(fast() for _ in range(20)))

    async with ns.engine(three) as engine:
        h = await engine.start(three)
        rows = "select name, attempt, done, total, workflow from @.running_steps order by name"
        expected = [("silent", 1, None, None, "three"), ("slow", 1, 3.0, 10.0, "three")]
        await until(lambda: ns.sql(rows) == expected, "both are noted")
        assert sorted(ns.one("select long_steps from @.running")) == ["silent", "slow"]
        shown = {step.name: step for step in (await h.describe()).running_steps}
        assert sorted(shown) == ["silent", "slow"]
        assert (shown["slow"].attempt, shown["slow"].done, shown["slow"].total) == (1, 3.0, 10.0)
        assert shown["slow"].started_at <= shown["slow"].beat_at
        go.set()
        await h.result(timeout=20)
        await until(lambda: ns.one("select count(*) from @.attempts") == 0, "they are forgotten")


async def test_a_heartbeat_in_a_tight_loop_costs_little(ns: Namespace) -> None:
    @pgd.step
    async def loops() -> float:
        began = time.thread_time()
        for n in range(20_000):
            pgd.heartbeat(n)
        return (time.thread_time() - began) / 20_000

    @pgd.workflow
    async def one() -> float:
        return await loops()

    async with ns.engine(one) as engine:
        assert await (await engine.start(one)).result(timeout=60) < 50e-6


async def test_a_heartbeat_in_a_task_of_the_step_is_the_step_s(ns: Namespace) -> None:
    @pgd.step
    async def outer() -> Any:
        async def part(n: int) -> None:
            await asyncio.sleep(0)
            pgd.heartbeat(n)

        await asyncio.gather(part(1))
        await asyncio.to_thread(pgd.heartbeat, 2)
        return pgd.heartbeat_details()

    @pgd.workflow
    async def one() -> Any:
        return await asyncio.gather(*(outer() for _ in range(10)))

    async with ns.engine(one) as engine:
        assert await (await engine.start(one)).result(timeout=60) == [2] * 10


async def test_a_heartbeat_outside_a_step_is_refused(ns: Namespace) -> None:
    with pytest.raises(pgd.PgDurableError, match="heartbeat was called outside a step"):
        pgd.heartbeat()

    @pgd.workflow
    async def wrong() -> None:
        pgd.progress(1, 2)

    async with ns.engine(wrong) as engine:
        with pytest.raises(pgd.InstanceFailed, match="progress was called outside a step"):
            await (await engine.start(wrong)).result(timeout=20)


async def test_details_without_a_json_form_fail_the_attempt(ns: Namespace) -> None:
    @pgd.step(retry=FAST)
    async def wrong() -> None:
        pgd.heartbeat(object())

    @pgd.workflow
    async def tells() -> str:
        try:
            await wrong()
        except pgd.CodecError as error:
            return str(error)
        return ""

    async with ns.engine(tells) as engine:
        assert "details of a heartbeat" in await (await engine.start(tells)).result(timeout=20)


# --- how many at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_thread", [False, True])
async def test_no_more_attempts_run_at_once_than_allowed(ns: Namespace, in_thread: bool) -> None:
    lock = threading.Lock()
    running = [0, 0]

    def change(by: int) -> None:
        with lock:
            running[0] += by
            running[1] = max(running)

    @pgd.step(max_concurrency=3)
    async def few() -> None:
        change(1)
        await asyncio.sleep(0.02)
        change(-1)

    @pgd.step(name="few", max_concurrency=3)
    def few_in_threads() -> None:
        change(1)
        time.sleep(0.02)
        change(-1)

    step = few_in_threads if in_thread else few

    @pgd.workflow
    async def many() -> None:
        await asyncio.gather(*(step() for _ in range(20)))

    async with ns.engine(many) as engine:
        handles = [await engine.start(many) for _ in range(2)]
        for h in handles:
            await h.result(timeout=30)
    assert running == [0, 3]


async def test_who_waits_for_a_place_can_be_cancelled_and_times_out_over_all(ns: Namespace) -> None:
    go = asyncio.Event()
    ran: list[int] = []

    @pgd.step(max_concurrency=1, total_timeout=60)
    async def one(n: int) -> int:
        ran.append(n)
        await go.wait()
        return n

    @pgd.workflow
    async def queue() -> list[Any]:
        first = asyncio.create_task(one(1))
        await asyncio.sleep(0)
        second = asyncio.create_task(one(2))
        third = asyncio.create_task(one.options(total_timeout=0.1)(3))
        fourth = asyncio.create_task(one(4))
        await asyncio.sleep(0.05)
        second.cancel()
        try:
            await third
        except pgd.StepTimeout as error:
            text = str(error)
        await pgd.wait_signal("go")
        return [await first, second.cancelled(), text, await fourth]

    async with ns.engine(queue) as engine:
        h = await engine.start(queue)
        await until(lambda: ns.sql("select 1 from @.history where kind = 'step'"), "the third has timed out")
        go.set()
        await h.signal("go")
        first, cancelled, text, fourth = await h.result(timeout=20)
    assert (first, cancelled, fourth) == (1, True, 4)
    assert "total_timeout of 0.1 s" in text
    assert ran == [1, 4]


# --- with encryption, and in transactions -------------------------------------------------------------------------


async def test_details_and_the_reason_of_a_pause_are_not_readable_where_payloads_are_encrypted(ns: Namespace) -> None:
    keys = pgd.Encryption({"k": pgd.Encryption.new_key()})
    found: list[Any] = []
    hang = [True]

    @pgd.step(retry=pgd.Retry(max_attempts=3, initial=0.0))
    async def copies() -> Any:
        found.append(pgd.heartbeat_details())
        pgd.heartbeat(f"secret {len(found)}")
        if len(found) == 1:
            raise OSError("once")
        if hang[0]:
            await asyncio.sleep(60)
        return found[-1]

    @pgd.step(retry=pgd.Retry(max_attempts=1, on_exhausted="pause"))
    async def charge() -> None:
        raise ConnectionError("secret bank")

    @pgd.workflow
    async def both() -> Any:
        await copies()
        await charge()

    engine = ns.engine(both, encryption=keys)
    await engine.open()
    h = await engine.start(both)
    await until(lambda: ns.sql("select 1 from @.attempts where attempt = 2 and details is not null"), "it is stored")
    await crash(engine)
    stored = ns.one("select string_agg(details::text, ' ') from @.attempts")
    stored += ns.one("select string_agg(payload::text, ' ') from @.history")
    assert "secret" not in stored
    hang[0] = False
    async with ns.engine(both, encryption=keys) as engine:
        h = await engine.get(h.id)
        await status_is(h, "paused")
        assert found == [None, "secret 1", "secret 2"]
        error = ns.instance(h, "error::text")
        assert "secret" not in error
        assert "step charge failed on attempt 1" in error
    # Without its key the next attempt begins from nothing, and nothing breaks.
    assert "secret" not in ns.one("select string_agg(error::text, ' ') from @.history")


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_transaction_step_has_places_turns_heartbeats_and_a_limit(ns: Namespace, blocking: bool) -> None:
    ns.ledger()
    lock = threading.Lock()
    running = [0, 0]
    began: list[float] = []
    insert = f"insert into {ns.schema}.ledger (entry) values (%s)"
    options: Any = {"max_concurrency": 2, "rate_limit": (4, 0.3), "total_timeout": 60, "heartbeat_timeout": 30}

    def change(by: int) -> None:
        with lock:
            running[0] += by
            running[1] = max(running)
            if by > 0:
                began.append(time.monotonic())

    @pgd.transaction(name="write", **options)
    async def write(tx: Any, n: int) -> int:
        change(1)
        pgd.heartbeat(n)
        await tx.execute(insert, (str(n),))
        pgd.progress(1, 1)
        change(-1)
        return int(pgd.heartbeat_details())

    @pgd.transaction(name="write", **options)
    def write_blocking(tx: Any, n: int) -> int:
        change(1)
        pgd.heartbeat(n)
        tx.execute(insert, (str(n),))
        pgd.progress(1, 1)
        change(-1)
        return int(pgd.heartbeat_details())

    step = write_blocking if blocking else write

    @pgd.workflow
    async def many() -> list[int]:
        return await asyncio.gather(*(step(n) for n in range(12)))

    async with ns.engine(many) as engine:
        h = await engine.start(many)
        assert await h.result(timeout=60) == list(range(12))
    assert sorted(map(int, ns.entries())) == list(range(12))
    assert running[0] == 0
    assert running[1] <= 2
    for first, fifth in zip(began, began[4:], strict=False):
        assert fifth - first > 0.3
