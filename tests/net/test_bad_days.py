"""What an administrator sets, and what a server runs out of: waited out, said once, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from e2e.namespace import Namespace, until
from psycopg.conninfo import make_conninfo

import pgdurable as pgd
from pgdurable.embedded import EmbeddedServer

TROUBLE = "trying again until it works"


class Days:
    """Workflows of every kind of step in a schema of a role's own, on a server that may be ill-treated.

    Attributes:
        admin: a namespace seen by the superuser; `ns` by the role that the engine has.
    """

    def __init__(self, server: EmbeddedServer, schema: str) -> None:
        self.server = server
        self.role = f"role_{schema}"
        self.admin = Namespace(server.dsn, schema)
        self.admin.ledger()
        for statement in (
            f"create role {self.role} login",
            f"grant usage on schema @ to {self.role}",
            f"grant all on all tables in schema @ to {self.role}",
            f"grant execute on all functions in schema @ to {self.role}",
        ):
            self.admin.sql(statement)
        self.dsn = make_conninfo(server.dsn, user=self.role, application_name=schema)
        ledger = f"{schema}.ledger"

        @pgd.step
        async def plain(entry: str) -> str:
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
        async def day(name: str, hours: int, pause: float = 0.0) -> list[str]:
            found = []
            for hour in range(hours):
                found += await asyncio.gather(plain(f"{name}/{hour}/p"), enter(f"{name}/{hour}/t"))
                found.append(await enter_blocking(f"{name}/{hour}/b"))
                if pause:
                    await asyncio.sleep(pause)
            return found

        self.workflow = day

    def engine(self, **options: Any) -> pgd.Engine:
        return pgd.Engine(self.dsn, schema=self.admin.schema, workflows=[self.workflow], **options)

    def client(self, **options: Any) -> pgd.Client:
        return pgd.Client(self.dsn, schema=self.admin.schema, **options)

    def expected(self, name: str, hours: int) -> list[str]:
        return [f"{name}/{hour}/{kind}" for hour in range(hours) for kind in "ptb"]

    def check(self, names: list[str], hours: int) -> None:
        """Every step has one checkpoint and no failed attempt; every ledger entry is there once."""
        entries = sorted(entry for name in names for entry in self.expected(name, hours))
        assert self.admin.entries() == [entry for entry in entries if not entry.endswith("p")]
        rows = self.admin.sql("select payload #>> '{}' from @.history where kind = 'step'")
        assert sorted(entry for (entry,) in rows) == entries
        assert self.admin.sql("select 1 from @.history where kind = 'attempt'") == []

    def close(self) -> None:
        self.admin.sql("drop schema @ cascade")
        self.admin.sql(f"drop role {self.role}")
        self.admin.__exit__()


@pytest.fixture
def days(private_server: EmbeddedServer, private_schema: str) -> Iterator[Days]:
    there = Days(private_server, private_schema)
    yield there
    there.close()


def told(caplog: pytest.LogCaptureFixture) -> int:
    """How often the log says that something is waited for."""
    return sum(TROUBLE in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


# --- what an administrator sets -------------------------------------------------------------------------------------

SETTINGS = {
    "idle_session_timeout": "200ms",
    "statement_timeout": "200ms",
    "lock_timeout": "50ms",
    "idle_in_transaction_session_timeout": "200ms",
    "transaction_timeout": "200ms",
}


@pytest.mark.parametrize("scope", ["role", "database"])
async def test_an_engine_and_a_client_work_under_an_administrators_timeouts(
    days: Days, scope: str, caplog: pytest.LogCaptureFixture
) -> None:
    version = days.admin.one("select current_setting('server_version_num')::int")
    settings = {name: value for name, value in SETTINGS.items() if name != "transaction_timeout" or version >= 170000}
    whom = days.role if scope == "role" else "postgres"
    try:
        for name, value in settings.items():
            days.admin.sql(f"alter {scope} {whom} set {name} = '{value}'")
        async with days.engine() as engine, days.client() as client:
            # Longer than the limits: every pooled session and the journal's own have been idle for that long.
            handles = [await engine.start(days.workflow, f"w{n}", 3, 0.3) for n in range(5)]
            for n, h in enumerate(handles):
                assert await h.result(timeout=30) == days.expected(f"w{n}", 3)
            assert engine.metrics()["reconnects"] == 0
            await asyncio.sleep(0.5)
            for _ in range(2):
                late = await client.start(days.workflow, "late", 0)
                assert await late.result(timeout=30) == []
                await asyncio.sleep(0.3)
            assert engine.metrics()["trouble"] is None
        assert told(caplog) == 0
    finally:
        for name in settings:
            days.admin.sql(f"alter {scope} {whom} reset {name}")
    days.check([f"w{n}" for n in range(5)], 3)


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "def"])
async def test_a_step_that_runs_over_an_administrators_limit_fails_as_a_step_does(days: Days, blocking: bool) -> None:
    """The limits hold for the user's own statements, and cost attempts: it is not the server that is away."""

    @pgd.transaction(retry=pgd.Retry(max_attempts=2, initial=0.01))
    async def idles(tx: psycopg.AsyncConnection) -> None:
        await tx.execute("select 1 where 1 = %s", (1,))
        await asyncio.sleep(0.4)
        await tx.execute("select 1 where 1 = %s", (1,))

    @pgd.transaction(retry=pgd.Retry(max_attempts=2, initial=0.01))
    def idles_blocking(tx: psycopg.Connection) -> None:
        tx.execute("select pg_sleep(0)")
        __import__("time").sleep(0.4)
        tx.execute("select 1")

    @pgd.workflow
    async def dawdles() -> None:
        await (idles_blocking() if blocking else idles())

    days.admin.sql(f"alter role {days.role} set idle_in_transaction_session_timeout = '100ms'")
    async with pgd.Engine(days.dsn, schema=days.admin.schema, workflows=[dawdles]) as engine:
        h = await engine.start(dawdles)
        with pytest.raises(pgd.InstanceFailed, match="idle-in-transaction timeout"):
            await h.result(timeout=30)
    assert days.admin.history(h, "kind, attempt") == [("attempt", 1), ("step", 2)]


async def test_a_client_says_which_limit_it_ran_into(days: Days) -> None:
    days.admin.sql(f"alter role {days.role} set lock_timeout = '50ms'")
    async with days.client(patience=0.3) as client:
        with psycopg.connect(days.server.dsn) as blocks:
            blocks.execute(f"select {days.admin.schema}.start('day', id => 'mine')")
            with pytest.raises(pgd.ConnectionFailed, match="lock timeout") as error:
                await client.start("day", id="mine")
            assert "lock_timeout" in error.value.hint
        assert (await client.start("day", id="mine")).id == "mine"

    def blocking() -> None:
        with pgd.sync.Client(days.dsn, schema=days.admin.schema, patience=0.3) as client:
            with psycopg.connect(days.server.dsn) as blocks:
                blocks.execute(f"lock table {days.admin.schema}.events")
                with pytest.raises(pgd.ConnectionFailed, match="lock timeout"):
                    client.signal("mine", "hello")
            client.signal("mine", "hello")

    await asyncio.to_thread(blocking)


# --- sessions ended at random ----------------------------------------------------------------------------------------


async def test_sessions_ended_at_random(days: Days, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(seed)
    names = [f"w{n}" for n in range(10)]
    ended = 0
    stop = asyncio.Event()

    async def storm() -> None:
        nonlocal ended
        while not stop.is_set():
            pids = [pid for (pid,) in days.admin.sql("select pid from pg_stat_activity where usename = %s", days.role)]
            for pid in pids:
                if chance.random() < 0.2:
                    ended += bool(days.admin.one("select pg_terminate_backend(%s)", pid))
            await asyncio.sleep(chance.random() * 0.05)

    async with days.engine() as engine, days.client() as client:
        handles = [await engine.start(days.workflow, name, 8, 0.001) for name in names]
        storming = asyncio.ensure_future(storm())
        late = []
        while ended < 30 or len(late) < 10:
            late.append(await client.start(days.workflow, "late", 0))
            assert (await client.get(late[-1].id)).instance_id == late[-1].instance_id
        stop.set()
        await storming
        for name, h in zip(names, handles, strict=True):
            assert await h.result(timeout=60) == days.expected(name, 8)
        for h in late:
            assert await h.result(timeout=60) == []
        assert engine.metrics()["trouble"] is None
        assert days.admin.one("select count(*) from @.instances") == len(names) + len(late)
    days.check(names, 8)
    assert len(days.admin.sql("select 1 from @.workers")) == 1


# --- out of connections -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["of the role", "of the server"])
async def test_out_of_connections(days: Days, limit: str, caplog: pytest.LogCaptureFixture) -> None:
    says = "too many connections for role" if limit == "of the role" else "too many clients|connection slots"
    with contextlib.ExitStack() as taken:

        def take_all() -> None:
            if limit == "of the role":
                days.admin.sql(f"alter role {days.role} connection limit 0")
                days.admin.terminate(days.admin.schema)
                return
            greedy = make_conninfo(days.dsn, application_name="greedy")
            has = "select count(*) from pg_stat_activity where application_name = %s"
            rounds = 0  # in a row with none of theirs left: what a session on its way out gives back is taken too
            while rounds < 2:
                with contextlib.suppress(psycopg.OperationalError):
                    while True:
                        taken.callback(psycopg.connect(greedy, autocommit=True).close)
                rounds += 1
                if days.admin.one(has, days.admin.schema):
                    rounds = 0
                    days.admin.terminate(days.admin.schema)

        def give_back() -> None:
            days.admin.sql(f"alter role {days.role} connection limit -1")
            taken.close()

        async with days.engine(patience=0.5) as engine, days.client(patience=0.5) as client:
            h = await engine.start(days.workflow, "a", 2, 0.5)
            await until(lambda: days.admin.entries() != [], "it is under way")
            await asyncio.to_thread(take_all)
            await until(
                lambda: (
                    "too many" in (engine.metrics()["trouble"] or "")
                    or "connection slots" in (engine.metrics()["trouble"] or "")
                ),
                "the engine knows its trouble",
            )
            starting = asyncio.ensure_future(engine.start(days.workflow, "b", 1))
            with pytest.raises(pgd.ConnectionFailed, match=says) as error:
                await client.start(days.workflow, "c", 1)
            assert "out of connections" in error.value.hint
            with pytest.raises(pgd.ConnectionFailed, match=says) as error:
                await days.engine().open()
            assert "out of connections" in error.value.hint
            doctor = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "pgdurable.cli", "doctor", "--dsn", days.dsn, "--schema", days.admin.schema],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert doctor.returncode == 1
            assert "out of connections" in doctor.stdout
            assert not starting.done()
            give_back()
            assert await (await starting).result(timeout=60) == days.expected("b", 1)
            assert await h.result(timeout=60) == days.expected("a", 2)
            await until(lambda: engine.metrics()["trouble"] is None, "the trouble is over")
            assert 1 <= told(caplog) <= 3
    assert days.admin.sql("select 1 from @.instances where status <> 'completed'") == []
    assert len(days.admin.entries()) == 6


# --- disk full --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(private_server: EmbeddedServer, tmp_path: Path) -> Iterator[Path]:
    """A filesystem of a few megabytes, made by whoever may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0777", "none", str(place)], check=True)
    try:
        folder = place / "space"
        folder.mkdir()
        data = (private_server.path or Path()) / "pgdata"
        os.chown(folder, data.stat().st_uid, data.stat().st_gid)
        for parent in (place, *place.parents):
            if not parent.stat().st_mode & 0o001 and parent.stat().st_uid == os.geteuid():
                parent.chmod(parent.stat().st_mode | 0o001)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small filesystem")
async def test_a_full_disk_is_waited_out(days: Days, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    space = f"space_{days.admin.schema}"
    days.admin.sql(f"create tablespace {space} location '{small_disk}'")
    try:
        for table in ("history", "ledger", "instances"):
            days.admin.sql(f"alter table @.{table} set tablespace {space}")
        for index in ("history_pkey", "instances_pkey"):
            days.admin.sql(f"alter index @.{index} set tablespace {space}")
        stuffing = small_disk.parent / "stuffing"
        big = "x" * 20_000

        @pgd.step
        async def fat(n: int) -> str:
            return f"{n}:" + "".join(random.Random(n).choices("abcdefgh0123456789", k=6000))

        @pgd.transaction(retry=pgd.Retry(max_attempts=1))
        async def enter(tx: psycopg.AsyncConnection, n: int) -> int:
            await tx.execute(f"insert into {days.admin.schema}.ledger values (%s)", (f"{n}/{big}",))
            return n

        @pgd.workflow
        async def eats(n: int) -> int:
            for i in range(10):
                await fat(100 * n + i)
                await enter(100 * n + i)
            return n

        async with (
            pgd.Engine(days.dsn, schema=days.admin.schema, workflows=[eats], patience=0.5) as engine,
            days.client(patience=0.5) as client,
        ):
            handles = [await engine.start(eats, n) for n in range(10)]
            with stuffing.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            await until(lambda: "No space left" in (engine.metrics()["trouble"] or ""), "the engine knows its trouble")

            async def refused() -> bool:
                try:
                    await client.start(eats, 99, labels={"big": big * 3})
                except pgd.ConnectionFailed as error:
                    return "disk is full" in error.hint
                return False

            await until(refused, "a client is told")
            stuffing.unlink()
            await asyncio.to_thread(
                subprocess.run, ["mount", "-o", "remount,size=60m", str(small_disk.parent)], check=True
            )
            for n, h in enumerate(handles):
                assert await h.result(timeout=60) == n
            await until(lambda: engine.metrics()["trouble"] is None, "the trouble is over")
            assert 1 <= told(caplog) <= 3
        assert days.admin.one("select count(*) from @.ledger where entry < '9900'") >= 100
        assert days.admin.sql("select 1 from @.history where kind = 'attempt'") == []
        assert days.admin.sql(
            "select instance_id from @.history where instance_id = any (%s)"
            " group by 1 having count(*) filter (where kind = 'step') <> 20", [h.instance_id for h in handles],
        ) == []  # fmt: skip
    finally:
        days.admin.sql("drop schema @ cascade")
        days.admin.sql(f"drop tablespace {space}")
        days.admin.sql("create schema @")
