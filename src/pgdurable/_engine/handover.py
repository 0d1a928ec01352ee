"""Leaving in good order: what runs no step goes to other workers at once, the rest as soon as its steps are done.

While a worker drains, no step begins and nothing is claimed. What is under way goes on as ever: steps end and are
checkpointed, timers fire, signals arrive. Whoever needs a new step, or only waits, is handed over: released as due now,
with a hint to the others, who claim and replay it within milliseconds. (Not parked until something comes: what has
waited for long is parked already, and code that no longer fits is to show with the deploy that brings it.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from pgdurable._engine.parking import settled
from pgdurable._engine.requests import works
from pgdurable._engine.tasks import end_tasks, within

if TYPE_CHECKING:
    from pgdurable._engine.host import Host
    from pgdurable._engine.journal import Journal
    from pgdurable._engine.membership import Membership

__all__ = ["drain", "hand_over"]

logger = logging.getLogger("pgdurable.engine")

_LOOK_EVERY_S = 0.01
# Looking over tens of thousands that all run long steps takes a while: at most a fifth of the time.
_REST = 4


async def drain(host: Host, journal: Journal, membership: Membership, longest: float | None) -> bool:
    """Hands over what is here, and waits until all of that is committed.

    Args:
        longest: seconds that running steps get; None: as long as they take.

    Returns:
        whether it drained: no step had to be given up, and the server has acknowledged everything.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    end = None if longest is None else began + longest
    logger.info("worker %s drains: %s instances, %s steps run", host.worker, len(host.instances), host.steps_running)
    drained = False
    marking = loop.create_task(membership.mark_draining())
    try:
        handed = await within(None if longest is None else max(longest, 0.001), hand_over(host, membership.hint_others))
    except asyncio.TimeoutError:
        logger.warning("%s steps still run after %g s; they run again elsewhere", host.steps_running, longest)
    else:
        drained = not host.fenced
        logger.info("worker %s drained: %s instances handed over, %.1f s", host.worker, handed, loop.time() - began)
    finally:
        await end_tasks(marking)
    try:
        if not host.fenced:
            await within(None if end is None else max(end - loop.time(), 1.0), journal.drain())
    except asyncio.TimeoutError:
        logger.warning("stopping with transitions that the server has not acknowledged; they are done again")
        drained = False
    return drained


async def hand_over(host: Host, hint: Callable[[], Awaitable[None]]) -> int:
    """Lets go of every instance as soon as it runs no step; returns when none is left and no step runs any more.

    Args:
        hint: tells the other workers that there is something to claim.

    Returns:
        how many were handed over.
    """
    handed = before = 0
    while host.instances or host.starting:
        began = time.monotonic()
        before = max(before, len(host.instances))
        now_us = host.clock.now_us()
        for hosted in list(host.instances.values()):
            if settled(hosted) and not works(hosted):
                host.release(hosted, "waiting", wake_at_us=now_us)
                handed += 1
        if len(host.instances) < before:
            await hint()
            before = len(host.instances)
        await asyncio.sleep(max(_LOOK_EVERY_S, _REST * (time.monotonic() - began)))
    if before:
        await hint()
    await host.quiet()
    return handed
