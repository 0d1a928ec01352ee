"""The bank's steps: what every kind of transfer is made of.

Accounts and a ledger are ordinary tables of the application's. A step notes in the run's history that it runs (`run`),
workflow code that it has been given a result (`saw`): from then on the step must never run again. In a replay the
same lines come once more, which says nothing new.

`site` is what a worker process sets; where it is not set, as in the checker's replay, nothing is noted.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

import pgdurable as pgd

from .history import History

ACCOUNTS = 24
OPENING_BALANCE = 100_000
ESCROW = 0
"""The account that holds money between a transfer's order and its confirmation."""

TAPE = "tape"
"""The stream that `print_out` writes."""

RETRY = pgd.Retry(max_attempts=20_000, initial=0.01, multiplier=2.0, max_interval=0.5, jitter=0.1)
"""Outlasts every fault: a disk that is full for a while costs attempts, never the transfer."""


@dataclass
class Site:
    """A worker process, as its steps see it.

    Attributes:
        shop: schema of the bank's tables.
        worker: under which incarnation the engine works now.
    """

    history: History
    shop: str
    worker: Callable[[], int | None]
    chance: random.Random


site: Site | None = None


def runs(token: str, tag: str) -> str:
    """Notes that a step runs now. The nonce it returns ends up in the checkpoint too, if one is written."""
    assert site is not None
    nonce = uuid.uuid4().hex[:12]
    site.history.note("run", token=token, tag=tag, nonce=nonce, worker=site.worker())
    return nonce


def saw(token: str, tag: str) -> None:
    """Notes that workflow code has been given the result of a step."""
    if site is not None:
        site.history.note("saw", token=token, tag=tag)


def fails_now(odds: float) -> bool:
    assert site is not None
    return site.chance.random() < odds


# -- plain steps ----------------------------------------------------------------------------------------------------


@pgd.step(retry=RETRY)
async def note(token: str, tag: str, nap: float = 0.0) -> dict[str, str]:
    nonce = runs(token, tag)
    if nap:
        await asyncio.sleep(nap)
    return {"tag": tag, "nonce": nonce}


@pgd.step(retry=RETRY)
def jot(token: str, tag: str) -> dict[str, str]:
    return {"tag": tag, "nonce": runs(token, tag)}


@pgd.step(retry=RETRY)
async def shaky(token: str, tag: str) -> dict[str, str]:
    nonce = runs(token, tag)
    if fails_now(0.4):
        raise RuntimeError("the network was away")
    return {"tag": tag, "nonce": nonce}


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=0.005, jitter=0.0))
async def hopeless(token: str, tag: str) -> None:
    runs(token, tag)
    raise LookupError("there is no such bank")


@pgd.step(retry=RETRY, record_pending=True, max_concurrency=3, rate_limit=(20, 0.5))
async def stamp(token: str, tag: str) -> dict[str, Any]:
    """One that is recorded before it begins, waits for its turn, and tells of itself."""
    nonce = runs(token, tag)
    before = pgd.heartbeat_details()
    pgd.heartbeat({"tag": tag, "before": None if before is None else before["tag"]})
    pgd.progress(1, 1)
    if fails_now(0.3):
        raise RuntimeError("the ink was dry")
    return {"tag": tag, "nonce": nonce, "same": before is None or before["tag"] == tag}


@pgd.step(retry=RETRY)
async def print_out(token: str, tag: str, lines: int) -> dict[str, str]:
    """Writes to a stream line by line, and may begin anew in the middle."""
    nonce = runs(token, tag)
    tape = pgd.stream(TAPE)
    for line in range(lines):
        await tape.write(line)
        if fails_now(0.15):
            raise RuntimeError("the paper was jammed")
    return {"tag": tag, "nonce": nonce}


@pgd.step(at_most_once=True)
async def post(token: str, tag: str) -> dict[str, str]:
    nonce = runs(token, tag)
    await asyncio.sleep(0.02)
    return {"tag": tag, "nonce": nonce}


@pgd.step(executor="process", retry=RETRY)
def weigh(token: str, tag: str) -> dict[str, str]:
    """Runs in a process of its own, where there is no site; under which incarnation, nobody tells it."""
    nonce = uuid.uuid4().hex[:12]
    history = History(os.environ["CHAOS_HISTORY"], f"process {os.getpid()}")
    history.note("run", token=token, tag=tag, nonce=nonce, worker=None, process=True)
    history.close()
    return {"tag": tag, "nonce": nonce}


# -- money ----------------------------------------------------------------------------------------------------------


def _statements(token: str, entry: str, source: int, target: int, cents: int) -> list[tuple[str, tuple[Any, ...]]]:
    assert site is not None
    book = (
        f"insert into {site.shop}.ledger (token, entry, source, target, cents) values (%s, %s, %s, %s, %s)",
        (token, entry, source, target, cents),
    )
    text = f"update {site.shop}.accounts set balance = balance + %s where id = %s"
    # In order of account, so that two transfers never wait for each other in a circle.
    return [book, *((text, (change, id)) for id, change in sorted({source: -cents, target: cents}.items()))]


@pgd.transaction(retry=RETRY)
async def move(
    tx: psycopg.AsyncConnection, token: str, entry: str, source: int, target: int, cents: int, nap: float = 0.0
) -> dict[str, Any]:
    nonce = runs(token, entry)
    first, *rest = _statements(token, entry, source, target, cents)
    await tx.execute(*first)
    if nap:
        await asyncio.sleep(nap)
    for statement in rest:
        await tx.execute(*statement)
    return {"tag": entry, "nonce": nonce, "cents": cents}


@pgd.transaction(retry=RETRY, isolation="serializable")
async def move_serializable(
    tx: psycopg.AsyncConnection, token: str, entry: str, source: int, target: int, cents: int
) -> dict[str, Any]:
    """Reads what others write, so that some of them meet."""
    nonce = runs(token, entry)
    assert site is not None
    await tx.execute(f"select sum(balance) from {site.shop}.accounts where id in (%s, %s)", (source, target))
    for statement in _statements(token, entry, source, target, cents):
        await tx.execute(*statement)
    return {"tag": entry, "nonce": nonce, "cents": cents}


@pgd.transaction(retry=RETRY)
async def shaky_move(
    tx: psycopg.AsyncConnection, token: str, entry: str, source: int, target: int, cents: int
) -> dict[str, Any]:
    nonce = runs(token, entry)
    for statement in _statements(token, entry, source, target, cents):
        await tx.execute(*statement)
    if fails_now(0.3):
        raise RuntimeError("changed its mind after the statements")
    return {"tag": entry, "nonce": nonce, "cents": cents}


@pgd.transaction(retry=RETRY)
def move_blocking(
    tx: psycopg.Connection, token: str, entry: str, source: int, target: int, cents: int
) -> dict[str, Any]:
    nonce = runs(token, entry)
    for statement in _statements(token, entry, source, target, cents):
        tx.execute(*statement)
    return {"tag": entry, "nonce": nonce, "cents": cents}
