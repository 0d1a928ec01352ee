"""Starting: ids, the caller's own transaction, thousands at once, options, room."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until
from .proxy import Proxy

bodies: list[Any] = []


@pgd.workflow
async def counts(n: int = 0) -> int:
    bodies.append(n)
    return n


@pgd.workflow
async def other(n: int = 0) -> int:
    return -n


@pgd.workflow
async def holds() -> str:
    return await pgd.wait_signal("go")


# --- ids ----------------------------------------------------------------------------------------------------------


async def test_the_same_id_again_is_the_same_instance(ns: Namespace) -> None:
    bodies.clear()
    async with ns.engine(counts) as engine, ns.client() as client:
        first = await engine.start(counts, 1, id="one")
        assert await first.result(timeout=20) == 1
        again = await engine.start(counts, 2, id="one")
        third = await client.start("counts", 3, id="one")
        assert {h.instance_id for h in (first, again, third)} == {first.instance_id}
        assert {h.id for h in (first, again, third)} == {"one"}
        assert [await h.result(timeout=20) for h in (again, third)] == [1, 1]
    assert bodies == [1]


async def test_simultaneous_starts_of_one_id_give_one_body_and_equal_results(ns: Namespace) -> None:
    bodies.clear()
    async with ns.engine(counts) as one, ns.engine(counts) as two, ns.client() as three:
        for id in (f"id-{n}" for n in range(20)):
            handles = await asyncio.gather(
                *(face.start(counts, n, id=id) for n, face in enumerate((one, two, three, one, two)))
            )
            assert len({h.instance_id for h in handles}) == 1
            assert len({await h.result(timeout=20) for h in handles}) == 1
    assert len(bodies) == 20
    assert ns.one("select count(*) from @.instances") == 20


@pytest.mark.parametrize("face", ["engine", "client"])
async def test_an_id_of_another_workflow_is_refused(ns: Namespace, face: str) -> None:
    async with ns.engine(counts, other) as engine, ns.client() as client:
        await engine.start(counts, 1, id="mine")
        with pytest.raises(pgd.InvalidId, match="'mine' is an instance of workflow 'counts', not of 'other'"):
            await (engine if face == "engine" else client).start(other, 1, id="mine")
    assert ns.one("select count(*) from @.instances") == 1


BAD_IDS = ["", "x" * 513, "ż" * 257, "a\0b", "\ud800", 7]


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
@pytest.mark.parametrize("face", ["engine", "client"])
async def test_a_bad_id_is_refused_and_nothing_is_started(ns: Namespace, bad: Any, face: str) -> None:
    async with ns.engine(counts) as engine, ns.client() as client:
        with pytest.raises(pgd.InvalidId, match="an id is"):
            await (engine if face == "engine" else client).start(counts, id=bad)
    assert ns.one("select count(*) from @.instances") == 0


@pytest.mark.parametrize("good", ["x" * 512, "ż" * 256, " ", "order/1?é\n'\"%s"])
async def test_any_other_text_is_an_id(ns: Namespace, good: str) -> None:
    async with ns.engine(counts, holds) as engine:
        h = await engine.start(holds, id=good)
        assert h.id == good
        await engine.signal(good, "go", "ok")
        assert await (await engine.get(good)).result(timeout=20) == "ok"


# --- the caller's own transaction ---------------------------------------------------------------------------------


async def test_a_start_on_a_connection_is_there_only_if_it_commits(ns: Namespace) -> None:
    bodies.clear()
    async with ns.engine(counts) as engine, await psycopg.AsyncConnection.connect(ns.dsn) as conn:
        for id in (None, "mine"):
            h = await engine.start(counts, 1, id=id, connection=conn)
            async with ns.client() as client:
                with pytest.raises(pgd.InstanceNotFound):
                    await client.get(h.id)
            await conn.rollback()
        assert ns.one("select count(*) from @.instances") + ns.one("select count(*) from @.instance_keys") == 0

        handles = [await engine.start(counts, 2, connection=conn)]
        handles.append(await engine.start(counts, 3, id="mine", connection=conn))
        handles.append(await engine.start("counts", 4, id="mine", connection=conn))
        assert ns.one("select count(*) from @.instances") == 0
        await conn.commit()
        assert [await h.result(timeout=20) for h in handles] == [2, 3, 3]
    assert sorted(bodies) == [2, 3]


async def test_a_refused_start_on_a_connection_says_why(ns: Namespace) -> None:
    async with ns.engine(counts, other) as engine, await psycopg.AsyncConnection.connect(ns.dsn) as conn:
        await engine.start(counts, 1, id="mine")
        with pytest.raises(pgd.InvalidId, match="not of 'other'"):
            await engine.start(other, 1, id="mine", connection=conn)
        await conn.rollback()


async def test_a_start_waits_for_nobody_but_the_transaction_that_has_its_id(ns: Namespace) -> None:
    async with ns.engine(counts) as engine, await psycopg.AsyncConnection.connect(ns.dsn) as conn:
        await engine.start(counts, 1, id="held", connection=conn)
        waiting = asyncio.ensure_future(engine.start(counts, 2, id="held"))
        blocked = "select count(*) > 0 from pg_stat_activity where query like '%%start_keyed%%' and query like %s" \
                  " and wait_event_type = 'Lock'"  # fmt: skip
        await until(lambda: ns.one(blocked, f"%{ns.schema}%"), "the second start waits for the first")
        # Everybody else's transitions go on meanwhile.
        assert await (await engine.start(counts, 3)).result(timeout=20) == 3
        await conn.rollback()
        assert await (await waiting).result(timeout=20) == 2


# --- many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["engine", "client"])
async def test_start_many_starts_thousands_per_commit(ns: Namespace, face: str) -> None:
    bodies.clear()
    async with ns.engine(counts) as engine, ns.client() as client:
        handles = await (engine if face == "engine" else client).start_many(counts, ((n,) for n in range(6000)))
        assert len({h.instance_id for h in handles}) == 6000
        assert ns.one("select count(*) from @.instances") == 6000
        results = await asyncio.gather(*(h.result(timeout=60) for h in handles))
    assert results == list(range(6000))
    assert sorted(bodies) == results


async def test_start_many_by_a_client_takes_few_commits(ns: Namespace) -> None:
    async with ns.client() as client:
        await client.start_many("counts", ((n,) for n in range(7000)))
    assert ns.one("select count(distinct xmin::text) from @.instances") == 2


async def test_start_many_takes_tuples_dicts_and_single_arguments(ns: Namespace) -> None:
    @pgd.workflow
    async def shown(a: Any, b: int = 0) -> list:
        return [a, b]

    async with ns.engine(shown) as engine, ns.client() as client:
        for face in (engine, client):
            handles = await face.start_many(shown, [(1, 2), {"a": 3, "b": 4}, 5, "text", ([6],)])
            assert [await h.result(timeout=20) for h in handles] == [[1, 2], [3, 4], [5, 0], ["text", 0], [[6], 0]]


async def test_start_many_names_what_does_not_fit(ns: Namespace) -> None:
    async with ns.engine(counts) as engine, ns.client() as client:
        with pytest.raises(pgd.InvalidInput, match="counts"):
            await client.start_many(counts, [(1,), (2, 3)])
        assert ns.one("select count(*) from @.instances") == 0
        with pytest.raises(pgd.InvalidInput, match="counts"):
            await engine.start_many(counts, [(1,), (2, 3)])


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["engine", "client"])
async def test_options_are_recorded_with_the_instance(ns: Namespace, face: str) -> None:
    async with ns.engine(counts) as engine, ns.client() as client:
        h = await (engine if face == "engine" else client).start(
            counts, 5, queue="mail", priority=3, labels={"tenant": "t-1"}
        )
        info = await h.describe()
        assert (info.queue, info.priority, info.labels, info.version) == ("mail", 3, {"tenant": "t-1"}, "1")
        assert info.input == {"n": 5}
        assert await h.result(timeout=20) == 5


@pytest.mark.parametrize("face", ["engine", "client"])
async def test_a_delayed_start_runs_when_its_time_has_come(ns: Namespace, face: str) -> None:
    async with ns.engine(counts) as engine, ns.client() as client:
        h = await (engine if face == "engine" else client).start(counts, 1, delay=0.4)
        assert await h.status() == "pending"
        assert await h.result(timeout=20) == 1
        info = await h.describe()
    assert 0.4 <= (info.started_at - info.created_at).total_seconds() < 6


async def test_an_instance_runs_only_on_workers_with_its_version(ns: Namespace) -> None:
    def version(number: str) -> Any:
        async def versioned() -> str:
            return number

        return pgd.Workflow(versioned, version=number)

    one, two = version("1"), version("2")
    async with ns.client() as client:
        old = await client.start(one)
        new = await client.start("versioned", version="2")
        any = await client.start("versioned")
        async with ns.engine(two):
            assert await new.result(timeout=20) == "2"
            assert await any.result(timeout=20) == "2"
            assert await old.status() == "pending"
        async with ns.engine(one, two) as engine:
            assert await old.result(timeout=20) == "1"
            assert await (await engine.start("versioned")).result(timeout=20) == "2"
            assert await (await engine.start("versioned", version="1")).result(timeout=20) == "1"


async def test_what_there_is_no_room_for_waits_and_runs_later(ns: Namespace) -> None:
    async with ns.engine(holds, max_instances=2) as engine:
        handles = [await engine.start(holds, id=f"h{n}") for n in range(3)] + await engine.start_many(holds, [()] * 2)
        await until(lambda: engine.metrics()["instances"] == 2, "two are in memory")
        states = [await h.status() for h in handles]
        assert sorted(states) == ["pending"] * 3 + ["running"] * 2
        for h in handles:
            await h.signal("go", "ok")
        for h in handles:
            assert await h.result(timeout=20) == "ok"


async def test_what_there_is_no_room_for_runs_on_another_worker(ns: Namespace) -> None:
    async with ns.engine(holds, max_instances=1) as full, ns.engine(holds) as roomy:
        handles = await full.start_many(holds, [()] * 30)
        for h in handles:
            await status_is(h, "running")
        assert full.metrics()["instances"] == 1
        assert roomy.metrics()["instances"] == 29
        await asyncio.gather(*(h.signal("go", "ok") for h in handles))
        assert [await h.result(timeout=20) for h in handles] == ["ok"] * 30


async def test_a_workflow_the_engine_does_not_run_is_started_for_others(ns: Namespace) -> None:
    async with ns.engine(holds) as engine:
        h = await engine.start(counts, 4)
        assert await h.status() == "pending"
        async with ns.engine(counts):
            assert await h.result(timeout=20) == 4


async def test_starts_need_a_workflow(ns: Namespace) -> None:
    async with ns.engine(counts) as engine:
        for bad in ("", len, None, 7, "a\0b"):
            with pytest.raises(pgd.InvalidInput, match="start needs a workflow"):
                await engine.start(bad)
        with pytest.raises(pgd.InvalidInput, match="by name in kwargs"):
            await engine.start("elsewhere", 1, kwargs={"b": 2})


# --- lost answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("id", "marker"), [(None, b"pgd_insert_instances"), ("mine", b"start_keyed")])
async def test_a_start_whose_answer_was_lost_is_one_start(ns: Namespace, id: str | None, marker: bytes) -> None:
    bodies.clear()
    async with Proxy(ns.dsn) as proxy:
        async with pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[counts]) as engine:
            proxy.cut_after(marker)
            h = await engine.start(counts, 1, id=id)
            assert await h.result(timeout=30) == 1
            assert proxy.cuts == 1
    assert bodies == [1]
    assert ns.sql("select id, status from @.instances") == [(h.instance_id, "completed")]
