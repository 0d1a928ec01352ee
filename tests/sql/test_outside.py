"""Workflows in SQL and what others do for them, all of it real: machine, pumps, steps, requests, external steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from e2e.namespace import Namespace, until
from psycopg.types.json import Jsonb

import pgdurable as pgd

QUICK = {"max_attempts": 3, "initial": 0, "jitter": 0}
calls: list[Any] = []


@pytest.fixture
def space(dsn: str, schema: str) -> Iterator[Namespace]:
    calls.clear()
    with Namespace(dsn, schema) as namespace:
        yield namespace


@pgd.step(name="outside price")
async def price(sku: str, cents: int = 1) -> dict[str, Any]:
    calls.append((sku, cents))
    return {"sku": sku, "cents": cents * 2}


@pgd.step(name="outside shaky")
async def shaky(until: int) -> int:
    calls.append("try")
    if len(calls) < until:
        raise pgd.RetryAfter(0.01)
    return len(calls)


@pgd.step(name="outside refuses")
async def refuses() -> None:
    calls.append("no")
    raise pgd.NonRetryable("for good")


def start(space: Namespace, definition: Any, input: Any = None, id: str | None = None) -> str:
    name = f"outside {len(space.sql('select 1 from @.workflows'))}"
    space.sql("select @.define(name => %s, definition => %s)", name, Jsonb(definition))
    return str(space.one("select @.start(%s, %s, id => %s)", name, Jsonb(input or {}), id))


async def ended(space: Namespace, id: str) -> tuple[str, Any, Any]:
    text = "select status, output, error from @.instances where id = @.find_instance(%s)"

    def there() -> Any:
        row = space.sql(text, id)[0]
        return row if row[0] in ("completed", "failed", "cancelled", "timed_out", "paused") else None

    return await until(there, f"{id} ends")


async def output(space: Namespace, id: str) -> Any:
    status, found, error = await ended(space, id)
    assert status == "completed", error
    return found


async def test_a_python_step_between_two_in_sql(space: Namespace) -> None:
    async with space.engine(pumps=2):
        id = start(
            space,
            [
                {"op": "sql", "query": "select 'sku-9' as sku, 21 as cents", "into": "row"},
                {
                    "op": "python",
                    "step": "outside price",
                    "args": {"sku": "$row.sku", "cents": "$row.cents"},
                    "into": "p",
                },
                {"op": "sql", "query": "select $p.cents + 1 as n"},
            ],
        )
        assert (await output(space, id))["rows"] == [{"n": 43}]
    assert calls == [("sku-9", 21)]
    assert space.one("select count(*) from @.tasks") == 0


async def test_the_node_has_the_retry_policy(space: Namespace) -> None:
    async with space.engine(pumps=1):
        id = start(space, {"op": "python", "step": "outside shaky", "args": [3], "retry": {**QUICK, "initial": 60}})
        assert await output(space, id) == 3  # the step said when to try again, not in a minute
        rows = space.sql(
            "select kind, attempt from @.history where instance_id = @.find_instance(%s) order by event_id", id
        )
        assert rows[:3] == [("attempt", 1), ("attempt", 2), ("step", 3)]
        calls.clear()
        id = start(space, {"op": "python", "step": "outside refuses", "retry": QUICK})
        status, _, error = await ended(space, id)
        assert (status, error["message"]) == ("failed", "for good")
        assert calls == ["no"]


async def test_many_at_once_side_by_side(space: Namespace) -> None:
    branches = [{"op": "python", "step": "outside price", "args": [f"sku-{n}", n]} for n in range(20)]
    async with space.engine(pumps=2):
        got = await output(space, start(space, {"op": "parallel", "branches": branches}))
    assert [price["cents"] for price in got] == [2 * n for n in range(20)]
    assert len(calls) == 20


async def test_a_request_with_a_secret_and_data_that_looks_like_one(space: Namespace) -> None:
    seen: list[Any] = []

    async def order(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), await request.json()))
        return web.json_response({"number": len(seen)}, status=200 if len(seen) > 1 else 503)

    app = web.Application()
    app.router.add_post("/order", order)
    async with TestServer(app) as server:
        http = pgd.Http(allow=("127.0.0.0/8",), secrets={"TOKEN": "of-the-bank", "OTHER": "not-asked-for"})
        async with space.engine(pumps=1, http=http):
            id = start(
                space,
                [
                    {
                        "op": "http", "name": "order", "method": "POST", "url": str(server.make_url("/order")),
                        "headers": {"Authorization": {"$secret": "TOKEN", "format": "Bearer {}"}},
                        "body": {"note": "$note", "sku": "$sku"}, "retry": QUICK, "into": "answer",
                    },
                    {"op": "value", "value": "$answer.json"},
                ],
                {"sku": "sku-9", "note": {"$secret": "OTHER"}},
            )  # fmt: skip
            assert await output(space, id) == {"number": 2}
    assert seen == [("Bearer of-the-bank", {"note": {"$secret": "OTHER"}, "sku": "sku-9"})] * 2
    everything = space.one("select string_agg(h::text, ' ') from @.history h")
    assert "of-the-bank" not in everything
    assert "not-asked-for" not in everything


async def test_an_external_step_from_claim_to_end(space: Namespace) -> None:
    async with space.engine(pumps=1):
        id = start(
            space,
            [
                {"op": "external", "name": "sign", "input": {"doc": "$doc"}, "queue": "desk", "into": "signed"},
                {"op": "sql", "query": "select $signed.by as by"},
            ],
            {"doc": 7},
            id="contract/7",
        )
        text = "select id, step, attempt, seq, input from @.claim_external('desk')"
        ((by_id, step, attempt, seq, input),) = await until(lambda: space.sql(text), "there is something to sign")
        assert (by_id, step, attempt, input) == ("contract/7", "sign", 1, {"doc": 7})
        assert space.one(
            'select @.complete_step(%s, %s, \'{"by": "ann"}\', attempt => %s, seq => %s)', by_id, step, attempt, seq
        )
        assert (await output(space, id))["rows"] == [{"by": "ann"}]
        assert not space.one("select @.complete_step(%s, %s, '{}', attempt => %s)", by_id, step, attempt)


async def test_a_failed_external_step_is_tried_again_by_its_policy(space: Namespace) -> None:
    async with space.engine(pumps=1):
        id = start(space, {"op": "external", "name": "print", "retry": {**QUICK, "max_attempts": 2}})
        text = "select id, step, attempt from @.claim_external()"
        for attempt in (1, 2):
            ((_, step, found),) = await until(lambda: space.sql(text), "it can be claimed")
            assert found == attempt
            assert space.one("select @.fail_step(%s, %s, 'no paper', attempt => %s)", id, step, attempt)
        status, _, error = await ended(space, id)
        assert (status, error["message"]) == ("failed", "no paper")


async def test_external_holders_that_die_are_counted_and_are_not_for_ever(space: Namespace) -> None:
    async with space.engine(pumps=1, poll_interval=0.2):
        id = start(space, {"op": "external", "name": "print", "retry": {**QUICK, "max_attempts": 2}})
        text = "select attempt from @.claim_external(lease => '10 milliseconds', holder => 'shaky')"
        await until(lambda: space.sql(text) == [(1,)], "it can be claimed")
        await until(lambda: space.sql(text) == [(2,)], "it can be claimed again")
        status, _, error = await ended(space, id)
        assert (status, error["type"]) == ("failed", "pgdurable.errors.StepInterrupted")
        assert "attempt 2 at shaky" in error["message"]


async def test_the_timeout_of_a_statement_stops_it(space: Namespace) -> None:
    async with space.engine(pumps=1):
        id = start(space, {"op": "sql", "query": "select pg_sleep(60)", "timeout": 0.3, "retry": {"max_attempts": 1}})
        status, _, error = await asyncio.wait_for(ended(space, id), 20)
        assert (status, error["type"]) == ("failed", "pgdurable.errors.StepTimeout")
        # And a cancellation stops one that has none.
        id = start(space, {"op": "sql", "query": "select pg_sleep(60)", "timeout": 50})
        await until(
            lambda: space.one("select count(*) from pg_stat_activity where wait_event = 'PgSleep' and query ~ 'work'"),
            "it runs",
        )
        space.one("select @.cancel(%s)", id)
        status, _, _ = await asyncio.wait_for(ended(space, id), 20)
        assert status == "cancelled"


async def test_a_pump_that_is_asked_to_leave_does_so(space: Namespace) -> None:
    with psycopg.connect(space.dsn, autocommit=True) as conn:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(None, conn.execute, f"call {space.schema}.work(max_time => '1 hour', wait => true)")
        await until(lambda: space.one("select count(*) from @.workers where state = 'alive'"), "it has joined")
        space.sql("update @.workers set state = 'draining'")
        await asyncio.wait_for(call, 20)
    assert space.one("select count(*) from @.workers where state in ('alive', 'draining')") == 0


async def test_waiting_for_the_end_in_sql(space: Namespace) -> None:
    async with space.engine(pumps=1):
        id = start(space, {"op": "sql", "query": "select 1 as n"})
        loop = asyncio.get_running_loop()
        with psycopg.connect(space.dsn, autocommit=True) as conn:
            cursor = await loop.run_in_executor(None, conn.execute, f"select {space.schema}.wait('{id}', '20 seconds')")
            assert cursor.fetchone() == ("completed",)
