"""The workflows that are killed: a ledger of ordinary tables, and a file in which every execution of a step shows.

Imported by the worker process, which runs them, and by the checker, which replays their histories. Every start has
a `token` of its own, so that what a step did can be told from what the same step did for another instance.

The steps' surroundings come from the environment: CRASH_SHOP is the schema of the tables, CRASH_LOG the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import uuid
from typing import Any

import psycopg

import pgdurable as pgd

ACCOUNTS = 6
OPENING_BALANCE = 10_000

# Every delay a workflow may ask for, by workflow: the checker holds the recorded timers against them.
NAP, RACE, LONG_NAP, PATIENCE = 0.05, 0.03, 1.3, 300.0
DELAYS = {
    "shop": {NAP, RACE},
    "postman": {PATIENCE, RACE},
    "typist": {NAP, PATIENCE},
    "sleeper": {LONG_NAP},
    "unlucky": set(),
    "slow_payer": set(),
    "locker": set(),
    "rivals": set(),
}
SIGNALS = {"postman": 4, "typist": 1}
"""How many signals named `go` each instance of a workflow wants."""

_retry = pgd.Retry(max_attempts=50, initial=0.005, multiplier=1.0, jitter=0.0)


def executed(token: str, tag: str) -> str:
    """Notes durably that a step runs now; the nonce it returns ends up in the checkpoint too, if one is written."""
    nonce = uuid.uuid4().hex[:12]
    line = json.dumps({"token": token, "tag": tag, "nonce": nonce, "at_us": time.time_ns() // 1000, "pid": os.getpid()})
    fd = os.open(os.environ["CRASH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode() + b"\n")  # one write, so lines of two processes never mix
    finally:
        os.close(fd)
    return nonce


def _shop() -> str:
    return os.environ["CRASH_SHOP"]


# -- steps --------------------------------------------------------------------------------------------------------


@pgd.step
async def note(token: str, tag: str, nap: float = 0.0) -> dict[str, str]:
    nonce = executed(token, tag)
    if nap:
        await asyncio.sleep(nap)
    return {"tag": tag, "nonce": nonce}


@pgd.step
def jot(token: str, tag: str) -> dict[str, str]:
    return {"tag": tag, "nonce": executed(token, tag)}


@pgd.step(retry=_retry)
async def shaky(token: str, tag: str) -> dict[str, str]:
    nonce = executed(token, tag)
    if random.random() < 0.5:
        raise RuntimeError("the network was away")
    return {"tag": tag, "nonce": nonce}


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=0.005, jitter=0.0))
async def hopeless(token: str, tag: str) -> None:
    executed(token, tag)
    raise LookupError("there is no such thing")


def _entry(token: str, step: str, source: int, target: int, cents: int) -> tuple[str, tuple[Any, ...]]:
    return (
        f"insert into {_shop()}.ledger (token, step, source, target, cents) values (%s, %s, %s, %s, %s)",
        (token, step, source, target, cents),
    )


def _changes(source: int, target: int, cents: int) -> list[tuple[str, tuple[int, int]]]:
    # In order of account, so that two transfers never wait for each other in a circle.
    text = f"update {_shop()}.accounts set balance = balance + %s where id = %s"
    return [(text, (change, id)) for id, change in sorted({source: -cents, target: cents}.items())]


@pgd.transaction(retry=_retry)
async def move(
    tx: psycopg.AsyncConnection, token: str, step: str, source: int, target: int, cents: int, nap: float = 0.0
) -> int:
    await tx.execute(*_entry(token, step, source, target, cents))
    if nap:
        await asyncio.sleep(nap)
    for change in _changes(source, target, cents):
        await tx.execute(*change)
    return cents


@pgd.transaction(retry=_retry)
async def shaky_move(tx: psycopg.AsyncConnection, token: str, step: str, source: int, target: int, cents: int) -> int:
    await tx.execute(*_entry(token, step, source, target, cents))
    for change in _changes(source, target, cents):
        await tx.execute(*change)
    if random.random() < 0.5:
        raise RuntimeError("changed its mind after the statements")
    return cents


@pgd.transaction(retry=_retry)
def move_blocking(tx: psycopg.Connection, token: str, step: str, source: int, target: int, cents: int) -> int:
    tx.execute(*_entry(token, step, source, target, cents))
    for change in _changes(source, target, cents):
        tx.execute(*change)
    return cents


@pgd.transaction
async def enter(tx: psycopg.AsyncConnection, token: str, step: str, nap: float) -> str:
    """Takes no row lock anybody else waits for, and stays open for a while."""
    await tx.execute(*_entry(token, step, 1, 1, 0))
    await asyncio.sleep(nap)
    return step


@pgd.transaction
async def lock_and_wait(
    tx: psycopg.AsyncConnection, token: str, step: str, source: int, target: int, cents: int, nap: float
) -> int:
    for change in _changes(source, target, cents):
        await tx.execute(*change)
    await tx.execute(*_entry(token, step, source, target, cents))
    await asyncio.sleep(nap)
    return cents


# -- workflows ----------------------------------------------------------------------------------------------------


@pgd.workflow
async def shop(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
    began = pgd.now()
    first = await note(token, "first")
    debit, p1, p2, p3 = await asyncio.gather(
        move(token, "debit", source, target, cents),
        note(token, "p1"),
        jot(token, "p2"),
        shaky_move(token, "fee", source, target, 1),
    )
    tried = await shaky(token, "shaky")
    await asyncio.sleep(NAP)
    back = await move_blocking(token, "back", target, source, 2)
    try:
        raced: Any = await asyncio.wait_for(note(token, "race", random_nap()), RACE)
    except asyncio.TimeoutError:
        raced = None
    try:
        tip = await asyncio.wait_for(move(token, "tip", source, target, 3, random_nap()), RACE)
    except asyncio.TimeoutError:
        tip = 0
    # Time and chance among the arguments: a replay that tells them otherwise is seen by the fingerprint.
    last = await note(token, f"last {pgd.now().isoformat()} {pgd.random()}")
    return {
        "token": token, "began": began.isoformat(), "ended": pgd.now().isoformat(), "id": str(pgd.uuid4()),
        "moved": {"debit": debit, "fee": p3, "back": back, "tip": tip},
        "noted": [first, p1, p2, tried, raced, last],
    }  # fmt: skip


def random_nap() -> float:
    """About as long as the timer it races with."""
    return round(pgd.random() * 2 * RACE, 3)


@pgd.workflow
async def postman(token: str, signals: int) -> dict[str, Any]:
    got = []
    noted = [await note(token, "open")]
    try:
        # A signal may come before or after this wait is over: it must go to one of the two waits, once.
        got.append(await pgd.wait_signal("go", timeout=RACE))
    except TimeoutError:
        noted.append(await note(token, "none yet"))
    while len(got) < signals:
        got.append(await pgd.wait_signal("go", timeout=PATIENCE))
        await move(token, f"letter {got[-1]}", 1, 2, 1)
    return {"token": token, "got": got, "noted": noted}


@pgd.workflow
def typist(token: str, source: int, target: int, cents: int) -> dict[str, Any]:
    first = jot(token, "first")
    moved = move_blocking(token, "debit", source, target, cents)
    pgd.sleep(NAP)
    second = note(token, "second")
    letter = pgd.wait_signal("go", timeout=PATIENCE)
    tip = move(token, "tip", source, target, 1)
    return {
        "token": token, "at": pgd.now().isoformat(), "noted": [first, second], "got": [letter],
        "moved": {"debit": moved, "tip": tip},
    }  # fmt: skip


@pgd.workflow
async def sleeper(token: str) -> dict[str, Any]:
    before = await note(token, "before")
    await asyncio.sleep(LONG_NAP)  # long enough to be parked
    return {"token": token, "noted": [before, await note(token, "after")]}


@pgd.workflow
async def unlucky(token: str) -> None:
    await note(token, "first")
    try:
        await hopeless(token, "hopeless")
    except LookupError as error:
        raise ValueError(f"{token} gave up: {error}") from None


@pgd.workflow
async def slow_payer(token: str, nap: float) -> dict[str, Any]:
    before = await note(token, "before")
    paid, during = await asyncio.gather(enter(token, "pay", nap), note(token, "during", nap))
    return {"token": token, "noted": [before, during, await note(token, "after")], "moved": {"pay": 0}, "paid": paid}


@pgd.workflow
async def locker(token: str, nap: float) -> dict[str, Any]:
    return {"token": token, "noted": [], "moved": {"pay": await lock_and_wait(token, "pay", 1, 2, 5, nap)}}


@pgd.workflow
async def rivals(token: str) -> dict[str, Any]:
    """Steps of one instance that want each other's place in its order, and other instances' rows."""
    paid = await asyncio.gather(
        enter(token, "enter", 0.0), move(token, "1", 1, 2, 1), move(token, "2", 1, 2, 2), move(token, "3", 1, 2, 3)
    )
    return {"token": token, "noted": [], "moved": {"pay": sum(paid[1:])}}


WORKFLOWS = {w.name: w for w in (shop, postman, typist, sleeper, unlucky, slow_payer, locker, rivals)}
