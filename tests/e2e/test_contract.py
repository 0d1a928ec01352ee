"""The contract as it is printed: the example, what is stored, what time and chance are in a workflow."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until


@pgd.step(retry=pgd.Retry(max_attempts=5, initial=0.1, multiplier=2.0, max_interval=30, jitter=0.1), timeout=10)
async def reserve(sku: str, n: int) -> str:
    return f"{n} x {sku}"


@pgd.transaction
async def debit(tx: psycopg.AsyncConnection, account: int, cents: int) -> int:
    schema = (await (await tx.execute("select current_setting('test.schema')")).fetchone())[0]
    cursor = await tx.execute(
        f"update {schema}.accounts set cents = cents - %s where id = %s returning cents", (cents, account)
    )
    (left,) = await cursor.fetchone()
    return left


@pgd.workflow(name="checkout", version="1")
async def checkout(order: str, sku: str, cents: int) -> dict:
    stock, left = await asyncio.gather(reserve(sku, 1), debit(7, cents))  # plain asyncio, durable
    await asyncio.sleep(0.05)  # durable timer
    ok = await pgd.wait_signal("approval", timeout=3600)  # raises TimeoutError
    return {"stock": stock, "left": left, "at": pgd.now().isoformat(), "id": str(pgd.uuid4()), "ok": ok}


async def test_the_printed_example_runs(ns: Namespace) -> None:
    ns.sql("create table @.accounts (id int primary key, cents int)")
    ns.sql("insert into @.accounts values (7, 10000)")
    dsn = psycopg.conninfo.make_conninfo(ns.dsn, options=f"-c test.schema={ns.schema}")

    async with pgd.Engine(dsn, schema=ns.schema) as engine:
        h = await engine.start(checkout, "o-1", "sku-9", 4200, id="order/o-1")
        again = await engine.start(checkout, "o-1", "sku-9", 4200, id="order/o-1")
        await h.signal("approval", {"by": "ann"})
        result = await h.result(timeout=60)

        assert (h.id, again.instance_id, await h.status()) == ("order/o-1", h.instance_id, "completed")
        assert (result["stock"], result["left"], result["ok"]) == ("1 x sku-9", 5800, {"by": "ann"})
        assert uuid.UUID(result["id"]).version == 4
        assert datetime.fromisoformat(result["at"]).tzinfo is not None

        async with pgd.Client(dsn, schema=ns.schema) as client:
            h = await client.start("checkout", "o-2", "sku-9", 100)
            await h.signal("approval")
            assert (await h.result(timeout=60))["left"] == 5700
            entries = [entry async for entry in h.history()]
            broken = await client.start("checkout", "o-3")
            await status_is(broken, "failed")
            failed = [row async for row in client.list(status="failed", workflow="checkout", limit=50)]
    assert [entry.kind for entry in entries if entry.kind != "signal"] == [
        "started", "step", "step", "timer", "completed",
    ]  # fmt: skip
    assert {entry.name for entry in entries if entry.kind == "step"} == {"reserve", "debit"}
    assert [row.instance_id for row in failed] == [broken.instance_id]
    assert ns.one("select cents from @.accounts") == 5700


async def test_the_default_is_every_workflow_the_process_has_imported(ns: Namespace) -> None:
    async with pgd.Engine(ns.dsn, schema=ns.schema) as engine:
        names = ns.one("select jsonb_path_query_array(workflows, '$[*].name') from @.workers")
        assert "checkout" in names
        assert ns.one("select count(*) from @.workflows where name = 'checkout' and version = '1'") == 1
        assert engine.metrics()["instances"] == 0


async def test_an_engine_migrates_when_asked_to(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[bound], migrate=True) as engine:
        assert await (await engine.start(bound, 1)).result(timeout=20) == [1, 2, [], 3, {}]


# --- arguments ----------------------------------------------------------------------------------------------------


@pgd.workflow
async def bound(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> list:
    return [a, b, list(rest), c, more]


async def test_input_is_stored_as_an_object_by_parameter_name(ns: Namespace) -> None:
    async with ns.engine(bound) as engine:
        h = await engine.start(bound, 1, 5, 6, kwargs={"c": 9, "x": 8})
        assert await h.result(timeout=20) == [1, 5, [6], 9, {"x": 8}]
        assert ns.instance(h, "input") == {"a": 1, "b": 5, "rest": [6], "c": 9, "more": {"x": 8}}
        # Defaults are the code's of the day it runs, not the start's: they are not stored.
        h = await engine.start(bound, kwargs={"a": 1})
        assert await h.result(timeout=20) == [1, 2, [], 3, {}]
        assert ns.instance(h, "input")["a"] == 1


async def test_started_by_name_without_the_code_the_input_is_a_list_and_the_worker_binds_it(ns: Namespace) -> None:
    async with ns.client() as client:
        h = await client.start("bound", 1, 5)
        by_name = await client.start("bound", kwargs={"a": 7, "c": 1})
        assert ns.instance(h, "input") == [1, 5]
        assert ns.instance(by_name, "input") == {"a": 7, "c": 1}
        async with ns.engine(bound):
            assert await h.result(timeout=20) == [1, 5, [], 3, {}]
            assert await by_name.result(timeout=20) == [7, 2, [], 1, {}]


@pgd.workflow
async def has_an_id(id: str, version: int, *, queue: str) -> str:
    return f"{id} {version} {queue}"


async def test_the_options_of_start_do_not_shadow_parameters_of_the_same_name(ns: Namespace) -> None:
    async with ns.engine(has_an_id) as engine:
        h = await engine.start(has_an_id, "mine", 3, kwargs={"queue": "q"}, id="theirs")
        assert (h.id, await h.result(timeout=20)) == ("theirs", "mine 3 q")


# --- time and chance ----------------------------------------------------------------------------------------------


@pgd.step
async def nothing() -> None:
    pass


seen: list[list[str]] = []


@pgd.workflow
async def times() -> list[str]:
    log = [pgd.now().isoformat(), str(pgd.uuid4()), repr(pgd.random())]
    await nothing()
    log += [pgd.now().isoformat(), str(pgd.uuid4()), repr(pgd.random())]
    await asyncio.sleep(0.01)
    log += [pgd.now().isoformat(), pgd.now().isoformat()]
    seen.append(log)
    await pgd.wait_signal("go")
    return [*log, pgd.now().isoformat()]


async def test_now_is_the_database_time_of_the_event_and_costs_no_row(ns: Namespace) -> None:
    seen.clear()
    async with ns.engine(times) as engine:
        h = await engine.start(times)
        await h.signal("go")
        result = await h.result(timeout=20)
        assert [kind for (kind,) in ns.history(h, "kind") if kind != "signal"] == ["step", "timer"]
        at = dict(ns.history(h, "kind, recorded_at"))
        begun = await h.describe()

    def iso(moment: datetime) -> str:
        return moment.astimezone(datetime.fromisoformat(result[0]).tzinfo).isoformat()

    assert result[0] == iso(begun.started_at or begun.created_at)
    assert (result[3], result[6], result[7]) == (iso(at["step"]), iso(at["timer"]), iso(at["timer"]))
    assert result[8] == iso(max(at["signal"], at["timer"]))
    assert len({result[1], result[4], result[2], result[5]}) == 4


async def test_a_workflow_without_steps_has_no_history(ns: Namespace) -> None:
    @pgd.workflow
    async def only_chance() -> list:
        return [pgd.now().isoformat(), str(pgd.uuid4()), pgd.random()]

    async with ns.engine(only_chance) as engine:
        h = await engine.start(only_chance)
        await h.result(timeout=20)
        assert ns.history(h) == []


async def test_time_and_chance_are_the_same_in_replay(ns: Namespace) -> None:
    seen.clear()
    async with ns.engine(times) as engine:
        h = await engine.start(times)
        await until(lambda: seen, "the first run has come to its wait")
    async with ns.engine(times), ns.client() as client:
        await client.signal(h.id, "go")
        result = await (await client.get(h.id)).result(timeout=20)
    assert len(seen) == 2
    assert seen[0] == seen[1] == result[:-1]


async def test_time_and_chance_are_the_same_after_parking(ns: Namespace) -> None:
    seen.clear()
    async with ns.engine(times, park_after=0.05) as engine:
        h = await engine.start(times)
        await status_is(h, "waiting")
        await h.signal("go")
        result = await h.result(timeout=20)
    assert seen[0] == seen[1] == result[:-1]


async def test_two_instances_do_not_share_their_chance(ns: Namespace) -> None:
    seen.clear()
    async with ns.engine(times) as engine:
        for _ in range(2):
            await (await engine.start(times)).signal("go")
        await until(lambda: len(seen) == 2, "both have drawn")
    assert seen[0][1] != seen[1][1]
    assert seen[0][2] != seen[1][2]


async def test_outside_workflows_time_and_chance_are_plain() -> None:
    assert pgd.now().tzinfo is not None
    assert pgd.uuid4() != pgd.uuid4()
    assert 0 <= pgd.random() < 1
    await pgd.sleep(0)
    with pytest.raises(pgd.PgDurableError, match="outside workflow code"):
        await pgd.wait_signal("x")
