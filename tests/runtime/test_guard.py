"""Real I/O and blocking sleeps in workflow code are refused, with the hint to do them in a step."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable._runtime.guard import install_guard
from tests.runtime.harness import Owner, echo_step, run, workflow

a = echo_step("a")


def told(error: pgd.WorkflowIoError) -> str:
    """What was refused, if the message is as it should be."""
    start, _, what = error.message.partition("instance t: workflow code called ")
    return what if not start and "Do this in a step" in str(error) else str(error)


async def refused(call: Callable[[], Any]) -> str:
    try:
        result = call()
        if asyncio.iscoroutine(result) or asyncio.isfuture(result):
            await result
    except pgd.WorkflowIoError as error:
        return told(error)
    return "not refused"


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


ON_THE_LOOP: dict[str, Callable[[], Any]] = {
    "run_in_executor (or asyncio.to_thread)": lambda: asyncio.to_thread(print),
    "create_connection": lambda: asyncio.open_connection("127.0.0.1", 9),
    "create_server": lambda: asyncio.start_server(lambda r, w: None, "127.0.0.1", 0),
    "create_unix_connection": lambda: asyncio.open_unix_connection("/nowhere"),
    "subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    "subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "getaddrinfo": lambda: loop().getaddrinfo("localhost", 80),
    "create_datagram_endpoint": lambda: loop().create_datagram_endpoint(asyncio.DatagramProtocol),
    "add_reader": lambda: loop().add_reader(0, print),
    "add_signal_handler": lambda: loop().add_signal_handler(2, print),
    "sock_connect": lambda: loop().sock_connect(socket.socket(), ("127.0.0.1", 9)),
    "set_default_executor": lambda: loop().set_default_executor(None),  # type: ignore[arg-type]
    "call_soon_threadsafe": lambda: loop().call_soon_threadsafe(print),
    "run_until_complete": lambda: loop().run_until_complete(None),  # type: ignore[arg-type]
    "run_forever": lambda: loop().run_forever(),
    "stop": lambda: loop().stop(),
    "close": lambda: loop().close(),
}


@pytest.mark.parametrize("what", ON_THE_LOOP)
@pytest.mark.filterwarnings("ignore:unclosed")
def test_io_on_the_loop(what: str) -> None:
    @workflow
    async def flow() -> str:
        return await refused(ON_THE_LOOP[what])

    assert run(flow).result == what


def connect() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 9))


def bind() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))


def send() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", ("127.0.0.1", 9))


AUDITED: dict[str, Callable[[], Any]] = {
    "socket.connect": connect,
    "socket.bind": bind,
    "socket.sendto": send,
    "socket.getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "socket.gethostbyname": lambda: socket.gethostbyname("localhost"),
    "subprocess.Popen": lambda: subprocess.run(["true"]),
    "os.system": lambda: os.system("true"),
    "sqlite3.connect": lambda: sqlite3.connect(":memory:"),
    "urllib.Request": lambda: urllib.request.urlopen("http://127.0.0.1:9/"),
}
AUDITED["time.sleep"] = lambda: time.sleep(0)


@pytest.mark.parametrize("what", AUDITED)
@pytest.mark.parametrize("threaded", [False, True])
def test_io_behind_the_loop(what: str, threaded: bool) -> None:
    install_guard()
    install_guard()

    async def flow() -> str:
        return await refused(AUDITED[what])

    def twin() -> str:
        try:
            AUDITED[what]()
        except pgd.WorkflowIoError as error:
            return told(error)
        return "not refused"

    assert run(workflow(twin if threaded else flow)).result == what


def test_steps_and_everybody_else_may() -> None:
    install_guard()

    @pgd.step(name="nap")
    def nap() -> str:
        time.sleep(0)
        return "rested"

    @workflow
    async def flow() -> str:
        return str(await nap())

    assert run(flow).result == "rested"
    time.sleep(0)


def test_an_error_of_the_guard_fails_the_workflow_that_does_not_catch_it() -> None:
    install_guard()

    @workflow
    async def flow() -> None:
        await a()
        AUDITED["subprocess.Popen"]()

    owner = run(flow)
    assert owner.machine.outcome is not None
    assert owner.machine.outcome[0] == "failed"
    assert isinstance(owner.machine.outcome[1], pgd.WorkflowIoError)


def test_a_loop_of_its_own_in_a_def_workflow_does_not_get_around_the_guard() -> None:
    """Under `asyncio.run` in a `def` workflow, code no longer counted as the workflow's."""
    install_guard()

    async def inner() -> None:
        connect()

    @workflow
    def flow() -> str:
        try:
            asyncio.run(inner())
        except pgd.WorkflowIoError:
            return "refused"
        return "not refused"

    assert run(flow).result == "refused"


def test_other_threads_are_left_alone_during_a_burst() -> None:
    install_guard()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            time.sleep(0)
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
        except BaseException as error:
            errors.append(error)

    @workflow
    async def flow() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        await a()

    Owner(flow).start().run()
    assert errors == []
