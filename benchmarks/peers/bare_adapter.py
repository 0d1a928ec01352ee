"""No library: each step is one prepared insert of one row, committed by itself. Who does not batch cannot beat it."""

from __future__ import annotations

import time
import uuid
from array import array
from typing import Any

import psycopg

from benchmarks.peers.callers import in_threads

VERSION = psycopg.__version__
WARM_MODE = "threads"
STEPS = 10
_dsn = ""
_connections: list[psycopg.Connection[Any]] = []


def open(dsn: str, number: int) -> None:
    global _dsn
    _dsn = dsn
    if number == 0:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(
                "create table bare (instance uuid not null, step int not null, name text not null, result jsonb,"
                " recorded_at timestamptz not null default now(), primary key (instance, step))"
            )


def run(mode: str, concurrency: int, until: float, latencies: array[float]) -> None:
    while len(_connections) < concurrency:
        _connections.append(psycopg.connect(_dsn, autocommit=True))

    def caller(conn: psycopg.Connection[Any]) -> None:
        while time.perf_counter() < until:
            instance = uuid.uuid4()
            for n in range(STEPS):
                began = time.perf_counter()
                conn.execute(
                    "insert into bare (instance, step, name, result) values (%s, %s, 'add_one', %s::jsonb)",
                    (instance, n, str(n)),
                    prepare=True,
                )
                latencies.append(time.perf_counter() - began)

    in_threads(caller, _connections[:concurrency])


def close() -> None:
    for conn in _connections:
        conn.close()
