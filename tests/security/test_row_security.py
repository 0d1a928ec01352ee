"""Row-level security by submitter: a client meets its own instances only; workers are not slowed down by it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import numpy
import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import migrate
from pgdurable._store.sql import named_queries
from pgdurable.errors import InstanceNotFound, InvalidId, SchemaError

from .conftest import House


@pgd.step
async def double(n: int) -> int:
    return 2 * n


@pgd.workflow(name="security_double")
async def doubled(n: int) -> int:
    return await double(n)


@pgd.workflow(name="security_wait")
async def waits(n: int) -> Any:
    return await pgd.wait_signal("go")


def of(house: House, who: str, key: str | None = None) -> str:
    return str(house.one(who, "select @.start('w', ('{\"secret\": \"' || @.caller() || '\"}')::jsonb, %s)", key))


def test_each_client_sees_its_own(guarded: House) -> None:
    ids = {who: [of(guarded, who, f"{who}/{n}") for n in range(3)] for who in ("ann", "bob", "ada")}
    for who in ("ann", "bob", "ada"):
        for id in ids[who]:
            guarded.rows(who, "select @.signal(%s, 'go', '1')", id)
            instance = guarded.one(who, "select @.find_instance(%s)", id)
            guarded.rows("ada", "insert into @.history (instance_id, event_id, kind) values (%s, 1, 'step')", instance)
    views = ("running", "failures", "timed_out", "queue_stats", "steps")
    tables = ("instances", "instance_keys", "events", "history")
    for who, many in (("ann", 3), ("bob", 3), ("wes", 9), ("ada", 9), ("rex", 9), ("owner", 9)):
        for table in tables:
            assert guarded.one(who, f"select count(*) from @.{table}") == many, (who, table)
    assert {who for (who,) in guarded.rows("ann", "select submitted_by from @.instances")} == {guarded.name("ann")}
    if guarded.root.info.server_version >= 150000:
        assert guarded.one("ann", "select count(*) from @.steps") == 3
        assert guarded.one("ann", "select sum(due) from @.queue_stats") == 3
    else:
        for view in views:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                guarded.rows("ann", f"select * from @.{view}")


def external(house: House, who: str) -> str:
    """An instance of theirs that waits for an external step."""
    id = of(house, who)
    house.rows(
        "owner",
        "insert into @.tasks (instance_id, seq, kind, name, submitted_by, request)"
        " values (%s, 1, 'external', 'sign', %s, '{\"input\": 1}')",
        id,
        house.name(who),
    )
    return id


def test_external_steps_are_their_submitters_and_the_workers(guarded: House) -> None:
    ids = {who: external(guarded, who) for who in ("ann", "bob")}
    assert guarded.one("ann", "select count(*) from @.tasks") == 1
    for call in ("complete_step(%s, 'sign')", "fail_step(%s, 'sign', 'no')", "heartbeat(%s, 'sign')", "wait(%s, '0')"):
        with pytest.raises(psycopg.Error, match="no instance has the id") as refused:
            guarded.rows("ann", f"select @.{call}", ids["bob"])
        assert refused.value.sqlstate == "PGD02"
    assert guarded.rows("ann", "select id from @.claim_external(n => 10)") == [(ids["ann"],)]
    assert guarded.rows("wes", "select id, lease_until > now() from @.claim_external(n => 10)") == [(ids["bob"], True)]
    assert guarded.one("wes", "select @.complete_step(%s, 'sign', '1')", ids["bob"])
    assert guarded.one("ann", "select @.complete_step(%s, 'sign', '1')", ids["ann"])
    assert guarded.rows("owner", "select sent_by from @.events where kind = 'task' order by seq") == [
        (guarded.name("wes"),), (guarded.name("ann"),)
    ]  # fmt: skip


def test_what_others_submitted_is_not_there(guarded: House) -> None:
    id = of(guarded, "bob", "theirs")
    instance = str(guarded.one("bob", "select @.find_instance(%s)", id))
    guarded.rows("ada", "update @.instances set status = 'paused'")
    for name in (id, instance):
        for call in ("status(%s)", "result(%s)", "signal(%s, 'go')", "resume(%s)", "need_instance(%s)"):
            with pytest.raises(psycopg.Error, match="no instance has the id") as refused:
                guarded.rows("ann", f"select @.{call}", name)
            assert refused.value.sqlstate == "PGD02"
            assert "secret" not in str(refused.value)
        assert guarded.one("ann", "select @.find_instance(%s)", name) is None
    with pytest.raises(psycopg.Error, match="is taken by an instance that you may not see") as refused:
        guarded.rows("ann", "select @.start('w', '{}', 'theirs')")
    assert refused.value.sqlstate == "PGD04"
    assert guarded.one("rex", "select count(*) from @.events") == 0
    # Those who run the place may.
    for who in ("wes", "ada", "owner"):
        assert guarded.one(who, "select @.signal(%s, 'go')", id)
    assert guarded.one("ada", "select @.resume(%s)", id) is True


def test_a_wrong_guess_and_a_hidden_instance_look_the_same(guarded: House) -> None:
    theirs = str(guarded.one("bob", "select @.find_instance(@.start('w'))"))

    def told(id: str) -> tuple[str, ...]:
        with pytest.raises(psycopg.Error) as refused:
            guarded.rows("ann", "select @.signal(%s, 'go')", id)
        diag = refused.value.diag
        return tuple(str(part).replace(id, "ID") for part in (diag.message_primary, diag.message_hint, diag.sqlstate))

    assert told(theirs) == told(str(uuid.uuid4()))


@pytest.mark.parametrize(
    "attempt",
    [
        "update @.instances set submitted_by = '@ann'",
        "insert into @.instances (id, workflow, input) values (@.new_id(), 'w', '{}')",
        "alter table @.instances disable row level security",
        "drop policy pgdurable_own on @.instances",
        "set row_security = off; select * from @.instances",
        "create view pg_temp.v as select * from @.instances; alter view pg_temp.v owner to @owner",
        "copy @.instances (id, workflow, input) from stdin",
        "begin; lock table @.instances",
    ],
)
def test_ways_around_it_are_closed(guarded: House, attempt: str) -> None:
    of(guarded, "bob")
    with psycopg.connect(guarded.dsn_of("ann"), autocommit=True) as conn, pytest.raises(psycopg.Error) as refused:
        conn.execute(guarded.text(attempt))
    assert refused.value.sqlstate in ("42501", "0A000")


def test_a_leaky_condition_of_the_clients_sees_nothing_of_others(guarded: House) -> None:
    of(guarded, "bob")
    of(guarded, "ann")
    with psycopg.connect(guarded.dsn_of("ann"), autocommit=True) as conn:
        heard: list[str] = []
        conn.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        conn.execute(
            "create function pg_temp.leak(text) returns bool language plpgsql cost 0.0000001 as"
            " $$ begin raise notice '%', $1; return true; end $$"
        )
        conn.execute(f"select * from {guarded.schema}.instances where pg_temp.leak(input::text)")
    assert len(heard) == 1
    assert guarded.name("ann") in heard[0]


async def test_the_python_client_and_engine_work_under_it(guarded: House) -> None:
    """start_many, too, by which much goes by COPY otherwise, and an engine's own big flushes."""
    clients = guarded.client("ann"), guarded.client("bob")
    async with guarded.engine("wes", doubled, waits) as engine, clients[0] as ann, clients[1] as bob:
        theirs = await bob.start(waits, 1, id="theirs")
        hers = await ann.start(waits, 1, id="hers")
        with pytest.raises(InstanceNotFound):
            await ann.get("theirs")
        with pytest.raises(InstanceNotFound):
            await ann.signal(str(theirs.instance_id), "go")
        with pytest.raises(InvalidId, match="you may not see"):
            await ann.start(waits, 1, id="theirs")
        for handle in (hers, theirs):
            await handle.signal("go", 7)
            assert await handle.result(timeout=30) == 7
        many = await ann.start_many(doubled, range(2000))
        columns = await bob.start_many(doubled, {"n": numpy.arange(1000)})
        assert await asyncio.gather(*[h.result() for h in many]) == [2 * n for n in range(2000)]
        assert await columns[999].result(timeout=60) == 1998
        own = await engine.start_many(doubled, list(range(1500)))
        assert await own[1499].result(timeout=60) == 2998
        assert engine.metrics()["copies"] == 0 or engine._worker.journal.flusher.copy_from > 1 << 40
        assert len([info async for info in ann.list(limit=None)]) == 2001
    assert dict(guarded.rows("rex", "select submitted_by, count(*) from @.instances group by 1")) == {
        guarded.name("ann"): 2001, guarded.name("bob"): 1001, guarded.name("wes"): 1500,
    }  # fmt: skip
    assert guarded.one("rex", "select count(*) from @.instances where status <> 'completed'") == 0


async def test_it_may_be_switched_while_workers_run(house: House) -> None:
    async with house.engine("wes", doubled) as engine:
        for on in (False, True, False):
            report = await asyncio.to_thread(migrate, house.dsn_of("owner"), house.schema, row_security=on)
            assert report.row_security is on
            handles = await engine.start_many(doubled, list(range(1200)))
            assert await asyncio.gather(*[h.result() for h in handles]) == [2 * n for n in range(1200)]
    assert house.rows("owner", "select policyname from pg_policies where schemaname = '@'") == []


def test_off_again_all_clients_see_everything(guarded: House) -> None:
    of(guarded, "bob", "theirs")
    report = migrate(guarded.dsn_of("owner"), guarded.schema, row_security=False)
    assert not report.row_security
    assert guarded.one("ann", "select count(*) from @.instances") == 1
    assert guarded.one("ann", "select @.signal('theirs', 'go')")
    assert guarded.one("ann", "select @.start('w', '{}', 'theirs')") == "theirs"


def test_a_migration_leaves_it_as_it_was(guarded: House) -> None:
    guarded.rows("owner", "update @.migrations set routines = 'old'")
    assert migrate(guarded.dsn_of("owner"), guarded.schema).row_security
    of(guarded, "bob")
    assert guarded.rows("ann", "select * from @.instances") == []


def test_it_needs_roles(lot: House) -> None:
    with pytest.raises(SchemaError, match="no roles") as failed:
        migrate(lot.dsn_of("owner"), lot.schema, row_security=True)
    assert "migrate --roles --rls" in str(failed.value)


def test_it_gives_up_on_a_table_that_somebody_holds(house: House) -> None:
    with psycopg.connect(house.dsn_of("ada")) as conn:
        conn.execute(house.text("lock table @.instances in access share mode"))
        with pytest.raises(pgd.ConnectionFailed, match="lock timeout"):
            migrate(house.dsn_of("owner"), house.schema, row_security=True)
    assert migrate(house.dsn_of("owner"), house.schema, row_security=True).row_security


def test_a_workers_plans_are_the_same_with_it(house: House) -> None:
    """`using (true)` leaves nothing in a plan: no filter, no barrier, the same indexes."""
    names = "owned take_up load_history owned_events drop_stale_events next_due read_checkpoint".split()
    queries = {name: named_queries("worker", house.schema)[name] for name in names}
    queries |= {
        f"flush {name}": text
        for name, text in named_queries("flush", house.schema).items()
        if "copy" not in name and name != "apply_writes"  # a procedure's call has no plan of its own
    }

    def plans() -> dict[str, list[tuple[Any, ...]]]:
        found = {}
        with psycopg.connect(house.dsn_of("wes"), autocommit=True) as conn:
            for name, text in queries.items():
                nulls = text
                for mark in [f"${n}" for n in range(12, 0, -1)] + ["%s"]:
                    nulls = nulls.replace(mark, "null")
                found[name] = conn.execute(f"explain (costs off, verbose) {nulls}").fetchall()
        return found

    off = plans()
    assert len(off) >= 15
    migrate(house.dsn_of("owner"), house.schema, row_security=True)
    assert plans() == off


def test_a_clients_schedules_are_its_own(guarded: House) -> None:
    for who in ("ann", "bob"):
        assert guarded.one(who, "select @.schedule(@.caller() || '/s', 'w', '{\"secret\": 1}', cron => '@daily')")
    names = {who: guarded.rows(who, "select name from @.schedules") for who in ("ann", "bob", "rex", "ada")}
    assert [len(names[who]) for who in ("ann", "bob", "rex", "ada")] == [1, 1, 2, 2]
    theirs = names["bob"][0][0]
    for call in (
        "pause_schedule(%s)", "resume_schedule(%s)", "trigger_schedule(%s)", "edit_schedule(%s, '{}')",
        "backfill_schedule(%s, now() - interval '1 day')", "need_schedule(%s)",
    ):  # fmt: skip
        with pytest.raises(psycopg.Error, match="there is no schedule") as refused:
            guarded.rows("ann", f"select @.{call}", theirs)
        assert refused.value.sqlstate == "PGD10"
    assert guarded.one("ann", "select @.drop_schedule(%s)", theirs) is False
    with pytest.raises(psycopg.Error, match="is taken by a schedule that you may not see") as refused:
        guarded.rows("ann", "select @.schedule(%s, 'w', cron => '@daily')", theirs)
    assert refused.value.sqlstate == "PGD04"
    assert guarded.one("ada", "select @.drop_schedule(%s)", theirs) is True


def test_large_payloads_are_as_hidden_as_their_instances(guarded: House) -> None:
    for who in ("ann", "bob"):
        guarded.one(who, "select @.start('w', jsonb_build_object('secret', repeat(@.caller(), 20000)))")
    seen = {who: guarded.one(who, "select count(*) from @.payloads") for who in ("ann", "bob", "rex", "wes", "ada")}
    assert seen == {"ann": 1, "bob": 1, "rex": 2, "wes": 2, "ada": 2}


@pytest.mark.parametrize("call", ["cancel", "terminate", "pause", "resume", "retry", "fork"])
def test_a_client_operates_on_its_own_instances_only(guarded: House, call: str) -> None:
    mine = guarded.one("ann", "select @.start('w', id => 'mine')")
    theirs = guarded.one("bob", "select @.start('w', id => 'theirs')")
    assert guarded.one("ann", f"select @.{call}(%s)", mine) is not None
    with pytest.raises(psycopg.Error) as refused:
        guarded.one("ann", f"select @.{call}(%s)", theirs)
    assert refused.value.sqlstate == "PGD02"
    assert guarded.one("owner", "select @.status('theirs')") == "pending"


def test_bulk_reaches_what_the_client_may_see(guarded: House) -> None:
    for who in ("ann", "ann", "bob"):
        guarded.one(who, "select @.start('w')")
    step = "select done from @.bulk_step('cancel', @.id_at('2020-01-01'), @.id_at('2100-01-01'))"
    assert guarded.one("ann", step) == 2
    assert guarded.rows("owner", "select status, count(*) from @.instances group by 1 order by 1") == [
        ("cancelled", 2), ("pending", 1),
    ]  # fmt: skip
    with pytest.raises(psycopg.Error) as refused:
        guarded.one("ann", step.replace("'cancel'", "'delete'"))
    assert refused.value.sqlstate == "42501"
    assert guarded.one("owner", step) == 1


def test_what_others_published_is_not_there(guarded: House) -> None:
    ids = {who: of(guarded, who, f"talk/{who}") for who in ("ann", "bob")}
    for who, id in ids.items():
        instance = guarded.one(who, "select @.find_instance(%s)", id)
        guarded.rows(who, "select @.request_update(%s, 'add')", id)
        guarded.rows("ada", "insert into @.states (instance_id, key, place, value) values (%s, 'k', 0, '1')", instance)
        guarded.rows(
            "ada",
            "insert into @.stream_items (instance_id, position, writer, n, stream, item)"
            " values (%s, 0, 0, 0, 's', '1')",
            instance,
        )
    for table in ("states", "updates", "stream_items"):
        assert [guarded.one(who, f"select count(*) from @.{table}") for who in ("ann", "bob", "rex")] == [1, 1, 2], (
            table
        )
    assert guarded.one("ann", "select @.state('talk/ann', 'k')") == 1
    for call in (
        "state(%s, 'k')", "request_update(%s, 'add')", "ask(%s, 'total', '[]', gen_random_uuid())",
        "signal_with_start('w', '{}', id => %s, signal => 'go')",
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as refused:
            guarded.rows("ann", f"select @.{call}", ids["bob"])
        assert refused.value.sqlstate in ("PGD02", "PGD04"), call
    # Whose question it was, the answer is: nobody else finds it by its key.
    key = uuid.uuid4()
    guarded.rows("bob", "select @.ask(%s, 'total', '[]', %s)", ids["bob"], key)
    guarded.one("ada", "select @.answer_query(%s, '7', null)", key)
    assert guarded.rows("ann", "select answer, gone from @.answers(%s)", [key]) == [(None, True)]
    assert guarded.rows("bob", "select answer, gone from @.answers(%s)", [key]) == [("7", False)]
