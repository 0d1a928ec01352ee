"""Pumps: connections that call `work` when there is something to do, watched by a supervisor, stopped in good order.

Here `work` is a stand-in that writes down its calls and does what the test wants: see tests/sql for the real one.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from e2e.namespace import Namespace, until

import pgdurable as pgd

from .asked import ask

# A call does as many due instances of workflow `w` as it finds, one a commit, `pause` seconds each; it leaves when
# it is asked to drain.
STAND_IN = """
create or replace procedure @.work(
    max_time interval default interval '1 minute', max_steps bigint default null, wait boolean default false,
    queues text[] default null)
language plpgsql as $$
declare
    one uuid;
    me bigint := @.join_worker('pump', '[]', '1 hour');
    began timestamptz := clock_timestamp();
begin
    perform pg_advisory_lock_shared(@.lock_class(1), me::int);
    insert into @.calls (pid, max_time, queues) values (pg_backend_pid(), work.max_time, work.queues);
    commit;
    loop
        select i.id into one from @.instances i
         where i.workflow = 'w' and i.status = 'pending' and i.wake_at <= now() limit 1 for update skip locked;
        exit when one is null or (select w.state = 'draining' from @.workers w where w.id = me);
        update @.instances set status = 'completed', finished_at = now(), owner = null where id = one;
        perform pg_sleep((select p.seconds from @.pause p));
        commit;
    end loop;
    perform @.leave_worker(me);
    perform pg_advisory_unlock_shared(@.lock_class(1), me::int);
end $$
"""


@pytest.fixture
def space(dsn: str, schema: str) -> Iterator[Namespace]:
    with Namespace(dsn, schema) as namespace:
        namespace.sql("create table @.calls (pid int, max_time interval, queues text[], at timestamptz default now())")
        namespace.sql("create table @.pause (seconds float8)")
        namespace.sql("insert into @.pause values (0)")
        namespace.sql("insert into @.workflows (name, version, kind) values ('w', '1', 'sql')")
        namespace.sql(STAND_IN)
        yield namespace


def start(space: Namespace, n: int = 1, **options: Any) -> None:
    for _ in range(n):
        space.one(f"select @.start('w'{''.join(f', {name} => %s' for name in options)})", *options.values())


def pending(space: Namespace) -> int:
    return space.one("select count(*) from @.instances where status = 'pending'")


def calls(space: Namespace) -> int:
    return space.one("select count(*) from @.calls")


async def test_a_start_wakes_a_pump_and_an_idle_one_is_in_no_call(space: Namespace) -> None:
    async with space.engine(pumps=2, poll_interval=30):
        start(space)
        await until(lambda: not pending(space), "it is done")
        made = calls(space)
        assert made >= 1
        assert space.one("select max_time from @.calls limit 1").total_seconds() <= 30
        # Two engines' beats later nothing has been called: there is nothing to do.
        beat = space.one("select max(beat) from @.workers")
        await until(lambda: space.one("select max(beat) from @.workers") >= beat + 2, "time passes")
        assert calls(space) <= made + 2
        assert space.one("select count(*) from @.workers where name = 'pump' and state = 'alive'") == 0


async def test_polling_alone_finds_what_is_due_and_what_becomes_due(space: Namespace) -> None:
    start(space)
    async with space.engine(pumps=1, poll_interval=0.05):
        await until(lambda: not pending(space), "what was there before is done")
        start(space, delay="0.3 seconds")
        begun = time.monotonic()
        await until(lambda: not pending(space), "it is done when it is due")
        assert time.monotonic() - begun >= 0.25


async def test_pumps_run_side_by_side_while_there_is_more_to_do(space: Namespace) -> None:
    space.sql("update @.pause set seconds = 0.05")
    start(space, 40)
    async with space.engine(pumps=4, poll_interval=0.1):
        await until(lambda: not pending(space), "all is done")
    assert space.one("select count(distinct pid) from @.calls") == 4


async def test_tasks_that_run_beside_their_instance_wake_a_pump(space: Namespace) -> None:
    async with space.engine(pumps=1, poll_interval=0.05):
        before = calls(space)
        ask(space, "sql", "s")
        await until(lambda: calls(space) > before, "a pump looks")


async def test_an_event_for_a_waiting_instance_wakes_a_pump(space: Namespace) -> None:
    start(space)
    space.sql("update @.instances set status = 'waiting', wake_at = null")
    async with space.engine(pumps=1, poll_interval=0.05):
        assert space.one("select @.pump_due()") is None
        (id,) = space.sql("select id::text from @.instances")[0]
        space.one("select @.signal(%s, 'go')", id)
        await until(lambda: calls(space), "a pump looks")
        assert space.one("select @.pump_due('{mail}')") is None
        assert space.one("select @.pump_due('{default}')") == 0


async def test_what_a_dead_pump_has_left_wakes_another(space: Namespace) -> None:
    start(space)
    dead = space.one("select @.join_worker('pump', '[]', '1 hour')")  # and nobody holds its lock
    space.sql("update @.instances set status = 'running', owner = %s, wake_at = null", dead)
    assert space.one("select @.pump_due()") == 0
    space.sql("update @.instances set status = 'paused'")
    assert space.one("select @.pump_due()") is None


async def test_a_call_that_can_do_nothing_is_not_made_all_the_time(space: Namespace) -> None:
    start(space)
    space.sql("update @.instances set workflow = 'x'")
    space.sql(
        "insert into @.workflows (name, version, kind) values ('x', '1', 'sql')"
    )  # due, and `work` passes it over
    async with space.engine(pumps=3, poll_interval=0.05):
        await until(lambda: calls(space) >= 5, "it is tried")
        before, began = calls(space), time.monotonic()
        beat = space.one("select max(beat) from @.workers")
        await until(lambda: space.one("select max(beat) from @.workers") >= beat + 2, "time passes")
        assert calls(space) - before <= 10 * (time.monotonic() - began) + 5


async def test_a_stop_waits_for_the_step_that_runs(space: Namespace) -> None:
    space.sql("update @.pause set seconds = 0.5")
    start(space, 50)
    engine = space.engine(pumps=1, poll_interval=0.05)
    await engine.open()
    await until(lambda: calls(space), "it runs")
    began = time.monotonic()
    assert await engine.stop(drain=30)
    await engine.close()
    assert time.monotonic() - began < 9  # it was asked to leave: the call would have gone on
    assert 40 < pending(space) < 50
    assert space.one("select count(*) from @.workers where state in ('alive', 'draining')") == 0


async def test_a_stop_that_is_in_a_hurry_cuts_pumps_off(space: Namespace) -> None:
    space.sql("update @.pause set seconds = 60")
    start(space)
    engine = space.engine(pumps=1, poll_interval=0.05)
    await engine.open()
    await until(lambda: calls(space), "it is called")
    pid = space.one("select pid from @.calls")
    asleep = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    await until(lambda: space.one(asleep, pid), "its step runs")
    assert not await engine.stop(drain=0.2)
    await engine.close()
    await until(lambda: not space.one("select count(*) from pg_stat_activity where pid = %s", pid), "its session ends")
    assert pending(space) == 1  # undone


async def test_a_pump_whose_connection_is_lost_comes_back(space: Namespace) -> None:
    async with space.engine(pumps=2, poll_interval=0.05):
        start(space)
        await until(lambda: not pending(space), "it is done")
        pids = [pid for (pid,) in space.sql("select distinct pid from @.calls")]
        space.sql("select pg_terminate_backend(u.pid) from unnest(%s::int[]) as u (pid)", pids)
        start(space, 3)
        await until(lambda: not pending(space), "it is done by a new connection")


async def test_a_server_that_restarts(private_server: Any, private_schema: str) -> None:
    with Namespace(private_server.dsn, private_schema) as space:
        space.sql("create table @.calls (pid int, max_time interval, queues text[])")
        space.sql("create table @.pause as select 0.0::float8 as seconds")
        space.sql("insert into @.workflows (name, version, kind) values ('w', '1', 'sql')")
        space.sql(STAND_IN)
        async with space.engine(pumps=2, poll_interval=0.05):
            start(space)
            await until(lambda: not pending(space), "it is done")
            await asyncio.to_thread(private_server.stop)
            await asyncio.to_thread(private_server.start)
            start(space, 3)
            await until(lambda: not pending(space), "it is done afterwards")


async def test_trouble_of_a_pump_is_told(space: Namespace) -> None:
    space.sql("drop procedure @.work")
    start(space)
    async with space.engine(pumps=1, poll_interval=0.05) as engine:
        await until(lambda: "does not exist" in str(engine.metrics()["trouble"]), "it is told")
        space.sql(STAND_IN)
        await until(lambda: not pending(space), "it is done as soon as it can be")


async def test_the_supervisor_stops_what_is_overdue(space: Namespace) -> None:
    """`work` of this test runs one statement, as a step that is due to end in 0.3 seconds."""
    start(space)
    space.sql("create table @.ended (sqlstate text, after float8)")
    space.sql("""
        create or replace procedure @.work(
            max_time interval default interval '1 minute', max_steps bigint default null, wait boolean default false,
            queues text[] default null)
        language plpgsql as $$
        declare
            due numeric := floor(extract(epoch from clock_timestamp()) * 1000) + 300;
            digits text := '';
            began timestamptz := clock_timestamp();
        begin
            while due > 0 loop
                digits := substr('0123456789abcdefghijklmnopqrstuvwxyz', (due % 36)::int + 1, 1) || digits;
                due := div(due, 36);
            end loop;
            perform set_config('application_name', 'pgd:' || digits || ':' || (select id from @.instances), false);
            begin
                perform pg_sleep(60);
            exception when query_canceled then
                insert into @.ended values (sqlstate, extract(epoch from clock_timestamp() - began));
            end;
            update @.instances set status = 'timed_out', finished_at = now();
        end $$""")
    async with space.engine(pumps=1, poll_interval=0.05):
        await until(lambda: space.sql("select 1 from @.ended"), "it is stopped")
    ((state, after),) = space.sql("select sqlstate, after from @.ended")
    assert state == "57014"
    assert 0.3 <= after < 10


async def test_pumps_listen_to_the_engines_queues(space: Namespace) -> None:
    async with space.engine(pumps=1, poll_interval=0.05, queues=["mail"]):
        start(space, queue="mail")
        await until(lambda: calls(space), "a pump looks")
    assert space.one("select queues from @.calls limit 1") == ["mail"]


def test_how_many_pumps_there_may_be() -> None:
    for bad in (-1, 1001):
        with pytest.raises(ValueError, match="pumps is between 0 and 1,000"):
            pgd.Engine("host=nowhere", pumps=bad)


async def test_a_limit_of_the_administrator_does_not_end_calls(space: Namespace, dsn: str) -> None:
    role = f"limited_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create role {role} login superuser")
        conn.execute(f"alter role {role} set statement_timeout = '100ms'")
        try:
            space.sql("update @.pause set seconds = 0.3")
            start(space, 3)
            limited = psycopg.conninfo.make_conninfo(dsn, user=role)
            async with pgd.Engine(limited, schema=space.schema, workflows=[], pumps=1, poll_interval=0.05):
                await until(lambda: not pending(space), "all is done")
            assert calls(space) <= 3
        finally:
            conn.execute(f"drop role {role}")
