"""The deterministic event loop of an async workflow.

asyncio's own tasks, futures and primitives run on it unchanged. Time is the time of the event being delivered;
`call_later` is a durable timer; whatever would do real I/O is refused. The loop never runs by itself: `burst`
runs what is ready, from a callback of the process's real loop and never inside one of its tasks. What happens once
per event is in `_cycle.pyx`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import math
import sys
from asyncio import Future, Task
from asyncio.events import _get_running_loop
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, NoReturn, cast

from pgdurable._runtime._cycle import Cycle, Handle
from pgdurable._runtime.machine import LATEST_US, Command, ContinueAsNew, InstanceDropped, Machine
from pgdurable._runtime.order import OrderedFuture, OrderedTask, first_hash, order_as_completed
from pgdurable._runtime.unwind import Generators, close_generator, unwind
from pgdurable.errors import PgDurableError, WorkflowIoError

if sys.version_info >= (3, 14):
    # The current task belongs to the thread there, and a burst may come from within one of the real loop's.
    from asyncio.tasks import _swap_current_task as swap_current_task
else:
    swap_current_task: Any = None  # it belongs to the loop

__all__ = ["AsyncMachine", "DeterministicLoop", "refuse"]

logger = logging.getLogger("pgdurable.workflow")


def refuse(what: str, label: object) -> NoReturn:
    """Raises the error that real I/O on a workflow's loop gets."""
    raise WorkflowIoError(
        f"{label}: workflow code called {what}",
        detail="A workflow is replayed from its history, so it may not touch the outside world itself.",
        hint="Do this in a step: put it in a function decorated with @pgdurable.step and await that. "
        "To wait, use asyncio.sleep.",
    )


class TimerHandle(Handle):
    """A callback to run when a durable timer fires; also where that timer's answer goes."""

    __slots__ = ("_command", "_loop", "_when")

    def __init__(self, loop: DeterministicLoop, when: float, callback: Any, args: Any, context: Any) -> None:
        super().__init__(callback, args, context)
        self._loop = loop
        self._when = when
        self._command: Command | None = None

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            if self._command is not None:
                self._loop.machine.cancel(self._command)

    def done(self) -> bool:
        return self._cancelled

    def set_result(self, value: Any) -> None:
        self._loop._ready.append(self)


class DeterministicLoop(Cycle, asyncio.AbstractEventLoop):  # type: ignore[misc]
    """See the head of this file. One per instance."""

    machine: AsyncMachine

    def __init__(self, machine: AsyncMachine) -> None:
        self.machine = machine
        self._next_hash = first_hash(machine.seed)
        self._task_count = 0
        self._generators: Generators | None = None

    # -- what asyncio's tasks and futures call ---------------------------------------------------------------

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        machine = self.machine
        handle = TimerHandle(self, when, callback, args, context if context is not None else contextvars.copy_context())
        at_us = when * 1e6
        if at_us <= machine.now_us:
            self._ready.append(handle)
        else:
            due_us = LATEST_US if at_us > LATEST_US else math.ceil(at_us)
            handle._command = machine.issue_timer(due_us, handle)
        return handle

    def time(self) -> float:
        """Database time of the event being delivered, in seconds since 1970."""
        return self.machine.now_us / 1e6

    def create_future(self) -> Future[Any]:
        if self.machine.asked:
            self.machine.raise_dropped()
        self._next_hash = number = self._next_hash + 1
        return OrderedFuture(number, self)

    def create_task(self, coro: Any, **options: Any) -> Task[Any]:
        if self.machine.asked:
            coro.close()
            self.machine.raise_dropped()
        tasks = self.machine.tasks
        options.pop("eager_start", None)
        self._next_hash = number = self._next_hash + 1
        self._task_count += 1
        if options.get("name") is None:
            options["name"] = f"Task-{self._task_count}"  # asyncio's own count is the process's
        task = OrderedTask(number, coro, loop=self, **options)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.machine.dropped or isinstance(error, InstanceDropped):
            return
        logger.error("%s: %s", self.machine.label, context.get("message"), exc_info=error)

    def callback_failed(self, handle: Handle, failure: BaseException) -> None:
        """A callback raised: what a task raises it keeps, and the outcome tells it."""
        if isinstance(failure, KeyboardInterrupt):
            raise failure  # the process is told to stop; what became of the burst is not recorded
        if not isinstance(failure, (SystemExit, InstanceDropped, ContinueAsNew)):
            self.call_exception_handler({"message": f"error in callback {handle._callback!r}", "exception": failure})

    def generator_begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._generators is None:
            self._generators = Generators()
        self._generators.begun(generator)

    def generator_ended(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Nobody refers to the generator any more: its `finally` blocks are to run."""
        if self.machine.dropped or self._generators is None:
            close_generator(generator)
        elif not self._generators.keeps(generator, running=_get_running_loop() is self):
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        pass

    # -- what is refused ---------------------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        refuse("run_in_executor (or asyncio.to_thread)", self.machine.label)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        refuse("call_soon_threadsafe", self.machine.label)

    def run_forever(self) -> None:
        refuse("run_forever", self.machine.label)

    def run_until_complete(self, future: Any) -> Any:
        refuse("run_until_complete", self.machine.label)

    def stop(self) -> None:
        refuse("stop", self.machine.label)

    def close(self) -> None:
        refuse("close", self.machine.label)


def _refusing(name: str) -> Callable[..., Any]:
    def method(self: DeterministicLoop, *args: Any, **kwargs: Any) -> Any:
        refuse(name, self.machine.label)

    method.__name__ = name
    return method


for _name in (
    "getaddrinfo getnameinfo create_connection create_server create_unix_connection create_unix_server "
    "create_datagram_endpoint connect_read_pipe connect_write_pipe subprocess_shell subprocess_exec "
    "connect_accepted_socket start_tls sendfile add_reader remove_reader add_writer remove_writer "
    "sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_connect "
    "sock_accept sock_sendfile add_signal_handler remove_signal_handler set_task_factory "
    "set_exception_handler set_default_executor"
).split():
    setattr(DeterministicLoop, _name, _refusing(_name))
# The abstract methods were filled in just now, so the class can be instantiated.
DeterministicLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


order_as_completed(DeterministicLoop)


def _begun() -> NoReturn:
    raise RuntimeError("the workflow has begun")


async def _handled(call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
    """Runs a handler to its end."""
    try:
        value = call()
        if inspect.isawaitable(value):
            value = await value
    except (Exception, asyncio.CancelledError) as error:
        done(None, error)
    else:
        done(value, None)


def _stirred(label: object) -> PgDurableError:
    return PgDurableError(
        f"{label}: a query set something of the workflow going",
        detail="It set an event, a future or the like that the workflow's code may wait for.",
        hint="Let it only read what the workflow's code keeps. To change something, declare an update.",
    )


class AsyncMachine(Machine):
    """Runs an `async def` workflow.

    Args:
        body: makes the workflow's coroutine; its errors are the workflow's.
    """

    def __init__(
        self,
        label: object,
        workflow: str,
        seed: bytes,
        started_us: int,
        body: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        super().__init__(label, workflow, seed, started_us)
        self.tasks: set[Task[Any]] = set()
        # None once dropped. The loop goes on knowing the machine, for what asyncio may still tell it.
        self.loop: DeterministicLoop | None = cast(Any, DeterministicLoop)(self)
        self._body = body
        self._main: Task[Any] | None = None

    def start(self) -> None:
        # An empty context: what a context variable holds here depends on nothing but the workflow's code.
        contextvars.Context().run(self._begin)
        self.burst()

    def _begin(self) -> None:
        try:
            coro = self._body()
        except Exception as error:
            self.outcome = ("failed", error)
            return
        finally:
            self._body = _begun
        assert self.loop is not None
        self._main = OrderedTask(self.loop._next_hash, coro, loop=self.loop, name="Task-0")

    def new_future(self) -> Future[Any]:
        return Future(loop=self.loop)

    async def answer_of(self, command: Command) -> Any:
        """A command's answer; one that is not waited for any more is given up."""
        try:
            return await command.future
        except asyncio.CancelledError:
            if command.future.cancelled():
                self.cancel(command)
            raise

    def cancel_code(self) -> None:
        if self._main is not None:
            # From within the loop, as any other callback: cancelling wakes whatever the task waits for.
            assert self.loop is not None
            self.loop.call_soon(self._main.cancel, self.cancel_reason)

    def burst(self) -> None:
        loop = self.loop
        if loop is None:
            return
        self._run_ready(loop)
        desk = self.desk
        if desk is not None:
            while desk.conditions:
                desk.woke = False
                loop._ready.append(Handle(desk.wake, (), contextvars.Context()))
                self._run_ready(loop)
                if not desk.woke:
                    break
        main = self._main
        if main is not None and self.outcome is None and main.done():
            if main.cancelled():
                self.outcome = ("cancelled", None)
            elif (error := main.exception()) is not None and not isinstance(error, ContinueAsNew):
                self.outcome = ("failed", error)
            elif desk is None or not desk.open:  # else it completes when the last handler has
                self.outcome = ("completed", main.result()) if error is None else ("continued", error.arguments)

    def _run_ready(self, loop: DeterministicLoop) -> None:
        if swap_current_task:
            outer = _get_running_loop()
            outer_task = swap_current_task(outer, None) if outer else None
            try:
                loop.run_ready()
            finally:
                if outer_task is not None:
                    swap_current_task(outer, outer_task)
        else:
            loop.run_ready()

    def spawn(self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        assert self.loop is not None
        contextvars.Context().run(self.loop.create_task, _handled(call, done))

    def ask_code(self, call: Callable[[], Any]) -> Any:
        loop = self.loop
        assert loop is not None
        outcome: list[tuple[Any, BaseException | None]] = []

        def answer() -> None:
            try:
                outcome.append((call(), None))
            except Exception as error:
                outcome.append((None, error))
            if len(loop._ready) > 1:  # this callback itself is the first
                loop.clear_ready()
                outcome[:] = [(None, _stirred(self.label))]

        loop._ready.append(Handle(answer, (), contextvars.Context()))
        self._run_ready(loop)
        value, error = outcome[0] if outcome else (None, _stirred(self.label))
        if error is not None:
            raise error
        return value

    def drop(self) -> None:
        super().drop()
        self.pending.clear()
        loop = self.loop
        if loop is None:
            return
        main = self._main
        if main is not None and not main.done():
            self.tasks.add(main)
        loop.clear_ready()
        if self.tasks or loop._generators is not None:
            loop._ready.append(Handle(self._unwind, (loop,), contextvars.Context()))
            self.burst()
        self._main = self.loop = None
        loop.end()

    def _unwind(self, loop: DeterministicLoop) -> None:
        while self.tasks:  # code on its way out may add some; those never begin
            task = self.tasks.pop()
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                # `finally` blocks run now, and any command they issue raises InstanceDropped.
                unwind(cast(Any, task.get_coro()), self.label)
        if loop._generators is not None:
            loop._generators.close_all()
        loop.clear_ready()
