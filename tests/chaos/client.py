"""A process of customers that runs nothing itself: ``python -m chaos.client``. End of file on stdin: no more orders."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import sys
from typing import Any

import pgdurable as pgd

from . import kinds
from .customer import Customer
from .history import History


async def main(told: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    history = History(told["history"], told["name"])
    client = pgd.Client(told["dsn"], schema=told["schema"], max_connections=6)
    while True:
        try:
            await client.open()
            break
        except pgd.ConnectionFailed:
            await asyncio.sleep(0.2)
    async with client:
        among = list(kinds.KINDS)
        customers = [
            Customer(
                client,
                history,
                name=f"{told['name']}.{n}",
                seed=told["seed"],
                generation=None,
                first=among[n % len(among)],
            )
            for n in range(told["customers"])
        ]
        closing = asyncio.Event()
        tasks = [loop.create_task(customer.run(closing)) for customer in customers]
        await orders.read()
        closing.set()
        await asyncio.gather(*tasks)
    history.note("stopped")


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    asyncio.run(main(json.loads(sys.argv[1])))
