"""What happens to an order, written down as it would be on a whiteboard. Everything durable is in this file.

There is no state table, no queue server, no scheduler, no retry loop and no recovery code. The process that runs this
may be killed at any line; another one goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime
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


class Unpaid(Refused):
    """The customer's account does not hold enough."""


# Transaction steps: what they do to the shop's tables and the note that it was done are one commit. Exactly once.


@pgd.transaction
async def debit(tx: psycopg.AsyncConnection[Any], order_id: str, account: int, cents: int) -> None:
    paid = await tx.execute(
        "update shop.accounts set cents = cents - %s where id = %s and cents >= %s", (cents, account, cents)
    )
    if paid.rowcount == 0:
        raise Unpaid("not enough money")
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


@pgd.transaction
async def put_back(tx: psycopg.AsyncConnection[Any], order_id: str, sku: str, n: int) -> None:
    await tx.execute("update shop.stock set n = n + %s where sku = %s", (n, sku))
    await tx.execute("insert into shop.stock_moves values (now(), %s, %s, %s)", (order_id, sku, -n))


# Steps that talk to the world outside. One that was under way in a crash runs again: at least once. The order's id
# goes with the call, so that the service can tell.


@pgd.step(retry=PATIENT, timeout=2)
async def capture(order_id: str, cents: int) -> str:
    return await doubles.payment_provider(order_id, cents)


@pgd.step(retry=PATIENT)
async def give_back(receipt: str) -> None:
    await doubles.payment_returned(receipt)


@pgd.step(retry=PATIENT)
def book_parcel(order_id: str, sku: str, n: int) -> str:  # an ordinary blocking function: runs in a thread
    return doubles.courier(order_id, sku, n)


@pgd.step(retry=PATIENT)
async def cancel_parcel(parcel: str) -> None:
    await doubles.parcel_cancelled(parcel)


@pgd.step(retry=PATIENT)
async def pack(order_id: str, parcel: str, address: str) -> str:
    return await doubles.warehouse(order_id, parcel, address)


@pgd.step(retry=PATIENT, heartbeat_timeout=5)
async def follow(order_id: str) -> int:
    """Hands on where the parcel is. Who reads along is given each place once, however often this begins anew."""
    tracking, places = pgd.stream("tracking"), 0
    async for place in doubles.journey(order_id):
        tracking.write(place)
        pgd.heartbeat()
        places += 1
    return places


@pgd.step(retry=PATIENT, rate_limit=(600, 1))  # the mail provider takes so many a second, from all workers together
async def thank(order_id: str) -> None:
    await doubles.mail(order_id)


# An order may be redirected until it is packed. `redirect` is called from outside, and answers; what the validator
# refuses leaves no trace.


@dataclass
class Slip:
    """What of an order may still change."""

    address: str
    packed: bool = False


@pgd.workflow(name="order", version="1")
async def order(order_id: str, account: int, sku: str, n: int, cents: int, address: str) -> dict[str, Any]:
    slip = pgd.expose(Slip(address))
    try:
        async with pgd.saga() as done:  # what ends this block early has all of it undone, the last thing first
            await done.do(debit, order_id, account, cents, undo=lambda _: refund(order_id, account, cents))
            pgd.set_state("stage", "paid")  # anybody may look: select durable.state('order/1-00001', 'stage')
            if cents >= BIG_CENTS:
                await approval()
            await done.do(take_stock, order_id, sku, n, undo=lambda _: put_back(order_id, sku, n))
            receipt, parcel = await asyncio.gather(
                done.do(capture, order_id, cents, undo=give_back),
                done.do(book_parcel, order_id, sku, n, undo=cancel_parcel),
            )
            slip.packed = True
            # A workflow of its own, in the line of its depot. If this one ends before it, it is cancelled.
            packing = await pgd.start_child(
                packed, order_id, parcel, slip.address, id=f"packing/{order_id}", queue="depots", partition=depot(sku)
            )
            label = await packing.result()
            pgd.set_state("stage", "on its way")
            await asyncio.sleep(DELIVERY_S)
            await follow(order_id)
    except Unpaid as no:
        return {"end": "declined", "why": str(no)}
    except (Refused, doubles.CardBlocked, TimeoutError) as no:
        return {"end": "refunded", "why": "no approval in time" if isinstance(no, TimeoutError) else str(no)}
    pgd.set_state("stage", "delivered")
    with contextlib.suppress(asyncio.CancelledError):  # who cancels now comes too late
        await thank(order_id)
    return {"end": "shipped", "receipt": receipt, "parcel": parcel, "label": label, "at": pgd.now().isoformat()}


@order.update
def redirect(slip: Slip, address: str) -> str:
    slip.address = address
    return f"goes to {address}"


@redirect.validator
def not_packed(slip: Slip, address: str) -> None:
    if slip.packed:
        raise ValueError("it is packed already")


async def approval() -> None:
    """Waits for a person. Anyone with psql can be that person: select durable.signal(id, 'approval', '...')."""
    pgd.set_state("stage", "waits for approval")
    answer = await pgd.wait_signal("approval", timeout=APPROVAL_S)  # raises TimeoutError
    if not answer["ok"]:
        raise Refused(f"denied by {answer['by']}")


# Packing: each depot has so many hands, whatever comes in. Who packs what, and how much at once, is the queue's to say.

DEPOTS = ("north", "south", "harbour")
HANDS = 25  # parcels that one depot packs at once


def depot(sku: str) -> str:
    return DEPOTS[int(sku.rpartition("-")[2]) % len(DEPOTS)]


@pgd.workflow(name="packing", version="1")
async def packed(order_id: str, parcel: str, address: str) -> str:
    return await pack(order_id, parcel, address)


# Closing the books, by the clock: what has come into the ledger since the last time goes into one closing.

CLOSING_S = 1  # how often; in life this would be a day


@pgd.transaction
async def close_books(tx: psycopg.AsyncConnection[Any], closing: str) -> int:
    closed = await tx.execute(
        "with line as (update shop.ledger set closing = %(closing)s where closing is null returning kind, cents)"
        " insert into shop.closings select now(), %(closing)s,"
        " coalesce(sum(case kind when 'debit' then cents else -cents end), 0) from line returning cents",
        {"closing": closing},
    )
    return (await closed.fetchall())[0][0]  # type: ignore[no-any-return]


@pgd.workflow(name="closing", version="1")
async def closing(scheduled_at: datetime) -> int:
    return await close_books(f"{scheduled_at:%Y-%m-%d %H:%M:%S.%f}")


async def set_up(engine: pgd.Engine) -> None:
    """What is to be said once; each worker says it when it starts, and nothing changes by that."""
    await engine.queues.set("depots", partition_concurrency=HANDS)
    await engine.schedule("closing", closing, every=CLOSING_S)
