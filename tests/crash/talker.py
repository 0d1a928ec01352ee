"""A worker for test_talk.py: runs one workflow that is talked to, until it is killed or stopped."""

from __future__ import annotations

import asyncio
import sys

import pgdurable as pgd


@pgd.step
async def add(n: int) -> int:
    pgd.stream("log").write(f"step {n}")
    return n


@pgd.workflow(name="talker")
async def talker() -> int:
    total = 0

    @pgd.on_update("add")
    async def on_add(n: int) -> int:
        nonlocal total
        got = await add(n)
        total += got  # not `total += await ...`, which reads the total before it waits
        pgd.set_state("total", total)
        pgd.stream("log").write(f"total {total}")
        return total

    @on_add.validator
    def check(n: int) -> None:
        if n < 0:
            raise ValueError("negative")

    await pgd.wait_signal("end")
    return total


async def main() -> None:
    async with pgd.Engine(sys.argv[1], schema=sys.argv[2], workflows=[talker], lease=2.0):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
