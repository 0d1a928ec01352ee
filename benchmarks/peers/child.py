"""A process that runs one adapter: ``python -m benchmarks.peers.child NAME DSN NUMBER``, spoken to in JSON lines.

An adapter module has `VERSION`, `open(dsn, number)`, `run(mode, concurrency, until, latencies)` and `close()`. `run`
starts workflows of ten steps, `concurrency` at a time, until `time.perf_counter()` has reached `until`, waits for the
last ones, and has appended each step's latency in seconds.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import signal
import sys
import time
from array import array


def main(name: str, dsn: str, number: str) -> None:
    adapter = importlib.import_module(f"benchmarks.peers.{name}_adapter")
    adapter.open(dsn, int(number))
    try:
        warm = array("f")
        adapter.run(adapter.WARM_MODE, 2, time.perf_counter() + 0.3, warm)
        print(json.dumps({"version": adapter.VERSION, "steps": len(warm)}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            latencies = array("f")
            began = time.perf_counter()
            adapter.run(asked["mode"], asked["concurrency"], began + asked["seconds"], latencies)
            took = time.perf_counter() - began
            answer = {
                "seconds": took,
                "steps": len(latencies),
                "latencies": base64.b64encode(latencies.tobytes()).decode(),
            }
            print(json.dumps(answer), flush=True)
    finally:
        adapter.close()


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with whoever started it
    main(*sys.argv[1:])
