"""SQL workflows in the database: what waits, runs side by side, has children, is operated on; several pumps."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from store.namespace import Namespace, refused

from .machine import Machine, note

Eventually = Callable[..., None]


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


# -- waits


def test_a_sleep_is_a_durable_timer_of_less_than_a_second_too(m: Machine) -> None:
    id = m.start(m.define([note("a"), {"op": "sleep", "seconds": 0.3}, note("b")]))
    m.work()
    assert m.ledger() == ["a"]
    assert m.status(id) == "waiting"
    m.work(wait=True, max_time="1 s")
    m.output(id)
    waited = m.ns.one("select extract(epoch from max(at) - min(at)) from @.ledger")
    assert 0.29 <= waited < 0.9
    assert m.history(id)[1] == ("timer", "2")
    m.clean()


def test_waiting_until_a_time_and_for_a_schedule(m: Machine) -> None:
    id = m.run([
        {"op": "wait_until", "at": "2020-01-01T00:00:00Z"},
        {"op": "wait_until", "at": "$when"},
        note("past"),
        {"op": "wait_for_schedule", "cron": "0 0 1 1 *", "tz": "Europe/Rome"},
    ], {"when": "2021-01-01 00:00+02"})  # fmt: skip
    assert m.ledger() == ["past"]
    local = m.ns.one(
        "select to_char(wake_at at time zone 'Europe/Rome', 'MM-DD HH24:MI') from @.instances where id = %s", id
    )
    assert local == "01-01 00:00"


def test_signals_wait_for_their_wait_in_order(m: Machine) -> None:
    graph = [
        {"op": "wait_signal", "signal": "go", "into": "first"},
        {"op": "wait_signal", "signal": "other", "into": "other"},
        {"op": "wait_signal", "signal": "go", "into": "second"},
        {"op": "wait_signal", "signal": "go", "timeout": 0.05, "into": "third"},
        {"op": "value", "value": ["$first", "$other", "$second", "$third"]},
    ]
    id = m.start(m.define(graph))
    m.ns.rows("select @.signal(%s, 'go', '1')", id)
    m.ns.rows("select @.signal(%s, 'go', '{\"n\": 2}')", id)
    m.work()
    assert m.status(id) == "waiting"
    m.ns.rows("select @.signal(%s, 'other', '\"o\"')", id)
    m.work(wait=True, max_time="0.5 s")
    assert m.output(id) == [
        {"timed_out": False, "data": 1}, {"timed_out": False, "data": "o"}, {"timed_out": False, "data": {"n": 2}},
        {"timed_out": True, "data": None},
    ]  # fmt: skip
    assert [kind for kind, _ in m.history(id)] == ["signal", "signal", "signal", "timer"]
    m.clean()


# -- side by side


def test_branches_run_and_their_names_are_known_behind_them(m: Machine) -> None:
    id = m.run([
        {"op": "parallel", "branches": [
            {"op": "sql", "query": "select 'one' as w", "into": "a"},
            [{"op": "sql", "query": "select 'two' as w", "into": "b"}, note("$b")],
            {"op": "value", "value": 3},
        ], "into": "all"},
        note("$a and $b"),
        {"op": "value", "value": "$all"},
    ])  # fmt: skip
    first, second, third = m.output(id)
    assert (first["rows"], second["rows"], third) == ([{"w": "one"}], [{"word": "two"}], 3)
    assert m.ledger() == ["two", "one and two"]
    m.clean()


def test_branches_really_run_at_the_same_time_over_pumps(m: Machine) -> None:
    """Each waits for the other: one pump alone could never end it."""
    m.ns.rows("""create procedure @.meet(mine int, other int) language plpgsql as $$ begin
        perform pg_advisory_xact_lock_shared(7771, mine);
        for n in 1..1500 loop
            if exists (select from pg_locks where locktype = 'advisory' and classid = 7771 and objid = other) then
                perform pg_sleep(0.05);
                return;
            end if;
            perform pg_sleep(0.01);
        end loop;
        raise exception 'nobody came'; end $$""")
    id = m.start(m.define({"op": "parallel", "branches": [
        {"op": "call", "function": "meet", "args": [1, 2], "retry": {"max_attempts": 1}},
        {"op": "call", "function": "meet", "args": [2, 1], "retry": {"max_attempts": 1}},
    ]}))  # fmt: skip
    pumps = [m.ns.session() for _ in range(2)]
    threads = [threading.Thread(target=m.work, kwargs={"on": pump, "wait": True, "max_time": "4 s"}) for pump in pumps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(m.output(id)) == 2
    m.clean()


def test_the_first_to_end_wins_a_race_and_the_others_are_dropped(m: Machine) -> None:
    id = m.run([
        {"op": "race", "branches": [
            {"op": "wait_signal", "signal": "never"},
            [{"op": "sql", "query": "select 'fast' as w", "into": "w"}, note("$w")],
            [{"op": "sleep", "seconds": 60}, note("slow")],
        ], "into": "won"},
        note("won by $w"),
    ])  # fmt: skip
    m.output(id)
    assert m.ledger() == ["fast", "won by fast"]
    m.clean()


def test_for_each_goes_through_rows_with_a_limit(m: Machine) -> None:
    each = {"op": "for_each", "query": "select n, n * n as square from generate_series(1, $n::int) n", "limit": 3}
    id = m.run([
        {**each, "into": "r",
         "body": [{"op": "sql", "query": "select $item.square + 1 as s", "into": "s"}, note("$item: $s")]},
        {"op": "for_each", "in": "$r", "as": "one", "body": {"op": "value", "value": "$one"}},
    ], {"n": 7})  # fmt: skip
    assert m.output(id) == [f"{n}: {n * n + 1}" for n in range(1, 8)]
    assert sorted(m.ledger()) == sorted(f"{n}: {n * n + 1}" for n in range(1, 8))
    assert m.output(m.run({**each, "body": note("never")}, {"n": 0})) == []
    m.clean()


def test_a_branch_that_fails_fails_all_and_the_others_are_dropped(m: Machine) -> None:
    id = m.run([{"op": "on_error", "body": {"op": "parallel", "branches": [
        {"op": "wait_signal", "signal": "never"},
        {"op": "sql", "query": "select 1/0", "retry": {"max_attempts": 2, "initial": 0, "jitter": 0}, "name": "div"},
    ]}, "handler": note("$error.step: $error.sqlstate")}])  # fmt: skip
    m.output(id)
    assert m.ledger() == ["div: 22012"]
    assert ("attempt", "div") in m.history(id)
    m.clean()


# -- children


def test_a_child_gives_its_output_or_its_error(m: Machine) -> None:
    child = m.define(
        [
            {"op": "sql", "query": "select 10 / $n as q", "retry": {"max_attempts": 1}, "into": "q"},
            {"op": "value", "value": "$q"},
        ]
    )
    graph = [
        {"op": "start_child", "workflow": child, "input": {"n": "$n"}, "into": "c", "name": "kid"},
        {"op": "value", "value": {"got": "$c"}},
    ]
    name = m.define(graph)
    good, bad = m.start(name, {"n": 5}), m.start(name, {"n": 0})
    m.work()
    assert m.output(good) == {"got": 2}
    error = m.error(bad)
    assert (error["step"], error["sqlstate"], error["cause"]["sqlstate"]) == ("kid", "22012", "22012")
    assert [kind for kind, _ in m.history(good)] == ["child", "child_end"]
    m.clean()


def test_a_child_that_is_not_waited_for_goes_on_by_itself(m: Machine) -> None:
    child = m.define([{"op": "sleep", "seconds": 0.1}, note("child")])
    id = m.run([{"op": "start_child", "workflow": child, "wait": False, "parent_close": "abandon", "id": "kid-1"}])
    assert m.output(id) == {"id": "kid-1"}
    m.work(wait=True, max_time="0.6 s")
    assert m.ledger() == ["child"]
    assert m.ns.one("select @.status('kid-1')") == "completed"


# -- operations


def test_cancelling_runs_compensations(m: Machine) -> None:
    id = m.run(
        [{"op": "compensate", "body": note("book"), "undo": note("unbook")}, {"op": "wait_signal", "signal": "never"}]
    )
    m.ns.rows("select @.cancel(%s, 'changed my mind')", id)
    m.work()
    assert m.error(id, "cancelled")["reason"] == "changed my mind"
    assert m.ledger() == ["book", "unbook"]
    m.clean()


def test_pause_resume_and_terminate(m: Machine) -> None:
    name = m.define([{"op": "loop", "body": {"op": "sleep", "seconds": 0.01}}])
    ids = [m.start(name), m.start(name)]
    m.work(max_time="0.2 s", wait=True)
    m.ns.rows("select @.pause(%s)", ids[0])
    m.work(max_time="0.2 s", wait=True)
    assert m.status(ids[0]) == "paused"
    m.ns.rows("select @.resume(%s)", ids[0])
    m.work(max_time="0.2 s", wait=True)
    assert m.status(ids[0]) in ("waiting", "running")
    for id in ids:
        m.ns.rows("select @.terminate(%s)", id)
    m.work(max_time="0.2 s", wait=True)
    assert [m.status(id) for id in ids] == ["cancelled", "cancelled"]


def test_retry_goes_on_from_the_step_that_failed(m: Machine) -> None:
    m.ns.rows("create table @.answers (n int)")
    id = m.run(
        [
            note("a"),
            {"op": "sql", "query": "select 1 / count(*) as n from answers", "retry": {"max_attempts": 1}, "into": "x"},
            note("b $x"),
        ]
    )
    m.error(id)
    m.ns.rows("insert into @.answers values (1)")
    assert m.ns.one("select @.retry(%s)", id)
    m.work()
    m.output(id)
    assert m.ledger() == ["a", "b 1"]
    assert m.history(id) == [("step", "1"), ("undone step", "2"), ("retry", None), ("step", "2"), ("step", "3")]
    m.clean()


def test_deadlines_end_what_takes_too_long(m: Machine) -> None:
    id = m.start(
        m.define(
            [{"op": "compensate", "body": note("a"), "undo": note("undo a")}, {"op": "wait_signal", "signal": "never"}],
            deadline="0.3 s",
        )
    )
    m.work()
    assert m.status(id) == "waiting"
    m.work(wait=True, max_time="0.8 s")
    assert m.error(id, "timed_out")["type"] == "pgdurable.errors.WorkflowTimeout"
    assert m.ledger() == ["a", "undo a"]


def test_a_timeout_around_a_node_is_an_error_of_it(m: Machine) -> None:
    id = m.run([
        {"op": "on_error", "body": {"op": "seq", "name": "block", "timeout": 0.2,
                                    "steps": [note("in"), {"op": "sleep", "seconds": 60}]},
         "handler": note("$error.step is late")},
    ])  # fmt: skip
    m.work(wait=True, max_time="0.6 s")
    m.output(id)
    assert m.ledger() == ["in", "block is late"]
    m.clean()


def test_a_statement_over_its_timeout_is_stopped_and_timed_out(m: Machine, eventually: Eventually) -> None:
    id = m.start(m.define([{"op": "sql", "timeout": 0.3,
                            "query": "insert into ledger (word) select 'x' from pg_sleep(30)",
                            "retry": {"max_attempts": 2, "initial": 0}, "name": "slow"}]))  # fmt: skip
    thread = threading.Thread(target=m.work, kwargs={"on": m.ns.session(), "max_time": "25 s"})
    thread.start()
    watch = m.ns.session()

    def ended() -> bool:
        m.ns.rows("select @.stop_overdue()", on=watch)
        return not thread.is_alive()

    eventually(ended, "the pump ends")
    assert m.error(id)["type"] == "pgdurable.errors.StepTimeout"
    assert m.history(id) == [("attempt", "slow"), ("step", "slow")]
    assert m.ns.rows("select status from @.steps where instance_id = %s order by event_id", id) == [
        ("timed_out, retried",),
        ("timed_out",),
    ]
    assert m.ledger() == []
    m.clean()


def test_concurrency_of_a_workflow(m: Machine) -> None:
    name = m.define([note("x"), {"op": "wait_signal", "signal": "go"}], concurrency=2)
    ids = [m.start(name) for _ in range(5)]
    m.work()
    assert m.ns.one("select count(*) from @.instances where queue = %s", f"workflow:{name}") == 5
    for id in ids:
        m.ns.rows("select @.signal(%s, 'go')", id)
    m.work(wait=True, max_time="1 s")
    assert {m.status(id) for id in ids} == {"completed"}


def test_a_fork_goes_on_from_the_failed_step_or_begins_anew(m: Machine) -> None:
    m.ns.rows("create table @.answers (n int)")
    failing = {"op": "sql", "query": "select 1 / count(*) as n from answers", "retry": {"max_attempts": 1}}
    id = m.run([note("a"), failing, note("b")])
    m.error(id)
    m.ns.rows("insert into @.answers values (1)")
    copy = m.ns.one("select @.fork(%s)", id)
    m.work()
    m.output(copy)
    assert m.ledger() == ["a", "b"]
    assert m.history(copy)[-2:] == [("step", "2"), ("step", "3")]
    anew = m.ns.one("select @.fork(%s, from_event => 1)", id)
    m.work()
    m.output(anew)
    assert m.ledger() == ["a", "b", "a", "b"]
    m.error(id)
    with refused("PGD05", "keeps its input and version"):
        m.ns.one("select @.fork(%s, input => '{\"x\": 1}')", id)


def test_a_start_takes_the_queue_of_its_workflow(m: Machine) -> None:
    name = m.define([note("x")], concurrency=1, queue="narrow")
    other = m.start(name, queue="wide")
    m.start(name)
    queues = dict(m.ns.rows("select queue, status from @.instances"))
    assert set(queues) == {"narrow", "wide"}
    assert m.ns.one("select concurrency from @.queues where name = 'narrow'") == 1
    m.work(queues=["wide"])
    assert m.status(other) == "completed"
    assert m.ledger() == ["x"]
    m.work()
    assert m.ledger() == ["x", "x"]


def test_a_call_that_is_cancelled_ends_and_its_step_runs_again(m: Machine) -> None:
    id = m.start(m.define(["insert into ledger (word) select 'slow' from pg_sleep(1)", note("after")]))
    pump = m.ns.session()
    m.ns.rows("set statement_timeout = '300ms'", on=pump)
    m.work(on=pump)
    assert m.status(id) == "running"
    assert m.ledger() == []
    m.ns.rows("set statement_timeout = 0", on=pump)
    m.work(on=pump)
    m.output(id)
    assert m.ledger() == ["slow", "after"]
    assert [kind for kind, _ in m.history(id)] == ["step", "step"]  # no attempt was counted
    m.clean()


def test_cancelling_stops_a_running_statement(m: Machine, eventually: Eventually) -> None:
    slow = {"op": "sql", "query": "insert into ledger (word) select 'slow' from pg_sleep(40)", "timeout": 60}
    id = m.start(m.define([{"op": "compensate", "body": note("a"), "undo": note("undo a")}, slow]))
    thread = threading.Thread(target=m.work, kwargs={"on": m.ns.session(), "max_time": "25 s"})
    thread.start()
    watch = m.ns.session()
    running = "select count(*) from pg_stat_activity where application_name like %s"
    eventually(lambda: m.ns.one(running, f"pgd:%:{id}", on=watch) == 1, "the statement runs")
    m.ns.rows("select @.cancel(%s)", id, on=watch)

    def ended() -> bool:
        m.ns.rows("select @.stop_overdue()", on=watch)
        return not thread.is_alive()

    eventually(ended, "the pump ends")
    m.error(id, "cancelled")
    assert m.ledger() == ["a", "undo a"]
    m.clean()
