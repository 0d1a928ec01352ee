"""Client and Handle: reading instances, their results and histories, from programs that execute nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from datetime import timedelta

import pytest

import pgdurable as pgd
from pgdurable._engine.connections import resolve_dsn

from .namespace import Namespace, until


@dataclasses.dataclass
class Receipt:
    number: int
    at: timedelta


@pgd.step(retry=pgd.Retry(max_attempts=2, initial=0.0))
async def half(n: int) -> int:
    if n % 2:
        raise ValueError("odd")
    return n // 2


@pgd.workflow
async def receipts(n: int) -> Receipt:
    return Receipt(await half(n), timedelta(seconds=n))


@pgd.workflow
async def waits_for_go() -> str:
    return await pgd.wait_signal("go")


async def test_a_client_executes_nothing(ns: Namespace) -> None:
    async with ns.client() as client:
        h = await client.start(receipts, 4)
        with pytest.raises(TimeoutError):
            await h.result(timeout=0.1)
        assert await h.status() == "pending"
        assert ns.one("select count(*) from @.workers") == 0


async def test_results_have_the_annotated_type(ns: Namespace) -> None:
    async with ns.engine(receipts), ns.client() as client:
        h = await client.start(receipts, 4)
        assert await h.result(timeout=timedelta(seconds=20)) == Receipt(2, timedelta(seconds=4))
        assert await (await client.get(h.id)).result(timeout=20) == {"number": 2, "at": "PT4S"}
        assert await (await client.get(h.id, type=Receipt)).result(timeout=20) == Receipt(2, timedelta(seconds=4))
        assert await (await client.get(h.instance_id)).result(timeout=20) == {"number": 2, "at": "PT4S"}


async def test_a_result_may_be_asked_for_by_many_at_once_and_again(ns: Namespace) -> None:
    async with ns.engine(waits_for_go) as engine, ns.client() as client:
        h = await engine.start(waits_for_go)
        away = await client.get(h.id)
        asked = [asyncio.ensure_future(one.result(timeout=20)) for one in (h, h, away, away)]
        with pytest.raises(TimeoutError):
            await away.result(timeout=0.05)
        await away.signal("go", "ok")
        assert await asyncio.gather(*asked) == ["ok"] * 4
        assert [await one.result() for one in (h, away)] == ["ok"] * 2


async def test_a_failed_instance_says_how_it_failed(ns: Namespace) -> None:
    async with ns.engine(receipts), ns.client() as client:
        h = await client.start(receipts, 3, id="odd one")
        with pytest.raises(pgd.InstanceFailed) as failed:
            await h.result(timeout=20)
        error = failed.value
        assert (error.id, error.status, error.type) == ("odd one", "failed", "builtins.ValueError")
        first, last = str(error).splitlines()
        assert first == "instance odd one ended failed: ValueError: odd"
        assert last.startswith("pgdurable show ")
        assert "odd one" in last
        info = await h.describe()
        assert (info.status, info.error["type"], info.output) == ("failed", "builtins.ValueError", None)


async def test_history_is_readable_from_start_to_end(ns: Namespace) -> None:
    async with ns.engine(receipts), ns.client() as client:
        good, bad = await client.start(receipts, 4), await client.start(receipts, 3)
        await good.result(timeout=20)
        with pytest.raises(pgd.InstanceFailed):
            await bad.result(timeout=20)
        first, step, last = [entry async for entry in good.history()]
        assert (first.kind, first.name, first.value) == ("started", "receipts", {"n": 4})
        assert (step.kind, step.name, step.attempt, step.seq, step.value, step.error) == ("step", "half", 1, 0, 2, None)
        assert (last.kind, last.value) == ("completed", {"number": 2, "at": "PT4S"})
        assert first.at <= step.at <= last.at
        assert step.elapsed_ms >= 0
        assert first.event_id < step.event_id < last.event_id
        entries = [entry async for entry in bad.history()]
        assert [(entry.kind, entry.attempt) for entry in entries] == [
            ("started", None), ("attempt", 1), ("step", 2), ("failed", None),
        ]  # fmt: skip
        assert [entry.error["message"] for entry in entries[1:]] == ["odd"] * 3


async def test_a_long_history_comes_in_pages(ns: Namespace) -> None:
    @pgd.workflow
    async def long(n: int) -> None:
        await asyncio.gather(*(half(2 * i) for i in range(n)))

    async with ns.engine(long) as engine:
        h = await engine.start(long, 2500)
        await h.result(timeout=60)
        entries = [entry async for entry in h.history()]
    assert [entry.event_id for entry in entries] == list(range(2502))


async def test_list_filters_and_pages_newest_first(ns: Namespace) -> None:
    async with ns.engine(receipts) as engine, ns.client() as client:
        done = await client.start_many(receipts, [(2 * n,) for n in range(1203)])
        await asyncio.gather(*(h.result(timeout=60) for h in done))
        bad = await engine.start(receipts, 1, id="bad")
        with pytest.raises(pgd.InstanceFailed):
            await bad.result(timeout=20)
        waiting = await client.start("nobody_knows_it")

        async def listed(**filters: object) -> list[uuid.UUID]:
            return [row.instance_id async for row in client.list(**filters)]

        newest_first = [waiting.instance_id, bad.instance_id, *(h.instance_id for h in reversed(done))]
        assert await listed(limit=None) == newest_first
        assert await listed() == newest_first[:100]
        assert await listed(limit=1100, status="completed") == newest_first[2:1102]
        assert await listed(status="failed", workflow="receipts", limit=50) == [bad.instance_id]
        assert await listed(workflow=receipts, limit=2) == newest_first[1:3]
        assert await listed(workflow="nobody_knows_it") == [waiting.instance_id]
        assert await listed(status="cancelled") == await listed(limit=0) == []
        (row,) = [row async for row in client.list(status="failed")]
        assert (row.id, row.workflow, row.version, row.input) == ("bad", "receipts", "1", None)


async def test_ids_that_name_nothing(ns: Namespace) -> None:
    async with ns.client() as client:
        for id in ("nobody", str(uuid.uuid4()), "", "'; drop table"):
            with pytest.raises(pgd.InstanceNotFound, match="no instance has the id"):
                await client.get(id)


async def test_a_user_s_id_goes_before_a_uuid(ns: Namespace) -> None:
    async with ns.engine(waits_for_go) as engine:
        first = await engine.start(waits_for_go)
        second = await engine.start(waits_for_go, id=str(first.instance_id))
        assert (await engine.get(str(first.instance_id))).instance_id == second.instance_id


async def test_closed_faces_say_how_to_open_them(ns: Namespace) -> None:
    for face in (ns.client(), ns.engine(receipts)):
        for _ in range(2):
            with pytest.raises(pgd.PgDurableError, match=f"this {type(face).__name__} is not open"):
                await face.start(receipts, 1)
            with pytest.raises(pgd.PgDurableError, match="is not open"):
                await face.get("x")
            await face.open()
            await face.close()
            await face.close()


async def test_opening_twice_is_opening_once(ns: Namespace) -> None:
    async with ns.engine(receipts) as engine:
        await engine.open()
        assert ns.one("select count(*) from @.workers") == 1
        assert await (await engine.start(receipts, 2)).result(timeout=20) == Receipt(1, timedelta(seconds=2))


async def test_an_engine_opens_again_after_it_was_closed(ns: Namespace) -> None:
    engine = ns.engine(receipts)
    for n in range(3):
        async with engine:
            assert (await (await engine.start(receipts, 2 * n)).result(timeout=20)).number == n
    assert ns.sql("select state, count(*) from @.workers group by 1") == [("stopped", 3)]


async def test_leaving_an_engine_ends_its_connections(ns: Namespace) -> None:
    count = "select count(*) from pg_stat_activity where application_name = %s"
    name = f"app {ns.schema}"
    dsn = resolve_dsn(ns.dsn, application=name)
    async with pgd.Engine(dsn, schema=ns.schema, workflows=[receipts]) as engine:
        await (await engine.start(receipts, 2)).result(timeout=20)
        assert ns.one(count, name) >= 2
    await until(lambda: ns.one(count, name) == 0, "no connection is left")


async def test_waiting_for_a_result_ends_with_its_client(ns: Namespace) -> None:
    async with ns.engine(waits_for_go):
        client = ns.client()
        await client.open()
        h = await client.start(waits_for_go)
        waiting = asyncio.ensure_future(h.result())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
