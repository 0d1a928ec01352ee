"""The connection of an `async def` transaction step: what is sent when, and that psycopg's ways all begin first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine.step_connection import AsyncStepConnection
from pgdurable._engine.step_shelf import StepShelf

from .namespace import Namespace, until
from .proxy import Proxy

ONCE = pgd.Retry(max_attempts=1)


async def run_step(ns: Namespace, body: Callable[..., Any], *, times: int = 1, dsn: str | None = None) -> Any:
    """What a workflow got from a transaction step with this body: its value, or its error's text."""
    step = pgd.transaction(name="body", retry=ONCE)(body)

    @pgd.workflow
    async def stepping() -> Any:
        said: Any = None
        for _ in range(times):
            try:
                said = await step()
            except Exception as error:
                said = str(error)
        return said

    async with pgd.Engine(dsn or ns.dsn, schema=ns.schema, workflows=[stepping], max_connections=1) as engine:
        return await (await engine.start(stepping)).result(timeout=30)


def one_commit(ns: Namespace) -> bool:
    """Whether every entry was written by the transaction of a checkpoint."""
    return bool(
        ns.one(
            "select count(*) = 0 from @.ledger where xmin::text not in (select xmin::text from @.history where"
            " kind = 'step')"
        )
    )


WAYS: dict[str, Callable[[Any, str], Any]] = {}


def way(body: Any) -> Any:
    WAYS[body.__name__] = body
    return body


@way
async def with_parameters(tx: Any, table: str) -> None:
    await tx.execute(f"insert into {table} values (%s)", ("x",))


@way
async def without_parameters(tx: Any, table: str) -> None:
    await tx.execute(f"insert into {table} values ('x')")


@way
async def several_at_once(tx: Any, table: str) -> None:
    await tx.execute(f"create temp table t (n int) on commit drop; insert into {table} values ('x')")


@way
async def prepared(tx: Any, table: str) -> None:
    await tx.execute(f"insert into {table} values (%s)", ("x",), prepare=True)


@way
async def by_cursor(tx: Any, table: str) -> None:
    async with tx.cursor() as cursor:
        await cursor.execute(f"insert into {table} values (%s) returning entry", ("x",))
        assert await cursor.fetchone() == ("x",)


@way
async def by_raw_cursor(tx: Any, table: str) -> None:
    await psycopg.AsyncRawCursor(tx).execute(f"insert into {table} values ($1)", ["x"])


@way
async def by_client_cursor(tx: Any, table: str) -> None:
    await psycopg.AsyncClientCursor(tx).execute(f"insert into {table} values (%s)", ["x"])


@way
async def by_server_cursor(tx: Any, table: str) -> None:
    async with tx.cursor(name="c") as cursor:
        await cursor.execute("select %s::text", ("x",))
        (row,) = await cursor.fetchall()
    await tx.execute(f"insert into {table} values (%s)", row)


@way
async def by_executemany(tx: Any, table: str) -> None:
    await tx.cursor().executemany(f"insert into {table} values (%s)", [("x",)])


@way
async def by_stream(tx: Any, table: str) -> None:
    rows = [row async for row in tx.cursor().stream(f"insert into {table} values (%s) returning entry", ("x",))]
    assert rows == [("x",)]


@way
async def by_copy(tx: Any, table: str) -> None:
    async with tx.cursor().copy(f"copy {table} (entry) from stdin") as copy:
        await copy.write_row(("x",))


@way
async def in_a_pipeline(tx: Any, table: str) -> None:
    async with tx.pipeline():
        await tx.execute("select %s::int", (1,))
        await tx.execute(f"insert into {table} values (%s)", ("x",))


@way
async def in_a_savepoint(tx: Any, table: str) -> None:
    async with tx.transaction():
        await tx.execute(f"insert into {table} values (%s)", ("x",))


@way
async def after_a_savepoint_rolled_back(tx: Any, table: str) -> None:
    # psycopg forgets all prepared statements then, ours among them.
    await tx.execute("select %s::int", (1,), prepare=True)
    async with tx.transaction(force_rollback=True):
        await tx.execute(f"insert into {table} values (%s)", ("undone",))
    await tx.execute(f"insert into {table} values (%s)", ("x",))


@way
async def after_a_bad_parameter(tx: Any, table: str) -> None:
    with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
        await tx.execute("select %s", (object(),))
    await tx.execute(f"insert into {table} values (%s)", ("x",))


@pytest.mark.parametrize("name", WAYS)
async def test_whatever_is_used_first_is_in_the_step_s_transaction(ns: Namespace, name: str) -> None:
    ns.ledger()

    async def body(tx: Any) -> str:
        await WAYS[name](tx, f"{ns.schema}.ledger")
        assert tx.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        return "done"

    assert await run_step(ns, body, times=3) == "done"
    assert ns.entries() == ["x"] * 3
    if "savepoint" not in name:  # a savepoint has a transaction id of its own
        assert one_commit(ns)

    async def fails(tx: Any) -> None:
        await WAYS[name](tx, f"{ns.schema}.ledger")
        raise ValueError("no")

    assert "no" in await run_step(ns, fails)
    assert ns.entries() == ["x"] * 3


async def test_a_step_that_runs_no_statement_is_recorded(ns: Namespace) -> None:
    async def body(tx: Any) -> int:
        return 7

    assert await run_step(ns, body, times=3) == 7
    assert ns.sql("select kind, payload from @.history order by event_id") == [("step", 7)] * 3


@pytest.mark.parametrize("params", [None, ("x",)])
async def test_an_error_in_the_first_statement_is_the_statement_s_own(ns: Namespace, params: Any) -> None:
    ns.ledger()
    ns.sql("create unique index on @.ledger (entry)")
    ns.sql("insert into @.ledger values ('x')")

    async def body(tx: Any) -> str:
        try:
            values = "%s" if params else "'x'"
            await tx.execute(f"insert into {ns.schema}.ledger values ({values})", params)
        except psycopg.errors.UniqueViolation as error:
            return str(error.sqlstate)
        return ""

    # Swallowed, it leaves a transaction that cannot commit.
    assert "current transaction is aborted" in await run_step(ns, body, times=2)
    assert ns.entries() == ["x"]

    async def in_savepoint(tx: Any) -> str:
        try:
            async with tx.transaction():
                await tx.execute(f"insert into {ns.schema}.ledger values ('x')")
        except psycopg.errors.UniqueViolation:
            await tx.execute(f"insert into {ns.schema}.ledger values (%s)", ("y",))
        return "undone"

    assert await run_step(ns, in_savepoint) == "undone"
    assert ns.entries() == ["x", "y"]


async def test_a_step_waits_for_two_answers(ns: Namespace, tmp_path: Path) -> None:
    ns.ledger()
    trace = tmp_path / "trace"
    count = 0

    with trace.open("wb") as file:

        async def body(tx: Any) -> None:
            nonlocal count
            count += 1
            if count == 2:
                tx.pgconn.trace(file.fileno())
            elif count == 4:
                tx.pgconn.untrace()
            await tx.execute(f"insert into {ns.schema}.ledger values (%s)", ("x",))

        await run_step(ns, body, times=4)
    lines = trace.read_bytes().decode().splitlines()
    answers = [line for line in lines if "ReadyForQuery" in line]
    assert len(answers) == 4  # two steps, two messages each
    assert [line.split()[-1] for line in answers] == ["T", "I", "T", "I"]


async def test_a_fence_that_is_lost_is_found_with_the_first_statement(ns: Namespace) -> None:
    ns.ledger()
    bodies: list[str] = []

    async def swallows(tx: Any) -> str:
        if not bodies:
            ns.sql("update @.workers set state = 'dead'")
            ns.sql("delete from @.fences")
        try:
            await tx.execute(f"insert into {ns.schema}.ledger values (%s)", ("x",))
        except psycopg.Error as error:
            bodies.append(str(error.sqlstate))
        else:
            bodies.append("ran")
        return "done"

    step = pgd.transaction(name="swallows", retry=ONCE)(swallows)

    @pgd.workflow
    async def fenced() -> str:
        return await step()

    async with ns.engine(fenced, lease=2.0) as engine:
        await engine.start(fenced)
        await until(lambda: bodies, "the step has run")
        assert bodies[0] == "PGD01"
        assert ns.one("select count(*) from @.history where kind = 'step' and error is not null") == 0


@pytest.mark.parametrize("marker", [b"pgd BEGIN", b"pgd FENCE", b"pgd CHECKPOINT", b"pgd COMMIT"])
async def test_a_connection_lost_at_any_message_costs_no_attempt_and_counts_once(ns: Namespace, marker: bytes) -> None:
    ns.ledger()

    async def body(tx: Any) -> str:
        await tx.execute(f"insert into {ns.schema}.ledger values (%s)", ("x",))
        return "done"

    step = pgd.transaction(name="body", retry=ONCE)(body)

    @pgd.workflow
    async def losing() -> str:
        return await step()

    async with Proxy(ns.dsn) as proxy:
        async with pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[losing]) as engine:
            for n in range(1, 4):
                proxy.drop_at(marker)
                assert await (await engine.start(losing)).result(timeout=30) == "done"
                assert proxy.cuts == n
    assert ns.entries() == ["x"] * 3
    assert one_commit(ns)
    assert ns.sql("select distinct kind, attempt from @.history where kind <> 'void'") == [("step", 1)]


async def test_statements_that_somebody_deallocated_are_prepared_again(ns: Namespace) -> None:
    ns.ledger()
    count = 0

    async def body(tx: Any) -> str:
        nonlocal count
        count += 1
        await tx.execute(f"insert into {ns.schema}.ledger values (%s)", ("x",))
        if count >= 2:
            await tx.execute("deallocate all")
        return "done"

    assert await run_step(ns, body, times=4) == "done"
    assert one_commit(ns)
    assert ns.entries() == ["x"] * 4
    assert count == 5  # the first time it comes as a surprise
    assert ns.sql("select distinct kind, attempt from @.history") == [("step", 1)]


# --- between steps ---------------------------------------------------------------------------------------------------


class FakePool:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.back: list[Any] = []

    async def getconn(self, timeout: float) -> Any:
        return await AsyncStepConnection.connect(self.dsn, autocommit=True)

    async def putconn(self, conn: Any) -> None:
        self.back.append(conn)
        await conn.close()


async def test_the_shelf_serves_who_waits_in_line_and_loses_nothing_to_a_cancel(ns: Namespace) -> None:
    pool: Any = FakePool(ns.dsn)
    shelf = StepShelf(pool, 1)
    conn = await shelf.take()
    waiting = [asyncio.ensure_future(shelf.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await shelf.put(conn)
    waiting[0].cancel()  # its turn has come already
    assert await asyncio.wait_for(waiting[2], 5) is conn
    assert [waiter.cancelled() for waiter in waiting] == [True, True, False]
    # One that is broken goes, and the next in line gets a new one.
    last = asyncio.ensure_future(shelf.take())
    await asyncio.sleep(0)
    await conn.close()
    await shelf.put(conn)
    fresh = await asyncio.wait_for(last, 5)
    assert fresh is not conn
    await shelf.put(fresh)
    await shelf.close()
    assert pool.back == [conn, fresh]


async def test_the_shelf_gives_back_what_nobody_uses(ns: Namespace) -> None:
    pool: Any = FakePool(ns.dsn)
    shelf = StepShelf(pool, 2, idle_s=0.05)
    one, two = await shelf.take(), await shelf.take()
    await shelf.put(one)
    await until(lambda: pool.back == [one], "the first is given back")
    await shelf.put(two)
    assert await shelf.take() is two
    await shelf.put(two)
    await shelf.close()
    assert pool.back == [one, two]


async def test_cancelled_again_and_again_while_it_is_being_cancelled(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was once freed under psycopg's generator, which went on after its own cancellation: a segfault."""

    async def says_so_and_does_nothing(self: Any, *, timeout: float = 0.0) -> None:
        for _ in range(3):
            await asyncio.sleep(0.001)

    running = "select 1 from pg_stat_activity where pid = %s and state = 'active'"
    monkeypatch.setattr(psycopg.AsyncConnection, "cancel_safe", says_so_and_does_nothing)
    for pause in (0.0, 0.001, 0.002, 0.004, 0.006):
        conn = await AsyncStepConnection.connect(ns.dsn, autocommit=True)
        task = asyncio.ensure_future(conn.execute("select pg_sleep(60)"))
        pid = conn.info.backend_pid
        await until(lambda pid=pid: ns.sql(running, pid), "it runs")
        for _ in range(12):
            task.cancel()
            await asyncio.sleep(pause)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)
        assert conn.pgconn.status != psycopg.pq.ConnStatus.OK
        await conn.close()
        await asyncio.sleep(0.02)  # whatever was left running would go on here
