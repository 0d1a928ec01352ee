"""`Engine(busy_wait=...)`: it looks only while nothing else wants the loop, and sees what the loop would see."""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._core import Flusher
from pgdurable._engine.busy_wait import MOST_S, selector_of, spare_time
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries

PATIENCE_S = 20.0


@pgd.step
async def add_one(n: int) -> int:
    return n + 1


@pgd.workflow(name="busy_wait_counts", version="1")
async def counts(steps: int) -> int:
    n = 0
    for _ in range(steps):
        n = await add_one(n)
    return n


# --- when there is time to look -----------------------------------------------------------------------------------


async def test_a_loop_with_something_to_run_has_no_time() -> None:
    loop = asyncio.get_running_loop()
    handle = loop.call_soon(lambda: None)
    assert spare_time(loop, 0.001) == 0.0
    handle.cancel()
    await asyncio.sleep(0)
    assert spare_time(loop, 0.001) > 0.0


async def test_the_next_timer_ends_the_look() -> None:
    loop = asyncio.get_running_loop()
    far = loop.call_later(3600, lambda: None)
    assert spare_time(loop, 0.001) == 0.001
    near = loop.call_later(0.0005, lambda: None)
    assert 0.0 <= spare_time(loop, 0.001) <= 0.0005
    time.sleep(0.001)  # noqa: ASYNC251  # the loop is to come late
    assert spare_time(loop, 0.001) == 0.0
    near.cancel()
    far.cancel()


async def test_a_loop_that_is_to_stop_has_no_time() -> None:
    loop = asyncio.new_event_loop()
    try:
        assert spare_time(loop, 0.001) == 0.001
        loop.stop()
        assert spare_time(loop, 0.001) == 0.0
    finally:
        loop.close()


def test_only_asyncios_own_loop_over_epoll_is_known() -> None:
    for selector, known in ((selectors.EpollSelector(), True), (selectors.SelectSelector(), False)):
        loop = asyncio.SelectorEventLoop(selector)
        try:
            assert (selector_of(loop) >= 0) is known
        finally:
            loop.close()
    assert selector_of(object()) == -1


# --- looking ------------------------------------------------------------------------------------------------------


@pytest.fixture
def flusher(dsn: str, schema: str) -> Iterator[Flusher]:
    migrations.migrate(dsn, schema)
    flusher = Flusher(named_queries("flush", schema))
    flusher.connect(dsn, None, [])
    yield flusher
    flusher.close()


def add(flusher: Flusher) -> None:
    flusher.add_history(bytes(6) + os.urandom(10), 1, 0, 7, 0.5, 1, "step", "s", b"1", None, None)


def outcome(flusher: Flusher) -> str:
    while True:
        assert flusher.look(-1, PATIENCE_S), "no answer"
        done = flusher.ready()
        if done is not None:
            return done[0]


def test_the_answer_ends_the_look(flusher: Flusher) -> None:
    add(flusher)
    flusher.send(flusher.take())
    assert outcome(flusher) == "committed"


def test_a_silent_server_is_looked_at_for_as_long_as_asked(flusher: Flusher, dsn: str, schema: str) -> None:
    with psycopg.connect(dsn) as other:
        other.execute(f"lock table {schema}.history in share mode")
        add(flusher)
        flusher.send(flusher.take())
        began = time.monotonic()
        assert flusher.look(-1, 0.05) is False
        assert 0.05 <= time.monotonic() - began < PATIENCE_S
        other.rollback()
    assert outcome(flusher) == "committed"


def test_another_descriptor_ends_the_look_and_other_threads_run_meanwhile(flusher: Flusher) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        timer = threading.Timer(0.02, theirs.send, [b"x"])
        timer.start()
        began = time.monotonic()
        assert flusher.look(ours.fileno(), PATIENCE_S) is False
        assert time.monotonic() - began < PATIENCE_S
        timer.join()


# --- an engine that looks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy_wait", [0.0002, MOST_S])
async def test_results_are_the_same(dsn: str, schema: str, busy_wait: float) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[counts], migrate=True, busy_wait=busy_wait) as engine:
        handle = await engine.start(counts, 30)
        assert await handle.result() == 30
        handles = [await engine.start(counts, 5) for _ in range(100)]
        assert await asyncio.gather(*(handle.result() for handle in handles)) == [5] * 100


async def test_timers_and_other_threads_are_heard_while_the_server_is_silent(dsn: str, schema: str) -> None:
    loop = asyncio.get_running_loop()
    async with pgd.Engine(dsn, schema=schema, workflows=[counts], migrate=True, busy_wait=MOST_S) as engine:
        with psycopg.connect(dsn) as other:
            other.execute(f"lock table {schema}.instances, {schema}.history in share mode")
            started = asyncio.create_task(engine.start(counts, 1))
            for _ in range(20):
                called = loop.create_future()
                threading.Thread(target=loop.call_soon_threadsafe, args=(called.set_result, None)).start()
                await asyncio.wait_for(called, PATIENCE_S)
                await asyncio.sleep(0.001)
            assert not started.done()
            other.rollback()
        assert await (await started).result() == 1


def test_on_another_kind_of_loop_it_says_that_it_has_no_effect(
    dsn: str, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> int:
        async with pgd.Engine(dsn, schema=schema, workflows=[counts], migrate=True, busy_wait=0.0002) as engine:
            return await (await engine.start(counts, 3)).result()

    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        with caplog.at_level(logging.WARNING, "pgdurable.journal"):
            assert loop.run_until_complete(work()) == 3
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert "busy_wait has no effect on an event loop of type" in caplog.text


@pytest.mark.parametrize("wrong", [-0.1, 0.0021, 1])
def test_a_wait_that_would_hold_the_loop_up_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"busy_wait is between 0 and 0\.002 seconds"):
        pgd.Engine("", busy_wait=wrong)


def test_what_it_takes_from_asyncio_is_told_in_one_file() -> None:
    """Attributes that are not public, so that a new Python that lacks them is mended in one place."""
    package = Path(pgd.__file__).parent
    found = {path.name for path in package.rglob("*.py") if "loop._scheduled" in path.read_text(encoding="utf-8")}
    assert found == {"busy_wait.py"}
