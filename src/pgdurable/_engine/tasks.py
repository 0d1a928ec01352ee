"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["end_tasks"]


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels the tasks and waits until they have ended, whatever they end in.

    Once is not enough: before Python 3.12 `asyncio.wait_for` loses a cancellation that meets the end of what it
    waits for, and the task would go on.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)
