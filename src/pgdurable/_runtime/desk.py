"""What an instance answers to from outside: handlers of updates and queries, and what its code waits for meanwhile.

An update is an event like any other: it is delivered in the order of history, and its handler runs in the same burst,
beside the workflow's own code. A query runs between bursts, and whatever it asks of the machine is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from pgdurable._runtime.machine import Machine

__all__ = ["Desk", "desk_of"]

Done: TypeAlias = Callable[[Any, "BaseException | None"], None]


class Desk:
    """Of one instance.

    Attributes:
        updates, queries: handlers that the workflow's code registered, by name.
        published: what the code has published last, encoded, by key.
        exposed: what the code gave to the handlers that are declared outside of it, in a tuple; None: nothing yet.
        open: updates whose handlers run.
        kept: updates that came too late for this run of an instance that continues as new.
        conditions: what code waits for, and where to say that it holds.
    """

    __slots__ = ("conditions", "exposed", "kept", "machine", "open", "published", "queries", "updates", "woke")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.updates: dict[str, Any] = {}
        self.queries: dict[str, Any] = {}
        self.exposed: tuple[Any] | None = None
        self.published: dict[str, bytes] = {}
        self.open = 0
        self.kept: list[tuple[str, Any]] = []
        self.conditions: list[tuple[Callable[[], Any], Any]] = []
        self.woke = False

    def update(self, name: str, key: Any, call: Callable[[], Any], at_us: int) -> None:
        """Delivers an accepted update: `call` is its handler, ready to be called."""
        machine = self.machine
        machine._advance(at_us)
        if machine.outcome is not None:
            return
        self.open += 1
        machine.spawn(call, partial(self._done, name, key))
        machine.burst()

    def _done(self, name: str, key: Any, value: Any, error: BaseException | None) -> None:
        self.open -= 1
        self.machine.issue("reply", name, None, (key, value, error))

    def wake(self) -> None:
        """Lets those go on whose condition holds now. Runs as the workflow's code does."""
        left = []
        conditions, self.conditions = self.conditions, []
        for predicate, future in conditions:
            if future.done():
                continue
            try:
                holds = bool(predicate())
            except Exception as error:
                future.set_exception(error)
                self.woke = True
                continue
            if holds:
                future.set_result(None)
                self.woke = True
            else:
                left.append((predicate, future))
        self.conditions = left + self.conditions


def desk_of(machine: Machine) -> Desk:
    """The machine's desk, made when first asked for."""
    desk: Desk | None = machine.desk
    if desk is None:
        desk = machine.desk = Desk(machine)
    return desk
