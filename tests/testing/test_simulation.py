"""The simulation by itself: its clock, mocks, failures, crashes, and what it says of the impossible."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import threading
import time
from typing import Any

import numpy
import pytest

import pgdurable as pgd
from pgdurable.testing import SimulatedFailure, Simulation, Stalled, crash_everywhere, replay


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=10))
async def renew(who: str, month: int) -> str:
    return f"{who} {month}"


@pgd.step
def in_thread(n: int) -> int:
    return n + 1


@pgd.transaction
async def book(tx: Any, who: str) -> str:
    await tx.execute("insert ...", (who,))
    return f"booked {who}"


@pgd.transaction
def book_blocking(tx: Any, who: str) -> str:
    return f"{tx} {who}"


@pgd.workflow(name="testing.subscription")
async def subscription(who: str, months: int) -> list[str]:
    found = []
    for month in range(months):
        await asyncio.sleep(30 * 86400)
        found.append(await renew(who, month))
    return found


@pgd.workflow(name="testing.one_step")
async def one_step(who: str) -> str:
    return await renew(who, 0)


# --- time -----------------------------------------------------------------------------------------------------------


async def test_a_year_of_sleeps_takes_no_time() -> None:
    began = time.process_time()
    async with Simulation() as sim:
        handle = await sim.start(subscription, "ada", 12)
        assert await sim.advance(days=30) == dt.datetime(2030, 1, 31, tzinfo=dt.timezone.utc)
        assert [call.args for call in sim.calls(renew)] == [("ada", 0)]
        assert await handle.status() == "running"
        assert await handle.result() == [f"ada {month}" for month in range(12)]
        assert sim.now == dt.datetime(2030, 12, 27, tzinfo=dt.timezone.utc)
    assert time.process_time() - began < 1.0


async def test_time_stands_still_until_the_test_waits() -> None:
    async with Simulation(start=dt.datetime(2031, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))) as sim:
        assert sim.now == dt.datetime(2031, 5, 1, 10, tzinfo=dt.timezone.utc)
        handle = await sim.start(subscription, "ada", 1)
        await sim.settle()
        assert await handle.status() == "running"
        await sim.advance(dt.timedelta(days=30) - dt.timedelta(microseconds=1))
        assert sim.calls() == []
        assert await handle.status() == "waiting"  # parked
        await sim.advance(0.000001)
        assert len(sim.calls()) == 1
        assert (await handle.describe()).finished_at == sim.now
        with pytest.raises(ValueError, match="time does not go back"):
            await sim.advance(-1)
    with pytest.raises(ValueError, match="has a time zone"):
        Simulation(start=dt.datetime(2031, 5, 1))


async def test_a_result_waits_by_the_simulations_clock() -> None:
    async with Simulation() as sim:
        began = sim.now
        handle = await sim.start(subscription, "ada", 1)
        with pytest.raises(TimeoutError, match="has not ended within 60 s"):
            await handle.result(timeout=60)
        assert sim.now - began == dt.timedelta(seconds=60)
        one, two = await asyncio.gather(handle.result(), handle.result(timeout=dt.timedelta(days=60)))
        assert one == two == ["ada 0"]


async def test_run_lets_everything_happen_that_time_brings_about() -> None:
    async with Simulation() as sim:
        handles = [await sim.start(subscription, "ada", n) for n in range(3)]
        assert await sim.run() == dt.datetime(2030, 3, 2, tzinfo=dt.timezone.utc)
        assert [await handle.status() for handle in handles] == ["completed"] * 3


@pgd.workflow(name="testing.asks")
async def asks() -> Any:
    return await pgd.wait_signal("answer")


async def test_a_wait_for_what_never_comes_says_so_at_once() -> None:
    async with Simulation() as sim:
        handle = await sim.start(asks, id="q-1")
        with pytest.raises(Stalled, match=r"instance q-1 of workflow testing\.asks is .*, and waits for an event"):
            await handle.result()
        nobody = await sim.start("testing.nobody", id="n-1")
        with pytest.raises(Stalled, match=r"n-1 of workflow .* is pending: no such workflow is registered"):
            await nobody.result()
        await handle.signal("answer", 42)
        assert await handle.result() == 42


async def test_another_task_of_the_test_may_send_what_is_waited_for() -> None:
    async with Simulation() as sim:
        handle = await sim.start(asks)

        async def answer() -> None:
            await asyncio.sleep(0.05)
            await handle.signal("answer", "late")

        found, _ = await asyncio.gather(handle.result(), answer())
        assert found == "late"


# --- steps ----------------------------------------------------------------------------------------------------------


async def test_a_mock_stands_in_and_is_counted() -> None:
    async with Simulation() as sim:
        mock = sim.mock(renew, returns="mocked")
        assert await (await sim.start(one_step, "ada")).result() == "mocked"
        assert [(call.step, call.args) for call in mock.calls] == [("renew", ("ada", 0))]
        sim.mock("renew", side_effect=lambda who, month: who.upper())
        assert await (await sim.start(one_step, "bob")).result() == "BOB"
        sim.unmock("renew")
        sim.unmock(renew)
        assert await (await sim.start(one_step, "cid")).result() == "cid 0"
        assert len(mock.calls) == 1
        assert [call.instance for call in sim.calls(renew)] == [info.id for info in [i async for i in sim.list()]][::-1]


async def test_a_mock_is_for_as_many_attempts_as_it_says() -> None:
    async with Simulation() as sim:
        sim.mock(renew, returns="once", times=1)
        assert await (await sim.start(one_step, "ada")).result() == "once"
        assert await (await sim.start(one_step, "ada")).result() == "ada 0"


async def test_side_effects_of_all_kinds() -> None:
    async with Simulation() as sim:

        async def slow(who: str, month: int) -> str:
            await sim.sleep(60)
            return f"slow {who}"

        began = sim.now
        sim.mock(renew, side_effect=slow)
        assert await (await sim.start(one_step, "ada")).result() == "slow ada"
        assert sim.now - began == dt.timedelta(minutes=1)
        sim.mock(renew, side_effect=[OSError("first"), "second"])
        handle = await sim.start(one_step, "ada")
        assert await handle.result() == "second"
        assert [e.kind async for e in handle.history()] == ["started", "attempt", "step", "completed"]
        with pytest.raises(pgd.InstanceFailed, match="side_effect has no more values"):
            await (await sim.start(one_step, "ada")).result()


async def test_a_mocks_result_passes_the_codec_as_the_steps_own() -> None:
    async with Simulation() as sim:
        sim.mock(renew, returns=5)  # the step says it returns a text
        with pytest.raises(pgd.InstanceFailed, match="result of step renew"):
            await (await sim.start(one_step, "ada")).result()


async def test_raises_follows_the_steps_policy() -> None:
    async with Simulation() as sim:
        began = sim.now
        sim.mock(renew, raises=ConnectionError("down"))
        with pytest.raises(pgd.InstanceFailed, match="ConnectionError: down"):
            await (await sim.start(one_step, "ada")).result()
        assert len(sim.calls(renew)) == 3
        assert sim.now - began == dt.timedelta(seconds=30)  # 10 s and 20 s, without jitter
        sim.mock(renew, raises=pgd.NonRetryable("no"))
        with pytest.raises(pgd.InstanceFailed, match="no"):
            await (await sim.start(one_step, "ada")).result()
        assert len(sim.calls(renew)) == 4


async def test_steps_fail_as_often_as_asked_and_then_succeed() -> None:
    async with Simulation() as sim:
        sim.fail(renew, times=2)
        handle = await sim.start(one_step, "ada")
        assert await handle.result() == "ada 0"
        entries = [entry async for entry in handle.history()]
        assert [entry.kind for entry in entries] == ["started", "attempt", "attempt", "step", "completed"]
        assert entries[1].error is not None
        assert entries[1].error["message"] == "simulated failure of step renew"
        assert SimulatedFailure.__name__ in entries[1].error["type"]
        ran = sim.mock(renew, side_effect=lambda who, month: who)
        sim.fail("renew", error=TimeoutError("no answer"), after=True)
        assert await (await sim.start(one_step, "bob")).result() == "bob"
        assert len(ran.calls) == 2  # the first had run, and its answer was lost


@pgd.workflow(name="testing.impatient")
async def impatient(step_timeout: float) -> str:
    try:
        return await renew.options(timeout=step_timeout, retry=pgd.Retry(max_attempts=1))("ada", 0)
    except pgd.StepTimeout:
        return f"timed out at {pgd.now():%H:%M}"


async def test_a_mock_takes_time_and_runs_into_the_timeout() -> None:
    async with Simulation() as sim:
        sim.mock(renew, takes=dt.timedelta(hours=1))
        assert await (await sim.start(impatient, 7200)).result() == "ada 0"
        assert sim.now.hour == 1
        assert await (await sim.start(impatient, 1800)).result() == "timed out at 01:30"
        sim.mock(renew, takes=math.inf)
        assert await (await sim.start(impatient, 1800)).result() == "timed out at 02:00"


@pgd.workflow(name="testing.threads")
def threads(n: int) -> list[int]:
    found = []
    for _ in range(n):
        found.append(in_thread(len(found)))
        pgd.sleep(3600)
    return found


async def test_def_steps_and_workflows_run_in_threads_and_can_be_mocked() -> None:
    async with Simulation() as sim:
        assert await (await sim.start(threads, 2)).result() == [1, 2]
        where: list[str] = []

        def effect(n: int) -> int:
            where.append(threading.current_thread().name)
            return 7

        sim.mock(in_thread, side_effect=effect, takes=60)
        began = sim.now
        assert await (await sim.start(threads, 2)).result() == [7, 7]
        assert sim.now - began == dt.timedelta(hours=2, minutes=2)
        assert all(name.startswith("pgdurable-step") for name in where)

        async def asynchronous(n: int) -> int:
            await sim.sleep(1)
            return 8

        sim.mock(in_thread, side_effect=asynchronous)
        assert await (await sim.start(threads, 1)).result() == [8]


async def test_what_contradicts_itself_is_refused() -> None:
    async with Simulation() as sim:
        for how, message in (
            ({"returns": 1, "raises": OSError}, "one of returns="),
            ({"raises": "text"}, "raises= is an exception"),
            ({"side_effect": 5}, "side_effect= is a function"),
            ({"takes": -1}, "takes no negative time"),
            ({"times": 0}, "times= is at least 1"),
        ):
            with pytest.raises(ValueError, match=message):
                sim.mock(renew, **how)
        with pytest.raises(pgd.PgDurableError, match="is no step"):
            sim.mock(lambda: None, returns=1)
        with pytest.raises(ValueError, match="at least 1"):
            sim.crash_at("commit.after", 0)


async def test_a_step_that_waits_in_real_time_is_found_out() -> None:
    async with Simulation(patience=0.2) as sim:
        sim.mock(renew, side_effect=lambda who, month: asyncio.Event().wait())
        handle = await sim.start(one_step, "ada")
        with pytest.raises(Stalled, match=r"(?s)step renew of instance .*takes=60") as caught:
            await handle.result()
        assert "there still run" in str(caught.value)


# --- transaction steps ----------------------------------------------------------------------------------------------


@pgd.workflow(name="testing.books")
async def books(who: str) -> list[str]:
    return [await book(who), await book_blocking(who)]


class FakeConnection:
    def __init__(self) -> None:
        self.executed: list[Any] = []

    async def execute(self, text: str, params: Any) -> None:
        self.executed.append((text, params))

    def __str__(self) -> str:
        return "fake"


async def test_a_transaction_step_is_mocked_or_given_a_connection_or_says_what_to_do() -> None:
    async with Simulation() as sim:
        with pytest.raises(pgd.InstanceFailed, match=r"(?s)step book needs a database.*sim\.mock\(book"):
            await (await sim.start(books, "ada")).result()
        assert len(sim.calls(book)) == 1  # nothing is gained by trying again
        sim.mock(book, returns="b")
        sim.mock(book_blocking, returns="c")
        assert await (await sim.start(books, "ada")).result() == ["b", "c"]
    fake = FakeConnection()
    async with Simulation(connection=fake) as sim:
        assert await (await sim.start(books, "ada")).result() == ["booked ada", "fake ada"]
    assert fake.executed == [("insert ...", ("ada",))]


async def test_a_call_that_does_not_fit_the_step_is_not_tried_again() -> None:
    @pgd.workflow(name="testing.misuse")
    async def misuse() -> None:
        await renew("only one")  # type: ignore[call-arg]

    async with Simulation() as sim:
        with pytest.raises(pgd.InstanceFailed, match="TypeError"):
            await (await sim.start(misuse)).result()
        assert len(sim.calls(renew)) == 1


# --- crashes --------------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_survives_a_crash_and_nothing_else() -> None:
    async with Simulation() as sim:
        sim.mock(renew, takes=60)
        handle = await sim.start(subscription, "ada", 2)
        await sim.advance(days=30)
        await sim.crash()  # the first renewal is under way
        assert sim.crashed == 1
        assert await handle.result() == ["ada 0", "ada 1"]
        assert [call.args[1] for call in sim.calls(renew)] == [0, 0, 1]
        assert (await handle.describe()).takeovers == 1


@pytest.mark.parametrize(
    ("point", "times"),
    [
        ("step.begin", 1),
        ("step.ran", 2),
        ("step.recorded", 2),
        ("commit.before", 2),
        ("step.committed", 1),
        ("end.recorded", 1),
        ("end.committed", 1),
    ],
)
async def test_a_crash_at_a_named_point(point: str, times: int) -> None:
    async with Simulation() as sim:
        ran: list[str] = []
        sim.mock(renew, side_effect=lambda who, month: ran.append(who) or who)
        if point == "commit.before":
            sim.crash_at("commit.before")
        else:
            sim.crash_at(point)
        handle = await sim.start(one_step, "ada")
        assert await handle.result() == "ada"
        assert sim.crashed == 1
        assert len(ran) == times


async def test_a_crash_in_a_thread_ends_the_process_too() -> None:
    for point in ("step.begin", "step.ran"):
        async with Simulation() as sim:
            sim.crash_at(point)
            assert await (await sim.start(threads, 1)).result() == [1]
            assert sim.crashed == 1


async def test_timers_keep_their_time_over_a_crash() -> None:
    async with Simulation(park_after=None) as sim:
        handle = await sim.start(subscription, "ada", 1)
        await sim.advance(days=10)
        assert await handle.status() == "running"
        await sim.crash()
        await handle.result()
        assert sim.now == dt.datetime(2030, 1, 31, tzinfo=dt.timezone.utc)


async def test_crash_everywhere_finds_what_a_crash_would_break() -> None:
    sent: list[str] = []

    @pgd.workflow(name="testing.forgetful")
    async def forgetful() -> int:
        sent.append("mail")  # outside a step: replay does it again
        await renew("ada", 0)
        return len(sent)

    async def scenario(sim: Simulation) -> None:
        sent.clear()
        handle = await sim.start(forgetful)
        assert await handle.result() == 1

    with pytest.raises(AssertionError) as caught:
        await crash_everywhere(scenario)
    notes = getattr(caught.value, "__notes__", ["the process had crashed at commit.before 1 of 2"])
    assert notes[-1] == "the process had crashed at commit.before 1 of 2"

    async def sound(sim: Simulation) -> None:
        assert await (await sim.start(one_step, "ada")).result() == "ada 0"

    assert await crash_everywhere(sound) == 5  # as it is, and before and after the step's and the end's commit


async def test_an_open_block_that_ends_and_begins_again_goes_on() -> None:
    sim = Simulation()
    async with sim:
        handle = await sim.start(subscription, "ada", 1)
        await sim.advance(days=1)
    with pytest.raises(pgd.PgDurableError, match="this Simulation is not open"):
        await sim.advance(days=1)
    async with sim:
        assert await handle.result() == ["ada 0"]


# --- what a client does ---------------------------------------------------------------------------------------------


async def test_ids_and_chance_are_the_same_in_every_run() -> None:
    @pgd.workflow(name="testing.chance")
    async def chance() -> list[Any]:
        return [pgd.random(), str(pgd.uuid4())]

    async def once(seed: int) -> list[Any]:
        async with Simulation(seed=seed) as sim:
            handle = await sim.start(chance)
            return [handle.id, *await handle.result()]

    assert await once(1) == await once(1)
    assert await once(1) != await once(2)


async def test_many_starts_with_ids_labels_and_lists() -> None:
    async with Simulation() as sim:
        many = await sim.start_many(one_step, [("a",), {"who": "b"}, "c"])
        assert [await handle.result() for handle in many] == ["a 0", "b 0", "c 0"]
        streamed = await sim.start_many(one_step, (name for name in ("d", "e")))
        assert [await handle.result() for handle in streamed] == ["d 0", "e 0"]
        columns = await sim.start_many(one_step, {"who": numpy.array(["f", "g"])})
        assert [await handle.result() for handle in columns] == ["f 0", "g 0"]
        handle = await sim.start(one_step, "h", id="own", labels={"a": 1}, queue="q", priority=2)
        info = await handle.describe()
        assert (info.id, info.labels, info.queue, info.priority) == ("own", {"a": 1}, "q", 2)
        assert [i.id async for i in sim.list(status="completed", limit=2)] != []
        with pytest.raises(pgd.InvalidId, match="is an instance of workflow"):
            await sim.start(asks, id="own")
        with pytest.raises(pgd.InvalidInput):
            await sim.start(one_step)
        with pytest.raises(pgd.PgDurableError, match="a Simulation has no database"):
            await sim.start(one_step, "i", connection=object())  # type: ignore[arg-type]


async def test_payloads_are_encrypted_as_on_a_server() -> None:
    keys = pgd.Encryption({"a": pgd.Encryption.new_key()})
    async with Simulation(encryption=keys) as sim:
        handle = await sim.start(one_step, "secret ada")
        assert await handle.result() == "secret ada 0"
        assert [entry.value async for entry in handle.history()][1] == "secret ada 0"
        stored = str([*sim._store.history.values(), *sim._store.instances.values()])
        assert "secret ada" not in stored
        await sim.crash()
        waiting = await sim.start(asks)
        await waiting.signal("answer", "secret signal")
        assert await waiting.result() == "secret signal"


async def test_what_it_does_not_run_stays_pending() -> None:
    async with Simulation(workflows=[asks]) as sim:
        handle = await sim.start(one_step, "ada")
        with pytest.raises(Stalled, match="no such workflow is registered"):
            await handle.result()


# --- what a step may be told ----------------------------------------------------------------------------------------


@pgd.step(heartbeat_timeout=5, retry=pgd.Retry(max_attempts=3, initial=1))
async def beats(n: int) -> int:
    return n


@pgd.step(executor="process")
def apart(n: int) -> int:
    return 2 * n


@pgd.step(max_concurrency=2)
async def narrow(n: int) -> int:
    return n


@pgd.step(rate_limit=(1, 60))
async def rated(n: int) -> int:
    return n


@pgd.step(at_most_once=True)
async def once(n: int) -> int:
    return n


@pgd.step(total_timeout=30, retry=pgd.Retry(max_attempts=None, initial=7, multiplier=1))
async def out_of_luck() -> None:
    raise OSError("no luck")


@pgd.workflow(name="testing.told")
async def told(what: str) -> Any:
    if what == "heartbeat":
        return await beats(1)
    if what == "process":
        return await apart(4)
    if what == "at once":
        return [*await asyncio.gather(*(narrow(n) for n in range(5))), *await asyncio.gather(rated(7), rated(8))]
    try:
        return await (once(1) if what == "once" else out_of_luck())
    except (pgd.StepInterrupted, pgd.StepTimeout) as error:
        return type(error).__name__


async def test_limits_are_counted_by_the_simulations_clock() -> None:
    async with Simulation() as sim:
        began = sim.now
        assert await (await sim.start(told, "total")).result() == "StepTimeout"
        assert sim.now - began == dt.timedelta(seconds=28)  # a sixth attempt would come too late
        sim.mock(narrow, takes=10)
        assert await (await sim.start(told, "at once")).result() == [0, 1, 2, 3, 4, 7, 8]
        assert sim.now - began == dt.timedelta(seconds=58)  # two at once; rates are not kept here
        assert await (await sim.start(told, "process")).result() == 8


async def test_heartbeats_keep_an_attempt_alive() -> None:
    async with Simulation() as sim:

        async def beating(n: int) -> str:
            for beat in range(4):
                await sim.sleep(3)
                pgd.heartbeat(beat)
            if len(sim.calls(beats)) == 1:
                await sim.sleep(math.inf)
            return "alive"

        sim.mock(beats, side_effect=beating)
        with pytest.raises(pgd.InstanceFailed, match="result of step beats"):  # which is no int
            await (await sim.start(told, "heartbeat")).result()
        assert [call.at.second for call in sim.calls(beats)] == [0, 18]  # 12 s of beats, 5 s without, 1 s of backoff


async def test_a_step_that_runs_at_most_once_is_interrupted_by_a_crash() -> None:
    async with Simulation() as sim:
        sim.crash_at("step.ran")
        assert await (await sim.start(told, "once")).result() == "StepInterrupted"
        assert len(sim.calls(once)) == 1


async def test_a_histories_children_are_replayed_and_redacted() -> None:
    @pgd.workflow(name="testing.parent")
    async def parent(who: str) -> list[Any]:
        return [await told("process"), await one_step(who)]

    async with Simulation() as sim:
        handle = await sim.start(parent, "secret")
        assert await handle.result() == [8, "secret 0"]
        assert replay(parent, sim.export(handle))[0].result == [8, "secret 0"]
        text = sim.export(handle, redact=True)
        assert "secret" not in text
        assert replay(parent, text)[0].result == [0, "x" * len("secret 0")]
