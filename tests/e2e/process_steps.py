"""Steps that run in processes of their own: those import this file."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import os
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pgdurable as pgd

ONCE = pgd.Retry(max_attempts=1)


@dataclasses.dataclass
class Picture:
    name: str
    price: Decimal


class Blurred(Exception):
    """An error of the step's own."""


@pgd.step(executor="process")
def shrink(picture: Picture, by: int = 2, *, note: str = "") -> Picture:
    return Picture(f"{picture.name}{note}/{os.getpid()}", picture.price / by)


@pgd.step(executor="process")
async def shrink_async(picture: Picture) -> str:
    await asyncio.sleep(0)
    return picture.name


@pgd.step(executor="process", retry=ONCE)
def fails(name: str) -> None:
    raise Blurred(name, 3)


@pgd.step(executor="process", retry=ONCE)
def dies(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.string_at(0)


@pgd.step(executor="process", timeout=1.0, retry=ONCE)
def spins(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    while True:
        pass


@pgd.step(executor="process")
def waits(mark: str) -> str:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)
    return "done"


@pgd.step(executor="process", retry=pgd.Retry(max_attempts=2, initial=0.0))
def beats(mark: str) -> list[Any]:
    before = pgd.heartbeat_details()
    pgd.progress(1, 4)
    pgd.heartbeat({"at": 1})
    for n in range(2, 1000):
        pgd.heartbeat({"at": n})
    pgd.progress(4, 4)
    if before is None:
        raise OSError("once more")
    while not Path(mark).exists():
        time.sleep(0.01)
    return [before, pgd.heartbeat_details()]


@pgd.step(executor="process", retry=ONCE)
def returns_nothing_storable() -> Any:
    return object()


@pgd.step(executor="process", retry=ONCE, heartbeat_timeout=0.5)
def silent() -> None:
    time.sleep(60)


@pgd.step(executor="process", max_concurrency=1, rate_limit=(1000, 1), record_pending=True)
def counted(n: int) -> int:
    return n
