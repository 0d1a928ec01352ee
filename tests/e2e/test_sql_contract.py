"""SQL from any client: a bare connection starts, signals and reads; a Python worker runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate

from .namespace import Namespace, until


@pgd.step(retry=pgd.Retry(max_attempts=2, initial=0.0))
async def price(sku: str, n: int = 1) -> int:
    if sku == "bad":
        raise ValueError("no such sku")
    return 100 * n


@pgd.workflow(name="ordered")
async def order(sku: str, n: int = 1) -> dict:
    total = await price(sku, n)
    return {"total": total, "by": (await pgd.wait_signal("approval"))["by"]}


@pytest.fixture
def bare(ns: Namespace) -> Iterator[Callable[..., Any]]:
    """What `select durable.<call>` gives on a connection that knows nothing of pgdurable."""
    with psycopg.connect(ns.dsn, autocommit=True) as conn:

        def call(text: str, *args: Any) -> Any:
            row = conn.execute(f"select {ns.schema}.{text}", args or None).fetchone()
            return row[0]

        yield call


async def test_the_printed_calls_in_the_default_schema(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("drop schema if exists durable cascade")
        migrate(dsn, "durable")
        try:
            async with pgd.Engine(dsn, workflows=[order]):
                (id,) = conn.execute(
                    """select durable.start('ordered', '{"sku": "s", "n": 3}', id => 'o/1')"""
                ).fetchone()
                assert id == "o/1"
                conn.execute("""select durable.signal('o/1', 'approval', '{"by": "ann"}')""")

                def status() -> str:
                    return conn.execute("select durable.status('o/1')").fetchone()[0]

                await until(lambda: status() == "completed", "the worker has run it")
                assert conn.execute("select durable.result('o/1')").fetchone() == ({"total": 300, "by": "ann"},)
        finally:
            conn.execute("drop schema durable cascade")


async def test_without_an_id_start_gives_the_uuid(ns: Namespace, bare: Callable[..., Any]) -> None:
    async with ns.engine(order):
        for input in ('{"sku": "s"}', '["s"]', '["s", 1]'):
            id = bare("start('ordered', %s::jsonb)", input)
            assert bare("result(%s)", id) is None
            bare("signal(%s, 'approval', '{\"by\": \"bo\"}')", id)
            await until(lambda id=id: bare("status(%s)", id) == "completed", "the worker has run it")
            assert bare("result(%s)", id) == {"total": 100, "by": "bo"}


async def test_the_same_id_again_starts_nothing(ns: Namespace, bare: Callable[..., Any]) -> None:
    assert bare("""start('ordered', '{"sku": "s"}', id => 'o')""") == "o"
    assert bare("""start('ordered', '{"sku": "t"}', id => 'o')""") == "o"
    assert ns.sql("select input from @.instances") == [({"sku": "s"},)]
    async with ns.engine(order) as engine:
        h = await engine.start(order, "u", id="o")
        await h.signal("approval", {"by": "x"})
        assert (await h.result(timeout=20))["total"] == 100


async def test_start_and_signal_take_part_in_the_caller_s_transaction(ns: Namespace) -> None:
    async with ns.engine(order):
        with psycopg.connect(ns.dsn) as conn:
            start = f"""select {ns.schema}.start('ordered', '{{"sku": "s"}}', id => 'o')"""
            conn.execute(start)
            conn.rollback()
            assert ns.one("select count(*) from @.instances") == 0
            conn.execute(start)
            conn.execute(f"""select {ns.schema}.signal('o', 'approval', '{{"by": "same commit"}}')""")
            conn.commit()
            await until(
                lambda: ns.one("select @.status('o')") == "completed", "it ran with the signal of the same commit"
            )


async def test_refusals_have_their_own_sqlstates(ns: Namespace, bare: Callable[..., Any]) -> None:
    async with ns.engine(order):
        bare("""start('ordered', '{"sku": "bad"}', id => 'bad')""")
        await until(lambda: bare("status('bad')") == "failed", "it has failed")
        bare("start('other', '{}', id => 'taken')")
        for state, call in {
            "result('bad')": "PGD06", "signal('bad', 'approval')": "PGD03", "status('nobody')": "PGD02",
            "result('nobody')": "PGD02", "signal('nobody', 'x')": "PGD02", "start('ordered', id => 'taken')": "PGD04",
            "start('ordered', '1')": "PGD05", "start('', '{}')": "PGD05", "start('ordered', '{}', id => '')": "PGD05",
            "start('ordered', '{}', id => repeat('x', 513))": "PGD05", "signal('taken', '')": "PGD05",
        }.items():  # fmt: skip
            with pytest.raises(psycopg.Error) as error:
                bare(state)
            assert (error.value.sqlstate, bool(error.value.diag.message_hint)) == (call, True), state
        with pytest.raises(psycopg.Error, match="ended failed: no such sku"):
            bare("result('bad')")


async def test_input_that_does_not_fit_fails_that_instance_alone(ns: Namespace, bare: Callable[..., Any]) -> None:
    async with ns.engine(order) as engine:
        bad = {
            '{"sku": 7}': "sku", '{"nonsense": 1, "sku": "s"}': "nonsense", "{}": "missing sku", "[1, 2, 3]": "order",
            '{"sku": null}': "sku",
        }  # fmt: skip
        ids = {bare("start('ordered', %s::jsonb)", input): text for input, text in bad.items()}
        good = await engine.start(order, "s")
        await good.signal("approval", {"by": "ann"})
        assert (await good.result(timeout=20))["by"] == "ann"
        for id, text in ids.items():
            await until(lambda id=id: bare("status(%s)", id) == "failed", f"{bad} has failed")
            with pytest.raises(pgd.InstanceFailed, match=text) as failed:
                await (await engine.get(id)).result(timeout=20)
            assert failed.value.type == "pgdurable.errors.InvalidInput"
            assert id in str(failed.value)


async def test_the_views_answer_in_sql(ns: Namespace, bare: Callable[..., Any]) -> None:
    async with ns.engine(order, name="the worker") as engine:
        good, bad = await engine.start(order, "s", id="good"), await engine.start(order, "bad")
        await engine.start("unknown", id="nobody's")
        await until(lambda: bare("status(%s)", bad.id) == "failed", "one has failed")
        await until(lambda: ns.history(good), "the other waits")
        assert ns.sql("select name, status, attempt, result from @.steps where instance_id = %s", good.instance_id) == [
            ("price", "completed", 1, 100)
        ]
        assert ns.sql("select name, status, attempt from @.steps where instance_id = %s order by event_id",
                      bad.instance_id) == [("price", "retried", 1), ("price", "failed", 2)]  # fmt: skip
        assert ns.sql("select id, workflow, type, message from @.failures") == [
            (bad.instance_id, "ordered", "builtins.ValueError", "no such sku")
        ]
        assert ns.sql("select id, worker from @.running") == [(good.instance_id, "the worker")]
        stats = "select workflow, due, later, awaiting_event, running from @.queue_stats order by workflow"
        assert ns.sql(stats) == [("ordered", 0, 0, 0, 1), ("unknown", 1, 0, 0, 0)]
        assert ns.sql("select name, version, kind from @.workflows") == [("ordered", "1", "python")]
        assert ns.sql("select id from @.instance_keys order by id") == [("good",), ("nobody's",)]
        assert ns.sql("select * from @.timed_out") == []
    assert ns.sql("select state, owner is null from @.workers, @.instances where workflow = 'unknown'") == [
        ("stopped", True)
    ]


async def test_polling_alone_finds_work_that_nobody_announced(ns: Namespace) -> None:
    # As behind a pooler: no notification arrives.
    async with ns.engine(order, poll_interval=0.05) as engine:
        id = ns.one("""select gen_random_uuid()""")
        ns.sql("""insert into @.instances (id, workflow, input) values (%s, 'ordered', '{"sku": "s"}')""", id)
        h = await engine.get(id)
        await until(lambda: ns.history(h), "it runs")
        ns.sql("""insert into @.events (instance_id, kind, name, payload)
                  values (%s, 'signal', 'approval', '{"by": "x"}')""", id)  # fmt: skip
        assert await h.result(timeout=20) == {"total": 100, "by": "x"}


async def test_a_worker_is_told_at_once_of_what_sql_starts(ns: Namespace, bare: Callable[..., Any]) -> None:
    # The next look by itself is an hour away.
    async with ns.engine(order, poll_interval=3600) as engine:
        for n in range(5):
            id = bare("""start('ordered', '{"sku": "s"}', id => %s)""", f"o-{n}")
            await until(lambda id=id: bare("status(%s)", id) == "running", "it runs")
            bare("signal(%s, 'approval', '{\"by\": \"x\"}')", id)
            assert await (await engine.get(id)).result(timeout=20) == {"total": 100, "by": "x"}
            await asyncio.sleep(0)
