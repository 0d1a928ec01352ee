"""Schedules of workflows in SQL, which pumps start: the same ticks as workers in Python work out, each once."""

from __future__ import annotations

import random
import threading
import time
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from schedules import age
from store.namespace import Namespace

from pgdurable._engine.ticks import Due, Times, key_of, plan
from pgdurable.errors import PgDurableError

from .machine import Machine, note

UTC = timezone.utc
NOW = datetime(2026, 3, 29, 0, 59, 30, 250000, tzinfo=UTC)  # half a minute before clocks change in Berlin


@pytest.fixture
def machine(ns: Namespace) -> Machine:
    return Machine(ns)


def ticks(ns: Namespace, name: str) -> list[str]:
    """The ids of a schedule's instances, in order."""
    found = ns.rows("select id from @.instance_keys where split_part(id, chr(64), 1) = %s order by id", name)
    return [id for (id,) in found]


def row(ns: Namespace, name: str, columns: str) -> Any:
    (found,) = ns.rows(f"select {columns} from @.schedules where name = %s", name)
    return found[0] if len(found) == 1 else found


# -- the same as in Python


def some_definition(rnd: random.Random) -> dict[str, Any]:
    kind = rnd.choice(("cron", "cron", "every", "every", "at"))
    made: dict[str, Any] = {}
    if kind == "cron":
        made["cron"] = rnd.choice(
            ("*/5 * * * *", "30 2 * * *", "0 */2 * * *", "*/20 * * * * *", "0 3 * * 1-5", "15 2 29 * *", "@hourly")
        )
        made["tz"] = rnd.choice(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"))
    elif kind == "every":
        made["every_s"] = rnd.choice((0.1, 0.25, 7.5, 60.0, 3600.0, 86400.0, 1.000001))
        made["anchor"] = (NOW - timedelta(seconds=rnd.uniform(-100, 1e6))).isoformat()
    else:
        made["at"] = (NOW + timedelta(seconds=rnd.choice((-1e5, -20, -1, 1, 1e5)))).isoformat()
    made["overlap"] = rnd.choice(("skip", "buffer_one", "buffer_all", "cancel_other", "allow"))
    if rnd.random() < 0.6:
        made["catch_up_s"] = rnd.choice((0.0, 5.0, 60.0, 7200.0))
    if rnd.random() < 0.4:
        made["jitter_s"] = rnd.choice((0.05, 10.0, 100000.0))
    if rnd.random() < 0.3:
        made["pause_on_failure"] = True
    return made


def close(one: Any, other: Any) -> bool:
    """The same, but for a microsecond of rounding."""
    if one is None or other is None:
        return one is other
    return bool(abs(datetime.fromisoformat(one) - other) <= timedelta(microseconds=2))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_done_is_what_workers_in_python_do(machine: Machine, seed: int) -> None:
    ns, rnd = machine.ns, random.Random(seed)
    runs = machine.define(note("x"))
    ids = {}
    for status in ("running", "failed", "completed"):
        id = machine.start(runs)
        ns.rows("update @.instances set status = %s, wake_at = null, owner = null where id = %s", status, id)
        ids[status] = id
    for n in range(40):
        definition = some_definition(rnd)
        name = f"same_{seed}_{n}"
        times = Times(definition, name)
        since = NOW - timedelta(seconds=rnd.choice((0.3, 30, 3600, 40000)))
        tick_at = rnd.choice((None, times.first(since)))
        running = {ids[s]: s for s in ids if rnd.random() < 0.3}
        buffered = [NOW - timedelta(seconds=s) for s in (500, 400) if rnd.random() < 0.3]
        requests: list[dict[str, Any]] = []
        if rnd.random() < 0.3:
            requests.append({"trigger": (NOW - timedelta(seconds=2)).isoformat()})
        if rnd.random() < 0.4:
            asked = {"since": (NOW - timedelta(hours=rnd.choice((1, 60)))).isoformat(), "until": NOW.isoformat()}
            if rnd.random() < 0.5:
                asked["overlap"] = rnd.choice(("allow", "skip"))
            requests.append(asked)
        last_at = rnd.choice((None, NOW - timedelta(seconds=20), times.at))
        paused = rnd.random() < 0.1
        due = Due(
            name, runs, definition, "{}", 1, paused, since, tick_at, list(buffered), requests, last_at, running, NOW
        )
        wanted = plan(due)
        ns.rows(
            "insert into @.schedules (name, workflow, definition, input, submitted_by, next_at, since, tick_at, paused,"
            " buffered, requests, last_at, running)"
            " values (%s, %s, %s, '{}', current_user, null, %s, %s, %s, %s, %s, %s, %s::uuid[])",
            name, runs, Jsonb(definition), since, tick_at, paused, buffered, Jsonb(requests), last_at, list(running),
        )  # fmt: skip
        found = ns.one("select @.plan_ticks(s, %s) from @.schedules s where s.name = %s", NOW, name)
        told = (n, definition, wanted, found)
        assert [datetime.fromisoformat(t) for t in found["starts"]] == wanted.starts, told
        assert [datetime.fromisoformat(t) for t in found["buffered"]] == wanted.buffered, told
        assert (found["keep"], found["cancel"], found["note"]) == (wanted.keep, wanted.cancel, wanted.note), told
        assert (found["skipped"], found["missed"]) == (wanted.skipped, wanted.missed), told
        assert close(found.get("tick_at"), wanted.tick_at), told
        assert close(found.get("next_at"), wanted.next_at), told
        assert [sorted(r) for r in found["requests"]] == [sorted(r) for r in wanted.requests], told
        for tick in wanted.starts:
            assert ns.one("select @.tick_key(%s, %s)", tick, name) == key_of(name, tick)


def test_a_cron_that_is_none_is_none_for_both(machine: Machine) -> None:
    with pytest.raises(PgDurableError):
        Times({"cron": "61 * * * *"}, "x")
    with pytest.raises(psycopg.Error, match="61"):
        machine.ns.rows('select @.tick_next(\'{"cron": "61 * * * *"}\', now())')


# -- by pumps


def test_a_pump_starts_what_is_due_and_runs_it(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define([note("$who at $scheduled_at")])
    ns.rows(
        "select @.schedule('once', %s, '{\"who\": \"ann\"}', at => '2026-03-01 08:30+00', labels => '{\"a\": 1}')", name
    )
    assert ns.one("select @.pump_due()") == 0
    machine.work()
    assert machine.ledger() == ["ann at 2026-03-01T08:30:00+00:00"]
    assert ticks(ns, "once") == ["once@2026-03-01T08:30:00Z"]
    labels, status, by = ns.rows("select labels, status, submitted_by = current_user from @.instances")[0]
    assert labels == {"a": 1, "schedule": "once", "scheduled_at": "2026-03-01T08:30:00+00:00"}
    assert (status, by) == ("completed", True)
    assert row(ns, "once", "next_at, started") == (None, 1)
    assert ns.one("select @.pump_due()") is None
    machine.work()
    assert len(machine.ledger()) == 1
    machine.clean()


def test_a_cron_in_its_zone(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define([note("$scheduled_at")])
    ns.rows("select @.schedule('daily', %s, cron => '30 2 * * *', tz => 'Europe/Berlin', catch_up => '100 days')", name)
    ns.rows("update @.schedules set since = '2026-01-01 00:00+00', next_at = now(), tick_at = null")
    ns.rows('update @.schedules set definition = definition || \'{"overlap": "allow"}\'')
    # As of the first days of the year: what is due lies in them.
    found = ns.one("select @.plan_ticks(s, '2026-01-03 12:00+01') -> 'starts' from @.schedules s")
    assert [datetime.fromisoformat(t).astimezone(UTC).isoformat() for t in found] == [
        "2026-01-01T01:30:00+00:00", "2026-01-02T01:30:00+00:00", "2026-01-03T01:30:00+00:00",
    ]  # fmt: skip
    assert ns.one("select @.tick_local('2026-07-01 00:30+00', 'Europe/Berlin')") == "2026-07-01T02:30:00+02:00"


def test_once_per_tick_over_all_pumps(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define(note("beat"))
    ns.rows("select @.schedule('beat', %s, every => '0.2 s', overlap => 'allow', catch_up => '1 min')", name)
    others = [ns.session() for _ in range(3)]
    failed: list[Exception] = []

    def pump(on: psycopg.Connection) -> None:
        try:
            machine.work(on=on, max_time="4 s", wait=True)
        except Exception as error:  # seen by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=pump, args=(on,)) for on in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    made = ns.rows("select (i.labels ->> 'scheduled_at')::timestamptz, i.created_at from @.instances i order by 1")
    assert len(made) >= 12
    anchor = datetime.fromisoformat(row(ns, "beat", "definition ->> 'anchor'"))
    assert [tick for tick, _ in made] == [anchor + n * timedelta(seconds=0.2) for n in range(1, len(made) + 1)]
    assert all(tick <= created for tick, created in made)
    assert len(machine.ledger()) == len(made) == row(ns, "beat", "started")


def test_looks_at_the_same_time_start_it_once(machine: Machine) -> None:
    """Two sessions that have both worked it out; the second has not seen what the first wrote."""
    ns = machine.ns
    name = machine.define(note("x"))
    ns.rows("select @.schedule('same', %s, every => '1 day', anchor => now() - interval '1 hour')", name)
    ns.rows("select @.start_scheduled()")
    age(ns.rows, "same", "2 days")
    other = ns.session()
    with ns.main.transaction():
        assert ns.rows("select made, looked from @.start_scheduled()") == [(1, 1)]
        # Its row is locked: it is passed over, without waiting.
        assert ns.rows("select made, looked from @.start_scheduled()", on=other) == [(0, 1)]
    assert ns.rows("select made, looked from @.start_scheduled()", on=other) == [(0, 0)]
    assert len(ticks(ns, "same")) == 1


def test_no_burst_after_a_suspension(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define(note("x"))
    ns.rows("select @.schedule('all', %s, every => '1 h', catch_up => '10 hours', overlap => 'allow')", name)
    ns.rows("select @.schedule('last', %s, every => '1 h')", name)
    ns.rows("select @.start_scheduled()")
    assert ticks(ns, "all") == []
    age(ns.rows, "all", "30 hours 30 minutes")
    age(ns.rows, "last", "30 hours 30 minutes")
    machine.work()
    assert (len(ticks(ns, "all")), row(ns, "all", "missed")) == (10, 20)
    assert (len(ticks(ns, "last")), row(ns, "last", "missed")) == (1, 29)


@pytest.mark.parametrize(
    ("overlap", "made", "waiting", "skipped"),
    [("skip", 1, 0, 2), ("buffer_one", 1, 1, 1), ("buffer_all", 1, 2, 0), ("allow", 3, 0, 0)],
)
def test_overlaps(machine: Machine, overlap: str, made: int, waiting: int, skipped: int) -> None:
    ns = machine.ns
    name = machine.define([{"op": "wait_signal", "signal": "go"}, note("went")])
    ns.rows("select @.schedule('over', %s, every => '1 h', catch_up => '10 h', overlap => %s)", name, overlap)
    ns.rows("select @.start_scheduled()")
    age(ns.rows, "over", "3 hours 30 minutes")
    machine.work()
    assert len(ticks(ns, "over")) == made
    assert row(ns, "over", "cardinality(buffered), skipped") == (waiting, skipped)
    deadline = time.monotonic() + 20
    while waiting and len(machine.ledger()) < 1 + waiting and time.monotonic() < deadline:
        for id, status in ns.rows("select id, status from @.instances"):
            if status == "waiting" and not ns.one("select count(*) from @.events where instance_id = %s", id):
                ns.rows("select @.signal(%s, 'go')", str(id))
        machine.work()
    assert len(ticks(ns, "over")) == made + waiting


def test_the_next_tick_cancels_what_runs_and_begins_after_it(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define([{"op": "wait_signal", "signal": "go"}])
    ns.rows("select @.schedule('over', %s, every => '1 h', overlap => 'cancel_other')", name)
    ns.rows("select @.start_scheduled()")
    age(ns.rows, "over", "70 minutes")
    machine.work()
    assert [s for (s,) in ns.rows("select status from @.instances")] == ["waiting"]
    age(ns.rows, "over", "65 minutes")
    machine.work()
    assert [s for (s,) in ns.rows("select status from @.instances")] == ["cancelled"]
    # The one that was to end is looked at within ten seconds: as if they were over.
    ns.rows("update @.schedules set next_at = now()")
    machine.work()
    assert [s for (s,) in ns.rows("select status from @.instances order by id")] == ["cancelled", "waiting"]


def test_pause_on_failure_and_resume(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define({"op": "sql", "query": "select 1 / 0", "retry": {"max_attempts": 1}})
    ns.rows("select @.schedule('sad', %s, every => '1 h', pause_on_failure => true)", name)
    ns.rows("select @.start_scheduled()")
    age(ns.rows, "sad", "70 minutes")
    machine.work(max_time="2 s", wait=True)
    paused, why, next_at = row(ns, "sad", "paused, note, next_at")
    assert (paused, next_at) == (True, None)
    assert why == f"instance {ns.one('select id from @.instances')} ended failed"
    ns.rows("select @.resume_schedule('sad')")
    machine.work()
    assert row(ns, "sad", "paused, started") == (False, 1)


def test_trigger_and_backfill(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define(note("$scheduled_at"))
    ns.rows("select @.schedule('asked', %s, cron => '0 0 1 1 *', overlap => 'allow')", name)
    machine.work()
    id = ns.one("select @.trigger_schedule('asked')")
    machine.work()
    assert ticks(ns, "asked") == [id]
    ns.rows("select @.backfill_schedule('asked', '2020-06-01 00:00+00', '2023-06-01 00:00+00')")
    machine.work()
    assert ticks(ns, "asked") == [*(f"asked@{year}-01-01T00:00:00Z" for year in (2021, 2022, 2023)), id]
    assert machine.status(str(ns.one("select @.find_instance(%s)", id))) == "completed"


def test_one_that_is_none_is_set_aside_and_the_others_go_on(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define(note("x"))
    ns.rows("select @.schedule('bad', %s, cron => '61 * * * *')", name)
    ns.rows("select @.schedule('good', %s, at => now())", name)
    machine.work()
    assert row(ns, "bad", "paused, next_at") == (True, None)
    assert "61" in row(ns, "bad", "note")
    assert row(ns, "good", "started") == 1
    ns.rows("select @.edit_schedule('bad', '{\"cron\": \"* * * * *\"}')")
    ns.rows("select @.resume_schedule('bad')")
    machine.work()
    assert row(ns, "bad", "paused") is False
    assert row(ns, "bad", "next_at") > datetime.now(UTC)


def test_one_that_cannot_be_written_is_set_aside(machine: Machine) -> None:
    ns = machine.ns
    name = machine.define(note("x"))
    ns.rows("select @.schedule('full', %s, at => now())", name)
    ns.rows(
        "create function @.refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'the disk of % is full', new.workflow; end $$"
    )
    ns.rows("create trigger refuse before insert on @.instances for each row execute function @.refuse()")
    ns.rows("select @.start_scheduled()")
    assert row(ns, "full", "paused, note, started") == (True, f"the disk of {name} is full", 0)


def test_schedules_of_workflows_in_python_are_left_to_workers(machine: Machine) -> None:
    ns = machine.ns
    name = f"elsewhere_{uuid.uuid4().hex[:8]}"
    ns.rows("select @.schedule('theirs', %s, at => now())", name)
    machine.define(note("x"))
    machine.work()
    assert ticks(ns, "theirs") == []
    assert row(ns, "theirs", "next_at") is not None
    assert ns.one("select @.pump_due()") is None


def test_a_pump_that_dies_at_a_tick_leaves_it_to_the_next(machine: Machine) -> None:
    """Killed between the tick and its commit: nothing of it is there, and the next pump starts it once."""
    ns = machine.ns
    name = machine.define(note("once"))
    ns.rows("select @.schedule('dies', %s, at => now())", name)
    victim = ns.session()
    victim.autocommit = False
    assert ns.rows("select made from @.start_scheduled()", on=victim) == [(1,)]
    ns.rows("select pg_terminate_backend(%s, 5000)", victim.info.backend_pid)
    assert ticks(ns, "dies") == []
    machine.work()
    assert machine.ledger() == ["once"]
    assert len(ticks(ns, "dies")) == 1
