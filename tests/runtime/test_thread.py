"""`def` workflows: a thread each, the same numbering, history and rules as their async twins."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable._runtime.thread import ThreadMachine
from tests.runtime.harness import PATIENCE_S, SEED, START_US, Owner, echo_step, run, workflow

a = echo_step("a")
b = echo_step("b")


@pgd.step(name="bad")
def bad(n: int) -> None:
    raise ArithmeticError(n)


async def flow(n: int) -> Any:
    seen: list[Any] = [await a(n), str(pgd.uuid4())]
    await pgd.sleep(3)
    try:
        await bad(n)
    except ArithmeticError as error:
        seen.append(error.args[0])
    try:
        await pgd.wait_signal("s", timeout=10)
    except TimeoutError as error:
        seen.append(str(error))
    seen.append(await pgd.wait_signal("s", timeout=10))
    return [*seen, pgd.now().isoformat(), pgd.random(), await b("end")]


def twin(n: int) -> Any:
    seen: list[Any] = [a(n), str(pgd.uuid4())]
    pgd.sleep(3)
    try:
        bad(n)
    except ArithmeticError as error:
        seen.append(error.args[0])
    try:
        pgd.wait_signal("s", timeout=10)
    except TimeoutError as error:
        seen.append(str(error))
    seen.append(pgd.wait_signal("s", timeout=10))
    return [*seen, pgd.now().isoformat(), pgd.random(), b("end")]


def play(owner: Owner) -> Owner:
    owner.start()
    owner.answer("a")
    owner.fire()
    owner.answer("bad")
    owner.fire()
    owner.signal("s", "signalled")
    owner.answer("b")
    return owner


def test_numbering_history_and_results_are_those_of_the_async_twin() -> None:
    one, other = play(Owner(workflow(flow), 7)), play(Owner(workflow(twin), 7))
    assert one.result == other.result
    assert [(e.kind, e.seq, e.name, e.fingerprint, e.payload) for e in one.history] == [
        (e.kind, e.seq, e.name, e.fingerprint, e.payload) for e in other.history
    ]
    one.replays()
    other.replays()


def test_signals_before_the_wait() -> None:
    @workflow
    def keeping() -> Any:
        a()
        return [pgd.wait_signal("s"), pgd.wait_signal("s", timeout=5), pgd.wait_signal("s", type=int)]

    owner = Owner(keeping).start()
    for n in range(3):
        owner.signal("s", n)
    owner.answer("a")
    assert owner.result == [0, 1, 2]
    assert owner.open == {}
    owner.replays()


def test_the_timer_of_a_wait_is_given_up_when_the_signal_comes() -> None:
    @workflow
    def waiting() -> Any:
        first = pgd.wait_signal("s", timeout=100)
        return [first, a("next")]

    owner = Owner(waiting).start()
    assert len(owner.timers) == 1
    owner.signal("other")
    owner.signal("s", 1)
    assert owner.timers == []
    owner.answer("a")
    assert owner.result == [1, "next"]
    owner.replays()


def test_a_sleep_of_nothing_issues_nothing() -> None:
    @workflow
    def napping() -> Any:
        pgd.sleep(0)
        return a("x")

    owner = run(napping)
    assert [e.seq for e in owner.history] == [0]


@pytest.mark.parametrize("where", ["step", "sleep", "signal"])
def test_drop_unwinds_the_thread(where: str) -> None:
    seen: list[str] = []

    @workflow
    def waiting() -> None:
        try:
            {"step": a, "sleep": lambda: pgd.sleep(100), "signal": lambda: pgd.wait_signal("never")}[where]()
        except Exception:
            seen.append("an ordinary except must not see it")
        finally:
            seen.append("finally")
            for wait in (b, lambda: pgd.sleep(1), lambda: pgd.wait_signal("s"), lambda: pgd.wait_signal("s")):
                try:
                    wait()
                except BaseException:
                    seen.append("inner")

    owner = Owner(waiting).start()
    owner.drop()
    assert seen == ["finally", *["inner"] * 4]
    assert owner.machine.outcome is None
    assert [command.name for command in owner.machine.issued] == []


def test_drop_while_the_code_is_running() -> None:
    """The thread told its owner, whose loop may be closed by then, that it waits: RuntimeError in the thread."""
    entered, go = threading.Event(), threading.Event()
    told: list[str] = []

    def running() -> None:
        entered.set()
        go.wait(PATIENCE_S)
        told.append("end")

    def on_idle() -> None:
        raise RuntimeError("Event loop is closed")

    machine = ThreadMachine("instance t", "w", SEED, START_US, running, on_idle)
    machine.start()
    assert entered.wait(PATIENCE_S)
    machine.drop()
    go.set()
    thread = machine._thread
    assert thread is not None
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert told == ["end"]


def test_many_at_once() -> None:
    @workflow
    def counting(n: int) -> int:
        total = 0
        for k in range(5):
            total += a(n * k)
            pgd.sleep(1)
        return total

    before = threading.active_count()
    owners = [Owner(counting, n).start() for n in range(100)]
    assert threading.active_count() == before + 100
    for _ in range(5):
        for owner in owners:
            owner.answer("a")
        for owner in reversed(owners):
            owner.fire()
    assert [owner.result for owner in owners] == [10 * n for n in range(100)]
    for owner in owners:
        owner.drop()
    waiting = [Owner(counting, n).start() for n in range(100)]
    for owner in waiting:
        owner.drop()
    assert threading.active_count() == before


def test_its_threads_have_names() -> None:
    @workflow
    def named() -> str:
        return threading.current_thread().name

    assert run(named).result == "workflow instance t"


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    machine = ThreadMachine("instance t", "w", SEED, START_US, lambda: None, lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            machine.start()
    assert not machine.busy


def test_it_is_no_asyncio_code() -> None:
    @workflow
    def mixing() -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return "no loop"
        return "a loop"

    assert run(mixing).result == "no loop"
