"""Named points at which a test can kill this process, to see that nothing is lost there.

``PGDURABLE_PROBE=flush.sent:3`` in the environment kills the process with SIGKILL the third time it comes by the point
`flush.sent`. Without the variable a probe costs one look at a module's global.
"""

from __future__ import annotations

import os
import signal

__all__ = ["POINTS", "armed", "reach"]

POINTS = (
    "start.recorded",  # a start was handed to the journal
    "start.committed",  # a start was committed, nobody has been told
    "keyed_start.committed",  # the same for a start with a user-chosen id
    "step.begin",  # a step is about to run
    "step.ran",  # a step has run, its checkpoint is not recorded yet
    "step.recorded",  # its checkpoint was handed to the journal
    "step.committed",  # its checkpoint was committed, the workflow has not seen it
    "attempt.committed",  # a failed attempt was committed
    "pending.committed",  # history says that an attempt is about to begin, and it has not
    "transaction.ran",  # the user's statements ran, the checkpoint is not written
    "transaction.checkpointed",  # the checkpoint and COMMIT are sent, their answer is outstanding
    "transaction.committed",  # committed, the workflow has not seen it
    "timer.due",  # a timer was handed to the journal
    "timer.committed",  # a fired timer was committed
    "signal.recorded",  # a signal was handed to the journal
    "signal.committed",  # a signal was moved to history
    "update.recorded",  # an accepted update was handed to the journal
    "update.committed",  # an accepted update was moved to history
    "update.rejected",  # the answer to a rejected update was handed to the journal
    "reply.committed",  # the reply to an update was committed, nobody has been told
    "state.committed",  # a published value was committed
    "stream.committed",  # items that a workflow wrote to a stream were committed
    "end.recorded",  # the instance's end was handed to the journal
    "end.committed",  # the instance's end was committed, nobody has been told
    "park.committed",  # the instance left memory
    "claim.returned",  # instances were claimed, not yet replayed
    "schedule.computed",  # what to do about schedules that are due was worked out, nothing is written
    "schedule.committed",  # their instances were started and their next times set
    "flush.sent",  # a batch was sent, its answer is outstanding
)

_name, _, _count = os.environ.get("PGDURABLE_PROBE", "").partition(":")
_left = int(_count or 1)
armed = bool(_name)

if armed and _name not in POINTS:
    raise ValueError(f"PGDURABLE_PROBE names no probe point: {_name!r}; there are {', '.join(POINTS)}")


def reach(point: str) -> None:
    """Kills this process if the point is the one chosen and its time has come. Call it under `if probes.armed`."""
    global _left
    if point == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
