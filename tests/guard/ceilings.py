"""What a step may cost, in measures that do not depend on the machine's mood.

Tighten a ceiling when the code got cheaper: `.venv/bin/python tests/guard/measure.py` prints today's values. A ceiling
is a tenth or so above them.
"""

from __future__ import annotations

CEILINGS: dict[str, float] = {
    # Calls that Python's profiler sees (of Python functions, and of C functions by Python code) on the way of one
    # step from its call to its durable result: one instance at a time, and a hundred at once. Starts are included.
    "python calls per step, idle": 90.0,
    "c calls per step, idle": 90.0,
    "python calls per step, loaded": 30.0,
    "c calls per step, loaded": 20.0,
    # Instructions of this process (not of the server) per step, where valgrind is installed.
    "instructions per step, idle": 300_000.0,
    "instructions per step, loaded": 110_000.0,
    # Runs of Python's youngest garbage collection per 1,000 steps: how many containers a step leaves to it.
    "collections per 1,000 steps": 6.0,
    # What an instance that waits in memory (for a signal) takes there: blocks of Python's allocator, and bytes.
    "blocks per waiting instance": 80.0,
    "bytes per waiting instance": 10_000.0,
    # What is left of an instance that has ended, and of the process's memory per instance.
    "blocks kept per ended instance": 0.1,
    "bytes kept per ended instance": 30.0,
    "resident bytes kept per ended instance": 200.0,
}
