"""Networks that delay, lose and swallow, and servers that hang: every call ends, and nothing is lost."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from e2e.namespace import Namespace, until
from e2e.proxy import Proxy

import pgdurable as pgd
from pgdurable._core import Flusher
from pgdurable._engine import answers
from pgdurable._engine.connections import resolve_dsn
from pgdurable._store.sql import named_queries
from pgdurable.cli.options import Target

from .gate import Gate
from .hole import Hole

LEDGER = ""


@pgd.step(name="slow_plain")
async def plain(entry: str) -> str:
    return entry


@pgd.transaction(name="slow_enter")
async def enter(tx: psycopg.AsyncConnection, entry: str) -> str:
    await tx.execute(f"insert into {LEDGER} values (%s)", (entry,))
    return entry


@pgd.transaction(name="slow_enter_blocking")
def enter_blocking(tx: psycopg.Connection, entry: str) -> str:
    tx.execute(f"insert into {LEDGER} values (%s)", (entry,))
    return entry


@pgd.workflow(name="slow_rounds")
async def rounds(name: str, n: int) -> list[str]:
    found = []
    for i in range(n):
        found += await asyncio.gather(plain(f"{name}/{i}/p"), enter(f"{name}/{i}/t"))
        found.append(await enter_blocking(f"{name}/{i}/b"))
    return found


@pytest.fixture
def ledger(ns: Namespace) -> Namespace:
    global LEDGER
    LEDGER = f"{ns.schema}.ledger"
    ns.ledger()
    return ns


def expected(name: str, n: int) -> list[str]:
    return [f"{name}/{i}/{kind}" for i in range(n) for kind in "ptb"]


def check(ns: Namespace, names: list[str], n: int) -> None:
    entries = sorted(entry for name in names for entry in expected(name, n))
    assert ns.entries() == [entry for entry in entries if entry[-1] != "p"]
    assert sorted(row[0] for row in ns.sql("select payload #>> '{}' from @.history where kind = 'step'")) == entries
    assert ns.sql("select 1 from @.history where kind = 'attempt'") == []


async def work(ns: Namespace, engine: pgd.Engine, names: list[str], n: int, meanwhile: Callable[[], Any]) -> None:
    """All instances of these names, with something done to the network while they run."""
    handles = [await engine.start(rounds, name, n, id=name) for name in names]
    await until(lambda: len(ns.entries()) > len(names), "they are under way")
    meanwhile()
    for name, h in zip(names, handles, strict=True):
        assert await h.result(timeout=60) == expected(name, n)


# --- dropped packets ------------------------------------------------------------------------------------------------


async def test_a_cut_cable_is_noticed_by_every_connection(ledger: Namespace) -> None:
    """No reset comes, no end: only TCP's own limits tell."""
    with Hole(ledger.dsn) as hole:
        dsn = hole.dsn(tcp_user_timeout=1500, keepalives_idle=1, keepalives_interval=1, keepalives_count=2,
                       connect_timeout=2)  # fmt: skip
        async with pgd.Engine(dsn, schema=ledger.schema, workflows=[rounds], lease=30) as engine:
            late: list[asyncio.Task[Any]] = []

            def cut() -> None:
                hole.lose(1.0)
                late.append(asyncio.ensure_future(heal()))
                # A fast machine may be done with the others: this one needs the connection for transitions in any case.
                late.append(asyncio.ensure_future(engine.start(rounds, "d", 40)))

            async def heal() -> None:
                # The connection for transitions, whatever the others have noticed before it.
                await until(lambda: engine._worker.journal.trouble, "the engine knows its trouble", 20)
                hole.lose(0.0)

            await work(ledger, engine, ["a", "b", "c"], 40, cut)
            _, handle = await asyncio.gather(*late)
            assert await handle.result(timeout=60) == expected("d", 40)
            assert engine.metrics()["reconnects"] >= 1
    check(ledger, ["a", "b", "c", "d"], 40)


async def test_an_idle_engine_notices_a_cut_cable(ledger: Namespace) -> None:
    with Hole(ledger.dsn) as hole:
        dsn = hole.dsn(tcp_user_timeout=1500, keepalives_idle=1, keepalives_interval=1, keepalives_count=2,
                       connect_timeout=2)  # fmt: skip
        async with pgd.Engine(dsn, schema=ledger.schema, workflows=[rounds], lease=30) as engine:
            hole.lose(1.0)
            begun = time.monotonic()
            await until(lambda: engine.metrics()["trouble"], "the engine knows its trouble", 20)
            assert time.monotonic() - begun < 10
            hole.lose(0.0)
            assert await (await engine.start(rounds, "a", 1)).result(timeout=30) == expected("a", 1)


async def test_a_lossy_network_only_costs_time(ledger: Namespace) -> None:
    with Hole(ledger.dsn) as hole:
        hole.lose(0.1)
        async with pgd.Engine(hole.dsn(), schema=ledger.schema, workflows=[rounds], lease=30) as engine:
            await work(ledger, engine, ["a", "b"], 3, lambda: None)
    check(ledger, ["a", "b"], 3)


async def test_tiny_windows_only_cost_time(ledger: Namespace) -> None:
    big = "x" * 200_000
    with Hole(ledger.dsn, keyhole=2048) as hole:
        async with pgd.Engine(hole.dsn(), schema=ledger.schema, workflows=[rounds], lease=30) as engine:
            names = ["a", "b", big]
            handles = [await engine.start(rounds, name, 1) for name in names]
            for name, h in zip(names, handles, strict=True):
                assert await h.result(timeout=60) == expected(name, 1)
        async with pgd.Client(hole.dsn(), schema=ledger.schema) as client:
            many = await client.start_many("slow_nobody", [(big,)] * 10)
            assert (await many[0].describe()).input == [big]


async def test_a_network_that_takes_long(ledger: Namespace) -> None:
    with Gate(ledger.dsn, delay=0.1) as gate:
        async with pgd.Engine(gate.dsn(), schema=ledger.schema, workflows=[rounds]) as engine:
            await work(ledger, engine, ["a", "b"], 2, lambda: None)
            assert len(ledger.sql("select 1 from @.workers")) == 1
    check(ledger, ["a", "b"], 2)


# --- what is set on the sockets -------------------------------------------------------------------------------------


async def test_keepalives_and_the_user_timeout_are_set_on_every_connection(ledger: Namespace) -> None:
    found: dict[int, tuple[int, ...]] = {}

    def look(fd: int) -> None:
        sock = socket.socket(fileno=fd)
        try:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            found[fd] = (
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in options),
            )
        finally:
            sock.detach()

    with Gate(ledger.dsn) as gate:
        async with pgd.Engine(gate.dsn(), schema=ledger.schema, workflows=[rounds]) as engine:
            assert await (await engine.start(rounds, "a", 1)).result(timeout=30) == expected("a", 1)
            worker = engine._worker
            assert worker is not None
            look(worker.journal.flusher.fileno)
            for pool in (worker._worker_pool, worker._transaction_pool, engine._database.pool):
                async with pool.connection() as conn:
                    look(conn.pgconn.socket)
            blocking = worker.host.transactions._threads_pool()

            def of_threads() -> None:
                with blocking.connection() as conn:
                    look(conn.pgconn.socket)

            await asyncio.to_thread(of_threads)
    assert len(found) == 5
    assert set(found.values()) == {(1, 10, 5, 3, 20000)}


# --- a server that hangs --------------------------------------------------------------------------------------------

Call = Callable[[Any, Any], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "start": lambda client, h: client.start("slow_nobody", 1),
    "start with an id": lambda client, h: client.start("slow_nobody", 1, id="mine"),
    "start_many": lambda client, h: client.start_many("slow_nobody", [(1,)] * 10),
    "signal": lambda client, h: h.signal("hello"),
    "client.signal": lambda client, h: client.signal(h.id, "hello"),
    "get": lambda client, h: client.get(h.id),
    "status": lambda client, h: h.status(),
    "describe": lambda client, h: h.describe(),
    "resume": lambda client, h: h.resume(),
    "retry": lambda client, h: h.retry(),
    "history": lambda client, h: _all(h.history()),
    "list": lambda client, h: _all(client.list()),
    "open another": lambda client, h: _open(client),
}


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]


async def _open(client: Any) -> None:
    async with pgd.Client(client._database.dsn, schema=client.schema):
        pass


@pytest.mark.parametrize("face", [pgd.Client, pgd.Engine])
async def test_every_call_to_a_server_that_hangs_ends(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch, face: type[pgd.Client]
) -> None:
    async with Proxy(ns.dsn) as proxy:
        dsn = proxy.dsn + " connect_timeout=2"
        client = face(dsn, schema=ns.schema, patience=1.0)
        await client.open()
        try:
            h = await client.start("slow_nobody", 0)
            await asyncio.gather(*(h.status() for _ in range(4)))  # its connections are there
            monkeypatch.setattr(answers, "ANSWER_S", 1.0)
            proxy.stall()

            async def ends(call: Call) -> float:
                begun = time.monotonic()
                with pytest.raises(pgd.ConnectionFailed) as error:
                    await asyncio.wait_for(call(client, h), 30)
                assert (
                    "no answer" in str(error.value)
                    or "no connection" in str(error.value)
                    or "timeout" in str(error.value)
                )
                return time.monotonic() - begun

            took = dict(zip(CALLS, await asyncio.gather(*map(ends, CALLS.values())), strict=True))
            assert max(took.values()) < 20, took
            with pytest.raises(TimeoutError):
                await h.result(timeout=0.3)
        finally:
            begun = time.monotonic()
            await client.close()
            assert time.monotonic() - begun < 25


async def test_blocking_calls_to_a_server_that_hangs_end(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(dsn: str, stall: Callable[[], None]) -> None:
        with pgd.sync.Client(dsn, schema=ns.schema, patience=0.5) as client:
            h = client.start("slow_nobody", 0)
            monkeypatch.setattr(answers, "ANSWER_S", 0.5)
            stall()
            for call in (h.status, h.describe, lambda: h.signal("hello"), lambda: client.start("slow_nobody", 1),
                         lambda: client.get(h.id), lambda: list(client.list()), lambda: list(h.history())):  # fmt: skip
                with pytest.raises(pgd.ConnectionFailed):
                    call()

    async with Proxy(ns.dsn) as proxy:
        loop = asyncio.get_running_loop()
        dsn = proxy.dsn + " connect_timeout=2"
        await asyncio.wait_for(asyncio.to_thread(calls, dsn, lambda: loop.call_soon_threadsafe(proxy.stall)), 60)
        proxy.stall(False)
        monkeypatch.setattr(answers, "ANSWER_S", 30.0)
        # The command line asks by a session of its own.
        target = Target(resolve_dsn(dsn, application="cli"), ns.schema, None, None)

        stalled = threading.Event()

        def ask() -> None:
            with target.session() as session:
                session.rows("clock")
                monkeypatch.setattr(answers, "ANSWER_S", 0.5)
                loop.call_soon_threadsafe(lambda: (proxy.stall(), stalled.set()))
                stalled.wait(10)
                with pytest.raises(pgd.ConnectionFailed, match="no answer"):
                    session.rows("clock")

        await asyncio.wait_for(asyncio.to_thread(ask), 30)


async def test_an_engine_whose_server_hangs_goes_on_by_itself(
    ledger: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one await of the engine's own waits for that server for ever: it goes on with new connections."""
    monkeypatch.setattr(answers, "ANSWER_S", 1.0)
    async with Proxy(ledger.dsn) as proxy:
        async with pgd.Engine(
            proxy.dsn + " connect_timeout=2", schema=ledger.schema, workflows=[rounds], lease=30
        ) as engine:
            assert engine._worker is not None
            engine._worker.journal._flush_timeout = 1.0

            def hang() -> None:
                proxy.stall()
                asyncio.get_running_loop().call_later(4.0, proxy.drop)  # nothing of those connections ever comes back
                asyncio.get_running_loop().call_later(4.1, proxy.stall, False)

            await work(ledger, engine, ["a", "b", "c"], 40, hang)
            await until(lambda: engine.metrics()["trouble"] is None, "the trouble is over")
            assert len(ledger.sql("select 1 from @.workers")) == 1
    check(ledger, ["a", "b", "c"], 40)


def test_connecting_to_a_server_that_hangs_after_the_login_ends(ns: Namespace) -> None:
    """libpq's connect_timeout ends with the login; what the core sends then has a limit of its own."""
    with psycopg.connect(ns.dsn, autocommit=True) as holds:
        holds.execute("select pg_advisory_lock(4712)")
        flusher = Flusher(named_queries("flush", ns.schema), 100)
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match="no answer within"):
            flusher.connect(ns.dsn, None, ["select 1", "select pg_advisory_lock(4712)"], answer_s=0.5)
        assert time.monotonic() - begun < 5
        assert not flusher.connected
    assert flusher.connect(ns.dsn, None, ["select 'first', 2", "select null", "listen x"]) == ["first", None, None]
    flusher.close()
