"""An instance that kills its worker each time is set aside; whatever ran beside it is not."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable import sync
from pgdurable._store.migrations import migrate

ROOT = Path(__file__).parents[2]


class Fleet:
    """Worker processes that are started again whenever they die."""

    def __init__(self, dsn: str, schema: str, most: int, *more: str) -> None:
        self.command = [sys.executable, "-m", "tests.crash.poisoned", dsn, schema, str(most), *more]
        self.deaths: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def run_one(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(*self.command, cwd=ROOT)
            try:
                self.deaths.append(await process.wait())
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


@contextlib.asynccontextmanager
async def fleet(dsn: str, schema: str, *more: str, workers: int = 1, most: int = 5) -> AsyncIterator[Fleet]:
    made = Fleet(dsn, schema, most, *more)
    made.tasks = [asyncio.ensure_future(made.run_one()) for _ in range(workers)]
    try:
        yield made
    finally:
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


async def until(client: pgd.Client, text: str, found: Any, timeout: float = 90.0) -> None:
    """Waits until the query finds this; on the way nobody but poison may be set aside."""
    names = f"set search_path = {client.schema}"
    async with await psycopg.AsyncConnection.connect(client._database.dsn, autocommit=True) as conn:
        await conn.execute(names)
        end = asyncio.get_running_loop().time() + timeout
        while True:
            blamed = await (
                await conn.execute("select id from instances where status = 'paused' and workflow <> 'poison'")
            ).fetchall()
            assert not blamed
            rows = await (await conn.execute(text)).fetchall()
            if rows == found:
                return
            if asyncio.get_running_loop().time() > end:
                state = await (
                    await conn.execute(
                        "select workflow, input ->> 'how', status, strikes, takeovers, owner, count(*) from instances"
                        " group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3"
                    )
                ).fetchall()
                pytest.fail(f"not within {timeout} s: {found}, but {rows}; {state}")
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["exit", "hang"])
async def test_poison_is_set_aside_and_nothing_else(dsn: str, schema: str, how: str) -> None:
    migrate(dsn, schema)
    async with pgd.Client(dsn, schema=schema) as client:
        await client.start_many("honest", [(0.0,)] * 18 + [(1.5,)] * 2)
        bad = await client.start("poison", how)
        await client.start_many("honest", [(1.5,)] * 2 + [(0.0,)] * 18)
        waiting = await client.start("patient")
        async with fleet(dsn, schema, workers=2 if how == "hang" else 1) as workers:
            await until(client, "select status from instances where workflow = 'poison'", [("paused",)])
            if how != "hang":
                assert len(workers.deaths) == 5
            await until(client, "select count(*) from instances where status = 'completed'", [(40,)])
            await waiting.signal("go", "on")
            assert await waiting.result(timeout=30) == "on"

            with pytest.raises(pgd.Quarantined, match=r"each of the last 5 workers .* died") as told:
                await bad.result(timeout=10)
            assert f"pgdurable retry {bad.id}" in str(told.value)
        async with fleet(dsn, schema, "cured") as workers:
            assert await bad.retry()
            assert await bad.result(timeout=30) == "cured"
            assert not workers.deaths
        assert not await bad.retry()


async def test_many_poisons_on_several_workers(dsn: str, schema: str) -> None:
    """Six of them among 60 others: each worker dies again and again, and still only they are set aside."""
    migrate(dsn, schema)
    async with pgd.Client(dsn, schema=schema) as client:
        await client.start_many("honest", [(0.0,)] * 27 + [(1.0,)] * 3)
        await client.start_many("poison", [(how,) for how in ("exit", "segfault", "thread", "later", "exit", "later")])
        await client.start_many("honest", [(0.0,)] * 27 + [(1.0,)] * 3)
        async with fleet(dsn, schema, workers=2, most=4) as workers:
            await until(
                client, "select status, count(*) from instances group by 1 order by 1",
                [("completed", 60), ("paused", 6)], timeout=150,
            )  # fmt: skip
            assert len(workers.deaths) <= 6 * 4


async def test_deaths_it_got_on_between_do_not_count(dsn: str, schema: str) -> None:
    """Workers that die for reasons of their own, however often, blame nobody that gets on."""
    migrate(dsn, schema)
    with sync.Client(dsn, schema=schema) as client:
        handle = client.start("w")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"set search_path = {schema}")
            for event in range(1, 12):
                worker = conn.execute("select join_worker('w', '[]', '1 min')").fetchone()[0]  # type: ignore[index]
                text = "select strikes, trial from claim(%s, '{w}', '{1}', '{t}', 9)"
                rows = conn.execute(text, (worker,)).fetchall()
                assert rows == [(min(event - 1, 1), None)]
                conn.execute(
                    "insert into history (instance_id, event_id, seq, kind, name) values (%s, %s, %s, 'step', 's')",
                    (handle.instance_id, event, event),
                )
                assert conn.execute("select take_over(%s, 0, null)", (worker,)).fetchone() == (True,)
        assert handle.describe().takeovers == 10
