"""Limits hold over all processes while workers are killed: a trigger looks at every claim. Nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg

import pgdurable as pgd
from pgdurable._store.migrations import migrate

from .queue_worker import mail, together

ROOT = Path(__file__).parents[2]
WORKERS = 3
JOBS = 60
INPUTS = 120

# Whoever takes an instance does so in a transaction that holds the line, so this sees all that is held.
WITNESS = """
create table @.excess (what text, n bigint, at timestamptz default clock_timestamp());
create function @.witness() returns trigger language plpgsql as $$
begin
    insert into @.excess (what, n)
    select w.what, w.n
      from (select 'all' as what, count(*) as n, 6 as most from @.instances where queue = 'mail' and owner is not null
            union all
            select 'worker ' || owner, count(*), 3 from @.instances
             where queue = 'mail' and owner is not null group by owner
            union all
            select 'partition ' || partition, count(*), 2 from @.instances
             where queue = 'mail' and owner is not null and partition <> '' group by partition) w
     where w.n > w.most;
    return null;
end $$;
create trigger witness after update of owner on @.instances for each statement execute function @.witness()
"""


@contextlib.asynccontextmanager
async def killed_again_and_again(dsn: str, schema: str, chance: random.Random) -> AsyncIterator[list[int]]:
    """Worker processes, each killed a while after it has begun to work, and started anew."""
    deaths: list[int] = []

    async def one() -> None:
        while True:
            package = __package__ if __package__.startswith("tests.") else f"tests.{__package__}"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"{package}.queue_worker", dsn, schema, cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                await process.stdout.readline()  # it runs a step
                lives = chance.uniform(0.1, 2.0) if len(deaths) < 6 else 600.0
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(process.wait(), lives)
            finally:
                if process.returncode is None:
                    process.kill()
                    deaths.append(process.pid)
                await process.wait()

    tasks = [asyncio.ensure_future(one()) for _ in range(WORKERS)]
    try:
        yield deaths
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_limits_hold_while_workers_are_killed(dsn: str, schema: str, seed: int) -> None:
    migrate(dsn, schema)
    async with (
        pgd.Client(dsn, schema=schema) as client,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn,
    ):
        for text in WITNESS.split(";\n" + "create"):
            text = text if text.lstrip().startswith("create") else "create" + text
            await conn.execute(text.replace("@", schema))
        await client.queues.set(
            "mail", concurrency=6, worker_concurrency=3, partition_concurrency=2, rate=(20, 1), partition_rate=(8, 1)
        )
        jobs = []
        for tenant in "abcdef":
            numbers = [(n,) for n in range(JOBS // 6)]
            jobs += await client.start_many(mail, numbers, queue="mail", partition=tenant)
        async with killed_again_and_again(dsn, schema, random.Random(seed)) as deaths:
            batches = []
            for n in range(0, INPUTS, 2):
                batches.append(await client.start(together, n, queue="mail"))
                batches += await client.start_many(together, [n + 1], queue="mail")
                await asyncio.sleep(0.02)
            results = await asyncio.wait_for(asyncio.gather(*[handle.result() for handle in jobs]), 150)
            gathered = {handle.instance_id: handle for handle in batches}
            lists = await asyncio.wait_for(asyncio.gather(*[handle.result() for handle in gathered.values()]), 60)
        assert len(deaths) >= 3
        assert sorted(results) == sorted(n for n in range(JOBS // 6) for _ in range(6))
        assert sorted(number for numbers in lists for number in numbers) == list(range(INPUTS))

        async def rows(text: str) -> list[tuple[object, ...]]:
            return await (await conn.execute(text.replace("@", schema))).fetchall()

        assert await rows("select what, n from @.excess") == []
        # Some were taken over, which is what this is about.
        assert (await rows("select count(*) > 0 from @.instances where takeovers > 0")) == [(True,)]
        window = (
            "select coalesce(max(n), 0) from (select count(*) over (%s order by started_at"
            " range between interval '0.999999 s' preceding and current row) as n from @.instances where %s) w"
        )
        assert (await rows(window % ("", "queue = 'mail'")))[0][0] <= 20  # type: ignore[operator]
        of_each = await rows(window % ("partition by partition", "partition <> ''"))
        assert of_each[0][0] <= 8  # type: ignore[operator]
        assert await rows("select count(*) from @.instances where queue = 'mail' and owner is not null") == [(0,)]
