"""The primary dies and its standby is promoted, under an engine, a client and the command line with a DSN of both."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from e2e.namespace import Namespace, until

import pgdurable as pgd

from .cluster import Pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as there:
        yield there


@pytest.fixture
def ns(pair: Pair) -> Iterator[Namespace]:
    with Namespace(pair.dsn, "durable") as namespace:
        yield namespace


class Rounds:
    """A workflow of rounds: a step, a transaction step each way, a signal; and what its steps really did."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.done: Counter[str] = Counter()
        ns.sql("create table if not exists @.ledger (entry text not null, amount int not null default 1)")
        ledger = f"{ns.schema}.ledger"

        @pgd.step(retry=pgd.Retry(max_attempts=1))
        async def plain(entry: str) -> str:
            self.done[entry] += 1
            return entry

        @pgd.transaction(retry=pgd.Retry(max_attempts=1))
        async def enter(tx: psycopg.AsyncConnection, entry: str) -> str:
            await tx.execute(f"insert into {ledger} values (%s)", (entry,))
            return entry

        @pgd.transaction(retry=pgd.Retry(max_attempts=1))
        def enter_blocking(tx: psycopg.Connection, entry: str) -> str:
            tx.execute(f"insert into {ledger} values (%s)", (entry,))
            return entry

        @pgd.workflow
        async def rounds(name: str, n: int) -> list[str]:
            found = []
            for i in range(n):
                found += await asyncio.gather(plain(f"{name}/{i}/p"), enter(f"{name}/{i}/t"))
                found.append(await enter_blocking(f"{name}/{i}/b"))
                found.append(await pgd.wait_signal("go"))
            return found

        self.workflow = rounds

    def expected(self, name: str, n: int) -> list[str]:
        return [entry for i in range(n) for entry in (*(f"{name}/{i}/{kind}" for kind in "ptb"), f"{name}/{i}/s")]

    def rounds_done(self, names: list[str], n: int) -> Any:
        """Whether each has done n rounds and waits for the signal after them."""
        return lambda: self.ns.one("select count(*) from @.history where kind = 'step'") >= 3 * n * len(names)

    def check(self, names: list[str], n: int) -> None:
        """All have ended, each history with every step once and in order; every ledger entry once."""
        ns = self.ns
        entries = [entry for name in names for entry in self.expected(name, n)]
        assert ns.entries() == sorted(entry for entry in entries if entry[-1] in "tb")
        rows = ns.sql("select payload #>> '{}' from @.history where kind in ('step', 'signal')")
        assert sorted(row[0] for row in rows) == sorted(entries)
        assert ns.sql("select id, status from @.instances where status <> 'completed'") == []
        for name in names:  # in the order of the rounds
            rows = ns.sql(
                "select payload #>> '{}' from @.history h join @.instance_keys k on k.instance_id = h.instance_id"
                " where k.id = %s and h.kind in ('step', 'signal') order by event_id", name,
            )  # fmt: skip
            assert [row[0].split("/")[1] for row in rows] == [str(i) for i in range(n) for _ in range(4)]


async def signal_all(client: Any, names: list[str], round: int) -> None:
    for name in names:
        await client.signal(name, "go", f"{name}/{round}/s")


async def test_with_synchronous_replication_nothing_acknowledged_is_lost(pair: Pair, ns: Namespace) -> None:
    pair.synchronous()
    rounds = Rounds(ns)
    names = [f"w{i}" for i in range(10)]
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def keep_starting(client: pgd.Client) -> None:
        while not stop.is_set():
            handle = await client.start(rounds.workflow, f"late{len(acknowledged)}", 0)
            acknowledged.append(str(handle.instance_id))

    engine = ns.engine(rounds.workflow)
    async with engine, ns.client() as client:
        handles = [await engine.start(rounds.workflow, name, 3, id=name) for name in names]
        await until(rounds.rounds_done(names, 1), "the first round")
        starting = [asyncio.ensure_future(keep_starting(client)) for _ in range(3)]
        await until(lambda: len(acknowledged) > 20, "starts are acknowledged")
        signalling = asyncio.ensure_future(signal_all(client, names, 0))
        await asyncio.to_thread(pair.fail_over)
        before = len(acknowledged)
        await signalling
        await until(lambda: len(acknowledged) > before + 20, "starts are acknowledged by the new primary")
        stop.set()
        await asyncio.gather(*starting)
        for round in (1, 2):
            await until(rounds.rounds_done(names, round + 1), f"round {round}")
            await signal_all(client, names, round)
        for name, handle in zip(names, handles, strict=True):
            assert await handle.result(timeout=30) == rounds.expected(name, 3)
        for id in acknowledged:
            assert await (await client.get(id)).result(timeout=30) == []
        assert len(ns.sql("select 1 from @.workers")) == 1  # it went on from memory
        assert engine.metrics()["trouble"] is None
    ns.sql("delete from @.instances where id = any (%s::text[]::uuid[])", acknowledged)
    rounds.check(names, 3)
    assert set(rounds.done.values()) == {1}


async def test_after_an_asynchronous_failover_instances_go_on_from_what_is_left(pair: Pair, ns: Namespace) -> None:
    rounds = Rounds(ns)
    names = [f"w{i}" for i in range(10)]
    async with ns.engine(rounds.workflow) as engine, ns.client() as client:
        for name in names:
            await engine.start(rounds.workflow, name, 4, id=name)
        await until(rounds.rounds_done(names, 1), "the first round")
        position = pair.primary.sql("select pg_current_wal_flush_lsn()")[0][0]
        pair.wait(f"select 1 where pg_last_wal_replay_lsn() >= '{position}'", pair.standby)
        await asyncio.to_thread(pair.cut_off)
        # All of this is acknowledged, and lost: signals, steps, transaction steps, an instance.
        await signal_all(client, names, 0)
        await until(rounds.rounds_done(names, 2), "the second round")
        await signal_all(client, names[:5], 1)
        await until(rounds.rounds_done(names[:5], 5), "the third round of some")
        await engine.start(rounds.workflow, "lost", 4, id="lost")
        (worker,) = ns.sql("select id from @.workers")[0]
        await asyncio.to_thread(pair.fail_over)
        with contextlib.suppress(psycopg.Error):
            ns.sql("select 1")
        await until(
            lambda: ns.sql("select 1 from @.workers where id > %s and state = 'alive'", worker), "it has joined anew"
        )
        await until(
            lambda: ns.one("select state from @.workers where id = %s", worker) == "stopped", "its old self is retired"
        )
        with pytest.raises(pgd.InstanceNotFound):
            await client.signal("lost", "go")
        for round in range(4):
            await until(rounds.rounds_done(names, round + 1), f"round {round}")
            await signal_all(client, names, round)
        for name in names:
            assert await (await client.get(name)).result(timeout=30) == rounds.expected(name, 4)
    rounds.check(names, 4)
    # What had been done and was lost has been done again, nothing else.
    assert {rounds.done[f"{name}/{i}/p"] for name in names for i in (0, 3)} == {1}
    assert {rounds.done[f"{name}/1/p"] for name in names} == {2}


async def test_the_command_line_finds_the_server_that_takes_writes(pair: Pair, ns: Namespace) -> None:
    position = pair.primary.sql("select pg_current_wal_flush_lsn()")[0][0]
    pair.wait(f"select 1 where pg_last_wal_replay_lsn() >= '{position}'", pair.standby)
    await asyncio.to_thread(pair.fail_over)
    for command in (["doctor"], ["start", "rounds", "{}"], ["list"]):
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-m", "pgdurable.cli", command[0], "--dsn", pair.dsn, *command[1:]],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "pgdurable.cli", "list", "--dsn", pair.primary.dsn],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Is the server running and reachable?" in done.stderr
