"""Queries: read from outside what a workflow keeps, wherever it is, and without leaving a trace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until


@pgd.step
async def work(n: int) -> int:
    return n


begun: list[int] = []


async def total(h: Any, wanted: int) -> None:
    """Waits until the workflow's code has met so many answers."""

    async def there() -> bool:
        return await h.query("total", timeout=20) == wanted

    await until(there, f"a total of {wanted}")


@pgd.workflow(name="talk_counts")
async def counts(n: int) -> int:
    begun.append(n)
    total = 0
    event = asyncio.Event()

    @pgd.on_query("total")
    def tell(factor: int = 1) -> int:
        return total * factor

    @pgd.on_query
    def fails() -> None:
        raise LookupError("the handler's own")

    @pgd.on_query
    def meddles(how: str) -> Any:
        if how == "step":
            return work(1).send(None)
        if how == "timer":
            return asyncio.get_running_loop().call_later(5, print)
        if how == "signal":
            return pgd.wait_signal("go").send(None)
        if how == "random":
            return pgd.random()
        if how == "state":
            return pgd.set_state("a", 1)
        if how == "task":
            return asyncio.ensure_future(asyncio.sleep(1))
        if how == "stream":
            return pgd.stream("s").write(1)
        return asyncio.get_running_loop().call_soon(event.set)

    for _ in range(n):
        total += await work(1)
    await pgd.wait_signal("go")
    return total


async def test_a_query_is_answered_from_any_process(ns: Namespace) -> None:
    async with ns.engine(counts) as engine, ns.client() as client:
        h = await engine.start(counts, 3)
        other = await client.get(h.id)
        await total(h, 3)
        for each in (h, other):
            assert await each.query("total", timeout=20) == 3
            assert await each.query("total", 5, timeout=20) == 15
            assert await each.query("total", kwargs={"factor": 2}, timeout=20) == 6
        assert len(ns.history(h)) == 3
        assert ns.one("select count(*) from @.queries") == 0
        await h.signal("go")
        await h.result(timeout=20)


async def test_polling_alone_is_correct(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a notification the question is found at the next look."""
    monkeypatch.setattr("pgdurable._engine.worker._ASK_ANYWAY_S", 0.2)
    async with ns.engine(counts) as engine, ns.client() as client:
        monkeypatch.setattr(engine._worker.answerer, "ring", lambda: None)
        h = await client.get((await engine.start(counts, 1)).id)
        await total(h, 1)


@pytest.mark.parametrize("how", ["waiting", "paused", "completed"])
async def test_who_is_not_in_memory_is_replayed_and_goes_nowhere(ns: Namespace, how: str) -> None:
    async with ns.engine(counts, park_after=0.05) as engine, ns.client() as client:
        h = await client.get((await engine.start(counts, 2)).id)
        await status_is(h, "waiting")
        if how == "paused":
            ns.sql("update @.instances set status = 'paused'")
        elif how == "completed":
            await h.signal("go")
            await h.result(timeout=20)
            await until(lambda: not engine.metrics()["instances"], "it has left memory")
        row, rows = ns.sql("select *, xmin from @.instances"), ns.history(h, "*")
        begun.clear()
        assert await h.query("total", 10, timeout=20) == 20
        assert begun == [2]
        assert engine.metrics()["instances"] == 0
        assert (ns.sql("select *, xmin from @.instances"), ns.history(h, "*")) == (row, rows)


async def test_what_cannot_be_answered_says_why(ns: Namespace) -> None:
    async with ns.engine(counts) as engine, ns.client() as client:
        h = await engine.start(counts, 1)
        await total(h, 1)
        for each in (h, await client.get(h.id)):
            with pytest.raises(pgd.QueryFailed, match="has no query 'nothing'"):
                await each.query("nothing", timeout=20)
            with pytest.raises(pgd.QueryFailed, match="LookupError: the handler's own"):
                await each.query("fails", timeout=20)
            with pytest.raises(pgd.QueryFailed, match="does not fit its parameters"):
                await each.query("total", "x", timeout=20)
        later = await client.start("talk_counts", 1, delay=1000)
        with pytest.raises(pgd.QueryFailed, match="has not begun"):
            await later.query("total", timeout=20)
        unknown = await client.start("nobody_has_it")
        with pytest.raises(TimeoutError, match="does a worker that has its workflow run"):
            await unknown.query("total", timeout=0.2)
        with pytest.raises(pgd.InvalidInput, match="name of a query"):
            await h.query("")


async def test_a_query_may_change_nothing(ns: Namespace) -> None:
    async with ns.engine(counts, park_after=30) as engine:
        h = await engine.start(counts, 1)
        await total(h, 1)
        for how in ("step", "timer", "signal", "random", "state", "task", "stream"):
            with pytest.raises(pgd.QueryFailed, match="a query asked for more than it may"):
                await h.query("meddles", how, timeout=20)
        with pytest.raises(pgd.QueryFailed, match="set something of the workflow going"):
            await h.query("meddles", "callback", timeout=20)
        assert await h.query("total", timeout=20) == 1
        assert len(ns.history(h)) == 1
        await h.signal("go")
        assert await h.result(timeout=20) == 1


async def test_declared_ones_and_those_of_blocking_workflows(ns: Namespace) -> None:
    @pgd.workflow(name="talk_blocking_counts")
    def blocking() -> int:
        state = pgd.expose({"n": 1})

        @pgd.on_query
        def own() -> int:
            return state["n"]

        pgd.wait_signal("go")
        state["n"] += 1
        pgd.wait_signal("go")
        return state["n"]

    @blocking.query
    def n(state: dict, add: int) -> int:
        return state["n"] + add

    @blocking.query
    def meddles(state: dict) -> Any:
        return work(1)

    async with ns.engine(blocking, park_after=0.3) as engine, ns.client() as client:
        h = await client.get((await engine.start(blocking)).id)
        assert await h.query(n, 10, timeout=20) == 11
        assert await h.query("own", timeout=20) == 1
        await h.signal("go")
        await status_is(h, "waiting")
        assert await h.query(n, 10, timeout=20) == 12
        with pytest.raises(pgd.QueryFailed, match="asked for more than it may"):
            await h.query("meddles", timeout=20)
        await h.signal("go")
        assert await h.result(timeout=20) == 2


async def test_encrypted_the_question_and_the_answer_are_ciphertext(ns: Namespace) -> None:
    @pgd.workflow
    async def echoes() -> None:
        @pgd.on_query
        def echo(text: str) -> str:
            return text

        await pgd.wait_signal("end")

    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()}, plain="refuse")
    async with ns.client(encryption=encryption) as client:
        async with ns.engine(echoes, encryption=encryption) as engine:
            h = await client.get((await engine.start(echoes)).id)
            assert await h.query("echo", "swordfish", timeout=20) == "swordfish"
        asked = asyncio.ensure_future(h.query("echo", "swordfish", timeout=20))
        await until(lambda: ns.one("select count(*) from @.queries") == 1, "it is asked")
        assert not ns.sql("select 1 from @.queries q where q::text like '%swordfish%'")
        async with ns.engine(echoes, encryption=encryption):
            assert await asked == "swordfish"


def test_blocking_code_asks_too(ns: Namespace) -> None:
    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[counts]) as engine:
        h = engine.start(counts, 0)
        assert h.query("total", timeout=20) == 0
