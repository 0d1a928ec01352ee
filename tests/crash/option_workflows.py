"""Workflows whose steps ask for more than retries, and a worker that runs them until it is killed:
``python -m tests.crash.option_workflows DSN SCHEMA``. Every execution of a step shows in the file CRASH_LOG.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pgdurable as pgd


def ran(step: str, **more: Any) -> None:
    line = {"step": step, "pid": os.getpid(), "at": time.monotonic(), **more}
    fd = os.open(os.environ["CRASH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, json.dumps(line).encode() + b"\n")
    finally:
        os.close(fd)


def stays() -> bool:
    """Whether steps are to hang, so that their worker can be killed in the middle."""
    return not Path(os.environ["CRASH_LOG"] + ".go").exists()


async def _hang() -> None:
    while stays():  # noqa: ASYNC110 - another process says when
        await asyncio.sleep(0.02)


def _hang_here() -> None:
    while stays():
        time.sleep(0.02)


@pgd.step(at_most_once=True)
async def fax() -> str:
    ran("fax")
    await _hang()
    return "sent"


@pgd.step(at_most_once=True)
def fax_in_thread() -> str:
    ran("fax_in_thread")
    _hang_here()
    return "sent"


@pgd.step(at_most_once=True, executor="process")
def fax_in_process() -> str:
    ran("fax_in_process")
    _hang_here()
    return "sent"


@pgd.step(record_pending=True)
async def letter() -> str:
    ran("letter")
    await _hang()
    return "sent"


@pgd.step
async def copies() -> Any:
    before = pgd.heartbeat_details()
    ran("copies", before=before)
    pgd.heartbeat({"rows": 1 if before is None else before["rows"] + 1})
    pgd.progress(1, 2)
    await _hang()
    return before


@pgd.step(executor="process")
def copies_in_process() -> Any:
    before = pgd.heartbeat_details()
    ran("copies_in_process", before=before)
    pgd.heartbeat({"rows": 1 if before is None else before["rows"] + 1})
    _hang_here()
    return before


@pgd.step(executor="process")
def counts() -> int:
    """Never looks at its worker: only the end of that ends it."""
    ran("counts")
    n = 0
    while stays():
        n += 1
    return 1


@pgd.step(rate_limit=(10, 0.5))
async def limited() -> None:
    ran("limited")


@pgd.step(max_concurrency=2)
def narrow() -> None:
    ran("narrow", threads=threading.active_count())
    _hang_here()


STEPS = {
    step.name: step
    for step in (fax, fax_in_thread, fax_in_process, letter, copies, copies_in_process, counts, limited, narrow)
}


@pgd.workflow(name="crash_options")
async def one_step(name: str, times: int = 1) -> Any:
    try:
        found = await asyncio.gather(*(STEPS[name]() for _ in range(times)))
    except pgd.StepInterrupted as error:
        return f"interrupted: {error.step} {error.attempt}"
    return found[0]


async def main(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[one_step], lease=3, poll_interval=0.2, max_processes=2):
        await asyncio.Event().wait()


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with whoever started it
    asyncio.run(main(sys.argv[1], sys.argv[2]))
