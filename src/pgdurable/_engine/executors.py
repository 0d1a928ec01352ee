"""Where the function of a step is called, for those that do not share the crew's task: a task, a thread, a process."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from pgdurable._engine.attempts import Attempt
from pgdurable._runtime.current import current_attempt

if TYPE_CHECKING:
    from pgdurable._engine.steps import StepRun

__all__ = ["RUNNERS"]

logger = logging.getLogger("pgdurable.steps")


async def _in_task(run: StepRun) -> Any:
    """An `async def` step that had to wait for something before it began."""
    current_attempt.set(Attempt(run))
    if run.extra is not None:
        run.extra.check_time()
    command = run.command
    return await command.step.fn(*command.args, **(command.kwargs or {}))


async def _in_thread(run: StepRun) -> Any:
    host = run.hosted.host
    context = contextvars.copy_context()
    context.run(current_attempt.set, Attempt(run))
    future = host.threads.submit(context.run, _outcome, run)
    try:
        value, failure = await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if not future.cancelled():
            logger.warning(
                "%s: step %s runs in a thread, which Python cannot interrupt; it goes on and its result is dropped",
                run.hosted.label, run.command.name,
            )  # fmt: skip
            release = run.extra.take_release() if run.extra is not None else None
            if release is not None:
                # Until it ends it is one of those that run at once.
                future.add_done_callback(lambda _: _call_in(host.loop, release))
        raise
    if failure is not None:
        raise failure
    return value


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:  # the loop is closed: nobody waits any more
        pass


def _outcome(run: StepRun) -> tuple[Any, BaseException | None]:
    """(value, exception): an executor's future takes no StopIteration, and a coroutine cannot raise one."""
    command = run.command
    try:
        if run.extra is not None:
            run.extra.check_time()
        return command.step.fn(*command.args, **(command.kwargs or {})), None
    except StopIteration as error:
        failure = RuntimeError("a step raised StopIteration")
        failure.__cause__ = error
        return None, failure
    except BaseException as error:
        return None, error


async def _in_process(run: StepRun) -> Any:
    return await run.hosted.host.admission.processes.call(run)


RUNNERS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "async": _in_task,
    "thread": _in_thread,
    "process": _in_process,
}
