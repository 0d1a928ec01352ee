"""The same ten-step workflow on other durable execution libraries that keep their state in PostgreSQL.

Each library runs in child processes of its own with a clean environment and in a database of its own, which is made
before and dropped after. A small adapter (`pgdurable_adapter.py`, `dbos_adapter.py`, ...) runs the workflow; driver,
workload and measurement are the same for all, pgdurable included.

Nothing here is needed to use pgdurable. What is not installed is not measured, and `PeerMissing` says how to get it.
"""

from benchmarks.peers.run import (
    NAMES,
    PEERS,
    Checked,
    PeerFailed,
    PeerFigure,
    PeerMissing,
    Trial,
    check_counts,
    check_durable,
    run_peer,
)

__all__ = [
    "NAMES",
    "PEERS",
    "Checked",
    "PeerFailed",
    "PeerFigure",
    "PeerMissing",
    "Trial",
    "check_counts",
    "check_durable",
    "run_peer",
]
