"""What instances that are here have been asked for from outside: to stand still, or to end where they are.

A pause goes in three steps. Its event is met: from then on nothing is begun for the instance, and the event is marked
as heard, which is what `Handle.pause` waits for. Its running steps finish and are checkpointed. Then SQL's `heed`
takes the event away and the instance from this worker, in one transaction: where the event is gone, the pause has been
withdrawn, and the instance goes on wherever it is claimed. Until then the event stays in the queue, so that a worker
which takes over from a dead one meets it before it begins anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from pgdurable._engine import probes
from pgdurable._engine.parking import settled

if TYPE_CHECKING:
    import psycopg

    from pgdurable._engine.host import Host
    from pgdurable._engine.hosted import Hosted
    from pgdurable._engine.kinds import Event

__all__ = ["Requests", "take_pause", "take_terminate", "works"]

logger = logging.getLogger("pgdurable.engine")


class Requests:
    """The instances of a host that are on their way to standing still.

    Attributes:
        claimed: instances that this worker owns and has not taken into memory, because of what they are asked for.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pausing: dict[bytes, Hosted] = {}
        self._unheard: set[bytes] = set()
        self._leaving: set[bytes] = set()
        self.claimed: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._pausing or self.claimed)

    def pause(self, hosted: Hosted) -> None:
        """Nothing more is begun for this instance."""
        if hosted.pausing:
            return
        hosted.pausing = True
        self._host.parking.busy(hosted)
        self._pausing[hosted.id] = hosted
        self._unheard.add(hosted.id)

    def forget(self) -> None:
        """This incarnation has ended: all of that is somebody else's."""
        self._pausing.clear()
        self._unheard.clear()
        self._leaving.clear()
        self.claimed.clear()

    async def look(self, conn: psycopg.AsyncConnection[Any], worker: int, sql: dict[str, str]) -> bool:
        """Says what has been heard, and lets go of what is at rest. Returns whether more is on its way there."""
        host = self._host
        for id in [id for id, hosted in self._pausing.items() if hosted.closed or host.instances.get(id) is not hosted]:
            del self._pausing[id]  # it came to its end
            self._unheard.discard(id)
            self._leaving.discard(id)
        if self._unheard:
            heard = list(self._unheard)
            await conn.execute(sql["hear"], (worker, [UUID(bytes=id) for id in heard]))
            self._unheard.difference_update(heard)
        for id, hosted in self._pausing.items():
            if _at_rest(hosted):
                hosted.releasing = True  # whatever comes now stays in the queue
                self._leaving.add(id)
        ids = [*self._leaving, *self.claimed]
        if ids:
            if probes.armed:
                probes.reach("pause.ripe")
            cursor = await conn.execute(sql["heed"], (worker, [UUID(bytes=id) for id in ids]))
            for uuid, status in await cursor.fetchall():
                self._gone(uuid.bytes, status)
            # What is not told of is not this worker's any more, or has its request under somebody's open transaction.
            cursor = await conn.execute(sql["still_owned"], ([UUID(bytes=id) for id in ids], worker))
            kept = {row[0].bytes for row in await cursor.fetchall()}
            for id in ids:
                if id not in kept:
                    self._gone(id, None)
        return bool(self)

    @property
    def ripe(self) -> bool:
        """Whether a look would find something to say or to let go of."""
        return bool(self._unheard or self._leaving or self.claimed) or any(map(_at_rest, self._pausing.values()))

    def _gone(self, id: bytes, status: str | None) -> None:
        self.claimed.discard(id)
        self._leaving.discard(id)
        hosted = self._pausing.pop(id, None)
        if hosted is None:
            return
        self._host.instances.pop(id, None)
        logger.info("%s: %s", hosted.label, "goes on: its pause was called off" if status == "waiting" else status)
        hosted.close()
        if status == "paused":
            self._host.on_outcome(id, ("paused", None, None))


def _at_rest(hosted: Hosted) -> bool:
    """Whether nothing of it is under way: no step runs, and everything is committed."""
    return settled(hosted) and not works(hosted)


def works(hosted: Hosted) -> bool:
    """Whether a step of it is being executed."""
    return any(run.task is not None or run.queued or run.committing for run in hosted.steps.values())


def take_pause(hosted: Hosted, event: Event) -> None:
    """A request to stand still. It stays in the queue until it is carried out."""
    hosted.host.requests.pause(hosted)


def take_terminate(hosted: Hosted, event: Event) -> None:
    """A request to end at once: released as cancelled, without its code being asked. The queue is tidied later."""
    found = msgspec.json.decode(event.payload or "null")
    reason = found.get("reason") if isinstance(found, dict) else None
    message = "it was terminated" + (f": {reason}" if reason else "")
    error = {"type": "pgdurable.errors.Terminated", "message": message, "reason": reason}
    hosted.host.release(hosted, "cancelled", error=msgspec.json.encode(error))
