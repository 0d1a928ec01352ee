"""The processes that run steps with `executor="process"`: spawned when first needed, kept, killed when they must stop.

A process runs one attempt at a time. Whoever times out or cancels an attempt kills its process; a process that dies by
itself fails its attempt and nothing else. What goes in and out is JSON on a socket, see process_child.py: nothing is
unpickled but what multiprocessing itself hands to a process of its own, which is the socket.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
import threading
from collections import deque
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import msgspec

from pgdurable._engine.attempts import Attempt, need_extra
from pgdurable._engine.process_child import HEAD, Call, Reply, main, some
from pgdurable._failure import decode_error
from pgdurable.codec import decode
from pgdurable.errors import AttemptOver, InvalidInput, StepProcessDied

if TYPE_CHECKING:
    from pgdurable._engine.steps import StepRun

__all__ = ["Processes", "StepProcess"]

logger = logging.getLogger("pgdurable.steps")

_IDLE_S = 60.0
_REAP_S = 5.0
_spawning = threading.Lock()  # multiprocessing keeps what it is making in module state
_read_reply = msgspec.json.Decoder(Reply).decode
_encode = msgspec.json.Encoder().encode


class StepProcess:
    """One process, seen from here."""

    def __init__(self, process: BaseProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._joining = threading.Lock()
        self.idle_since = 0.0

    @classmethod
    async def spawn(cls) -> StepProcess:
        loop = asyncio.get_running_loop()
        process, ours = await loop.run_in_executor(None, _spawn)
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 30)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._reader.at_eof() and self._process.is_alive()

    async def ask(self, call: Call, beat: Any) -> Reply:
        """The reply to a call. `beat` is given each heartbeat meanwhile. Raises EOFError when the process has ended."""
        data = _encode(call)
        try:
            self._writer.write(HEAD.pack(len(data)) + data)
            await self._writer.drain()
            while True:
                (length,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                reply = _read_reply(await self._reader.readexactly(length))
                if reply.kind != "beat":
                    return reply
                beat(reply)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EOFError from error

    def kill(self) -> None:
        self._writer.close()
        self._process.kill()

    def join(self) -> None:
        """Waits for the end of a process that is ending."""
        with self._joining:
            self._process.join(_REAP_S)

    def exit_code(self) -> int | None:
        """Of a process that has ended; None: it does not end."""
        self.join()
        return self._process.exitcode


def _spawn() -> tuple[BaseProcess, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs, _spawning:
        try:
            process = multiprocessing.get_context("spawn").Process(
                target=main, args=(theirs,), name="pgdurable step", daemon=True
            )
            process.start()
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return process, ours


class Processes:
    """At most so many processes, and whoever waits for one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._most = most
        self._held = 0  # alive or being made
        self._idle: list[StepProcess] = []
        self._busy: set[StepProcess] = set()
        self._waiting: deque[asyncio.Future[StepProcess | None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._reaping: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def take(self) -> StepProcess:
        """A process that runs nothing, for `call` and then `give_back`, or for `kill`."""
        while True:
            while self._idle:
                process = self._idle.pop()
                if process.alive:
                    self._busy.add(process)
                    return process
                self._end(process)
            if self._held < self._most:
                self._held += 1
                try:
                    process = await StepProcess.spawn()
                except BaseException:
                    self._left()
                    raise
                if self._closed:
                    self._end(process)
                    raise asyncio.CancelledError
                self._busy.add(process)
                return process
            turn: asyncio.Future[StepProcess | None] = self._loop.create_future()
            self._waiting.append(turn)
            try:
                given = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    given = turn.result()
                    if given is None:
                        self._pass_on(None)
                    else:
                        self.give_back(given)
                raise
            if given is not None:
                return given

    def give_back(self, process: StepProcess) -> None:
        """Its attempt has ended: it may run another."""
        if self._closed or not process.alive:
            self.kill(process)
        elif not self._pass_on(process):
            self._busy.discard(process)
            process.idle_since = self._loop.time()
            self._idle.append(process)
            if self._sweep is None:
                self._sweep = self._loop.call_later(_IDLE_S, self._on_sweep)

    def kill(self, process: StepProcess) -> None:
        """Ends it at once, whatever it runs."""
        if process in self._busy:
            self._busy.discard(process)
            self._end(process)

    def _end(self, process: StepProcess) -> None:
        process.kill()
        try:
            reaping = self._loop.run_in_executor(None, process.join)
        except RuntimeError:  # the loop's threads have ended with it: the system reaps it
            pass
        else:
            self._reaping.add(reaping)
            reaping.add_done_callback(self._reaping.discard)
        self._left()

    def _left(self) -> None:
        self._held -= 1
        self._pass_on(None)

    def _pass_on(self, process: StepProcess | None) -> bool:
        """Hands a process, or the right to make one, to who waits longest. Returns whether somebody took it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(process)
                return True
        return False

    def _on_sweep(self) -> None:
        self._sweep = None
        old = self._loop.time() - _IDLE_S + 0.001
        for process in [process for process in self._idle if process.idle_since <= old]:
            self._idle.remove(process)
            self._end(process)
        if self._idle:
            self._sweep = self._loop.call_later(self._idle[0].idle_since - old, self._on_sweep)

    # -- attempts ------------------------------------------------------------------------------------------------

    async def call(self, run: StepRun) -> Any:
        """Runs an attempt in the process it was admitted with."""
        extra, command = need_extra(run), run.command
        process, extra.process = extra.process, None
        try:
            extra.check_time()
            call = _call_of(run)
        except BaseException:
            self.give_back(process)
            raise
        attempt = Attempt(run)
        try:
            reply = await process.ask(call, lambda beat: _heard(attempt, beat))
        except EOFError:
            self.kill(process)
            raise await self._died(run, process) from None
        except BaseException:
            logger.info(
                "%s: step %s: process %s, which runs it, is killed", run.hosted.label, command.name, process.pid
            )
            self.kill(process)
            raise
        self.give_back(process)
        if reply.kind == "error":
            extra.recorded = bytes(reply.data)
            raise decode_error(extra.recorded, step=command.name or "", attempt=run.attempt)
        what = f"{run.hosted.label}: result of step {command.name}"
        return decode(bytes(reply.data), command.step.signature.returns, what=what)

    async def _died(self, run: StepRun, process: StepProcess) -> StepProcessDied:
        code = await self._loop.run_in_executor(None, process.exit_code)
        how = "it is not known how"
        if code is not None:
            how = f"ended by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        return StepProcessDied(
            f"{run.hosted.label}: the process that ran step {run.command.name} died in attempt {run.attempt}: {how}",
            exitcode=code,
            hint="Its standard error may say more. A crash in C code, too much memory and os._exit look like this; so "
            "does a module that cannot be imported.",
        )

    def close(self) -> None:
        """Ends all of them."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for turn in self._waiting:
            turn.cancel()
        for process in [*self._idle, *self._busy]:
            self._end(process)
        self._idle.clear()
        self._busy.clear()


def _call_of(run: StepRun) -> Call:
    command, host = run.command, run.hosted.host
    step = command.step
    try:
        input = step.signature.bind_input(command.args, command.kwargs or {})
    except InvalidInput as error:
        raise TypeError(str(error)) from None  # as a plain call would
    details = None if run.extra is None else run.extra.details
    return Call(
        module=step.fn.__module__, name=step.fn.__qualname__, step=step.name, attempt=run.attempt,
        label=str(run.hosted.label), limit=host.payload_limit, input=msgspec.Raw(input),
        details=msgspec.Raw(details or b"null"),
    )  # fmt: skip


def _heard(attempt: Attempt, beat: Reply) -> None:
    try:
        attempt.running()
    except AttemptOver:
        return
    if beat.stream is not None:
        attempt.write(beat.stream, None if beat.ends else bytes(beat.data))
    elif beat.progress is not None:
        attempt.progress(*beat.progress)
    else:
        need_extra(attempt.run).heard(some(beat.data))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
