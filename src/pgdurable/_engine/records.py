"""What rides with each transition through the journal: told of its fate, it lets the instance go on.

Steps are their own records (`StepRun`); transaction steps do not pass through the journal.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pgdurable._engine import probes
from pgdurable._failure import encode_error
from pgdurable.errors import PgDurableError

if TYPE_CHECKING:
    from pgdurable._engine.host import Host
    from pgdurable._engine.hosted import Hosted
    from pgdurable.workflow import Workflow

__all__ = ["ReleaseRecord", "StartRecord", "TimerRecord"]

logger = logging.getLogger("pgdurable.engine")


class StartRecord:
    """The journal's tag for a new instance: acknowledged after its commit, and then run."""

    __slots__ = ("definition", "future", "host", "id", "input", "loaded", "owned", "queue")

    def __init__(
        self, host: Host, id: bytes, definition: Workflow[Any, Any] | None, input: bytes, queue: str, future: Any
    ) -> None:
        self.host = host
        self.id = id
        self.definition = definition
        self.input = input
        self.queue = queue
        self.future = future
        self.owned = False
        self.loaded: Any = None

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach("start.committed")
        self.host.starting -= 1
        if self.future is not None and not self.future.done():
            self.future.set_result(at_us)
        if self.owned and self.definition is not None:
            self.host.begin(self.id, None, self.definition, self.input, at_us, self.loaded)

    def refused(self, error: PgDurableError) -> None:
        self.host.starting -= 1
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class TimerRecord:
    """The journal's tag for a timer that was due."""

    __slots__ = ("hosted", "seq")

    def __init__(self, hosted: Hosted, seq: int) -> None:
        self.hosted = hosted
        self.seq = seq

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach("timer.committed")
        hosted = self.hosted
        hosted.unacked -= 1
        hosted.deliver(lambda: hosted.machine.fire(self.seq, at_us))
        hosted.advance_order()

    def refused(self, error: PgDurableError) -> None:
        logger.error("%s: a fired timer could not be recorded: %s", self.hosted.label, error)
        self.hosted.unacked -= 1
        self.hosted.advance_order()


class ReleaseRecord:
    """The journal's tag for the end of ownership: the instance completed, failed, is parked or paused."""

    __slots__ = ("hosted", "outcome", "status")

    def __init__(self, hosted: Hosted, status: str, outcome: tuple[str, bytes | None, bytes | None]) -> None:
        self.hosted = hosted
        self.status = status
        self.outcome = outcome

    def committed(self, at_us: int) -> None:
        if probes.armed:
            probes.reach("park.committed" if self.status == "waiting" else "end.committed")
        host = self.hosted.host
        host.instances.pop(self.hosted.id, None)
        if host.queued and self.hosted.id in host.queued:
            host.queued.discard(self.hosted.id)
            host.on_slot()
        host.ended += self.status in ("completed", "failed", "cancelled", "timed_out")
        self.hosted.close()
        if self.status != "waiting":
            host.on_outcome(self.hosted.id, self.outcome)
        elif self.hosted.missed:
            host.on_parked(host.clock.now_us())

    def refused(self, error: PgDurableError) -> None:
        hosted = self.hosted
        if self.outcome[0] == "completed":
            logger.error("%s: its result cannot be stored: %s", hosted.label, error)
            hosted.releasing = False
            hosted.host.release(hosted, "failed", error=encode_error(
                PgDurableError(f"{hosted.label}: the workflow's result cannot be stored: {error}")
            ))  # fmt: skip
        else:
            logger.error("%s: its end cannot be stored: %s", hosted.label, error)
