"""SQL workflows under kill -9 of a pump's backend (a crash restart of the server), and of the server: exactly once.

Every step writes to a ledger in the same commit as its checkpoint, so the ledger must hold each word of each instance
once, whatever was killed, and when.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer

Eventually = Callable[..., None]

INSTANCES = 120
PUMPS = 2


def note(word: str) -> str:
    return f"insert into ledger (run, word) values ($run, '{word}') returning word"


# Sequence, a condition, a loop, a durable sleep, branches as tasks, an atomic node, a retry that fails once.
GRAPH: list[Any] = [
    note("a"),
    {"op": "atomic", "steps": [note("debit"), note("credit")]},
    {"op": "value", "value": 0, "into": "n"},
    {
        "op": "loop",
        "body": [{"op": "sql", "query": "select $n + 1 as n", "into": "n"}, note("round $n")],
        "while": "select $n < 3",
    },
    {"op": "sleep", "seconds": 0.02},
    {"op": "parallel", "branches": [note("left"), [note("right"), note("right 2")]]},
    {"op": "if", "when": "select $run % 2 = 0", "then": note("even"), "else": note("odd")},
    note("z"),
]


def expected(run: int) -> list[str]:
    rounds = [f"round {n}" for n in (1, 2, 3)]
    return sorted(["a", "debit", "credit", *rounds, "left", "right", "right 2", "odd" if run % 2 else "even", "z"])


class Pumps:
    """Sessions in `work`, each begun anew as soon as it has ended, whatever ended it."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn, self.schema = dsn, schema
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.pump, daemon=True) for _ in range(PUMPS)]

    def __enter__(self) -> Pumps:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(30)

    def pump(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True) as conn:
                conn.execute("set application_name = 'a pump'")
                conn.execute(f"call {self.schema}.work(max_time => '2 s', wait => true)")
            time.sleep(0.01)


@pytest.fixture
def started(private_server: EmbeddedServer, private_schema: str) -> tuple[EmbeddedServer, str]:
    dsn = private_server.dsn
    migrate(dsn, private_schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"set search_path = {private_schema}, public")
        conn.execute("create table ledger (run int, word text)")
        conn.execute("select define('crashed', %s)", (Jsonb(GRAPH),))
        conn.execute(
            "select start('crashed', jsonb_build_object('run', n)) from generate_series(1, %s) n", (INSTANCES,)
        )
    return private_server, private_schema


AT_WORK = "select pid from pg_stat_activity where query like 'call %.work(%' and state = 'active'"


def ask(server: EmbeddedServer, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(server.dsn, autocommit=True, connect_timeout=5) as conn:
        return conn.execute(text).fetchall()


@pytest.mark.parametrize("victim", ["backend", "server"])
def test_every_step_takes_effect_once(
    started: tuple[EmbeddedServer, str], victim: str, seed: int, eventually: Eventually
) -> None:
    server, schema = started
    chance = random.Random(seed)
    kills = 0

    def left() -> int:
        try:
            return int(ask(server, f"select count(*) from {schema}.instances where status <> 'completed'")[0][0])
        except psycopg.OperationalError:
            return INSTANCES

    with Pumps(server.dsn, schema):
        eventually(lambda: bool(ask(server, AT_WORK)), "a pump is at work")
        for place in range(6):
            time.sleep(chance.uniform(0.0, 0.25 if place else 0.03))  # the first before all is done
            if not left():
                break
            if victim == "server":
                server.crash()
                server.start()
                kills += 1
            else:
                with contextlib.suppress(psycopg.Error):
                    pids = [pid for (pid,) in ask(server, AT_WORK)]
                    if pids:
                        os.kill(chance.choice(pids), signal.SIGKILL)
                        kills += 1
                eventually(lambda: can_connect(server), "the server has recovered")
        eventually(lambda: left() == 0, "all have completed", timeout=90)
    assert kills > 0
    ledger: dict[int, list[str]] = {}
    for run, word in ask(server, f"select run, word from {schema}.ledger"):
        ledger.setdefault(run, []).append(word)
    assert {run: sorted(words) for run, words in ledger.items()} == {n: expected(n) for n in range(1, INSTANCES + 1)}
    for table in ("sql_runs", "tasks", "events"):
        assert ask(server, f"select count(*) from {schema}.{table}") == [(0,)], table
    # The checkpoints say the same as the ledger.
    steps = ask(
        server, f"select count(*), count(distinct (instance_id, seq)) from {schema}.history where kind = 'step'"
    )
    assert steps[0][0] == steps[0][1]


def can_connect(server: EmbeddedServer) -> bool:
    try:
        return ask(server, "select 1") == [(1,)]
    except psycopg.OperationalError:
        return False
