"""A server that has lost what it acknowledged: the worker compares when it is connected again, and replays.

Losing is played by deleting rows while the connections are cut; tests/net/test_failover.py does it with a real standby.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgdurable as pgd
from pgdurable._engine import same_server
from pgdurable._engine.answers import LimitedConnection
from pgdurable._engine.same_server import OtherServer, SameServer

from .namespace import Namespace, until
from .proxy import Proxy


@pgd.step(name="memory_noted")
async def noted(n: int) -> int:
    return n


@pgd.workflow(name="memory_counts")
async def counts() -> list[Any]:
    found: list[Any] = []
    for n in range(3):
        found += [await noted(n), await pgd.wait_signal("go")]
    return found


FREE = "update @.instances set owner = null, status = 'pending' where id = '{id}'"
LOST: dict[str, Callable[[str, int], list[str]]] = {
    "a step": lambda id, worker: [f"delete from @.history where instance_id = '{id}' and event_id > 2"],
    "all history": lambda id, worker: [f"delete from @.history where instance_id = '{id}'"],
    "its claim": lambda id, worker: [FREE.format(id=id)],
    # It had joined before it owned anything, so with it all of that is lost.
    "the worker": lambda id, worker: [FREE.format(id=id), f"delete from @.workers where id = {worker}"],
    "the worker, whose id another has": lambda id, worker: [
        FREE.format(id=id),
        f"update @.workers set started_at = started_at - interval '1 second', name = 'another' where id = {worker}",
    ],
}


@pytest.mark.parametrize("what", LOST)
async def test_what_is_lost_is_noticed_and_replayed_from_what_is_left(ns: Namespace, what: str) -> None:
    name = f"app {ns.schema}"
    dsn = make_conninfo(ns.dsn, application_name=name)
    async with pgd.Engine(dsn, schema=ns.schema, workflows=[counts], lease=2) as engine:
        h = await engine.start(counts)
        await until(lambda: len(ns.history(h)) == 1, "the first step")
        await h.signal("go", "a")
        await until(lambda: len(ns.history(h)) == 3, "the second step")
        ((worker,),) = ns.sql("select id from @.workers")
        await asyncio.to_thread(cut_and_lose, ns, name, LOST[what](str(h.instance_id), worker))
        await until(
            lambda: ns.sql("select 1 from @.workers where state = 'alive' and id > %s", worker), "it has joined anew"
        )
        if what == "all history":
            await h.signal("go", "a")
        if what == "the worker, whose id another has":
            # The other is real as far as anybody can see; here nobody beats for it, so its lease runs out.
            assert ns.one("select state from @.workers where id = %s", worker) == "alive"
        await until(lambda: len(ns.history(h)) == 3, "the second step, again")
        await h.signal("go", "b")
        await until(lambda: len(ns.history(h)) == 5, "the third step")
        await h.signal("go", "c")
        assert await h.result(timeout=30) == [0, "a", 1, "b", 2, "c"]
    kinds = ns.history(h, "event_id, kind, payload")
    assert [(kind, payload) for _, kind, payload in kinds] == [
        ("step", 0), ("signal", "a"), ("step", 1), ("signal", "b"), ("step", 2), ("signal", "c")
    ]  # fmt: skip
    assert [event_id for event_id, _, _ in kinds] == list(range(1, 7))


def cut_and_lose(ns: Namespace, name: str, statements: list[str]) -> None:
    """Loses rows before any connection of that application can look, and cuts them all."""
    with psycopg.connect(ns.dsn) as conn:  # a transaction
        conn.execute(f"lock table {ns.schema}.workers in access exclusive mode")
        for statement in statements:
            conn.execute(statement.replace("@", ns.schema))
        ns.terminate(name)


async def test_joining_anew_is_tried_until_it_works(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ns.engine(counts) as engine:
        assert engine._worker is not None
        membership = engine._worker.membership
        retire, tried = membership.retire, []

        async def fails_at_first(*args: Any) -> None:
            tried.append(args)
            if len(tried) < 4:
                raise psycopg.OperationalError("not now")
            await retire(*args)

        monkeypatch.setattr(membership, "retire", fails_at_first)
        h = await engine.start(counts)
        await until(lambda: len(ns.history(h)) == 1, "the first step")
        engine._worker._incarnation.forgotten()
        await until(lambda: len(tried) == 4, "it has joined anew")
        for payload in "abc":
            await h.signal("go", payload)
        assert await h.result(timeout=20) == [0, "a", 1, "b", 2, "c"]


async def test_when_nothing_is_lost_it_goes_on_from_memory(ns: Namespace) -> None:
    name = f"app {ns.schema}"
    dsn = make_conninfo(ns.dsn, application_name=name)
    async with pgd.Engine(dsn, schema=ns.schema, workflows=[counts]) as engine:
        handles = await engine.start_many(counts, [()] * 20)
        for round in range(3):
            await until(lambda round=round: ns.one("select count(*) from @.history") == 20 * (2 * round + 1), "a round")
            before = engine.metrics()["reconnects"]
            await asyncio.to_thread(cut_and_lose, ns, name, [])
            for h in handles:
                await h.signal("go", round)
            await until(lambda before=before: engine.metrics()["reconnects"] > before, "it is connected again")
        for h in handles:
            assert await h.result(timeout=30) == [0, 0, 1, 1, 2, 2]
    assert len(ns.sql("select 1 from @.workers")) == 1


async def test_a_signal_lost_on_its_way_to_history_takes_no_other_with_it(ns: Namespace) -> None:
    """The number of a lost event may be given to another one, which must not be deleted in its place."""
    async with Proxy(ns.dsn) as proxy:
        async with pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[counts]) as engine:
            h = await engine.start(counts)
            await until(lambda: len(ns.history(h)) == 1, "the first step")
            ((worker,),) = ns.sql("select id from @.workers")
            locked = asyncio.Event()

            def lose() -> None:
                with psycopg.connect(ns.dsn) as conn:
                    # What the worker reads to find the signal is free; what it compares is not.
                    conn.execute(f"lock table {ns.schema}.history in access exclusive mode")
                    cuts = proxy.cuts
                    proxy.drop_at(b"pgd_delete_events")
                    loop.call_soon_threadsafe(locked.set)
                    while proxy.cuts == cuts:
                        conn.execute("select pg_sleep(0.01)")
                    conn.execute(
                        f"with gone as (delete from {ns.schema}.events returning seq, instance_id)"
                        f" insert into {ns.schema}.events (seq, instance_id, kind, name, payload)"
                        " overriding system value"
                        " select seq, instance_id, 'signal', 'go', '\"another\"' from gone"
                    )

            loop = asyncio.get_running_loop()
            losing = asyncio.ensure_future(asyncio.to_thread(lose))
            await locked.wait()
            ns.sql("select @.signal(%s, 'go', '\"lost\"')", h.id)
            await losing
            await until(lambda: len(ns.history(h)) == 3, "the signal is consumed")
            assert ns.history(h, "payload")[1] == ("another",)
            assert ns.sql("select 1 from @.workers where state = 'alive' and id > %s", worker)


async def test_a_new_connection_to_another_server_is_not_used_before_it_is_compared(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_server, "_COMPARED_WITHIN_S", 0.1)
    server = SameServer(ns.schema)
    told: list[int] = []
    server.on_other = lambda: told.append(1)
    async with await LimitedConnection.connect(ns.dsn, autocommit=True) as conn:
        await server.configure(conn)  # nothing in memory
        (found,) = await (await conn.execute("select extract(epoch from pg_postmaster_start_time())::text")).fetchone()
    server.known = found
    async with await LimitedConnection.connect(ns.dsn, autocommit=True) as conn:
        await server.configure_step(conn)
    assert not told
    server.known = "another"
    for configure in (server.configure, server.configure_step):
        conn = await LimitedConnection.connect(ns.dsn, autocommit=True)
        with pytest.raises(OtherServer, match="another server answers than before"):
            await configure(conn)
        assert conn.closed
    assert told
    with psycopg.connect(ns.dsn, autocommit=True) as blocking:
        with pytest.raises(OtherServer):
            await asyncio.to_thread(server.configure_blocking, blocking)
    conn = await LimitedConnection.connect(ns.dsn, autocommit=True)
    asyncio.get_running_loop().call_later(0.03, setattr, server, "known", found)
    await server.configure(conn)  # it has been compared meanwhile
    await conn.close()


async def test_an_engine_goes_where_new_connections_lead(ns: Namespace) -> None:
    """The old server may still answer on the journal's connection, which nobody would notice."""
    async with ns.engine(counts) as engine:
        worker = engine._worker
        assert worker is not None
        h = await engine.start(counts)
        worker._server.known = "another"
        worker._server.on_other()
        await until(lambda: engine.metrics()["reconnects"] == 1, "it is connected anew")
        await until(lambda: worker._server.known != "another", "it has compared")
        for payload in "abc":
            await h.signal("go", payload)
        assert await h.result(timeout=30) == [0, "a", 1, "b", 2, "c"]
