"""What a type checker makes of user code. tests/typing/test_typing.py runs mypy --strict over it."""

from __future__ import annotations

import asyncio

import psycopg
from typing_extensions import assert_type

import pgdurable as pgd


@pgd.step
async def plain(sku: str) -> str:
    return sku


@pgd.step(retry=pgd.Retry(max_attempts=5, initial=0.1), timeout=10)
async def reserve(sku: str, n: int) -> str:
    return sku * n


@pgd.step(timeout=3)
def book(sku: str) -> int:
    return len(sku)


@pgd.transaction
async def debit(tx: psycopg.AsyncConnection, account: int, cents: int) -> int:
    await tx.execute("select 1")
    return account + cents


@pgd.transaction(timeout=3)
async def credit(tx: psycopg.AsyncConnection, account: int, cents: int) -> int:
    return account + cents


@pgd.workflow(name="checkout", version="1")
async def checkout(order: str, sku: str, cents: int) -> dict[str, int]:
    stock, left = await asyncio.gather(reserve(sku, 1), debit(7, cents))
    assert_type(await reserve(stock, 1), str)
    assert_type(await debit(7, left), int)
    assert_type(await plain(order), str)
    assert_type(await credit(7, cents), int)
    parcel: int = await book(sku)
    await reserve.options(timeout=1)(sku, 2)
    return {"left": left, "parcel": parcel}


@pgd.workflow(batch=pgd.Batch(max=100, wait=0.5))
async def together(orders: list[str]) -> int:
    return len(orders)


async def queues(client: pgd.Client) -> None:
    await client.queues.set("mail", concurrency=10, rate=(100, 60), partition_concurrency=None, paused=False)
    await client.queues.set_partition("mail", "acme", weight=3)
    assert_type([info.name for info in await client.queues.list()], list[str])
    await client.start(checkout, "o-1", "sku-9", 1, queue="mail", priority=3, partition="acme", dedup="o-1")
    await client.start(checkout, "o-1", "sku-9", 1, debounce=5, debounce_limit=60, key="o-1")
    await client.start(together, "o-1")
    await client.queues.set("mail", rate=5)  # type: ignore[arg-type]
    pgd.Engine("", queues=["mail"])


async def main() -> None:
    async with pgd.Engine("", schema="durable") as engine:
        handle = await engine.start(checkout, "o-1", "sku-9", 4200, id="order/o-1")
        await handle.signal("approval", {"by": "ann"})
        assert_type(await handle.status(), str)
        await handle.result(timeout=60)
    async with pgd.Client("") as client:
        async for row in client.list(status="failed", workflow="checkout", limit=50):
            assert_type(row.status, str)
        await reserve(1, "sku")  # type: ignore[arg-type]
