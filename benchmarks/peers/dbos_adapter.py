"""DBOS: workflows started locally (no queue to poll), from threads or from one event loop.

Chosen in its favour: a connection per caller, no extra ping per checkout of a connection, no logging, no telemetry,
the direct start that its own benchmarks find faster than a queue.
"""

from __future__ import annotations

import time
from array import array
from importlib.metadata import version

import dbos
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

from benchmarks.peers.callers import in_threads, on_a_loop

VERSION = version("dbos")
WARM_MODE = "threads"
STEPS = 10
POOL = 64
_latencies = array("f")


@dbos.DBOS.step()
def add_one(n: int) -> int:
    return n + 1


@dbos.DBOS.workflow()
def ten_steps(n: int) -> int:
    for _ in range(STEPS):
        began = time.perf_counter()
        n = add_one(n)
        _latencies.append(time.perf_counter() - began)
    return n


@dbos.DBOS.step()
async def add_one_async(n: int) -> int:
    return n + 1


@dbos.DBOS.workflow()
async def ten_steps_async(n: int) -> int:
    for _ in range(STEPS):
        began = time.perf_counter()
        n = await add_one_async(n)
        _latencies.append(time.perf_counter() - began)
    return n


def open(dsn: str, number: int) -> None:
    given = conninfo_to_dict(dsn)
    url = URL.create(
        "postgresql", given.get("user"), given.get("password"), None, None, given.get("dbname"),
        {key: value for key, value in given.items() if key not in ("user", "password", "dbname")},
    )  # fmt: skip
    dbos.DBOS(
        config={
            "name": "peer",
            "system_database_url": url.render_as_string(hide_password=False),
            "sys_db_pool_size": POOL,
            "db_engine_kwargs": {"pool_pre_ping": False},
            "executor_id": f"bench-{number}",
            "application_version": "1",
            "log_level": "ERROR",
            "enable_otlp": False,
        }
    )
    dbos.DBOS.launch()


def run(mode: str, concurrency: int, until: float, latencies: array[float]) -> None:
    global _latencies
    _latencies = latencies

    def caller(_: int) -> None:
        while time.perf_counter() < until:
            if ten_steps(0) != STEPS:
                raise RuntimeError("wrong result")

    async def async_caller() -> None:
        while time.perf_counter() < until:
            if await ten_steps_async(0) != STEPS:
                raise RuntimeError("wrong result")

    if mode == "async":
        on_a_loop(async_caller, concurrency)
    else:
        in_threads(caller, range(concurrency))


def close() -> None:
    dbos.DBOS.destroy()
