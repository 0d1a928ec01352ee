"""Which machine runs the code that asks: the deterministic loop's in a burst, or the thread's.

Kept per thread by the loop's inner cycle, which a burst passes through anyway.
"""

from __future__ import annotations

from pgdurable._runtime._cycle import bind_thread, current_machine

__all__ = ["bind_thread", "current_machine"]
