"""The workflow of the tests of two library versions, run by whichever library is on the path. As a program: a worker.

``python library_worker.py DSN SCHEMA``: runs until it is told to stop (SIGTERM), and says what it does line by line.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import pgdurable as pgd
from pgdurable._store.migrations import latest_version


@pgd.step
async def mark(text: str) -> str:
    print(f"ran {text}", flush=True)
    return text


@pgd.workflow(name="library_flow")
async def flow(order: str, n: int = 2) -> list[str]:
    found = [await mark(f"{order}.{i}") for i in range(n)]
    await asyncio.sleep(0.01)
    found.append(await pgd.wait_signal("go", type=str))
    for i in range(n):
        found.append(await mark(f"{order}.late{i}"))
    return found


async def main(dsn: str, schema: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with pgd.Engine(dsn, schema=schema, workflows=[flow], poll_interval=0.2, park_after=600) as engine:
        print(f"up with schema version {latest_version()}", flush=True)
        for word in sys.argv[3:]:
            await engine.start(flow, word, id=word)
        print("started", flush=True)
        await stop.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:3]))
    except pgd.PgDurableError as error:
        print(f"error: {error}", flush=True)
        sys.exit(1)
