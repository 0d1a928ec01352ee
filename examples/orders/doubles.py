"""Stand-ins for the services outside: payment provider, courier, warehouse, mailer. Slow, and often out of order.

Whether a call fails is decided by a hash of seed, service, order and the how many-th call it is in this process: the
same in every run of the demo with the same seed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator

import pgdurable as pgd

SEED = os.environ.get("SHOP_SEED", "1")
FAILING_PERCENT = 15
HANGING_PERCENT = 1
BLOCKED_PERCENT = 3

_calls: Counter[tuple[str, str]] = Counter()


class ServiceDown(Exception):
    """What a shaky service answers."""


class CardBlocked(pgd.NonRetryable):
    """The payment provider's "no"."""


def dice(*what: object) -> int:
    """A number from 0 to 99 that depends on `what` and nothing else."""
    digest = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100


def _trouble(service: str, order_id: str) -> bool:
    """Raises ServiceDown when it is this call's turn to fail; returns whether it is its turn to hang."""
    _calls[service, order_id] += 1
    thrown = dice(SEED, service, order_id, _calls[service, order_id])
    if thrown < FAILING_PERCENT:
        raise ServiceDown(f"{service} does not answer (503), order {order_id}")
    return thrown >= 100 - HANGING_PERCENT


async def payment_provider(order_id: str, cents: int) -> str:
    await asyncio.sleep(0.01)
    if _trouble("payment provider", order_id):
        await asyncio.sleep(3600)  # the step's timeout ends it
    if dice(SEED, "card", order_id) < BLOCKED_PERCENT:
        raise CardBlocked("the card is blocked")
    return f"receipt-{order_id}-{cents}"


async def payment_returned(receipt: str) -> None:
    await asyncio.sleep(0.01)
    _trouble("payment provider", receipt)


def courier(order_id: str, sku: str, n: int) -> str:
    time.sleep(0.002)
    _trouble("courier", order_id)
    return f"parcel-{order_id}-{n}x{sku}"


async def parcel_cancelled(parcel: str) -> None:
    await asyncio.sleep(0.002)
    _trouble("courier", parcel)


async def warehouse(order_id: str, parcel: str, address: str) -> str:
    await asyncio.sleep(0.01)
    _trouble("warehouse", order_id)
    return f"{parcel} to {address}"


JOURNEY = ("left the depot", "on the van", "at the door")


async def journey(order_id: str) -> AsyncIterator[str]:
    """Where the parcel is, place by place. Now and then the courier's line goes dead in the middle."""
    for place in JOURNEY:
        await asyncio.sleep(0.002)
        yield place
        _trouble("tracking", order_id)


async def mail(order_id: str) -> None:
    await asyncio.sleep(0.001)
    _trouble("mail", order_id)
