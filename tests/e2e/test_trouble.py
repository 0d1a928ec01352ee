"""Trouble with the server, the network and other workers: clear errors, patience, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgdurable as pgd
from pgdurable.embedded import EmbeddedServer

from .namespace import Namespace, until
from .proxy import Proxy


@pgd.workflow
async def trivial(n: int = 0) -> int:
    return n


async def refusals(dsn: str, schema: str = "durable") -> list[pgd.PgDurableError]:
    """What Engine and Client, async and blocking, say when they open."""
    found = []
    for face in (pgd.Engine(dsn, schema=schema, workflows=[trivial]), pgd.Client(dsn, schema=schema)):
        with pytest.raises(pgd.PgDurableError) as error:
            await face.open()
        found.append(error.value)
        await face.close()
    for blocking in (pgd.sync.Engine(dsn, schema=schema, workflows=[trivial]), pgd.sync.Client(dsn, schema=schema)):
        with pytest.raises(pgd.PgDurableError) as error:
            await asyncio.to_thread(blocking.open)
        found.append(error.value)
    return found


# --- opening -----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    for dsn, server in (
        (f"postgresql://ann:s3cret@/shop?host={tmp_path}", str(tmp_path)),
        ("host=127.0.0.1 port=1 user=ann password=s3cret dbname=shop", "127.0.0.1"),
        ("host=does-not-exist.invalid dbname=shop password=s3cret", "does-not-exist.invalid"),
    ):
        for error in await refusals(dsn):
            assert type(error) is pgd.ConnectionFailed
            assert str(error).startswith(f"cannot use PostgreSQL at {server} port ")
            assert "database shop" in str(error)
            assert "Is the server running and reachable?" in error.hint
            assert "s3cret" not in str(error)


async def test_a_dsn_that_is_none() -> None:
    for bad in ("postgresql://[", "hots=typo", "just words"):
        with pytest.raises(pgd.ConnectionFailed, match="the DSN cannot be read"):
            pgd.Client(bad)


async def test_a_database_or_role_that_is_not_there(ns: Namespace) -> None:
    for error in await refusals(make_conninfo(ns.dsn, dbname="no_such_database")):
        assert "no_such_database" in str(error)
        assert "createdb" in error.hint
    for error in await refusals(make_conninfo(ns.dsn, user="no_such_role")):
        assert "no_such_role" in str(error)


@pytest.fixture
def password_dsn(private_ns: Namespace, private_server: EmbeddedServer) -> Iterator[str]:
    """Leads to the private server with a role that has to give its password, which is `right`."""
    hba = private_server.path / "pgdata" / "pg_hba.conf"
    before = hba.read_text()
    private_ns.sql("create role ann login superuser password 'right'")
    try:
        hba.write_text("local all ann scram-sha-256\n" + before)
        private_ns.sql("select pg_reload_conf()")
        yield make_conninfo(private_server.dsn, user="ann", password="right")
    finally:
        hba.write_text(before)
        private_ns.sql("select pg_reload_conf()")
        private_ns.sql("drop role ann")


async def test_a_wrong_password(password_dsn: str, private_ns: Namespace) -> None:
    async with pgd.Engine(password_dsn, schema=private_ns.schema, workflows=[trivial]) as engine:
        assert await (await engine.start(trivial, 1)).result(timeout=20) == 1

    def asks_for_it() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(make_conninfo(password_dsn, password="wrong")).close()
            return False
        return True

    await until(asks_for_it, "the server has read its new pg_hba.conf")
    for dsn in (make_conninfo(password_dsn, password="wr0ng"), password_dsn.replace("password=right", "")):
        for error in await refusals(dsn, private_ns.schema):
            assert type(error) is pgd.ConnectionFailed
            assert "password" in error.detail
            assert "Check user and password in the DSN" in error.hint
            assert "wr0ng" not in str(error)


async def test_a_schema_that_was_not_migrated(dsn: str, schema: str) -> None:
    for error in await refusals(dsn, schema):
        assert type(error) is pgd.SchemaError
        assert schema in str(error)
        assert f"pgdurable migrate --schema {schema}" in error.hint


async def test_a_schema_of_a_newer_library(ns: Namespace) -> None:
    ns.sql("insert into @.migrations (version, library) values (9999, 'of tomorrow')")
    for error in await refusals(ns.dsn, ns.schema):
        assert type(error) is pgd.SchemaError
        assert "newer than this library knows" in str(error)
        assert "pip install --upgrade pgdurable" in error.hint


# --- read-only -----------------------------------------------------------------------------------------------------


@pytest.fixture
def read_only(private_server: EmbeddedServer) -> Iterator[tuple[Namespace, Any]]:
    """A namespace in a database of its own, and a switch for it to be read-only for new sessions."""
    with psycopg.connect(private_server.dsn, autocommit=True) as conn:
        conn.execute("create database switched")

        def switch(on: bool) -> None:
            conn.execute(f"alter database switched set default_transaction_read_only = {on}")

        with Namespace(make_conninfo(private_server.dsn, dbname="switched"), "durable") as namespace:
            namespace.sql("set default_transaction_read_only = off")
            yield namespace, switch
        conn.execute("drop database switched with (force)")


async def test_a_read_only_server_is_refused_with_what_to_do(read_only: tuple[Namespace, Any]) -> None:
    ns, switch = read_only
    switch(True)
    with pytest.raises(pgd.ConnectionFailed, match="read-only") as error:
        await ns.engine(trivial).open()
    assert "target_session_attrs=read-write" in error.value.hint
    async with ns.client(patience=0.3) as client:  # it may read
        assert [row async for row in client.list()] == []
        with pytest.raises(pgd.ConnectionFailed, match="read-only") as error:
            await client.start(trivial)
        assert "target_session_attrs=read-write" in error.value.hint
        with pytest.raises(pgd.ConnectionFailed, match="read-only"):
            await client.start_many("trivial", [(1,)])


async def test_a_server_that_turns_read_only_is_waited_out(read_only: tuple[Namespace, Any]) -> None:
    ns, switch = read_only
    go = asyncio.Event()

    @pgd.step
    async def when_told() -> str:
        await go.wait()
        return "done"

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    async def enter(tx: psycopg.AsyncConnection, entry: str) -> str:
        await tx.execute("insert into durable.ledger values (%s)", (entry,))
        return entry

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    def enter_blocking(tx: psycopg.Connection) -> None:
        tx.execute("create temporary table if not exists allowed ()")  # so it is the checkpoint that is refused

    @pgd.workflow
    async def waits_out(entry: str) -> list[str]:
        return [await when_told(), await enter(entry), str(await enter_blocking())]

    ns.ledger()

    name = "switched engine"
    dsn = make_conninfo(ns.dsn, application_name=name)
    async with pgd.Engine(dsn, schema=ns.schema, workflows=[waits_out], patience=0.2) as engine:
        h = await engine.start(waits_out, "a")
        switch(True)
        ns.terminate(name)
        starting = [
            asyncio.ensure_future(engine.start(waits_out, "b")),
            asyncio.ensure_future(engine.start(waits_out, "c", id="c")),
            asyncio.ensure_future(engine.start_many(waits_out, [("d",)])),
        ]
        await until(lambda: "read-only" in (engine.metrics()["trouble"] or ""), "the engine knows its trouble")
        go.set()

        async def refused() -> bool:
            with pytest.raises(pgd.ConnectionFailed) as error:
                await h.signal("hello")
            return "read-only" in str(error.value)  # a session that was ended says that, once

        await until(refused, "a signal is refused")
        assert ns.history(h) == []
        assert not any(task.done() for task in starting)
        switch(False)
        # The sessions it has now stay read-only for ever: it needs new ones.
        handles = [h, await starting[0], await starting[1], *await starting[2]]
        for entry, h in zip("abcd", handles, strict=True):
            assert await h.result(timeout=60) == ["done", entry, "None"]
            assert ns.history(h, "kind, attempt") == [("step", 1)] * 3
        assert engine.metrics()["trouble"] is None
        await h.describe()
    assert ns.entries() == list("abcd")


async def test_a_session_that_turns_read_only_under_a_transaction_step_costs_no_attempt(
    read_only: tuple[Namespace, Any],
) -> None:
    ns, switch = read_only
    tries: list[str] = []
    go = asyncio.Event()

    @pgd.step
    async def when_told() -> None:
        await go.wait()

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    async def enter(tx: psycopg.AsyncConnection) -> int:
        (mode,) = await (await tx.execute("show transaction_read_only")).fetchone()
        tries.append(mode)
        if len(tries) == 3:
            switch(False)
        return len(tries)

    @pgd.workflow
    async def enters() -> int:
        await when_told()
        return await enter()

    async with ns.engine(enters) as engine:
        h = await engine.start(enters)
        switch(True)  # the session of the transaction step is not there yet
        go.set()
        assert await h.result(timeout=60) == 4
    assert tries == ["on", "on", "on", "off"]
    assert ns.history(h, "kind, attempt") == [("step", 1), ("step", 1)]


# --- losing connections ----------------------------------------------------------------------------------------------


class Shop:
    """Workflows of transaction steps and plain steps, and the ledger that tells what took effect."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.done: Counter[str] = Counter()
        ns.ledger()

        @pgd.step(retry=pgd.Retry(max_attempts=None, initial=0.01))
        async def plain(entry: str) -> str:
            self.done[entry] += 1
            return entry

        @pgd.transaction(retry=pgd.Retry(max_attempts=1))
        async def enter(tx: psycopg.AsyncConnection, entry: str) -> str:
            await tx.execute(f"insert into {ns.schema}.ledger values (%s)", (entry,))
            return entry

        @pgd.transaction(retry=pgd.Retry(max_attempts=1))
        def enter_blocking(tx: psycopg.Connection, entry: str) -> str:
            tx.execute(f"insert into {ns.schema}.ledger values (%s)", (entry,))
            return entry

        @pgd.workflow
        async def shopping(name: str, n: int) -> list[str]:
            found = []
            for i in range(n):
                found += await asyncio.gather(plain(f"{name}/{i}/p"), enter(f"{name}/{i}/t"))
                await asyncio.sleep(0.001)
                found.append(await enter_blocking(f"{name}/{i}/b"))
            return found

        self.workflow = shopping

    def expected(self, name: str, n: int) -> list[str]:
        return [f"{name}/{i}/{kind}" for i in range(n) for kind in "ptb"]

    def check(self, names: list[str], n: int) -> None:
        """Every transaction step took effect once, every step has one checkpoint, nothing acknowledged ran again."""
        ns = self.ns
        entries = [entry for name in names for entry in self.expected(name, n)]
        assert ns.entries() == sorted(entry for entry in entries if not entry.endswith("p"))
        rows = ns.sql("select payload #>> '{}' from @.history where kind = 'step'")
        assert sorted(row[0] for row in rows) == sorted(entries)
        assert ns.one("select count(*) from @.history where kind = 'attempt'") == 0
        assert ns.one("select count(*) from @.instances where status <> 'completed'") == 0
        assert ns.one("select count(*) from @.instances") == len(names)


async def _starts(engine: pgd.Engine, shop: Shop, names: list[str], n: int) -> list[Any]:
    return await asyncio.gather(*(engine.start(shop.workflow, name, n, id=f"id/{name}") for name in names))


async def test_connections_ended_again_and_again_lose_and_repeat_nothing(ns: Namespace) -> None:
    shop = Shop(ns)
    name = f"app {ns.schema}"
    names = [f"w{i}" for i in range(30)]
    dsn = make_conninfo(ns.dsn, application_name=name)
    async with pgd.Engine(dsn, schema=ns.schema, workflows=[shop.workflow]) as engine:
        handles = await _starts(engine, shop, names, 12)
        ended = 0

        async def storm() -> None:
            nonlocal ended
            while True:
                ended += ns.terminate(name)
                await asyncio.sleep(0.15)

        storming = asyncio.ensure_future(storm())
        await until(lambda: ended >= 12, "connections were ended")
        storming.cancel()
        for which, h in zip(names, handles, strict=True):
            assert await h.result(timeout=60) == shop.expected(which, 12)
        assert engine.metrics()["reconnects"] >= 1
        assert len(ns.sql("select 1 from @.workers")) == 1  # it kept its lease
    shop.check(names, 12)


async def test_answers_lost_on_the_way_lose_and_repeat_nothing(ns: Namespace) -> None:
    shop = Shop(ns)
    names = [f"w{i}" for i in range(20)]
    async with Proxy(ns.dsn) as proxy:
        async with pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[shop.workflow]) as engine:
            proxy.cut_after(b"start_keyed")
            handles = await _starts(engine, shop, names, 10)
            for marker in (b"pgd_insert_history", b"COMMIT", b"pgd_fence", b"COMMIT", b"pgd_release_instances"):
                cuts = proxy.cuts
                proxy.cut_after(marker)
                await until(
                    lambda cuts=cuts: proxy.cuts > cuts or ns.one("select bool_and(finished_at is not null)"
                                                                  " from @.instances"),
                    f"an answer was lost after {marker!r}",
                )  # fmt: skip
            for which, h in zip(names, handles, strict=True):
                assert await h.result(timeout=60) == shop.expected(which, 10)
            assert proxy.cuts >= 4
    shop.check(names, 10)
    # What the process was told to be committed it never did again.
    assert set(shop.done.values()) == {1}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_restarts_is_waited_for(
    private_server: EmbeddedServer, private_ns: Namespace, mode: str
) -> None:
    ns = private_ns
    shop = Shop(ns)
    names = [f"w{i}" for i in range(20)]
    async with ns.engine(shop.workflow) as engine:
        handles = await _starts(engine, shop, names, 30)
        for _ in range(2):
            before = engine.metrics()["steps_done"]
            await until(lambda before=before: engine.metrics()["steps_done"] > before + 50, "steps are done")
            await asyncio.to_thread(private_server.stop, mode)
            acknowledged = engine.metrics()["steps_done"]
            starting = asyncio.ensure_future(engine.start(trivial, 1))
            await until(lambda: engine.metrics()["trouble"], "the engine knows its trouble")
            await asyncio.to_thread(private_server.start)
            assert ns.one("select count(*) from @.history where kind = 'step'") >= acknowledged
            with contextlib.suppress(pgd.ConnectionFailed):
                await asyncio.wait_for(starting, 30)
        for which, h in zip(names, handles, strict=True):
            assert await h.result(timeout=60) == shop.expected(which, 30)
        assert engine.metrics()["trouble"] is None
        ns.sql("delete from @.instances where workflow = 'trivial'")
    shop.check(names, 30)


async def test_starts_and_results_wait_while_the_server_is_away(
    private_server: EmbeddedServer, private_ns: Namespace
) -> None:
    async with private_ns.engine(trivial, patience=0.5) as engine:
        first = await engine.start(trivial, 0)
        assert await first.result(timeout=20) == 0
        await asyncio.to_thread(private_server.stop)
        starting = [
            asyncio.ensure_future(engine.start(trivial, 1)),
            asyncio.ensure_future(engine.start(trivial, 2, id="two")),
            asyncio.ensure_future(engine.start_many(trivial, [(3,)])),
        ]
        result = asyncio.ensure_future(first.result(timeout=60))
        await until(lambda: engine.metrics()["trouble"], "the engine knows its trouble")
        assert not any(task.done() for task in [*starting, result])
        with pytest.raises(pgd.ConnectionFailed):
            await asyncio.wait_for(first.status(), 60)
        await asyncio.to_thread(private_server.start)
        one, two, (three,) = await asyncio.gather(*starting)
        assert [await h.result(timeout=30) for h in (one, two, three)] == [1, 2, 3]
        assert await result == 0


async def test_an_engine_closes_while_the_server_is_away(private_server: EmbeddedServer, private_ns: Namespace) -> None:
    @pgd.workflow
    async def waits() -> str:
        return await pgd.wait_signal("go")

    engine = private_ns.engine(waits)
    await engine.open()
    h = await engine.start(waits, id="left behind")
    await asyncio.to_thread(private_server.stop)
    await until(lambda: engine.metrics()["trouble"], "the engine knows its trouble")
    begun = time.monotonic()
    await engine.stop(drain=1)
    await engine.close()
    assert time.monotonic() - begun < 20
    await asyncio.to_thread(private_server.start)
    async with private_ns.engine(waits, lease=1.0) as engine:
        h = await engine.get("left behind")
        await h.signal("go", "ok")
        assert await h.result(timeout=30) == "ok"


# --- several workers -------------------------------------------------------------------------------------------------


async def test_two_engines_share_the_work(ns: Namespace) -> None:
    @pgd.step
    async def slow() -> None:
        await asyncio.sleep(0.02)

    @pgd.workflow
    async def shared() -> None:
        await slow()

    async with ns.engine(shared, max_instances=20) as one, ns.engine(shared, max_instances=20) as two:
        async with ns.client() as client:
            handles = await client.start_many(shared, [()] * 200)
            await asyncio.gather(*(h.result(timeout=60) for h in handles))
        ended = [engine.metrics()["ended"] for engine in (one, two)]
    assert sum(ended) == 200
    assert min(ended) >= 20
    assert ns.one("select count(*) from @.history") == 200


async def test_stop_hands_over_at_once(ns: Namespace) -> None:
    taken: list[float] = []

    @pgd.workflow
    async def handed_over() -> str:
        taken.append(time.monotonic())
        return await pgd.wait_signal("go")

    one = ns.engine(handed_over)
    await one.open()
    handles = await one.start_many(handed_over, [()] * 50)
    async with ns.engine(handed_over) as two:
        await until(lambda: len(taken) == 50, "all wait")
        begun = time.monotonic()
        await one.stop()
        await until(lambda: len(taken) == 100, "the other engine has them all")
        assert max(taken) - begun < 1.5
        assert two.metrics()["instances"] == 50
        for h in handles:
            await two.signal(h.id, "go", "ok")
            assert await (await two.get(h.id)).result(timeout=20) == "ok"
        with pytest.raises(pgd.PgDurableError, match="not open"):
            await one.start(handed_over)
        await one.close()


async def test_stop_lets_running_steps_finish_and_starts_no_others(ns: Namespace) -> None:
    go = asyncio.Event()
    ran: list[str] = []

    @pgd.step
    async def first() -> str:
        ran.append("first")
        await go.wait()
        return "first"

    @pgd.step
    async def second() -> str:
        ran.append("second")
        return "second"

    @pgd.workflow
    async def two_steps() -> list[str]:
        return [await first(), await second()]

    engine = ns.engine(two_steps)
    await engine.open()
    h = await engine.start(two_steps)
    await until(lambda: ran, "the first step runs")
    stopping = [asyncio.ensure_future(engine.stop()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(pgd.PgDurableError, match="stopping"):
        await engine.start(two_steps)
    assert not any(task.done() for task in stopping)
    go.set()
    await asyncio.gather(*stopping)
    await engine.close()
    assert ran == ["first"]
    assert ns.history(h, "kind, name") == [("step", "first")]
    async with ns.engine(two_steps) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == ["first", "second"]
    assert ran == ["first", "second"]


async def test_a_claim_that_is_committed_long_after_its_connection_broke(ns: Namespace) -> None:
    """The instance is this worker's then, and nobody has told it. A look that comes before the commit finds nothing."""

    @pgd.workflow
    async def delayed() -> str:
        return "ran"

    ns.sql(
        "create function @.gate() returns trigger language plpgsql as"
        " 'begin perform pg_advisory_xact_lock_shared(4712); return null; end'"
    )
    ns.sql(
        "create constraint trigger gate after update on @.instances deferrable initially deferred"
        " for each row when (new.workflow = 'delayed' and old.owner is null) execute function @.gate()"
    )
    waiting = "select pid from pg_stat_activity where wait_event = 'advisory' and query like '%%.claim(%%'"
    async with Proxy(ns.dsn) as proxy:
        async with pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[delayed, trivial], poll_interval=0.2) as engine:
            with psycopg.connect(ns.dsn, autocommit=True) as gate:
                gate.execute("select pg_advisory_lock(4712)")
                async with ns.client() as client:
                    late = await client.start("delayed")
                    await until(lambda: ns.sql(waiting), "its claim waits")
                    proxy.drop()
                    # Another one is claimed and run: the engine has looked for what it may have been given.
                    assert await (await client.start("trivial", 7)).result(timeout=20) == 7
                    place = engine._worker
                    assert place is not None
                    polls = place.poller.polls
                    await until(lambda: place.poller.polls > polls + 1, "it has looked again")
                    assert ns.sql(waiting), "the claim was over before it was looked for"
                    gate.execute("select pg_advisory_unlock(4712)")
                    assert await late.result(timeout=20) == "ran"


def _take_over(ns: Namespace, worker: int) -> bool:
    return ns.one("select @.take_over(id, beat, null) from @.workers where id = %s", worker)


async def test_a_zombie_commits_nothing_more_and_rejoins_under_a_new_id(ns: Namespace) -> None:
    ns.ledger()
    gates = [asyncio.Event(), asyncio.Event()]
    calls: list[str] = []

    @pgd.step
    async def plain() -> str:
        mine = len(calls)
        calls.append("plain")
        await gates[min(mine, 1)].wait()
        return f"call {mine}"

    @pgd.workflow
    async def haunted() -> str:
        return await plain()

    async with ns.engine(haunted) as engine:
        h = await engine.start(haunted)
        keyed = await engine.start(trivial, id="foreign")
        await until(lambda: calls, "the step runs")
        (worker,) = ns.sql("select id from @.workers")[0]
        await until(lambda: _take_over(ns, worker), "it was taken over")
        await until(
            lambda: ns.sql("select 1 from @.workers where state = 'alive' and id > %s", worker), "it has joined anew"
        )
        await until(lambda: len(calls) == 2, "it took its instance up again")
        gates[0].set()  # the first call returns now: too late
        gates[1].set()
        assert await h.result(timeout=20) == "call 1"
        assert await keyed.status() == "pending"
        assert await (await engine.start(haunted)).result(timeout=20) == "call 2"
    assert ns.history(h, "kind, payload") == [("step", "call 1")]
    assert ns.sql("select state from @.workers order by id") == [("dead",), ("stopped",)]
    assert ns.instance(h, "takeovers") == 1


async def test_a_start_made_while_it_joins_anew_is_not_the_old_incarnation_s(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be run here by the new incarnation, and be an orphan to every other worker."""
    joining, join_now = asyncio.Event(), asyncio.Event()

    @pgd.step
    async def plain() -> str:
        return "done"

    @pgd.workflow
    async def restarted() -> str:
        return await plain()

    async with ns.engine(restarted) as engine:
        await (await engine.start(restarted)).result(timeout=20)
        place = engine._worker
        assert place is not None
        join = place.membership.join

        async def join_when_told(workflows: list[dict[str, str]]) -> int:
            joining.set()
            await join_now.wait()
            return await join(workflows)

        monkeypatch.setattr(place.membership, "join", join_when_told)
        (worker,) = ns.sql("select id from @.workers")[0]
        await until(lambda: _take_over(ns, worker), "it was taken over")
        await asyncio.wait_for(joining.wait(), 20)
        starts = [
            asyncio.ensure_future(engine.start(restarted)),
            asyncio.ensure_future(engine.start_many(restarted, [()])),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        join_now.set()
        one, many = await asyncio.gather(*starts)
        for h in (one, *many):
            owners = ns.sql("select 1 from @.instances where id = %s and owner = %s", h.instance_id, worker)
            assert owners == [], "it was started for an incarnation that has ended"
            assert await h.result(timeout=20) == "done"
            assert ns.history(h, "kind, name") == [("step", "plain")]


async def test_a_zombie_s_transaction_step_is_rolled_back(ns: Namespace) -> None:
    ns.ledger()
    gate = asyncio.Event()
    calls: list[int] = []

    @pgd.transaction
    async def enter(tx: psycopg.AsyncConnection) -> int:
        mine = len(calls)
        calls.append(mine)
        await tx.execute(f"insert into {ns.schema}.ledger values (%s)", (f"call {mine}",))
        if mine == 0:
            # Deaf to its being dropped, as code that shields itself is.
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()
        return mine

    @pgd.workflow
    async def haunted() -> int:
        return await enter()

    one = ns.engine(haunted)
    await one.open()
    try:
        h = await one.start(haunted)
        await until(lambda: calls, "the transaction is open")
        (worker,) = ns.sql("select id from @.workers")[0]
        async with ns.engine(haunted) as two:
            await until(lambda: _take_over(ns, worker), "it was taken over")
            assert await (await two.get(h.id)).result(timeout=30) == 1
            gate.set()
            await until(lambda: one.metrics()["steps_running"] == 0, "the first call has ended")
    finally:
        gate.set()
        await one.close()
    assert ns.entries() == ["call 1"]
    assert ns.history(h, "kind, payload") == [("step", 1)]


async def test_starts_of_a_zombie_are_not_lost(ns: Namespace) -> None:
    async with ns.engine(trivial) as engine:
        (worker,) = ns.sql("select id from @.workers")[0]
        await until(lambda: _take_over(ns, worker), "it was taken over")
        # It does not know yet. Whatever it acknowledges is there.
        handles = await asyncio.gather(
            engine.start(trivial, 1), engine.start(trivial, 2, id="two"), *(engine.start(trivial, n) for n in (3, 4))
        )
        handles += await engine.start_many(trivial, [(5,), (6,)])
        assert [await h.result(timeout=30) for h in handles] == [1, 2, 3, 4, 5, 6]
    assert ns.one("select count(*) from @.instances") == 6


# --- Ctrl-C -------------------------------------------------------------------------------------------------------


ASYNC_WORKER = """
    import asyncio, sys
    import psycopg, pgdurable as pgd

    dsn, schema = sys.argv[1:]

    @pgd.step
    async def first() -> str:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(f"insert into {schema}.ledger values ('begun')")
            while not (await (await conn.execute(
                    f"select count(*) from {schema}.ledger where entry = 'go'")).fetchone())[0]:
                await asyncio.sleep(0.01)
        return "first"

    @pgd.step
    async def second() -> str:
        return "second"

    @pgd.workflow
    async def interrupted() -> list[str]:
        return [await first(), await second()]

    async def main() -> None:
        async with pgd.Engine(dsn, schema=schema) as engine:
            await (await engine.start(interrupted, id="mine")).result()

    asyncio.run(main())
"""
SYNC_WORKER = """
    import sys, time
    import psycopg, pgdurable as pgd

    dsn, schema = sys.argv[1:]

    @pgd.step
    def first() -> str:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"insert into {schema}.ledger values ('begun')")
            while not conn.execute(f"select count(*) from {schema}.ledger where entry = 'go'").fetchone()[0]:
                time.sleep(0.01)
        return "first"

    @pgd.step
    def second() -> str:
        return "second"

    @pgd.workflow
    def interrupted() -> list[str]:
        return [first(), second()]

    with pgd.sync.Engine(dsn, schema=schema) as engine:
        engine.start(interrupted, id="mine").result()
"""


@pytest.mark.parametrize("script", [ASYNC_WORKER, SYNC_WORKER], ids=["async", "sync"])
async def test_ctrl_c_lets_the_running_step_finish_and_hands_the_rest_over(ns: Namespace, script: str) -> None:
    @pgd.step
    async def first() -> str:
        return "again"

    @pgd.step
    async def second() -> str:
        return "second, elsewhere"

    @pgd.workflow
    async def interrupted() -> list[str]:
        return [await first(), await second()]

    ns.ledger()
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", textwrap.dedent(script), ns.dsn, ns.schema], stderr=subprocess.PIPE, text=True
    )
    try:
        await until(lambda: ns.entries() or process.poll() is not None, "its first step runs")
        process.send_signal(signal.SIGINT)
        # It stops starting anything: a start of ours is left alone.
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert process.poll() is None, process.stderr.read()
        ns.sql("insert into @.ledger values ('go')")
        _, said = await asyncio.to_thread(process.communicate, timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
        process.stderr.close()
    assert "KeyboardInterrupt" in said
    assert process.returncode in (1, 130, -signal.SIGINT)
    assert ns.sql("select kind, name, payload from @.history") == [("step", "first", "first")]
    assert ns.sql("select state from @.workers") == [("stopped",)]
    async with ns.engine(interrupted) as engine:
        assert await (await engine.get("mine")).result(timeout=20) == ["first", "second, elsewhere"]
