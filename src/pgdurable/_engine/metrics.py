"""What an engine says of itself: `Engine.metrics`, and once a second the column `workers.stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from pgdurable._engine.backlog import Gate
    from pgdurable._engine.host import Host
    from pgdurable._engine.journal import Journal
    from pgdurable._engine.poller import Poller
    from pgdurable._engine.starts import KeyedStarts
    from pgdurable._engine.sweeper import Sweeper
    from pgdurable._engine.trouble import Troubles
    from pgdurable._engine.upkeep import Upkeep

__all__ = ["Metrics", "gather"]


class Metrics(TypedDict, total=False):
    """Told in `Engine.metrics`."""

    instances: int
    starting: int
    ended: int
    steps_done: int
    steps_running: int
    waiting: int
    backlog: int
    backlog_bytes: int
    callers_waiting: int
    callers_waited: int
    polls: int
    removed: int
    held_back_s: float | None
    held_back_xids: int | None
    dead_rows: int | None
    queued: int
    deaf_queues: list[str]
    reconnects: int
    trouble: str | None
    transitions: int
    history_rows: int
    flushes: int
    copies: int
    bytes: int
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None


def gather(
    host: Host,
    journal: Journal,
    gates: tuple[Gate, ...],
    keyed: KeyedStarts,
    poller: Poller,
    sweeper: Sweeper,
    troubles: Troubles,
    upkeep: Upkeep,
) -> Metrics:
    """The figures of this moment."""
    backlog, backlog_bytes = journal.load
    keyed_backlog, keyed_bytes = keyed.load
    return {
        "instances": len(host.instances),
        "starting": host.starting + keyed_backlog,
        "ended": host.ended,
        "steps_done": host.steps_done,
        "steps_running": host.steps_running,
        "waiting": host.flusher.waiting,
        "backlog": backlog + keyed_backlog,
        "backlog_bytes": backlog_bytes + keyed_bytes,
        "callers_waiting": sum(gate.waiting for gate in gates),
        "callers_waited": sum(gate.waited for gate in gates),
        "polls": poller.polls,
        "removed": sweeper.removed,
        "held_back_s": upkeep.held_back_s,
        "held_back_xids": upkeep.held_back_xids,
        "dead_rows": upkeep.dead_rows,
        "queued": len(host.queued),
        "deaf_queues": upkeep.deaf_queues,
        "reconnects": journal.reconnects,
        "trouble": journal.trouble or troubles.what,
        **host.flusher.stats(),
    }
