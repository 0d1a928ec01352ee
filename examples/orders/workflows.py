"""What happens to an order, written down as it would be on a whiteboard. Everything durable is in this file.

There is no state table, no queue, no retry loop and no recovery code. The process that runs this may be killed at
any line; another one goes on from there.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

import pgdurable as pgd

from . import doubles

BIG_CENTS = 50_000  # from here on a person must approve
APPROVAL_S = 6  # how long that person has; in life this would be days
DELIVERY_S = 2  # how long the parcel travels; the same

# The services outside are shaky: try again soon, and do not give up quickly.
PATIENT = pgd.Retry(max_attempts=20, initial=0.05, multiplier=2.0, max_interval=1.0)


class Refused(pgd.NonRetryable):
    """A "no" that trying again does not change."""


# Transaction steps: what they do to the shop's tables and the note that it was done are one commit. Exactly once.


@pgd.transaction
async def debit(tx: psycopg.AsyncConnection[Any], order_id: str, account: int, cents: int) -> None:
    paid = await tx.execute(
        "update shop.accounts set cents = cents - %s where id = %s and cents >= %s", (cents, account, cents)
    )
    if paid.rowcount == 0:
        raise Refused("not enough money")
    await tx.execute("insert into shop.ledger values (now(), %s, %s, 'debit', %s)", (order_id, account, cents))


@pgd.transaction
async def refund(tx: psycopg.AsyncConnection[Any], order_id: str, account: int, cents: int) -> None:
    await tx.execute("update shop.accounts set cents = cents + %s where id = %s", (cents, account))
    await tx.execute("insert into shop.ledger values (now(), %s, %s, 'refund', %s)", (order_id, account, cents))


@pgd.transaction
async def take_stock(tx: psycopg.AsyncConnection[Any], order_id: str, sku: str, n: int) -> None:
    taken = await tx.execute("update shop.stock set n = n - %s where sku = %s and n >= %s", (n, sku, n))
    if taken.rowcount == 0:
        raise Refused("out of stock")
    await tx.execute("insert into shop.stock_moves values (now(), %s, %s, %s)", (order_id, sku, n))


# Steps that talk to the world outside. One that was under way in a crash runs again: at least once. The order's id
# goes with the call, so that the service can tell.


@pgd.step(retry=PATIENT, timeout=2)
async def capture(order_id: str, cents: int) -> str:
    return await doubles.payment_provider(order_id, cents)


@pgd.step(retry=PATIENT)
def book_parcel(order_id: str, sku: str, n: int) -> str:  # an ordinary blocking function: runs in a thread
    return doubles.warehouse(order_id, sku, n)


@pgd.step(retry=PATIENT)
async def thank(order_id: str) -> None:
    await doubles.mail(order_id)


async def approval(order_id: str) -> None:
    """Waits for a person. Anyone with psql can be that person: select durable.signal(id, 'approval', '...')."""
    answer = await pgd.wait_signal("approval", timeout=APPROVAL_S)  # raises TimeoutError
    if not answer["ok"]:
        raise Refused(f"denied by {answer['by']}")


@pgd.workflow(name="order", version="1")
async def order(order_id: str, account: int, sku: str, n: int, cents: int) -> dict[str, Any]:
    try:
        await debit(order_id, account, cents)
    except Refused as no:
        return {"end": "declined", "why": str(no)}
    try:
        if cents >= BIG_CENTS:
            await approval(order_id)
        await take_stock(order_id, sku, n)
    except (Refused, TimeoutError) as no:
        await refund(order_id, account, cents)
        return {"end": "refunded", "why": "no approval in time" if isinstance(no, TimeoutError) else str(no)}
    receipt, parcel = await asyncio.gather(capture(order_id, cents), book_parcel(order_id, sku, n))
    await asyncio.sleep(DELIVERY_S)
    await thank(order_id)
    return {"end": "shipped", "receipt": receipt, "parcel": parcel, "at": pgd.now().isoformat()}
