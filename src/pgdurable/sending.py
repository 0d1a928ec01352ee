"""What workflow code sends to other instances: signals, and requests to cancel. Each is one commit with its record."""

from __future__ import annotations

import uuid
from typing import Any, cast

from pgdurable._arguments import fingerprint
from pgdurable._runtime.current import current_machine
from pgdurable._runtime.loop import AsyncMachine
from pgdurable._runtime.machine import Machine
from pgdurable._runtime.thread import ThreadMachine
from pgdurable.codec import encode
from pgdurable.errors import PgDurableError

__all__ = ["Sending", "send", "signal"]


class Sending:
    """What a command of kind `send` is about: `signal` with a name and a payload, or `cancel` with a reason."""

    __slots__ = ("name", "payload", "target", "what")

    def __init__(self, what: str, target: str, name: str | None, payload: bytes) -> None:
        self.what = what
        self.target = target
        self.name = name
        self.payload = payload


def signal(id: str | uuid.UUID, name: str, payload: Any = None) -> Any:
    """Sends a signal from workflow code to another instance, exactly once: await it, in a `def` workflow it blocks.

    It is durable, and in the other's queue, when this returns; this instance's record of it is the same commit.
    Outside workflow code use `Client.signal` or `Handle.signal`.

    Args:
        id: the other's user-chosen id, or its UUID. With `encryption` the UUID: payloads are bound to their instance.
    Raises:
        PgDurableError: there is no such instance, or it has ended.
    """
    machine = current_machine()
    if machine is None:
        raise PgDurableError(
            "signal was called outside workflow code", hint="There, use client.signal(...) or handle.signal(...)."
        )
    return send(machine, Sending("signal", str(id), name, encode(payload, what=f"payload of signal {name!r}")))


def send(machine: Machine, sending: Sending) -> Any:
    """Issues the command and waits for its commit."""
    mark = fingerprint((sending.what, sending.target, sending.payload.decode()), {})
    if isinstance(machine, ThreadMachine):
        return machine.answer_of(machine.issue("send", sending.name or sending.what, mark, sending))
    return _send(cast(AsyncMachine, machine), sending, mark)


async def _send(machine: AsyncMachine, sending: Sending, mark: int) -> None:
    await machine.answer_of(machine.issue("send", sending.name or sending.what, mark, sending))
