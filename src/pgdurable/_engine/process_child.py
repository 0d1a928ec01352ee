"""What runs in a process of its own for `executor="process"`: reads a call, runs it, answers, and waits for the next.

A message is its length in four bytes and JSON. A second thread reads, so that this process ends at once when the worker
has gone, whatever it is in the middle of.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import queue
import signal
import socket
import struct
import sys
import threading
from time import monotonic
from typing import Any

import msgspec

from pgdurable._failure import encode_error
from pgdurable._runtime.current import current_attempt
from pgdurable.codec import encode, roundtrip
from pgdurable.errors import PgDurableError
from pgdurable.steps import Step

__all__ = ["HEAD", "Call", "Reply", "main", "some"]

HEAD = struct.Struct("!I")
# msgspec takes no `Raw | None`.
_NOTHING = msgspec.Raw(b"null")
# More heartbeats than this tell the worker nothing new.
_BEAT_EVERY_S = 0.1


class Call(msgspec.Struct):
    """An attempt to run: the function by module and name, its input as `Signature.load_input` takes it."""

    module: str
    name: str
    step: str
    attempt: int
    label: str
    limit: int
    input: msgspec.Raw
    details: msgspec.Raw = _NOTHING


class Reply(msgspec.Struct):
    """`kind` is `value`, `error` or `beat`; a beat has details in `data`, or progress, or an item of a stream."""

    kind: str
    data: msgspec.Raw = _NOTHING
    progress: tuple[float, float | None] | None = None
    stream: str | None = None
    ends: bool = False


class _Attempt:
    """What `heartbeat` and `progress` speak to here."""

    def __init__(self, sock: socket.socket, details: bytes | None) -> None:
        self._sock = sock
        self._details = details
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._over = False
        self._left: dict[str, Reply] = {}
        self._timer: threading.Timer | None = None

    def running(self) -> _Attempt:
        return self

    def details(self) -> bytes | None:
        return self._details

    def heartbeat(self, details: Any) -> None:
        if details is not None:
            self._details = encode(details, what="details of a heartbeat")
        said = _NOTHING if details is None else msgspec.Raw(self._details or b"null")
        self._tell("heartbeat", Reply("beat", said))

    def progress(self, done: float, total: float | None) -> None:
        self._tell("progress", Reply("beat", progress=(done, total)))

    def write(self, stream: str, item: bytes | None) -> None:
        """An item of a stream, or its end: told at once."""
        with self._lock:
            if not self._over:
                said = _NOTHING if item is None else msgspec.Raw(item)
                _send(self._sock, Reply("beat", said, stream=stream, ends=item is None))

    def _tell(self, what: str, beat: Reply) -> None:
        with self._lock:
            now = monotonic()
            if self._over:
                return
            if now - self._told.get(what, 0.0) < _BEAT_EVERY_S:
                self._left[what] = beat
                if self._timer is None:
                    self._timer = threading.Timer(_BEAT_EVERY_S, self._tell_rest)
                    self._timer.daemon = True
                    self._timer.start()
                return
            self._told[what] = now
            self._left.pop(what, None)
            _send(self._sock, beat)

    def _tell_rest(self) -> None:
        with self._lock:
            self._timer = None
            if not self._over:
                self._send_rest()

    def _send_rest(self) -> None:
        now = monotonic()
        for what, beat in self._left.items():
            self._told[what] = now
            _send(self._sock, beat)
        self._left.clear()

    def end(self, reply: Reply) -> None:
        """What was held back, then the answer; nothing after that."""
        with self._lock:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
            self._send_rest()
            _send(self._sock, reply)


def some(raw: msgspec.Raw) -> bytes | None:
    """The JSON, or None when that is null."""
    data = bytes(raw)
    return None if data == b"null" else data


def _send(sock: socket.socket, reply: Reply) -> None:
    data = msgspec.json.encode(reply)
    sock.sendall(HEAD.pack(len(data)) + data)


def main(sock: socket.socket) -> None:
    """The life of such a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the worker, which ends this process when it is time
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sock, calls), name="pgdurable calls", daemon=True).start()
    while True:
        call = calls.get()
        attempt = _Attempt(sock, some(call.details))
        attempt.end(_answer(call, attempt))


def _read(sock: socket.socket, calls: queue.SimpleQueue[Call]) -> None:
    read = msgspec.json.Decoder(Call).decode
    try:
        with sock.makefile("rb") as stream:
            while head := stream.read(HEAD.size):
                (length,) = HEAD.unpack(head)
                calls.put(read(stream.read(length)))
    except Exception:
        pass
    finally:
        # Not sys.exit: the other thread may be in the middle of an attempt that nobody waits for any more.
        os._exit(0)


def _answer(call: Call, attempt: _Attempt) -> Reply:
    try:
        step = _find(call)
        args, kwargs = step.signature.load_input(bytes(call.input))
        token = current_attempt.set(attempt)
        try:
            value = step.fn(*args, **kwargs)
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
        finally:
            current_attempt.reset(token)
        payload, _ = roundtrip(value, step.signature.returns, what=f"the result of step {call.step}", limit=call.limit)
    except BaseException as error:
        return Reply("error", msgspec.Raw(encode_error(error, step=call.step, attempt=call.attempt)))
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    return Reply("value", msgspec.Raw(payload))


def _find(call: Call) -> Step[Any, Any]:
    found: Any = importlib.import_module(call.module)
    for part in call.name.split("."):
        found = getattr(found, part)
    if isinstance(found, Step):
        return found
    if callable(found):
        return Step(found, name=call.step)
    raise PgDurableError(
        f"{call.label}: step {call.step} is not what stands at {call.module}.{call.name} in a process of its own",
        detail=f"Expected the step or its function, found {type(found).__name__}.",
        hint="Define it at module level under its own name.",
    )
