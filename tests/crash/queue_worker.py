"""A worker of the queue `mail`, as anybody's: ``python -m tests.crash.queue_worker DSN SCHEMA``."""

from __future__ import annotations

import asyncio
import sys

import pgdurable as pgd


@pgd.step
async def send(n: int) -> int:
    print("runs", flush=True)  # for whoever waits for that
    await asyncio.sleep(0.03)
    return n


@pgd.workflow(name="crash_mail")
async def mail(n: int) -> int:
    await send(n)
    await asyncio.sleep(0.2)  # longer than park_after: it leaves its slot, and needs one again
    return await send(n)


@pgd.workflow(name="crash_batch", batch=pgd.Batch(max=10, wait=0.1))
async def together(numbers: list[int]) -> list[int]:
    return [await send(number) for number in numbers]


async def main(dsn: str, schema: str) -> None:
    options = {"lease": 2, "park_after": 0.05, "poll_interval": 0.2, "quarantine_after": None}
    async with pgd.Engine(dsn, schema=schema, queues=["mail"], workflows=[mail, together], **options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
