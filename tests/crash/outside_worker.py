"""A worker of workflows in SQL, as anybody's: ``python -m tests.crash.outside_worker DSN SCHEMA PUMPS``."""

from __future__ import annotations

import asyncio
import sys

import pgdurable as pgd


@pgd.step(name="crash outside")
async def held(n: int) -> int:
    pgd.heartbeat({"n": n})
    await asyncio.Event().wait()
    return n


async def main(dsn: str, schema: str, pumps: str) -> None:
    options = {"lease": 2, "poll_interval": 0.1, "pumps": int(pumps), "http": pgd.Http(allow=("127.0.0.0/8",))}
    async with pgd.Engine(dsn, schema=schema, workflows=[], **options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
