"""Where there is no memory, adding raises MemoryError and the batch stays whole."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import os, resource, sys
from pgdurable._core import Flusher

limit = 400 << 20
if not os.environ.get("PGDURABLE_TEST_PRELOAD"):  # a sanitizer takes terabytes of addresses, and has a limit of its own
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
flusher = Flusher({})
payload = b"x" * 1000003
def add(n):
    kind = n % 3
    if kind == 0:
        flusher.add_history(n.to_bytes(16, "big"), n, n, 7, 0.5, 1, "step", "s", payload, None, n)
    elif kind == 1:
        flusher.add_instance(n.to_bytes(16, "big"), "w", None, "pending", "q", None, payload, n)
    else:
        flusher.add_release(n.to_bytes(16, "big"), "completed", payload, None, None, n)
n = failures = 0
while failures < 5:
    before = flusher.waiting, flusher.waiting_bytes
    try:
        add(n)
    except MemoryError as error:
        assert (flusher.waiting, flusher.waiting_bytes) == before
        failures += 1
    else:
        n += 1
    assert n < 5000, "memory has no end"
small = sys.getrefcount(payload)
batch = flusher.take()
tags = batch.tags
assert len(tags) == len(batch) == n and tags == list(range(n)) and n > 10
assert sum(batch.counts_by_kind[:3]) == n
try:
    batch.split()
except MemoryError:
    pass
assert len(batch) == n and batch.tags is tags
del batch
for again in range(3):
    add(again)
assert flusher.waiting == 3
print("whole", n)
"""


def test_a_batch_stays_whole_when_memory_runs_out() -> None:
    environment = dict(os.environ)
    if preload := os.environ.get("PGDURABLE_TEST_PRELOAD"):
        environment["LD_PRELOAD"] = preload
        environment["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":max_allocation_size_mb=60:log_path=stderr"
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("whole")
