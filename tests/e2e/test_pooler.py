"""The main job through PgBouncer in transaction mode, without and with its support of prepared statements.

The pool has fewer sessions than the engine has connections, gives each transaction the next one of them, and empties a
session after each (`DISCARD ALL`): what relied on a session would not come through a single test here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgdurable as pgd
from pgdurable._engine.route import DIRECT, Route
from pgdurable.embedded import EmbeddedServer

from .namespace import Namespace, status_is, until
from .pgbouncer import PgBouncer, program

KINDS = [pytest.param(False, id="1.18"), pytest.param(True, id="1.24")]
# Sessions in turn, each emptied before the next transaction has it.
SHARED = {"server_round_robin": 1, "server_reset_query_always": 1}


def bouncer_program(prepared: bool) -> str:
    """Fails in CI where there is none, and says so elsewhere."""
    found = program(prepared=prepared)
    if found is None:
        what = f"needs PgBouncer {'1.21 or later' if prepared else 'before 1.21'}: see scripts/setup_pgbouncer.sh"
        pytest.fail(what) if os.environ.get("CI") else pytest.skip(what)
    return found


class Pooled(Namespace):
    """A namespace whose engines and clients go through a pooler; `sql` does not."""

    def __init__(self, bouncer: PgBouncer, dsn: str, schema: str) -> None:
        super().__init__(dsn, schema)
        self.bouncer = bouncer

    def engine(self, *workflows: Any, **options: Any) -> pgd.Engine:
        return pgd.Engine(self.bouncer.dsn, schema=self.schema, workflows=workflows, **options)

    def client(self, **options: Any) -> pgd.Client:
        return pgd.Client(self.bouncer.dsn, schema=self.schema, **options)

    def direct(self, *workflows: Any, **options: Any) -> pgd.Engine:
        return super().engine(*workflows, **options)


@pytest.fixture(params=KINDS)
def prepared(request: pytest.FixtureRequest) -> bool:
    """Whether the pooler knows prepared statements."""
    return bool(request.param)


@pytest.fixture
def ns(prepared: bool, dsn: str, schema: str) -> Iterator[Pooled]:
    with PgBouncer(bouncer_program(prepared), dsn, **SHARED) as bouncer, Pooled(bouncer, dsn, schema) as pooled:
        yield pooled


@pytest.fixture
def private_ns(prepared: bool, private_server: EmbeddedServer, private_schema: str) -> Iterator[Pooled]:
    """In front of a server that the test may stop."""
    dsn = private_server.dsn
    with PgBouncer(bouncer_program(prepared), dsn, **SHARED) as bouncer, Pooled(bouncer, dsn, private_schema) as pooled:
        yield pooled


@pgd.step
async def add(a: int, b: int) -> int:
    return a + b


@pgd.step
def add_in_thread(a: int, b: int) -> int:
    return a + b


@pgd.transaction
async def enter(tx: Any, schema: str, entry: str) -> str:
    await tx.execute(f"insert into {schema}.ledger (entry) values (%s)", (entry,))
    return entry


@pgd.transaction
def enter_in_thread(tx: Any, schema: str, entry: str) -> str:
    tx.execute(f"insert into {schema}.ledger (entry) values (%s)", (entry,))
    return entry


@pgd.workflow
async def everything(schema: str, n: int) -> list[Any]:
    total = await add(n, 1)
    total, doubled = await asyncio.gather(add(total, 1), add_in_thread(total, total))
    first = await enter(schema, f"async {n}")
    second = await enter_in_thread(schema, f"thread {n}")
    await asyncio.sleep(0.02)
    word = await pgd.wait_signal("word")
    return [total, doubled, first, second, word]


@pgd.workflow
async def both(schema: str, n: int) -> int:
    """Transaction steps with other steps of the instance beside them."""
    await asyncio.gather(enter(schema, f"a {n}"), add(n, 1), enter(schema, f"b {n}"), add(n, 2))
    return n


@pgd.workflow
async def ten(n: int) -> int:
    for number in range(10):
        n = await add(n, number)
    return n


@pgd.workflow
async def paced(schema: str, n: int) -> int:
    for number in range(5):
        await enter(schema, f"{n} {number}")
        await add(n, number)
        await asyncio.sleep(0.01)
    return n


@pgd.workflow(name="pooled_trivial")
async def trivial(n: int) -> int:
    return n


# -- finding out --------------------------------------------------------------------------------------------------


async def test_a_pooler_is_found_out(ns: Pooled, prepared: bool) -> None:
    for face in (ns.engine(trivial), ns.client()):
        async with face:
            assert face._database.route == Route(pooled=True, prepared=prepared)
    for face in (ns.direct(trivial), pgd.Client(ns.dsn, schema=ns.schema)):
        async with face:
            assert face._database.route == DIRECT


async def test_what_was_tried_to_find_out_is_gone(ns: Pooled, prepared: bool) -> None:
    ns.bouncer.set(default_pool_size=1, server_reset_query_always=0)
    for _ in range(3):
        async with ns.client():
            pass
    with psycopg.connect(ns.bouncer.dsn, autocommit=True, prepare_threshold=None) as conn:
        names = [name for (name,) in conn.execute("select name from pg_prepared_statements").fetchall()]
    assert not [name for name in names if name.startswith("pgd")]


@pytest.mark.parametrize("prepared", [True], ids=["1.24"])
async def test_a_pooler_that_could_prepare_and_may_not(ns: Pooled) -> None:
    ns.bouncer.set(max_prepared_statements=0)
    async with ns.engine(trivial, ten) as engine:
        assert engine._database.route == Route(pooled=True, prepared=False)
        assert await (await engine.start(ten, 1)).result(20) == 46


async def test_it_can_be_told(ns: Pooled, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pgd.Client(ns.dsn, schema=ns.schema, pooler=True) as client:
        assert client._database.route.pooled
    monkeypatch.setenv("PGDURABLE_POOLER", "1")
    async with pgd.Client(ns.dsn, schema=ns.schema) as client:
        assert client._database.route.pooled
    monkeypatch.setenv("PGDURABLE_POOLER", "off")
    async with ns.client() as client:
        assert client._database.route == DIRECT
    monkeypatch.setenv("PGDURABLE_POOLER", "perhaps")
    with pytest.raises(pgd.InvalidInput, match="PGDURABLE_POOLER is 'perhaps'"):
        ns.client()


async def test_what_a_pooler_refuses_at_login_is_explained(ns: Pooled) -> None:
    dsn = make_conninfo(ns.bouncer.dsn, options="-c search_path=public")
    with pytest.raises(pgd.ConnectionFailed) as refused:
        await pgd.Client(dsn, schema=ns.schema).open()
    assert "unsupported startup parameter" in str(refused.value.detail)
    assert "ignore_startup_parameters" in str(refused.value.hint)


async def test_no_transition_is_refused_by_a_pooler_that_was_denied(
    ns: Pooled, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal notices that what it has prepared is gone, says so, and goes on without."""
    if ns.bouncer.version >= (1, 21):
        ns.bouncer.set(max_prepared_statements=0)
    async with ns.engine(ten, pooler=False) as engine:
        for n in range(20):
            await engine.start(ten, n)
        await until(lambda: ns.sql("select distinct status from @.instances") == [("completed",)], "all have completed")
        assert engine.metrics()["trouble"] is None
        assert engine.metrics()["reconnects"] == 1
    assert "what was prepared is gone; is a pooler in between?" in caplog.text


# -- the main job -------------------------------------------------------------------------------------------------


async def test_the_main_job(ns: Pooled) -> None:
    ns.ledger()
    async with ns.engine(everything, park_after=0.05) as engine, ns.client() as client:
        handles = [await engine.start(everything, ns.schema, n, id=f"job-{n}" if n % 2 else None) for n in range(30)]
        for handle in handles:
            await status_is(handle, "waiting")  # parked: it has left memory
        for n, handle in enumerate(handles):
            await (await client.get(handle.id)).signal("word", f"w{n}")
        found = [await handle.result(30) for handle in handles]
    assert found == [[n + 2, 2 * n + 2, f"async {n}", f"thread {n}", f"w{n}"] for n in range(30)]
    assert ns.entries() == sorted(f"{kind} {n}" for n in range(30) for kind in ("async", "thread"))
    assert len(ns.bouncer.admin("show servers")) <= 3


async def test_no_session_holds_anything_afterwards(ns: Pooled, prepared: bool) -> None:
    ns.bouncer.set(default_pool_size=1, server_reset_query_always=0)
    ns.ledger()
    async with ns.engine(everything, park_after=0.05) as engine, ns.client() as client:
        handle = await engine.start(everything, ns.schema, 1)
        await status_is(handle, "waiting")
        with psycopg.connect(ns.bouncer.dsn, autocommit=True, prepare_threshold=None) as conn:
            # There is one session behind the pooler, so this is the one that all of the above has had.
            held = conn.execute("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
            assert held.fetchone() == (0,)
            assert conn.execute("select * from pg_listening_channels()").fetchall() == []
            settings = conn.execute("select name from pg_settings where source = 'session'").fetchall()
            assert {name for (name,) in settings} <= {"application_name", "client_encoding"}  # the pooler's doing
            names = [name for (name,) in conn.execute("select name from pg_prepared_statements").fetchall()]
            assert all(name.startswith("PGBOUNCER_") for name in names) if prepared else names == []
        await client.signal(handle.id, "word", "last")
        assert (await handle.result(20))[-1] == "last"


async def test_large_flushes_go_by_copy(ns: Pooled) -> None:
    async with ns.engine(ten, trivial) as engine:
        handles = await engine.start_many(ten, range(1000))
        assert [await handle.result(60) for handle in handles] == [n + 45 for n in range(1000)]
        assert engine.metrics()["copies"] > 0


async def test_start_many_of_a_client(ns: Pooled) -> None:
    async with ns.client() as client:
        listed = await client.start_many(trivial, range(500))
        arrays = await client.start_many(trivial, {"n": memoryview(bytearray(range(100)))})
        async with ns.engine(trivial):
            assert [await handle.result(30) for handle in listed] == list(range(500))
            assert [await handle.result(30) for handle in arrays] == list(range(100))


async def test_start_in_a_transaction_of_the_callers(ns: Pooled) -> None:
    async with ns.engine(trivial) as engine:
        async with await psycopg.AsyncConnection.connect(ns.bouncer.dsn, prepare_threshold=None) as conn:
            lost = await engine.start(trivial, 1, connection=conn)
            await conn.rollback()
            kept = await engine.start(trivial, 2, id="kept", connection=conn)
            await conn.commit()
        assert await kept.result(20) == 2
        with pytest.raises(pgd.InstanceNotFound):
            await lost.status()


async def test_what_this_engine_signals_need_not_wait_for_its_next_look(ns: Pooled) -> None:
    """No notification comes through a pooler: the engine gives itself the hint."""
    ns.ledger()
    async with ns.engine(everything, trivial, poll_interval=600, park_after=600) as engine:
        handle = await engine.start(everything, ns.schema, 1)
        await until(lambda: ns.entries() == ["async 1", "thread 1"], "the steps are done")
        await handle.signal("word", "now")
        assert (await handle.result(20))[-1] == "now"
        assert await (await engine.start(trivial, 1, priority=1)).result(20) == 1
        many = await engine.start_many(trivial, {"n": memoryview(bytearray(3))})
        assert [await handle.result(20) for handle in many] == [0, 0, 0]


async def test_polling_alone_finds_what_others_start_and_signal(ns: Pooled) -> None:
    ns.ledger()
    async with ns.engine(everything, poll_interval=0.1):
        ns.sql("select @.start('everything', jsonb_build_object('schema', '@', 'n', 7), id => 'outside')")
        await until(lambda: len(ns.entries()) == 2, "its steps are done")
        ns.sql("select @.signal('outside', 'word', '\"hello\"')")
        await until(lambda: ns.one("select @.result('outside') is not null"), "it has ended")
    assert ns.one("select @.result('outside') ->> 4") == "hello"


async def test_transaction_steps_that_fill_the_pool_do_not_hold_up_the_journal(ns: Pooled) -> None:
    """They wait for their instances' order, that for the journal's flush, and that for one of their sessions."""
    ns.bouncer.set(default_pool_size=2)
    ns.ledger()
    async with ns.engine(both, max_connections=10) as engine:
        handles = [await engine.start(both, ns.schema, n) for n in range(40)]
        assert [await handle.result(60) for handle in handles] == list(range(40))
    assert Counter(ns.entries()) == Counter(f"{kind} {n}" for kind in "ab" for n in range(40))
    assert ns.one("select count(*) from @.history where kind = 'attempt'") == 0


async def test_several_engines_share_a_pool(ns: Pooled) -> None:
    ns.ledger()
    async with ns.client() as client, ns.engine(paced) as one, ns.engine(paced) as two, ns.direct(paced) as direct:
        handles = await client.start_many(paced, [(ns.schema, n) for n in range(60)])
        assert [await handle.result(60) for handle in handles] == list(range(60))
        done = [engine.metrics()["steps_done"] for engine in (one, two, direct)]
    assert sum(done) == 600
    assert len(ns.entries()) == len(set(ns.entries())) == 300


def test_the_blocking_face(ns: Pooled) -> None:
    ns.ledger()
    with pgd.sync.Engine(ns.bouncer.dsn, schema=ns.schema, workflows=[everything], pooler=True) as engine:
        handle = engine.start(everything, ns.schema, 3)
        with pgd.sync.Client(ns.bouncer.dsn, schema=ns.schema) as client:
            client.signal(handle.id, "word", "yes")
        assert handle.result(20) == [5, 8, "async 3", "thread 3", "yes"]


# -- trouble ------------------------------------------------------------------------------------------------------


async def exactly_once(ns: Pooled, engine: pgd.Engine, trouble: Callable[[], Any], times: int = 3) -> None:
    """Runs instances to their ends while trouble comes again and again; every entry is in the ledger once."""
    ns.ledger()
    handles = [await engine.start(paced, ns.schema, n) for n in range(30)]
    for number in range(times):
        await until(lambda: len(ns.entries()) > 40 * number, "the next steps are done")  # noqa: B023
        await asyncio.to_thread(trouble)
    assert [await handle.result(60) for handle in handles] == list(range(30))
    assert Counter(ns.entries()) == Counter(f"{n} {number}" for n in range(30) for number in range(5))


@pytest.mark.parametrize("command", ["reload", "reconnect"])
async def test_the_poolers_console_disturbs_nothing(ns: Pooled, command: str) -> None:
    async with ns.engine(paced) as engine:
        await exactly_once(ns, engine, lambda: ns.bouncer.admin(command))


async def test_a_pooler_that_is_killed_and_started_again(ns: Pooled) -> None:
    def restart() -> None:
        ns.bouncer.kill()
        ns.bouncer.start()

    async with ns.engine(paced) as engine:
        await exactly_once(ns, engine, restart)


async def test_a_server_that_crashes_behind_the_pooler(private_ns: Pooled, private_server: EmbeddedServer) -> None:
    def crash() -> None:
        private_server.crash()
        private_server.start()

    async with private_ns.engine(paced) as engine:
        await exactly_once(private_ns, engine, crash, times=2)


async def test_another_server_behind_the_pooler_is_noticed_without_a_lost_connection(
    private_ns: Pooled, private_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle engine's connections to the pooler outlive their server. What the new one lost is replayed."""
    ns = private_ns
    gate, runs = asyncio.Event(), Counter[str]()

    @pgd.step
    async def counted(name: str) -> str:
        runs[name] += 1
        return name

    @pgd.step
    async def last() -> None:
        await gate.wait()

    @pgd.workflow
    async def loses(n: int) -> int:
        for name in ("first", "second"):
            await counted(name)
        await last()
        return n

    async with ns.engine(loses) as engine:
        handle = await engine.start(loses, 1)
        await until(lambda: engine.metrics()["steps_running"] == 1 and runs["second"], "it has come to its last step")
        private_server.stop()
        private_server.start()
        ns.sql("delete from @.history where name = 'counted' and event_id = 2")  # as if it had never been sent there
        await until(lambda: runs["second"] == 2, "it was replayed from what is left")
        gate.set()
        assert await handle.result(30) == 1
    assert runs == {"first": 1, "second": 2}
    assert "the server has lost what it had acknowledged" in caplog.text


async def test_sessions_that_are_terminated_behind_the_pooler(ns: Pooled) -> None:
    async with ns.engine(paced) as engine:
        await exactly_once(ns, engine, lambda: ns.terminate("pgdurable engine"))


async def test_a_pooler_that_has_no_session_for_too_long(ns: Pooled) -> None:
    """It ends the connections that wait. No step fails by that, and none is attempted twice."""
    ns.bouncer.set(default_pool_size=1, query_wait_timeout=1)
    ns.ledger()

    @pgd.workflow
    async def waits(n: int) -> int:
        await asyncio.gather(enter(ns.schema, f"a {n}"), enter_in_thread(ns.schema, f"b {n}"), add(n, 1))
        return n

    async with ns.engine(waits) as engine, ns.client() as client:
        with psycopg.connect(ns.bouncer.dsn) as holding:
            await asyncio.to_thread(holding.execute, "select 1")
            starting = [asyncio.create_task(engine.start(waits, n)) for n in range(5)]
            await until(lambda: ns.bouncer.log.count("query_wait_timeout") > 5, "connections have waited too long")
        handles = [await start for start in starting]
        assert [await handle.result(60) for handle in handles] == list(range(5))
        assert await (await client.get(handles[0].id)).status() == "completed"
    assert ns.entries() == sorted(f"{kind} {n}" for n in range(5) for kind in "ab")
    assert ns.one("select count(*) from @.history where kind = 'attempt' or attempt > 1") == 0


async def test_steps_that_find_no_session_for_too_long(ns: Pooled) -> None:
    ns.bouncer.set(default_pool_size=2, query_wait_timeout=1)
    ns.ledger()
    gate = asyncio.Event()

    @pgd.step
    async def pause() -> None:
        await gate.wait()

    @pgd.workflow
    async def waits(n: int) -> int:
        await pause()
        await asyncio.gather(enter(ns.schema, f"a {n}"), enter_in_thread(ns.schema, f"b {n}"))
        return n

    async with ns.engine(waits) as engine:
        handles = [await engine.start(waits, n) for n in range(5)]
        await until(lambda: engine.metrics()["steps_running"] == 5, "all are at their pause")
        with psycopg.connect(ns.bouncer.dsn) as one, psycopg.connect(ns.bouncer.dsn) as two:
            for holding in (one, two):
                await asyncio.to_thread(holding.execute, "select 1")
            gate.set()
            before = ns.bouncer.log.count("query_wait_timeout")
            await until(lambda: ns.bouncer.log.count("query_wait_timeout") > before + 10, "steps have waited too long")
        assert [await handle.result(60) for handle in handles] == list(range(5))
    assert ns.entries() == sorted(f"{kind} {n}" for n in range(5) for kind in "ab")
    assert ns.one("select count(*) from @.history where kind = 'attempt' or attempt > 1") == 0


async def test_a_server_that_takes_no_writes_for_a_while(private_ns: Pooled) -> None:
    """Transaction steps too wait until it does, instead of failing."""
    ns = private_ns

    def read_only(on: bool) -> None:
        ns.sql(f"alter system set default_transaction_read_only = {'on' if on else 'off'}")
        ns.sql("select pg_reload_conf()")

    ns.ledger()
    async with ns.engine(paced) as engine:
        handles = [await engine.start(paced, ns.schema, n) for n in range(10)]
        await until(lambda: len(ns.entries()) > 5, "steps are done")
        read_only(True)
        try:
            await until(lambda: engine.metrics()["trouble"], "the engine complains")
        finally:
            ns.sql("set default_transaction_read_only = off")
            read_only(False)
        assert [await handle.result(60) for handle in handles] == list(range(10))
    assert len(ns.entries()) == 50


async def test_what_a_pooler_tells_of_a_session_is_not_believed(private_ns: Pooled) -> None:
    """It goes on telling new connections what the first session said when it was made."""
    ns = private_ns
    ns.ledger()
    ns.bouncer.kill()
    ns.sql("alter system set default_transaction_read_only = on")
    ns.sql("select pg_reload_conf()")
    ns.bouncer.start()
    try:
        await until(lambda: told(ns.bouncer.dsn) == b"on", "the pooler has seen a server that takes no writes")
    finally:
        ns.sql("set default_transaction_read_only = off")
        ns.sql("alter system reset default_transaction_read_only")
        ns.sql("select pg_reload_conf()")
    await until(lambda: ns.sql("show default_transaction_read_only") != [("on",)], "it takes writes again")
    assert told(ns.bouncer.dsn) == b"on"

    @pgd.transaction
    async def writes_nothing(tx: Any) -> None:
        await tx.execute("set transaction read only")
        await tx.execute(f"insert into {ns.schema}.ledger (entry) values ('no')")

    @pgd.transaction
    def writes_nothing_in_thread(tx: Any) -> None:
        tx.execute("set transaction read only")
        tx.execute(f"insert into {ns.schema}.ledger (entry) values ('no')")

    @pgd.workflow
    async def forbidden(in_thread: bool) -> None:
        await (writes_nothing_in_thread if in_thread else writes_nothing)()

    async with ns.engine(paced, forbidden) as engine:
        assert await (await engine.start(paced, ns.schema, 1)).result(20) == 1
        for in_thread in (False, True):
            with pytest.raises(pgd.InstanceFailed, match="ReadOnlySqlTransaction"):
                await (await engine.start(forbidden, in_thread)).result(20)
        opened = ns.bouncer.log.count("login attempt")
        assert await (await engine.start(paced, ns.schema, 2)).result(20) == 2
        assert ns.bouncer.log.count("login attempt") - opened < 3  # they are used again
    assert len(ns.entries()) == 10


def told(dsn: str) -> bytes | None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.pgconn.parameter_status(b"default_transaction_read_only")


# -- several processes --------------------------------------------------------------------------------------------

MODULE = """
import asyncio
import pgdurable as pgd

OPTIONS = {"lease": 2.0, "poll_interval": 0.2}

@pgd.transaction
async def enter(tx, schema: str, entry: str) -> None:
    await tx.execute(f"insert into {schema}.ledger (entry) values (%s)", (entry,))

@pgd.transaction
async def slow_enter(tx, schema: str, entry: str) -> None:
    await tx.execute(f"insert into {schema}.ledger (entry) values (%s)", (entry,))
    await asyncio.sleep(0.5)

@pgd.workflow
async def tour(schema: str, n: int) -> int:
    for number in range(10):
        await (slow_enter if n == 0 else enter)(schema, f"{n} {number}")
        await asyncio.sleep(0.1)
    return n
"""


class Worker:
    """`pgdurable worker` as a process of its own."""

    def __init__(self, ns: Pooled, folder: Path, *words: str) -> None:
        (folder / "tours.py").write_text(MODULE)
        self.lines: list[str] = []
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pgdurable.cli", "worker", "tours:OPTIONS", *words],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PGDURABLE_DSN": ns.bouncer.dsn, "PGDURABLE_SCHEMA": ns.schema},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        self.lines += self.child.stdout

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.ended()
        assert self.child.stdout is not None
        self.child.stdout.close()

    def ended(self) -> int:
        code = self.child.wait(30)
        self._reader.join()
        return code


def one_tour_each(n: int) -> Counter[str]:
    return Counter(f"{tour} {number}" for tour in range(n) for number in range(10))


async def tours(ns: Pooled, n: int) -> list[Any]:
    ns.ledger()
    async with ns.client() as client:
        return [await client.start("tour", ns.schema, number) for number in range(n)]


async def test_a_killed_workers_instances_go_on_elsewhere_after_its_lease(ns: Pooled, tmp_path: Path) -> None:
    handles = await tours(ns, 12)
    with Worker(ns, tmp_path) as first:
        await until(lambda: len(ns.entries()) > 15, "the first worker is in the middle of them")
        with Worker(ns, tmp_path) as second:
            await until(lambda: ns.one("select count(*) from @.workers") == 2, "the second has joined")
            # Others would take over one whose session is missed within a second: nobody misses one here.
            seen = ns.one("select min(beat) from @.workers")
            await until(lambda: ns.one("select min(beat) from @.workers") > seen + 5, "both beat")
            assert ns.sql("select distinct state, marked from @.workers") == [("alive", False)]
            first.child.send_signal(signal.SIGKILL)
            first.ended()
            async with ns.client() as client:
                assert [await (await client.get(h.id)).result(60) for h in handles] == list(range(12))
            assert ns.one("select count(*) from @.workers where state = 'dead'") == 1
            assert ns.one("select max(takeovers) from @.instances") == 1
            second.child.send_signal(signal.SIGTERM)
            assert second.ended() == 0
    assert Counter(ns.entries()) == one_tour_each(12)


async def test_a_stopped_worker_writes_nothing_after_its_takeover(ns: Pooled, tmp_path: Path) -> None:
    ns.bouncer.set(default_pool_size=12)  # what it stops in the middle of must leave its successor a session
    handles = await tours(ns, 6)
    with Worker(ns, tmp_path) as zombie:
        await until(
            lambda: (
                ns.one("select count(*) from pg_stat_activity where state = 'idle in transaction' and query like %s",
                       f"%{ns.schema}.ledger%") and len(ns.entries()) > 12
            ), "it is in the middle of a transaction step",
        )  # fmt: skip
        zombie.child.send_signal(signal.SIGSTOP)
        with Worker(ns, tmp_path):
            async with ns.client() as client:
                assert [await (await client.get(h.id)).result(60) for h in handles] == list(range(6))
            before = ns.sql("select xmin::text, instance_id, event_id from @.history order by 2, 3"), ns.entries()
            zombie.child.send_signal(signal.SIGCONT)
            await until(lambda: ns.one("select count(*) from @.workers") == 3, "it joins under another number")
            assert (
                ns.sql("select xmin::text, instance_id, event_id from @.history order by 2, 3"), ns.entries()
            ) == before  # fmt: skip
    assert Counter(ns.entries()) == one_tour_each(6)


def test_the_command_line(ns: Pooled, tmp_path: Path, eventually: Callable[..., None]) -> None:
    ns.ledger()

    def command(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pgdurable.cli", *words], capture_output=True, text=True, timeout=60,
            env={**os.environ, "PGDURABLE_DSN": ns.bouncer.dsn, "PGDURABLE_SCHEMA": ns.schema},
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout

    command("migrate")
    with Worker(ns, tmp_path, "--pooler") as worker:
        eventually(lambda: "worker of tours runs at" in "".join(worker.lines), "the worker runs")
        assert command("start", "tour", f'"{ns.schema}"', "1", "--id", "one", "--wait", "--timeout", "30") == "1\n"
        assert "completed" in command("list")
        assert "tour" in command("show", "one")
        assert "pooler" in command("doctor")
