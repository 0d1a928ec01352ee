"""What runs the code that asks: the machine of a workflow, or the attempt of a step.

The machine is kept per thread by the loop's inner cycle, which a burst passes through anyway. The attempt is kept in
the context, so that tasks and threads which a step starts with a copy of its context have it too.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from pgdurable._runtime._cycle import bind_thread, current_machine

__all__ = ["bind_thread", "current_attempt", "current_machine"]

current_attempt: ContextVar[Any] = ContextVar("pgdurable_attempt")
"""In a step: something whose `running()` gives the attempt under way, or raises AttemptOver."""
