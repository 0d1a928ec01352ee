"""`Engine(busy_wait=...)`: looking for a flush's answer instead of sleeping, while nothing else wants the event loop.

Where an idle process sleeps until the server answers, waking it up takes a good part of a transition: on the virtual
machine this was measured on, 45 us of 240. So an engine may be told to look again and again instead, for a short time,
in the journal itself. It looks at the server's socket *and* at the loop's own selector, whose descriptor becomes
readable with any other that the loop watches, its wake-up by other threads and by signals among them; whatever comes
first ends it, and the next timer does too.

It costs CPU and nothing else, which is why it is off unless asked for. It needs to know when the loop has nothing to
run, and asyncio tells nobody: four attributes of its loop that are not public (the same from CPython 3.10 to 3.14). On
a loop without them (uvloop) it stays off.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

__all__ = ["MOST_S", "selector_of", "spare_time"]

# Longer than an answer takes where waking up matters. The loop is not asked anything meanwhile, so it is a bound too on
# what a mistake about its idleness could cost.
MOST_S = 0.002


def selector_of(loop: Any) -> int:
    """The descriptor that tells of everything this loop watches; -1 where the loop is not of the kind that is known."""
    selector: Any = getattr(loop, "_selector", None)
    epoll = isinstance(selector, getattr(selectors, "EpollSelector", ()))
    named = all(hasattr(loop, name) for name in ("_ready", "_scheduled", "_stopping"))
    if isinstance(loop, asyncio.SelectorEventLoop) and epoll and named:
        return int(selector.fileno())
    return -1


def spare_time(loop: Any, most: float) -> float:
    """For how many seconds, `most` at most, only a descriptor can give this loop something to run; 0.0: it has some."""
    if loop._ready or loop._stopping:
        return 0.0
    if loop._scheduled:
        until_timer: float = loop._scheduled[0]._when - loop.time()
        return min(max(until_timer, 0.0), most)
    return most
