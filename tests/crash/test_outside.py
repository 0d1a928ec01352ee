"""kill -9 of a worker while it runs what a workflow in SQL asked for: the call was known before it left, and is made
again or, as at_most_once, never; what a pump was doing is undone and done by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from e2e.namespace import Namespace, until
from psycopg.types.json import Jsonb

import pgdurable as pgd

ROOT = Path(__file__).parents[2]
HTTP = pgd.Http(allow=("127.0.0.0/8",))
ENDS = ("completed", "failed", "cancelled", "timed_out")


@pytest.fixture
def space(dsn: str, schema: str) -> Iterator[Namespace]:
    with Namespace(dsn, schema) as namespace:
        yield namespace


@contextlib.asynccontextmanager
async def worker(space: Namespace, pumps: int = 0) -> AsyncIterator[asyncio.subprocess.Process]:
    package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"{package}.outside_worker", space.dsn, space.schema, str(pumps), cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def start(space: Namespace, definition: Any) -> str:
    """An instance of a workflow of its own."""
    space.sql("select @.define(name => 'crash outside', definition => %s)", Jsonb(definition))
    return str(space.one("select @.start('crash outside')"))


async def ended(space: Namespace, id: str) -> tuple[str, Any, Any]:
    text = "select status, output, error from @.instances where id = @.find_instance(%s)"
    return await until(lambda: next((row for row in space.sql(text, id) if row[0] in ENDS), None), "it ends", 60)


@pytest.mark.parametrize("once", [False, True])
async def test_a_request_in_flight(space: Namespace, once: bool) -> None:
    arrived: list[str] = []
    answers = asyncio.Event()

    async def pay(request: web.Request) -> web.Response:
        arrived.append(request.headers["Idempotency-Key"])
        await answers.wait()
        return web.json_response({"paid": len(arrived)})

    app = web.Application()
    app.router.add_post("/pay", pay)
    async with TestServer(app) as server:
        try:
            node = {
                "op": "http",
                "name": "pay",
                "method": "POST",
                "url": str(server.make_url("/pay")),
                "at_most_once": once,
            }
            id = start(space, node)
            space.sql("call @.work('5 s')")
            async with worker(space) as process:
                await until(lambda: arrived, "the request has left", 60)
                process.kill()
                await process.wait()
            # The call is known: which, of which instance, since when, by whom.
            ((name, attempt, known),) = space.sql(
                "select name, attempt, owner is not null and taken_at is not null from @.tasks"
            )
            assert (name, attempt, known) == ("pay", 1, True)
            answers.set()
            async with space.engine(pumps=1, http=HTTP, lease=2, poll_interval=0.1):
                status, output, error = await ended(space, id)
        finally:
            answers.set()
    if once:
        assert len(arrived) == 1
        assert (status, error["type"]) == ("failed", "pgdurable.errors.StepInterrupted")
        assert "as at_most_once it is not repeated" in error["message"]
    else:
        assert (status, output["json"]) == ("completed", {"paid": 2})
        assert len(arrived) == 2
        assert len(set(arrived)) == 1  # the other side can tell that it is the same
        assert space.one("select attempt from @.history where kind = 'step' and name = 'pay'") == 2


async def test_a_python_step_in_flight(space: Namespace) -> None:
    id = start(space, {"op": "python", "step": "crash outside", "args": [7]})
    space.sql("call @.work('5 s')")
    async with worker(space) as process:
        await until(lambda: space.one("select details from @.tasks") == {"n": 7}, "it runs", 60)
        process.kill()
        await process.wait()
    seen: list[Any] = []

    async def again(n: int) -> int:
        seen.append(pgd.heartbeat_details())
        return n + 1

    step = pgd.step(name="crash outside")(again)
    async with space.engine(pumps=1, lease=2, poll_interval=0.1):
        assert (await ended(space, id))[:2] == ("completed", 8)
    assert seen == [{"n": 7}]
    assert step.name == "crash outside"


async def test_a_step_that_kills_every_worker_ends_by_its_policy(space: Namespace) -> None:
    id = start(
        space, {"op": "python", "step": "crash outside", "args": [1], "retry": {"max_attempts": 2, "initial": 0}}
    )
    space.sql("call @.work('5 s')")
    for attempt in (1, 2):
        async with worker(space) as process:
            taken = f"select owner is not null and attempt = {attempt} from @.tasks"
            await until(partial(space.one, taken), f"attempt {attempt} runs", 60)
            process.kill()
    async with space.engine(pumps=1, lease=2, poll_interval=0.1):
        status, _, error = await ended(space, id)
    assert (status, error["type"]) == ("failed", "pgdurable.errors.StepInterrupted")
    assert "attempt 2) when its worker was lost; that was its last attempt" in error["message"]


async def test_pumps_of_a_killed_worker(space: Namespace) -> None:
    """Its sessions end with it, in the middle of a step: that is undone, and another pump goes on."""
    space.sql("create table @.ledger (word text)")
    steps = [
        f"insert into {space.schema}.ledger values ('first')",
        f"insert into {space.schema}.ledger select 'second' from pg_sleep(case when exists ("
        f"select from {space.schema}.ledger where word = 'quick') then 0 else 600 end)",
    ]
    id = start(space, steps)
    async with worker(space, pumps=2) as process:
        asleep = (
            "select array_agg(pid) from pg_stat_activity where wait_event = 'PgSleep' and application_name like 'pgd%%'"
            " and datname = current_database()"
        )
        pids = await until(lambda: space.one(asleep), "the second step runs", 60)
        process.kill()
        await process.wait()
    space.sql("insert into @.ledger values ('quick')")
    gone = "select count(*) = 0 from pg_stat_activity where pid = any (%s)"
    await until(lambda: space.one(gone, pids), "the sessions notice that their client is gone", 60)
    async with space.engine(pumps=1, lease=2, poll_interval=0.1):
        assert (await ended(space, id))[0] == "completed"
    words = [word for (word,) in space.sql("select word from @.ledger where word <> 'quick' order by 1")]
    assert words == ["first", "second"]
