"""Transaction steps: one commit with the checkpoint, rolled back whole, one order with everything else."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, until
from .proxy import Proxy

FAST = pgd.Retry(max_attempts=3, initial=0.01, multiplier=1.0, jitter=0.0)


def ledger_step(ns: Namespace, **options: Any) -> Any:
    """A transaction step that adds a row to the ledger, then waits."""

    @pgd.transaction(name="enter", **options)
    async def enter(tx: psycopg.AsyncConnection, entry: str, wait: float = 0.0) -> str:
        await tx.execute(f"insert into {ns.schema}.ledger values (%s)", (entry,))
        await asyncio.sleep(wait)
        return f"entered {entry}"

    return enter


async def test_the_statements_and_the_checkpoint_are_one_commit(ns: Namespace) -> None:
    ns.ledger()
    enter = ledger_step(ns)

    @pgd.workflow
    async def one_commit() -> str:
        return await enter("a")

    async with ns.engine(one_commit) as engine:
        h = await engine.start(one_commit)
        assert await h.result(timeout=20) == "entered a"
    assert ns.one("select xmin::text from @.ledger") == ns.one("select xmin::text from @.history")
    assert ns.history(h) == [("step", "enter", 1)]


async def test_a_def_transaction_runs_in_a_thread_with_a_blocking_connection(ns: Namespace) -> None:
    ns.ledger()

    @pgd.transaction
    def enter(tx: psycopg.Connection, entry: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        tx.execute(f"insert into {ns.schema}.ledger values (%s)", (entry,))
        return entry

    @pgd.workflow
    async def in_threads(n: int) -> list[str]:
        return await asyncio.gather(*(enter(str(i)) for i in range(n)))

    async with ns.engine(in_threads) as engine:
        h = await engine.start(in_threads, 5)
        assert await h.result(timeout=20) == list("01234")
    assert ns.entries() == list("01234")
    assert ns.sql("select xmin::text from @.ledger order by entry") == ns.sql(
        "select xmin::text from @.history order by payload #>> '{}'"
    )


async def test_a_failed_attempt_rolls_back_and_the_next_takes_effect_once(ns: Namespace) -> None:
    ns.ledger()
    tries: list[int] = []

    @pgd.transaction(retry=FAST)
    async def second_time(tx: psycopg.AsyncConnection) -> int:
        tries.append(1)
        await tx.execute(f"insert into {ns.schema}.ledger values ('x')")
        if len(tries) == 1:
            raise ValueError("after the statement")
        return len(tries)

    @pgd.workflow
    async def rolled_back() -> int:
        return await second_time()

    async with ns.engine(rolled_back) as engine:
        h = await engine.start(rolled_back)
        assert await h.result(timeout=20) == 2
    assert ns.entries() == ["x"]
    assert ns.history(h) == [("attempt", "second_time", 1), ("step", "second_time", 2)]


async def test_an_error_of_postgresql_is_an_attempt_like_any_other(ns: Namespace) -> None:
    ns.ledger()
    ns.sql("create unique index on @.ledger (entry)")
    enter = ledger_step(ns, retry=FAST)

    @pgd.workflow
    async def twice() -> str:
        await enter("a")
        try:
            await enter("a")
        except Exception as error:
            cause = error if isinstance(error, pgd.StepFailed) else error.__cause__
            return cause.type
        return ""

    async with ns.engine(twice) as engine:
        h = await engine.start(twice)
        assert await h.result(timeout=20) == "psycopg.errors.UniqueViolation"
    assert ns.entries() == ["a"]
    assert ns.history(h, "kind, attempt") == [("step", 1), ("attempt", 1), ("attempt", 2), ("step", 3)]


async def test_a_result_that_is_no_json_rolls_the_transaction_back(ns: Namespace) -> None:
    ns.ledger()

    @pgd.transaction
    async def bad_result(tx: psycopg.AsyncConnection) -> Any:
        await tx.execute(f"insert into {ns.schema}.ledger values ('x')")
        return {"rate": float("nan")}

    @pgd.workflow
    async def refused() -> None:
        await bad_result()

    async with ns.engine(refused) as engine:
        h = await engine.start(refused)
        with pytest.raises(pgd.InstanceFailed, match=r"result of step bad_result cannot be stored.*\$\.rate"):
            await h.result(timeout=20)
    assert ns.entries() == []


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_timeout_rolls_the_transaction_back(ns: Namespace, in_thread: bool) -> None:
    ns.ledger()
    retry = pgd.Retry(max_attempts=1)
    release = threading.Event()

    @pgd.transaction(name="slow", timeout=0.1, retry=retry)
    async def slow(tx: psycopg.AsyncConnection) -> None:
        await tx.execute(f"insert into {ns.schema}.ledger values ('x')")
        await tx.execute("select pg_sleep(60)")

    @pgd.transaction(name="slow", timeout=0.1, retry=retry)
    def slow_in_thread(tx: psycopg.Connection) -> None:
        tx.execute(f"insert into {ns.schema}.ledger values ('x')")
        release.wait(60)

    step = slow_in_thread if in_thread else slow

    @pgd.workflow
    async def timed() -> str:
        try:
            await step()
        except pgd.StepTimeout as error:
            return error.step
        return ""

    async with ns.engine(timed) as engine:
        h = await engine.start(timed)
        try:
            assert await h.result(timeout=20) == "slow"
        finally:
            release.set()
        idle = (
            "select count(*) = 0 from pg_stat_activity where state like 'idle in transaction%%'"
            " and application_name = 'pgdurable engine' and query like '%%' || %s || '%%'"
        )
        await until(lambda: ns.one(idle, ns.schema), "no transaction is left open")
    assert ns.entries() == []
    assert ns.history(h, "kind, error is not null") == [("step", True)]


async def test_wait_for_around_a_transaction_rolls_it_back(ns: Namespace) -> None:
    ns.ledger()
    enter = ledger_step(ns)

    @pgd.workflow
    async def impatient() -> list[str]:
        log = []
        try:
            await asyncio.wait_for(enter("lost", 60), 0.15)
        except asyncio.TimeoutError:
            log.append("gave up")
        log.append(await enter("kept"))
        return log

    async with ns.engine(impatient) as engine:
        h = await engine.start(impatient)
        assert await h.result(timeout=20) == ["gave up", "entered kept"]
    assert ns.entries() == ["kept"]
    assert ns.history(h, "kind") == [("timer",), ("step",)]


async def test_a_race_of_timeouts_and_commits_never_disagrees_with_the_ledger(ns: Namespace) -> None:
    ns.ledger()
    enter = ledger_step(ns)

    @pgd.workflow
    async def race(name: str, limit: float) -> bool:
        try:
            await asyncio.wait_for(enter(name, 0.02), limit)
        except asyncio.TimeoutError:
            return False
        return True

    results: dict[str, bool] = {}
    async with ns.engine(race) as engine:
        # Around the time that the steps take here and now, so that some are in time and some are not.
        middle = 0.03
        for turn in range(20):
            names = {f"{turn:02}-{n:03}": middle * (0.5 + n % 60 / 60) for n in range(120)}
            handles = {name: await engine.start(race, name, limit) for name, limit in names.items()}
            results |= {name: await h.result(timeout=60) for name, h in handles.items()}
            assert [name for name in sorted(results) if results[name]] == ns.entries()
            in_time = sum(results[name] for name in names)
            if 0 < in_time < len(names):
                return
            middle *= 0.7 if in_time else 1.5
    pytest.fail("no turn had both steps in time and steps that were too late")


async def test_explicit_commit_is_refused_and_savepoints_work(ns: Namespace) -> None:
    ns.ledger()

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    async def commits(tx: psycopg.AsyncConnection) -> None:
        await tx.execute(f"insert into {ns.schema}.ledger values ('committed')")
        await tx.commit()

    @pgd.transaction
    async def with_savepoint(tx: psycopg.AsyncConnection) -> str:
        try:
            async with tx.transaction():
                await tx.execute(f"insert into {ns.schema}.ledger values ('undone')")
                raise ValueError
        except ValueError:
            await tx.execute(f"insert into {ns.schema}.ledger values ('done')")
        return "ok"

    @pgd.workflow
    async def both() -> list:
        try:
            await commits()
        except Exception as error:
            return [str(error), await with_savepoint()]
        return []

    async with ns.engine(both) as engine:
        text, ok = await (await engine.start(both)).result(timeout=20)
    assert "commit() was called in a transaction step" in text
    assert ok == "ok"
    assert ns.entries() == ["done"]


async def test_several_at_once_each_take_effect_once(ns: Namespace) -> None:
    ns.ledger()
    enter = ledger_step(ns)

    @pgd.workflow
    async def many(name: str) -> list[str]:
        return await asyncio.gather(*(enter(f"{name}{i}") for i in range(8)))

    async with ns.engine(many) as engine:
        handles = [await engine.start(many, name) for name in "abcdef"]
        for name, h in zip("abcdef", handles, strict=True):
            assert await h.result(timeout=60) == [f"entered {name}{i}" for i in range(8)]
            assert [event_id for (event_id,) in ns.history(h, "event_id")] == list(range(1, 9))
    assert ns.entries() == [f"{name}{i}" for name in "abcdef" for i in range(8)]


runs: list[list[str]] = []


async def test_transactions_signals_timers_and_steps_keep_one_order_live_and_in_replay(ns: Namespace) -> None:
    ns.ledger()
    enter = ledger_step(ns)
    runs.clear()

    @pgd.step
    async def plain(n: int) -> int:
        await asyncio.sleep(0.001 * (n % 5))
        return n

    @pgd.workflow
    async def mixed() -> list[str]:
        log: list[str] = []

        async def transaction(n: int) -> None:
            await enter(str(n), 0.002 * (n % 7))
            log.append(f"step enter {n}")

        async def step(n: int) -> None:
            await plain(n)
            log.append(f"step plain {n}")

        async def timer(n: int) -> None:
            await asyncio.sleep(0.004 * n)
            log.append("timer")

        async def signals(n: int) -> None:
            for _ in range(n):
                log.append(f"signal {await pgd.wait_signal('s')}")

        await asyncio.gather(
            *(transaction(n) for n in range(10)), *(step(n) for n in range(10)), *(timer(n) for n in range(1, 8)),
            signals(10),
        )  # fmt: skip
        runs.append(list(log))
        await pgd.wait_signal("end")
        return log

    async with ns.engine(mixed) as engine:
        h = await engine.start(mixed)
        for n in range(10):
            await h.signal("s", n)
            await asyncio.sleep(0.003)
        await until(lambda: runs, "everything has arrived")
    async with ns.engine(mixed) as engine:
        h = await engine.get(h.id)
        await h.signal("end")
        result = await h.result(timeout=20)
    assert len(runs) == 2
    assert runs[0] == runs[1] == result
    recorded = []
    for kind, name, payload in ns.history(h, "kind, name, payload #>> '{}'"):
        if kind == "timer":
            recorded.append("timer")
        elif kind == "step":
            recorded.append(f"step {name} {payload.removeprefix('entered ')}")
        elif name == "s":
            recorded.append(f"signal {payload}")
    assert recorded == result
    assert len(result) == 37
    assert sorted(ns.entries()) == sorted(str(n) for n in range(10))


async def test_a_connection_lost_in_the_user_s_statements_costs_no_attempt(ns: Namespace) -> None:
    ns.ledger()
    tries: list[int] = []

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    async def unlucky(tx: psycopg.AsyncConnection) -> int:
        tries.append(tx.info.backend_pid)
        await tx.execute(f"insert into {ns.schema}.ledger values ('x')")
        if len(tries) == 1:
            await tx.execute("select pg_terminate_backend(pg_backend_pid())")
        return len(tries)

    @pgd.transaction(retry=pgd.Retry(max_attempts=1))
    def unlucky_in_thread(tx: psycopg.Connection) -> int:
        tries.append(tx.info.backend_pid)
        tx.execute(f"insert into {ns.schema}.ledger values ('y')")
        if len(tries) == 3:
            tx.execute("select pg_terminate_backend(pg_backend_pid())")
        return len(tries)

    @pgd.workflow
    async def goes_on() -> list[int]:
        return [await unlucky(), await unlucky_in_thread()]

    async with ns.engine(goes_on) as engine:
        h = await engine.start(goes_on)
        assert await h.result(timeout=30) == [2, 4]
    assert ns.entries() == ["x", "y"]
    assert ns.history(h, "kind, attempt") == [("step", 1), ("step", 1)]


async def test_a_commit_whose_answer_was_lost_counts_once(ns: Namespace) -> None:
    ns.ledger()

    def blocking(tx: psycopg.Connection, entry: str) -> str:
        tx.execute(f"insert into {ns.schema}.ledger values (%s)", (entry,))
        return entry

    enter = ledger_step(ns, retry=pgd.Retry(max_attempts=1))
    enter_in_thread = pgd.transaction(retry=pgd.Retry(max_attempts=1))(blocking)

    @pgd.workflow
    async def counted() -> list[str]:
        return [await enter("a"), await enter_in_thread("b")]

    async with Proxy(ns.dsn) as proxy:
        async with pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[counted]) as engine:
            for n in range(1, 3):
                proxy.cut_after(b"COMMIT", times=n)
                h = await engine.start(counted)
                assert await h.result(timeout=30) == ["entered a", "b"]
                assert proxy.cuts == n * (n + 1) / 2
                assert ns.history(h, "kind, name") == [("step", "enter"), ("step", "blocking")]
    assert ns.entries() == ["a", "a", "b", "b"]


async def test_a_commit_that_never_happened_is_made_again(ns: Namespace) -> None:
    # The connection dies within the commit: a deferred trigger runs there.
    ns.ledger()
    ns.sql("create sequence @.deaths")
    ns.sql(
        "create function @.die() returns trigger language plpgsql as $$ begin"
        f" if nextval('{ns.schema}.deaths') = 1 then perform pg_terminate_backend(pg_backend_pid()); end if;"
        " return null; end $$"
    )
    ns.sql(
        "create constraint trigger die after insert on @.ledger deferrable initially deferred"
        " for each row execute function @.die()"
    )
    enter = ledger_step(ns, retry=pgd.Retry(max_attempts=1))

    @pgd.workflow
    async def again() -> str:
        return await enter("a")

    async with ns.engine(again) as engine:
        h = await engine.start(again)
        assert await h.result(timeout=30) == "entered a"
        assert ns.one("select last_value from @.deaths") == 2
    assert ns.entries() == ["a"]
    # The place in the order of the one that died is marked, so that it can never commit late.
    assert ns.history(h) == [("void", "enter", 1), ("step", "enter", 1)]


# --- what a step may not do with its transaction -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["commit", "rollback", "COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_step_cannot_end_its_own_transaction(ns: Namespace, how: str, kind: str) -> None:
    ns.sql("create table @.ledger (n int)")

    @pgd.transaction(name="ends", retry=pgd.Retry(max_attempts=1))
    async def ends(tx: psycopg.AsyncConnection) -> None:
        await tx.execute(f"insert into {ns.schema}.ledger values (1)")
        await (tx.execute(how) if how.isupper() else getattr(tx, how)())

    @pgd.transaction(name="ends", retry=pgd.Retry(max_attempts=1))
    def ends_in_thread(tx: psycopg.Connection) -> None:
        tx.execute(f"insert into {ns.schema}.ledger values (1)")
        tx.execute(how) if how.isupper() else getattr(tx, how)()

    @pgd.workflow
    async def paying() -> str:
        try:
            await (ends() if kind == "async" else ends_in_thread())
        except Exception as error:
            return str(error)
        return "ended"

    async with ns.engine(paying) as engine:
        handle = await engine.start(paying)
        said = await handle.result(timeout=20)
        assert "commits together with its checkpoint" in said
        steps = [entry async for entry in handle.history() if entry.kind == "step"]
        assert [(step.seq, step.error is None) for step in steps] == [(0, False)]
        # Only a COMMIT of its own, which nobody can stop, leaves anything behind.
        assert ns.one("select count(*) from @.ledger") == (how == "COMMIT")
