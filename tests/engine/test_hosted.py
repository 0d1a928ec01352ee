"""Events reach a `def` workflow in the order of its history, whatever its thread is doing."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pgdurable as pgd
from pgdurable._engine.host import Host
from pgdurable._engine.hosted import Hosted
from pgdurable._runtime.thread import ThreadMachine


async def test_an_event_does_not_overtake_those_that_wait_for_the_thread() -> None:
    got: list[str] = []
    ended = asyncio.Event()

    def body() -> None:
        for _ in range(3):
            got.append(pgd.wait_signal("s"))

    host: Any = Host.__new__(Host)
    host.loop = asyncio.get_running_loop()
    host.release = lambda hosted, status, **more: ended.set()
    host.worker = 1
    hosted = Hosted(host, b"0" * 16, None, cast(Any, None))
    machine = ThreadMachine("instance", "w", b"0" * 16, 0, body, hosted.thread_waits)
    hosted.machine = machine
    waits = asyncio.Event()
    host.parking = SimpleNamespace(idle=lambda hosted: waits.set())

    def deliver(payload: str) -> None:
        hosted.deliver(lambda: machine.signal("s", payload, 1))

    machine.start()
    await asyncio.wait_for(waits.wait(), 10)
    deliver("first")
    deliver("second")  # the thread is busy with the first
    deadline = time.monotonic() + 10
    while machine.busy:  # the loop is blocked meanwhile: thread_idle has not run
        assert time.monotonic() < deadline
    deliver("third")
    await asyncio.wait_for(ended.wait(), 10)
    assert got == ["first", "second", "third"]
