"""Ids and the partitions of history: whatever a client's clock says, an instance's history has its place."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.errors import PgDurableError

from .namespace import Namespace, until


@pgd.step
async def double(n: int) -> int:
    return 2 * n


@pgd.workflow(name="doubles")
async def doubles(n: int) -> int:
    return await double(n)


def year_of(id: uuid.UUID) -> int:
    return datetime.fromtimestamp((id.int >> 80) / 1000, timezone.utc).year


def ahead(days: float) -> uuid.UUID:
    at = datetime.now(timezone.utc) + timedelta(days=days)
    return uuid.UUID(int=(int(at.timestamp() * 1000) << 80) | 7 << 76 | 2 << 62 | uuid.uuid4().int & ((1 << 62) - 1))


@pytest.mark.parametrize("wrong", [0, 1_000_000_000, 4_000_000_000])
async def test_ids_go_by_the_databases_clock(ns: Namespace, monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: wrong * 1_000_000_000)
    monkeypatch.setattr(time, "time", lambda: float(wrong))
    now = ns.one("select extract(year from now())::int")
    async with ns.engine(doubles) as engine, ns.client() as client:
        handles = [
            await engine.start(doubles, 1),
            await engine.start(doubles, 1, id="mine"),
            *await engine.start_many(doubles, [1, 1]),
            *await client.start_many(doubles, [1, 1]),
            *await client.start_many(doubles, {"n": memoryview(bytearray(16)).cast("q")}),
        ]
        for handle in handles:
            assert year_of(handle.instance_id) == now
            await handle.result(timeout=20)
    ids = [handle.instance_id for handle in handles]
    assert ns.one("select count(*) from @.history") == len(ids)
    assert ns.one("select count(*) from @.history_partitions") == 5


async def test_an_instance_of_years_ahead_runs_and_one_too_many_is_paused(ns: Namespace) -> None:
    insert = "insert into @.instances (id, workflow, input) values (%s, 'doubles', '[1]')"
    ids = [ahead(1000 + 20 * n) for n in range(21)]
    for id in ids:
        ns.sql(insert, id)
    async with ns.engine(doubles, poll_interval=0.05) as engine:
        statuses = "select status, count(*) from @.instances group by 1 order by 1"
        await until(lambda: ns.sql(statuses) == [("completed", 20), ("paused", 1)], "all but one have run")
        (error,) = (row[0] for row in ns.sql("select error from @.instances where status = 'paused'"))
        assert "for which there is no partition" in error["message"]
        assert "clock" in error["hint"]
        # Others are not disturbed.
        assert await (await engine.start(doubles, 2)).result(timeout=20) == 4


async def test_a_start_whose_history_would_have_no_partition_is_refused_until_it_has_one(ns: Namespace) -> None:
    async with ns.engine(doubles) as engine:
        upkeep = engine._worker.upkeep
        upkeep.end = ahead(-1).bytes  # as if the database's clock had leapt ahead of the partitions
        for start in (lambda: engine.start(doubles, 1), lambda: engine.start(doubles, 1, id="x"),
                      lambda: engine.start_many(doubles, [1])):  # fmt: skip
            with pytest.raises(PgDurableError, match=r"nothing can be started at .* the database's clock") as refused:
                await start()
            assert "partitions are being made" in (refused.value.hint or "")
            upkeep.end = ahead(-1).bytes
        assert ns.one("select count(*) from @.instances") == 0

        async def works() -> Any:
            try:
                return await engine.start(doubles, 3)
            except PgDurableError:
                return None

        handle = await until(works, "the refused start has had partitions made")
        assert await handle.result(timeout=20) == 6


async def test_a_worker_that_joins_after_weeks_without_one_runs_what_was_started_meanwhile(ns: Namespace) -> None:
    for (name,) in ns.sql("select name from @.history_partitions"):
        ns.sql(f"drop table @.{name}")
    ns.sql("select @.make_partition(null, @.id_at(date_bin('7 days', now() - interval '60 days', '2001-01-01Z')))")
    started = [ahead(-30), ahead(-10), ns.one("select @.new_id()")]
    for id in started:
        ns.sql("insert into @.instances (id, workflow, input) values (%s, 'doubles', '[1]')", id)
    async with ns.engine(doubles):
        await until(lambda: ns.sql("select distinct status from @.instances") == [("completed",)], "all have run")
    assert ns.one("select count(distinct tableoid) from @.history") == 3
