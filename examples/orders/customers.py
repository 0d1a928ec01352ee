"""What customers do after they have ordered: some move, some change their mind, some follow their parcel.

Each is somebody outside: all they have is the order's handle. What they are told goes into `Told`, for the proof.
"""

from __future__ import annotations

import asyncio
import uuid

import pgdurable as pgd

from .doubles import dice
from .proof import Told
from .shop import Order
from .workflows import redirect

MOST_FOLLOWERS = 40  # at a time: one that waits asks four times a second


class Customers:
    """Of each order, by a throw of the dice: 6 % redirect it, 3 % cancel it, 6 % follow it (if not too many do)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tasks: list[asyncio.Task[None]] = []
        self._followers = 0
        self.told = Told()

    def ordered(self, order: Order, handle: pgd.Handle[object]) -> None:
        """An order was acknowledged."""
        self.told.started[order.order_id] = handle.instance_id
        thrown = dice(self._seed, "customer", order.order_id)
        after_s = dice(self._seed, "patience", order.order_id) / 50
        if thrown < 6:
            self._tasks.append(asyncio.create_task(self._redirect(order, handle, after_s)))
        elif thrown < 9:
            self._tasks.append(asyncio.create_task(self._cancel(handle, after_s)))
        elif thrown < 15 and self._followers < MOST_FOLLOWERS:
            self._tasks.append(asyncio.create_task(self._follow(order, handle)))

    async def _redirect(self, order: Order, handle: pgd.Handle[object], after_s: float) -> None:
        await asyncio.sleep(after_s)
        address, key = f"c/o {order.address}", uuid.uuid4()
        while True:
            try:
                await handle.update(redirect, address, key=key)  # with the same key again it is the same request
                self.told.addresses[order.order_id] = address
                return
            except (pgd.UpdateRejected, pgd.UpdateFailed, pgd.InstanceFinished):
                return  # it is packed already, or at its end
            except pgd.ConnectionFailed:
                await asyncio.sleep(0.1)

    async def _cancel(self, handle: pgd.Handle[object], after_s: float) -> None:
        await asyncio.sleep(after_s)
        while True:
            try:
                await handle.cancel("changed her mind")
                return
            except pgd.ConnectionFailed:
                await asyncio.sleep(0.1)

    async def _follow(self, order: Order, handle: pgd.Handle[object]) -> None:
        """Reads the parcel's journey as it comes; after a lost connection from where it had come to."""
        self._followers += 1
        places: list[str] = []
        offset = 0
        while True:
            try:
                async for item in handle.stream("tracking", offset).items():
                    places.append(item.value)
                    offset = item.offset + 1
                break
            except pgd.ConnectionFailed:
                await asyncio.sleep(0.1)
        self._followers -= 1
        self.told.places[order.order_id] = places

    async def served(self) -> None:
        """Waits until all have what they wanted."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
