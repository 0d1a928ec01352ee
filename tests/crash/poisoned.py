"""A worker some of whose instances kill it: ``python -m tests.crash.poisoned DSN SCHEMA MOST [cured]``.

With `cured` the mended code is deployed: nothing kills any more.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
import time

import pgdurable as pgd

CURED = sys.argv[4:] == ["cured"]


@pgd.step
async def harm(how: str) -> str:
    if CURED:
        return "cured"
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        faulthandler.disable()
        ctypes.string_at(0)
    if how == "later":  # as what fills the memory until the kernel kills
        await asyncio.sleep(1.5)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)  # noqa: ASYNC251 - hangs: the event loop, and so the lease
    return "never"


@pgd.step
def harm_in_thread() -> str:
    if CURED:
        return "cured"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@pgd.step
async def work(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@pgd.workflow
async def poison(how: str) -> str:
    await work(0.0)  # gets on once: what is recorded is not run again
    return await harm_in_thread() if how == "thread" else await harm(how)


@pgd.workflow
async def honest(seconds: float) -> float:
    return await work(seconds) + await work(0.0)


@pgd.workflow
async def patient() -> str:
    return await pgd.wait_signal("go")


async def main(dsn: str, schema: str, most: int) -> None:
    async with pgd.Engine(dsn, schema=schema, lease=2.0, poll_interval=0.2, park_after=60, quarantine_after=most):
        while True:  # what a supervisor's liveness probe does
            faulthandler.dump_traceback_later(5.0, exit=True)
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with whoever started it
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
