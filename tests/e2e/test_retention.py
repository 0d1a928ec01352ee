"""Retention: what ended long ago leaves, all of it and nothing else, and nobody waits for that."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine import sweeper
from pgdurable._engine.connections import close_pool, make_pool
from pgdurable._engine.sweeper import Sweeper

from .namespace import Namespace, until

TABLES = ("instances", "instance_keys", "history", "events")


@pytest.fixture
async def pool(ns: Namespace) -> AsyncIterator[Any]:
    pool = await make_pool(ns.dsn, max_size=2)
    yield pool
    await close_pool(pool)


@pytest.fixture
def sweep(ns: Namespace, pool: Any) -> Any:
    return Sweeper(pool, ns.schema, hurry=True).sweep


@pytest.fixture
def past(ns: Namespace) -> None:
    """Partitions by weeks for the last ten weeks, as if workers had been here all along."""
    for (name,) in ns.sql("select name from @.history_partitions"):
        ns.sql(f"drop table @.{name}")
    ns.sql("select @.make_partition(null, @.id_at(date_bin('7 days', now() - interval '70 days', '2001-01-01Z')))")
    ns.sql("select @.make_partitions()")
    ns.sql("insert into @.workflows (name, version) values ('w', '1')")


def fill(
    ns: Namespace, started: float, ended: float | None, n: int = 1, *, steps: int = 3, workflow: str = "w",
    status: str | None = None,
) -> list[uuid.UUID]:  # fmt: skip
    """Instances of so many days ago, with keys, history and a stray event each; ended None: not yet."""
    status = status or ("completed" if ended is not None else "waiting")
    ids = [
        id
        for (id,) in ns.sql(
            "insert into @.instances (id, created_at, finished_at, workflow, version, status, input)"
            " select overlay(@.id_at(now() - %s * interval '1 day' + n * interval '1 ms')::text"
            "                placing right(gen_random_uuid()::text, 22) from 15)::uuid,"
            " now() - %s * interval '1 day', now() - %s * interval '1 day', %s, '1', %s, '{}'"
            " from generate_series(1, %s) n returning id",
            started, started, ended, workflow, status, n,
        )
    ]  # fmt: skip
    ns.sql("insert into @.instance_keys select 'key of ' || u, u from unnest(%s::uuid[]) u", ids)
    ns.sql("insert into @.events (instance_id, kind, name) select u, 'signal', 's' from unnest(%s::uuid[]) u", ids)
    ns.sql(
        "insert into @.history (instance_id, event_id, kind) select u, e, 'step'"
        " from unnest(%s::uuid[]) u, generate_series(1, %s) e",
        ids, steps,
    )  # fmt: skip
    return ids


def left(ns: Namespace, ids: list[uuid.UUID]) -> dict[str, int]:
    """In how many instances of these there is something left, by table."""
    column = {"instances": "id"}
    return {
        table: ns.one(
            f"select count(distinct {column.get(table, 'instance_id')}) from @.{table}"
            f" where {column.get(table, 'instance_id')} = any (%s)",
            ids,
        )
        for table in TABLES
    }


def nothing(ns: Namespace, ids: list[uuid.UUID]) -> bool:
    return set(left(ns, ids).values()) == {0}


def everything(ns: Namespace, ids: list[uuid.UUID]) -> bool:
    return set(left(ns, ids).values()) == {len(ids)}


def without_a_gap(ns: Namespace) -> None:
    edge = None
    for lower, upper in ns.sql("select lower, upper from @.history_partitions order by lower nulls first"):
        assert lower == edge
        edge = upper


# -- what goes, what stays


async def test_what_ended_over_thirty_days_ago_leaves_whole(ns: Namespace, past: None, sweep: Any) -> None:
    gone = fill(ns, 60, 58, 5) + [id for status in ("failed", "cancelled", "timed_out")
                                  for id in fill(ns, 50, 45, status=status)]  # fmt: skip
    young = fill(ns, 60, 29, 2) + fill(ns, 3, 2, 2)
    unfinished = [id for status in ("pending", "running", "waiting", "paused")
                  for id in fill(ns, 60, None, status=status)]  # fmt: skip

    swept = await sweep()

    assert swept.complete
    assert swept.removed == len(gone)
    for id in gone:
        assert left(ns, [id]) | {"history": 0} == dict.fromkeys(TABLES, 0)
    assert everything(ns, young)
    assert everything(ns, unfinished)
    again = await sweep()
    assert (again.removed, again.history, again.partitions) == (0, 0, 0)
    without_a_gap(ns)


async def test_a_partition_whose_instances_are_all_gone_is_dropped_whole(ns: Namespace, past: None, sweep: Any) -> None:
    gone = fill(ns, 60, 58, 20, steps=50)
    kept = fill(ns, 50, None) + fill(ns, 5, 4)
    (file,) = {name for (name,) in ns.sql("select distinct tableoid::regclass::text from @.history h"
                                          " where h.instance_id = any (%s)", gone)}  # fmt: skip

    swept = await sweep()

    assert swept.partitions >= 1
    assert swept.history == 0  # none was deleted by itself
    assert ns.one("select to_regclass(%s)", file) is None
    assert nothing(ns, gone)
    assert everything(ns, kept)
    without_a_gap(ns)
    # An id of that time still has its place.
    ns.sql(
        "insert into @.history (instance_id, event_id, kind) values (@.id_at(now() - interval '60 days'), 1, 'step')"
    )


async def test_week_after_week_the_partitions_do_not_add_up(ns: Namespace, past: None, sweep: Any) -> None:
    for days in range(65, 35, -7):
        fill(ns, days, days - 1)
        await sweep()
        without_a_gap(ns)
    # One for all that is past, one that has not been emptied yet, and the rest of what there was at first.
    assert ns.one("select count(*) from @.history_partitions where until < now() - interval '37 days'") <= 2
    assert ns.one("select count(*) from @.history") == 0


async def test_an_old_instance_that_lives_keeps_its_partition_and_the_others_history_leaves_by_and_by(
    ns: Namespace, past: None, sweep: Any
) -> None:
    alive = fill(ns, 60, None)
    recent = fill(ns, 60, 3)
    gone = fill(ns, 60, 55, 40, steps=7)

    swept = await sweep()

    assert swept.removed == len(gone)
    assert swept.history == 40 * 7
    assert nothing(ns, gone)
    assert everything(ns, alive)
    assert everything(ns, recent)


async def test_history_waits_for_its_partition_to_go_whole(ns: Namespace, past: None, sweep: Any) -> None:
    ns.sql("update @.settings set value = '60 days' where name = 'history_grace'")
    gone, alive = fill(ns, 50, 40, 4), fill(ns, 50, None)
    await sweep()
    assert left(ns, gone) == {"instances": 0, "instance_keys": 0, "history": 4, "events": 0}
    ns.sql("update @.settings set value = '0' where name = 'history_grace'")
    ns.sql("update @.settings set value = '31 days' where name = 'retention'")  # everything is to be looked at anew
    more = fill(ns, 50, 40, 4)
    await sweep()
    assert nothing(ns, gone + more)
    assert everything(ns, alive)
    # From now on it is known that something keeps that partition, and nothing waits for it any more.
    still_more = fill(ns, 50, 40, 4)
    ns.sql("update @.settings set value = '32 days' where name = 'retention'")
    await sweep()
    assert nothing(ns, still_more)
    assert everything(ns, alive)


# -- how long


async def test_each_workflow_may_say_how_long(ns: Namespace, past: None) -> None:
    @pgd.workflow(name="brief", retention=timedelta(days=2))
    async def brief() -> None: ...

    @pgd.workflow(name="for_ever", retention=None)
    async def for_ever() -> None: ...

    @pgd.workflow(name="plain")
    async def plain() -> None: ...

    async with ns.engine(brief, for_ever, plain) as engine:
        policies = dict(ns.sql("select name, policies from @.workflows where name <> 'w'"))
        assert policies == {"brief": {"retention": 172_800}, "for_ever": {"retention": None}, "plain": {}}
        gone = fill(ns, 5, 3, workflow="brief") + fill(ns, 40, 35, workflow="plain") + fill(ns, 40, 35)
        kept = fill(ns, 3, 1, workflow="brief") + fill(ns, 69, 65, workflow="for_ever") + fill(ns, 9, 3)
        swept = await engine._worker.sweeper.sweep()
    assert swept.removed == len(gone)
    assert left(ns, gone)["instances"] == 0
    assert nothing(ns, gone[:1])  # kept shorter than usual: its history does not wait for the partition
    assert everything(ns, kept)

    ns.sql("select @.set_retention('plain', '1 day')")
    async with ns.engine(plain):  # whose code does not say
        assert ns.one("select policies from @.workflows where name = 'plain'") == {"retention": 86_400}

    changed = pgd.Workflow(brief.fn, name="brief", retention=timedelta(days=3))
    async with ns.engine(changed):
        assert ns.one("select policies from @.workflows where name = 'brief'") == {"retention": 259_200}


async def test_retention_is_off_by_choice(ns: Namespace, past: None, sweep: Any) -> None:
    ns.sql("update @.settings set value = 'forever' where name = 'retention'")
    kept = fill(ns, 69, 65)
    brief = fill(ns, 69, 65, workflow="v")
    ns.sql("""insert into @.workflows (name, version, policies) values ('v', '1', '{"retention": 60}')""")
    assert (await sweep()).removed == 1
    assert everything(ns, kept)
    assert nothing(ns, brief)
    ns.sql("delete from @.workflows")
    assert await sweep() == sweeper.Swept()


def test_set_retention_in_sql(ns: Namespace) -> None:
    ns.sql("insert into @.workflows (name, version) values ('w', '1'), ('w', '2')")
    ns.sql("select @.set_retention('w', '2 hours', version => '2')")
    assert ns.sql("select version, policies from @.workflows order by 1") == [("1", None), ("2", {"retention": 7200})]
    ns.sql("select @.set_retention('w', null)")
    assert {str(policies) for (policies,) in ns.sql("select policies from @.workflows")} == {"{'retention': None}"}
    for call, match in (("'w', '-1 s'", "not negative"), ("'x', '1 s'", "no worker has registered workflow 'x'")):
        with pytest.raises(psycopg.Error, match=match) as refused:
            ns.sql(f"select @.set_retention({call})")
        assert refused.value.sqlstate == "PGD05"
    with pytest.raises(ValueError, match="retention is not negative"):
        pgd.Workflow(lambda: None, name="w", retention=-1)


# -- in small steps, beside others


async def test_a_long_history_goes_in_steps_of_bounded_size(
    ns: Namespace, past: None, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_ROWS_A_STEP", 100)
    monkeypatch.setattr(sweeper, "_LOOKED_A_STEP", 7)
    alive = fill(ns, 60, None)
    gone = fill(ns, 60, 55, steps=1234) + fill(ns, 60, 55, 30, steps=9) + fill(ns, 60, 55, steps=100)
    ns.sql("create table @.deleted (n int)")
    ns.sql(
        "create function @.count_deleted() returns trigger language plpgsql as"
        " $$ begin insert into @.deleted select count(*) from old; return null; end $$"
    )
    ns.sql("create trigger t after delete on @.history referencing old table as old execute function @.count_deleted()")
    swept = await sweep()
    assert swept.history == 1234 + 30 * 9 + 100
    assert nothing(ns, gone)
    assert everything(ns, alive)
    assert ns.one("select max(n) from @.deleted") <= 100


async def test_rows_that_somebody_holds_are_not_waited_for(ns: Namespace, past: None, sweep: Any) -> None:
    held, gone = fill(ns, 60, 58), fill(ns, 60, 58, 3)
    with psycopg.connect(ns.dsn) as holder:
        holder.execute(f"select from {ns.schema}.instances where id = %s for update", held)
        swept = await asyncio.wait_for(sweep(), 20)
        assert swept.removed == 3
        assert left(ns, held)["instances"] == 1
        assert left(ns, gone)["instances"] == 0
    assert (await sweep()).removed == 1


async def test_one_sweeps_at_a_time(ns: Namespace, past: None, sweep: Any) -> None:
    gone = fill(ns, 60, 58)
    with psycopg.connect(ns.dsn) as other:
        other.execute(f"select pg_advisory_xact_lock({ns.schema}.lock_class(3), 1)")
        swept = await asyncio.wait_for(sweep(), 20)
        assert not swept.complete
        assert everything(ns, gone)
    assert (await sweep()).removed == 1


async def test_an_old_open_transaction_holds_up_the_drop_and_nobody_else(
    ns: Namespace, past: None, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_DETACH_S", 0.5)
    gone = fill(ns, 60, 58, 3)
    with psycopg.connect(ns.dsn) as reader:
        reader.execute(f"select count(*) from {ns.schema}.history")
        swept = await asyncio.wait_for(sweep(), 20)
        assert (swept.removed, swept.partitions) == (3, 0)
        assert ns.one("select count(*) from @.history_partitions where detaching") == 1
        # Writers, readers and new partitions go on past it.
        ns.sql("set statement_timeout = '5s'")
        ns.sql("insert into @.history (instance_id, event_id, kind) values (@.new_id(), 1, 'step')")
        assert ns.one("select count(*) from @.history") == 1
        ns.sql("update @.settings set value = '60 days' where name = 'partition_ahead'")
        ns.sql("select @.make_partitions()")
        without_a_gap(ns)
        reader.rollback()

    async def dropped() -> bool:  # autovacuum may hold it up for a moment, too
        return (await sweep()).partitions >= 1

    await until(dropped, "the next sweeps drop it")
    assert ns.one("select count(*) from @.history_partitions where detaching") == 0
    assert nothing(ns, gone)
    without_a_gap(ns)


async def test_an_instance_that_comes_while_its_partition_goes_keeps_its_history(
    ns: Namespace, past: None, sweep: Any
) -> None:
    """As far as it can come to that: a start whose transaction was open for weeks, committed in that moment."""
    fill(ns, 60, 58, 3)
    late = fill(ns, 60, None, 2, steps=4)
    with psycopg.connect(ns.dsn, autocommit=True) as conn:
        # The look was before they were there.
        (name,) = ns.sql("select distinct tableoid::regclass::text from @.history")[0]
        conn.execute(f"alter table {ns.schema}.history detach partition {name} concurrently")
    await sweep()
    assert everything(ns, late)
    assert ns.one("select count(*) from @.history where instance_id = any (%s)", late) == 8
    assert ns.one("select to_regclass(%s)", name) != name or ns.one("select count(*) from @.history") == 8
    without_a_gap(ns)


async def test_stray_events_of_nobody_leave(ns: Namespace, past: None, sweep: Any) -> None:
    kept = fill(ns, 2, None)
    ns.sql("insert into @.events (instance_id, kind) select gen_random_uuid(), 'signal' from generate_series(1, 10)")
    assert (await sweep()).events == 10
    assert everything(ns, kept)


async def test_what_was_looked_at_is_not_looked_at_again_before_it_can_expire(
    ns: Namespace, past: None, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_LOOKED_A_MARK", 50)
    monkeypatch.setattr(sweeper, "_LOOKED_A_STEP", 25)
    ns.sql("""insert into @.workflows (name, version, policies) values ('kept', '1', '{"retention": null}')""")
    fill(ns, 69, 60, 300, workflow="kept", steps=1)
    alive = fill(ns, 65, None, 60, steps=1)
    fill(ns, 60, 50, 200, workflow="kept", steps=1)
    gone = fill(ns, 58, 40, 100, steps=1)
    first = await sweep()
    assert (first.looked, first.removed) == (660, 100)
    again = await sweep()
    assert again.looked <= 60  # the end, where the ones that went had been
    # Once one of them has ended it is found when its time has come.
    ns.sql(
        "update @.instances set status = 'completed', finished_at = now() - interval '31 days' where id = %s", alive[0]
    )
    ns.sql("select @.set_retention('kept', '1000 days')")  # everything is to be judged anew
    third = await sweep()
    assert (third.looked, third.removed) == (560, 1)
    assert left(ns, gone)["instances"] == 0


# -- by workers


async def test_a_worker_sweeps_and_only_one_of_them(ns: Namespace, past: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "_FIRST_S", 0.1)
    monkeypatch.setattr(Sweeper.run, "__defaults__", (0.1,))
    monkeypatch.setattr(sweeper, "_LEAST_S", 0.05)
    gone = fill(ns, 60, 58, 30)
    async with ns.engine() as one, ns.engine() as other:
        await until(lambda: one._worker.sweeper.last is not None and nothing(ns, gone), "the old ones have left")
        assert one.metrics()["removed"] == 30
        assert other._worker.sweeper.last is None
        more = fill(ns, 60, 58, 5)
        await one.close()
        await until(lambda: left(ns, more)["instances"] == 0, "the other goes on")
    without_a_gap(ns)


async def test_what_is_kept_for_seconds_does_not_wait_for_an_hour(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look finds nothing that is old enough: the next one is a tenth of the shortest retention later."""
    monkeypatch.setattr(Sweeper.run, "__defaults__", (0.05,))
    monkeypatch.setattr(sweeper, "_LEAST_S", 0.1)
    ns.sql("update @.settings set value = '2 seconds' where name = 'retention'")
    async with ns.engine() as engine:
        await until(lambda: engine._worker.sweeper.last is not None, "it has looked once")
        fill(ns, 0, 0, 5)
        await until(lambda: engine.metrics()["removed"] == 5, "they have left")


async def test_a_sweep_goes_on_beside_work_without_holding_it_up(ns: Namespace, past: None, pool: Any) -> None:
    @pgd.step
    async def one() -> int:
        return 1

    @pgd.workflow(name="works", retention=60)
    async def works() -> int:
        return sum([await one() for _ in range(3)])

    gone = fill(ns, 60, 58, 3000, steps=2)
    alive = fill(ns, 60, None)
    async with ns.engine(works) as engine:
        sweeping = asyncio.create_task(Sweeper(pool, ns.schema, hurry=True).sweep())
        done = 0
        while not sweeping.done() or done < 50:
            assert await (await engine.start(works)).result(timeout=10) == 3
            done += 1
        assert (await sweeping).removed == 3000
    assert nothing(ns, gone)
    assert everything(ns, alive)
    assert ns.one("select count(*) from @.instances where workflow = 'works'") == done


async def test_a_worker_that_does_not_own_the_tables_sweeps_all_the_same(ns: Namespace, past: None) -> None:
    role = f"pgdurable_test_{uuid.uuid4().hex[:12]}"
    ns.sql(f"create role {role} login")
    try:
        ns.sql(f"grant usage on schema @ to {role}")
        ns.sql(f"grant select on all tables in schema @ to {role}")
        ns.sql(f"grant execute on all functions in schema @ to {role}")
        gone, kept, alive = fill(ns, 60, 58, 5), fill(ns, 5, 3), fill(ns, 50, None)
        late = fill(ns, 50, 45, 3)
        pool = await make_pool(psycopg.conninfo.make_conninfo(ns.dsn, user=role), max_size=1)
        sweep = Sweeper(pool, ns.schema, hurry=True).sweep
        with psycopg.connect(ns.dsn) as reader:
            reader.execute(f"select count(*) from {ns.schema}.history")
            swept = await sweep()
            assert swept.partitions == 0
            assert swept.undroppable >= 1
            # Who writes meanwhile has not been kept waiting behind it.
            ns.sql("set statement_timeout = '5s'")
            ns.sql("insert into @.history (instance_id, event_id, kind) values (%s, 99, 'step')", alive[0])
            reader.rollback()
        swept = await sweep()
        assert swept.undroppable == 0
        assert swept.partitions >= 1
        assert nothing(ns, gone + late)
        assert everything(ns, kept + alive)
        without_a_gap(ns)
        await close_pool(pool)
    finally:
        ns.sql(f"drop owned by {role}")
        ns.sql(f"drop role {role}")


# -- by SQL


def test_prune_in_sql(ns: Namespace, past: None) -> None:
    gone, alive, kept = fill(ns, 60, 58, 700), fill(ns, 60, None), fill(ns, 20, 18)
    ns.sql("call @.prune()")
    assert nothing(ns, gone)
    assert everything(ns, alive + kept)
    ns.sql("call @.prune('10 days')")
    assert nothing(ns, kept)
    assert everything(ns, alive)


def test_an_id_of_the_users_is_free_again(ns: Namespace, past: None) -> None:
    (gone,) = fill(ns, 60, 58)
    ns.sql("update @.instance_keys set id = 'mine' where instance_id = %s", gone)
    assert ns.one("select @.start('w', id => 'mine')") == "mine"
    assert ns.one("select @.find_instance('mine')") == gone
    ns.sql("call @.prune()")
    ns.one("select @.start('w', id => 'mine')")
    assert ns.one("select @.status('mine')") == "pending"
    assert ns.one("select @.find_instance('mine')") != gone
    assert datetime.now(timezone.utc) - ns.one("select @.id_time(@.find_instance('mine'))") < timedelta(minutes=1)
