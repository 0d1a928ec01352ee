"""Crashes of the server, and of its connections, under a worker that goes on by itself."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from pgdurable import EmbeddedServer

from .driver import Scenario


async def in_thread(call: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


async def at_work(scenario: Scenario, history: int) -> None:
    """Waits until so many transitions have been recorded."""

    async def enough() -> bool:
        return bool((await scenario.rows("select count(*) from @.history"))[0][0] >= history)

    await scenario.until(enough, f"{history} transitions")


async def journal_pid(scenario: Scenario) -> int:
    """The backend of the newest worker's journal: it holds the lock that marks the worker's presence."""

    async def find() -> Any:
        rows = await scenario.rows(
            "select l.pid from pg_locks l where l.locktype = 'advisory' and l.granted"
            " and l.classid = @.lock_class(1)::oid and l.database ="
            " (select oid from pg_database where datname = current_database())"
            " order by l.objid desc limit 1"
        )
        return rows and rows[0][0]

    return int(await scenario.until(find, "the journal's connection"))


async def engine_pids(scenario: Scenario) -> list[int]:
    rows = await scenario.rows(
        "select pid from pg_stat_activity where application_name = 'pgdurable engine' order by pid"
    )
    return [pid for (pid,) in rows]


async def test_server_crashes_at_random_moments(private_server: EmbeddedServer, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Scenario(private_server.dsn, tmp_path, seed) as scenario:
        worker = await scenario.begin(lease=10.0)
        for round in range(3):
            scenario.wave(worker)
            await at_work(scenario, 60 * round + chance.randint(1, 90))
            await in_thread(private_server.crash)
            await in_thread(private_server.start)
        await scenario.finish()
        assert len(scenario.workers) == 1


async def test_backends_killed(private_server: EmbeddedServer, tmp_path: Path, seed: int) -> None:
    """kill -9 of one backend makes the postmaster throw everybody out and recover."""
    chance = random.Random(seed)
    async with Scenario(private_server.dsn, tmp_path, seed) as scenario:
        worker = await scenario.begin(lease=10.0)
        for round in range(2):
            scenario.wave(worker)
            await at_work(scenario, 60 * round + chance.randint(1, 90))
            pids = await scenario.until(lambda: engine_pids(scenario), "the engine is connected")
            os.kill(chance.choice(pids) if round else await journal_pid(scenario), signal.SIGKILL)
        await scenario.finish()


async def test_connections_terminated(private_server: EmbeddedServer, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Scenario(private_server.dsn, tmp_path, seed) as scenario:
        worker = await scenario.begin(lease=10.0)
        for round in range(12):
            if round % 3 == 0:
                scenario.wave(worker)
            await at_work(scenario, 20 * round + chance.randint(1, 20))
            if round % 2:
                await scenario.rows("select pg_terminate_backend(%s)", await journal_pid(scenario))
            else:
                await scenario.rows(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'pgdurable engine' and state <> 'idle'"
                )
        await scenario.finish()


async def terminate_in_commit(scenario: Scenario, kind: str) -> int:
    """Terminates backends of the engine that hold their commit back, until one has been. Returns how many."""

    async def done() -> int:
        rows = await scenario.rows(
            "select pg_terminate_backend(pid), query from pg_stat_activity"
            " where application_name = 'pgdurable engine' and wait_event = %s",
            kind,
        )
        return len(rows)

    return int(await scenario.until(done, f"a commit waits ({kind})"))


async def test_connection_lost_before_the_commit_took_effect(
    private_server: EmbeddedServer, tmp_path: Path, seed: int
) -> None:
    """A transaction step's commit is under way when its connection breaks: it has not taken effect, and must."""
    async with Scenario(private_server.dsn, tmp_path, seed) as scenario:
        await scenario.rows(
            "create function #.gate() returns trigger language plpgsql as"
            " 'begin perform pg_advisory_xact_lock_shared(4711); return null; end'"
        )
        await scenario.rows(
            "create constraint trigger gate after insert on #.ledger deferrable initially deferred"
            " for each row execute function #.gate()"
        )
        async with await psycopg.AsyncConnection.connect(scenario.dsn, autocommit=True) as gate:
            await gate.execute("select pg_advisory_lock(4711)")
            worker = await scenario.begin(lease=10.0)
            # More steps than the engine has connections, all after the same rows: whoever asks for the outcome of a
            # commit must not need a connection that one of them holds.
            for _ in range(8):
                scenario.give(worker, scenario.make("rivals", keyed=False))
            for _ in range(6):
                await terminate_in_commit(scenario, "advisory")
            scenario.wave(worker)
        await scenario.finish()


async def test_connection_lost_after_the_commit_took_effect(
    private_server: EmbeddedServer, tmp_path: Path, seed: int
) -> None:
    """Commits stand, but nobody is told: they wait for a standby that does not exist, and are cut off there."""
    async with Scenario(private_server.dsn, tmp_path, seed) as scenario:
        worker = await scenario.begin(lease=10.0)
        scenario.wave(worker)
        for round in range(3):
            await at_work(scenario, 30 * round + 10)
            await set_standby(scenario, "nobody")
            scenario.give(worker, scenario.make("shop", keyed=True))
            await scenario.until(lambda: commits_wait(scenario), "the server waits for its standby")
            orders = [scenario.make("shop", keyed=keyed) for keyed in (True, False)]
            for order in orders:
                scenario.give(worker, order)
            for _ in range(3):
                await terminate_in_commit(scenario, "SyncRep")
            # What is sent again is there already, but no standby has it: a failover would lose what is told of now.
            await scenario.until(lambda: commits_wait(scenario), "what was sent again waits too")
            early = [order for order in orders if order.token in scenario.acknowledged]
            assert not early, f"round {round}"
            await set_standby(scenario, "")
            await scenario.until(lambda: nothing_waits(scenario), "the server waits no longer")
        await scenario.finish()


async def nothing_waits(scenario: Scenario) -> bool:
    return not await commits_wait(scenario)


async def commits_wait(scenario: Scenario) -> bool:
    """Whether the engine waits for the standby."""
    rows = await scenario.rows(
        "select from pg_stat_activity where application_name = 'pgdurable engine' and wait_event = 'SyncRep'"
    )
    return bool(rows)


async def set_standby(scenario: Scenario, name: str) -> None:
    await scenario.rows(f"alter system set synchronous_standby_names = '{name}'")
    await scenario.rows("select pg_reload_conf()")

    async def read() -> bool:
        return bool((await scenario.rows("show synchronous_standby_names"))[0][0] == name)

    await scenario.until(read, "the setting holds")


async def test_worker_and_server_die_together(private_server: EmbeddedServer, tmp_path: Path, seed: int) -> None:
    async with Scenario(private_server.dsn, tmp_path, seed) as scenario:
        worker = await scenario.begin()
        scenario.wave(worker)
        await at_work(scenario, 40)
        pid = private_server.pid
        assert pid is not None
        worker.signal(signal.SIGKILL)
        await in_thread(private_server.crash)
        await in_thread(private_server.start)
        await worker.ended()
        await scenario.begin()
        await scenario.finish()
