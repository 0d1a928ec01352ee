"""Instances are claimed and taken in a batch at a time, the next being fetched while one is replayed."""

from __future__ import annotations

import asyncio
import gc
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine import intake, strays
from pgdurable._engine import poller as poller_module
from pgdurable._engine.clock import micros
from pgdurable._store.migrations import migrate


async def wait_for_go() -> str:
    return str(await pgd.wait_signal("go"))


WORKFLOW: pgd.Workflow[..., str] = pgd.Workflow(wait_for_go)


async def until(condition: Any, what: str) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within 20 s: {what}")
        await asyncio.sleep(0.01)


def blocking_wait_for_go() -> str:
    return str(pgd.wait_signal("go"))


BLOCKING: pgd.Workflow[..., str] = pgd.Workflow(blocking_wait_for_go)


async def start(dsn: str, schema: str, number: int, workflow: pgd.Workflow[..., str] = WORKFLOW) -> list[str]:
    migrate(dsn, schema)
    async with pgd.Client(dsn, schema=schema) as client:
        return [handle.id for handle in await client.start_many(workflow.name, [()] * number)]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_AT_ONCE", 7)
    monkeypatch.setattr(intake, "_MOST_IN_A_LOOK", 30)


@pytest.mark.usefixtures("small_batches")
async def test_a_backlog_is_taken_in_completely_and_no_further_than_there_is_room(dsn: str, schema: str) -> None:
    await start(dsn, schema, 100)
    held: list[int] = []
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], max_instances=61, park_after=3600) as engine:
        host = engine._worker.host
        assert host is not None
        resume = host.resume

        async def counted(*args: Any) -> None:
            await resume(*args)
            held.append(len(host.instances))

        host.resume = counted  # type: ignore[method-assign]
        await until(lambda: len(host.instances) == 61, "as many as there is room for")
        polls = engine._worker.poller.polls
        engine._worker.poller.hint()
        await until(lambda: engine._worker.poller.polls > polls, "one more look")
        with psycopg.connect(dsn, autocommit=True) as conn:
            owned = conn.execute(f"select count(*) from {schema}.instances where owner is not null").fetchone()
    assert max(held) == 61
    assert owned == (61,), "it claimed instances it has no room for"


@pytest.mark.usefixtures("small_batches")
async def test_events_are_seen_while_a_backlog_is_claimed(dsn: str, schema: str) -> None:
    """Without that, a long backlog would keep signals from those that are already here."""
    ids = await start(dsn, schema, 200)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for id in ids:
            conn.execute(f"select {schema}.signal(%s, 'go', '1')", (id,))
    ended_with_backlog = 0
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW]) as engine:
        host, poller = engine._worker.host, engine._worker.poller
        assert host is not None
        events, in_look = poller._events, 0

        async def counted(*args: Any) -> None:
            nonlocal ended_with_backlog, in_look
            in_look += 1
            if len(host.instances) + host.ended < 200:
                ended_with_backlog += 1
            await events(*args)

        poller._events = counted  # type: ignore[method-assign]
        await until(lambda: host.ended == 200, "all have ended")
    assert ended_with_backlog >= 2


@pytest.mark.usefixtures("small_batches")
async def test_a_fetch_that_fails_while_a_batch_is_replayed_loses_nothing(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch at hand is taken in, the one whose answer was lost is found again, the connection is usable."""
    monkeypatch.setattr(strays, "_STRAY_AFTER_S", 0.2)
    await start(dsn, schema, 40)
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], poll_interval=0.1, park_after=3600) as engine:
        host, poller = engine._worker.host, engine._worker.poller
        assert host is not None
        load, calls = poller._intake._load, 0

        async def broken(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise psycopg.OperationalError("the connection is lost")
            return await load(*args)

        poller._intake._load = broken  # type: ignore[method-assign]
        await until(lambda: len(host.instances) == 40, "all are here")
        assert calls > 2


@pytest.mark.parametrize(("workflow", "held_off"), [(WORKFLOW, True), (BLOCKING, False)], ids=["async", "def"])
async def test_the_collector_is_held_off_for_a_batch_and_no_longer(
    dsn: str, schema: str, workflow: pgd.Workflow[..., str], held_off: bool
) -> None:
    """And not at all where a thread could take its time."""
    await start(dsn, schema, 20, workflow)
    during: list[bool] = []
    assert gc.isenabled()
    async with pgd.Engine(dsn, schema=schema, workflows=[workflow], park_after=3600) as engine:
        host = engine._worker.host
        assert host is not None
        resume = host.resume

        async def failing(*args: Any) -> None:
            during.append(gc.isenabled())
            if len(during) == 5:
                raise psycopg.OperationalError("something fails")
            await resume(*args)

        host.resume = failing  # type: ignore[method-assign]
        await until(lambda: len(during) >= 20, "every instance was tried")
        await until(gc.isenabled, "the collector is on")
    assert set(during) == {not held_off}


async def test_a_claim_that_waits_for_the_server_does_not_hold_the_collector_off(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], migrate=True, poll_interval=0.01):
        with psycopg.connect(dsn) as other:
            other.execute(f"lock table {schema}.instances in access exclusive mode")
            await until(lambda: not gc.isenabled(), "the collector is held off")
            await until(gc.isenabled, "the collector is on again")
            waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like %s"
            row = other.execute(waits, [f"%{schema}.claim(%"]).fetchone()
            assert row == (1,), "the claim does not wait any more"
            other.rollback()


async def test_a_collector_that_is_off_stays_off(dsn: str, schema: str) -> None:
    await start(dsn, schema, 3)
    gc.disable()
    try:
        async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], park_after=3600) as engine:
            await until(lambda: engine.metrics()["instances"] == 3, "all are here")
            assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(1970, 1, 1, tzinfo=timezone.utc), 0),
        (datetime(1970, 1, 1, 1, 0, 0, 1, tzinfo=timezone(timedelta(hours=1))), 1),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc), -1),
        (datetime(2262, 4, 11, 23, 47, 16, 854_775, tzinfo=timezone.utc), 9_223_372_036_854_775),
    ],
)
def test_microseconds_are_exact(at: datetime, expected: int) -> None:
    assert micros(at) == expected


async def test_events_of_those_here_are_looked_for_before_anything_is_claimed_and_again_after(
    dsn: str, schema: str
) -> None:
    """Before: a workflow may be waiting for one. After: what was claimed may have been claimed for its event."""
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], migrate=True, poll_interval=3600) as engine:
        host, poller = engine._worker.host, engine._worker.poller
        assert host is not None
        await engine.start(WORKFLOW)
        polls = poller.polls
        poller.hint()
        await until(lambda: poller.polls > polls, "it has looked at what was there before")
        await asyncio.sleep(0)
        did: list[str] = []
        events, claim = poller._events, poller._intake._claim

        async def noted_events(*args: Any) -> None:
            await events(*args)
            did.append("events")

        async def noted_claim(*args: Any) -> tuple[bool, bool]:
            found = await claim(*args)
            did.append("claim" if found[0] else "nothing claimed")
            return found

        poller._events, poller._intake._claim = noted_events, noted_claim  # type: ignore[method-assign]
        async with pgd.Client(dsn, schema=schema) as client:
            await client.start(WORKFLOW.name)
        await until(lambda: "claim" in did and did[-1] == "events", "the new one is claimed")
        at = did.index("claim")
        assert did[at - 1 : at + 2] == ["events", "claim", "events"]


async def test_after_a_short_look_the_next_may_follow_at_once(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "_LONGEST_GAP_S", 30.0)
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], migrate=True, poll_interval=3600) as engine:
        for n in range(5):
            handle = await engine.start(WORKFLOW)
            await handle.signal("go", n)
            assert await handle.result(timeout=10) == str(n)


async def test_what_it_may_not_know_of_is_not_asked_for_at_every_hint(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load some start is always under way, which looks like a stray for a moment."""
    async with pgd.Engine(dsn, schema=schema, workflows=[WORKFLOW], migrate=True, poll_interval=3600) as engine:
        worker = engine._worker
        assert worker is not None
        poller, asked = worker.poller, 0
        row = f"insert into {schema}.instances (id, workflow, version, status, owner, input) values"
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(f"{row} (gen_random_uuid(), 'nobody_has_it', '1', 'running', {worker.host.worker}, '[]')")
        look = poller._strays.look

        def count(conn: Any) -> Any:
            execute = conn.execute

            async def counted(query: Any, *args: Any, **more: Any) -> Any:
                nonlocal asked
                asked += query is poller._sql["owned"]
                return await execute(query, *args, **more)

            return counted

        async def watched(conn: Any, number: int) -> None:
            conn.execute = count(conn)
            try:
                await look(conn, number)
            finally:
                del conn.execute

        monkeypatch.setattr(poller._strays, "look", watched)
        poller.doubt()
        await until(lambda: poller._strays._seen is not None, "the row that it does not know is noticed")
        for _ in range(20):
            polls = poller.polls
            poller.hint()
            await until(lambda polls=polls: poller.polls > polls, "it has looked")
        assert asked == 1
