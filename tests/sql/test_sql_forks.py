"""Forks of instances of workflows in SQL, from every event: what lies before is replayed, what follows runs."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from store.namespace import Namespace, refused

from .machine import QUICK, Machine, note


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


def forks(m: Machine, id: str, settle: Any = None) -> dict[int, tuple[list[str], str]]:
    """Forks it from each of its events: what was done then, and the copy."""
    (last,) = m.ns.rows("select max(event_id) from @.history where instance_id = %s", id)[0]
    made = {}
    for event in range(1, last + 2):
        m.ns.rows("truncate @.ledger")
        copy = m.ns.one("select @.fork(%s, from_event => %s)", id, event)
        m.work()
        if settle:
            settle(copy)
        made[event] = (m.ledger(), copy)
    return made


def test_a_line_of_steps(m: Machine) -> None:
    count = {"op": "sql", "query": "select count(*) as n from ledger", "into": "c"}
    id = m.run([note("a"), count, note("b$c"), note("c"), "select $c as n"])
    for event, (words, copy) in forks(m, id).items():
        # What it read is kept: the ledger was emptied since.
        wanted = {1: ["a", "b1", "c"], 2: ["b0", "c"], 3: ["b1", "c"], 4: ["c"]}.get(event, [])
        assert words == wanted, event
        assert m.output(copy)["rows"] == [{"n": 0 if event == 2 else 1}]
        made = m.ns.rows(
            "select kind, seq from @.history where instance_id = %s and event_id > 0 order by event_id", copy
        )
        assert made == [("step", n) for n in range(5)]
    m.clean()


def test_loops_conditions_and_handlers(m: Machine) -> None:
    m.ns.rows("create sequence @.s")
    flaky = {"op": "sql", "query": "select 1 / (nextval('s') % 2) as n", "retry": QUICK, "into": "n"}
    body = [flaky, {"op": "if", "when": "select $n = 1 as yes", "then": note("yes"), "else": note("no")}]
    broken = {"op": "on_error", "body": {"op": "sql", "query": "select 1 / 0", "retry": {"max_attempts": 1}},
              "handler": note("handled $error.sqlstate")}  # fmt: skip
    rounds = {"op": "for_each", "in": "$items", "body": note("item $item"), "limit": 1}
    id = m.start(m.define([{"op": "loop", "body": body, "while": "select currval('s') < 4 as more"}, broken, rounds]),
                 {"items": [7, 8]})  # fmt: skip
    m.ns.rows("select setval('@.s', 1)")
    m.work()
    m.output(id)
    all_of_it = m.ledger()
    assert all_of_it[-3:] == ["handled 22012", "item 7", "item 8"]
    rows = m.ns.rows(
        "select event_id, name, kind, error is null, payload::text from @.history where instance_id = %s order by 1", id
    )
    wrote = [event for event, _, kind, good, payload in rows if kind == "step" and good and "word" in payload]
    for event, (words, copy) in forks(m, id).items():
        m.output(copy)
        left = [word for at, word in zip(wrote, all_of_it, strict=True) if at >= event]
        # Rounds that are run anew read the sequence as it is by now.
        assert words == left if event > wrote[-4] + 1 else words[-3:] == left[-3:], (event, words, left)
    m.clean()


def test_branches_signals_sleeps_and_children(m: Machine) -> None:
    child = m.define(["select 5 as five"])
    id = m.start(m.define([
        {"op": "parallel", "branches": [[note("a"), note("a2")], [note("b"), note("b2")]]},
        {"op": "sleep", "seconds": 0},
        {"op": "wait_signal", "signal": "go", "into": "sent"},
        {"op": "start_child", "workflow": child, "input": {}, "into": "kid"},
        note("$sent.data"),
        {"op": "race", "branches": [note("won"), {"op": "wait_signal", "signal": "never"}]},
    ]))  # fmt: skip
    m.ns.rows("select @.signal(%s, 'go', '\"sent\"')", id)
    m.work()
    m.output(id)
    rows = m.ns.rows("select event_id, kind from @.history where instance_id = %s order by 1", id)
    signal = next(event for event, kind in rows if kind == "signal")
    assert {kind for _, kind in rows} == {"step", "timer", "signal", "child", "child_end"}

    def settle(copy: str) -> None:
        if m.status(copy) == "waiting":
            m.ns.rows("select @.signal(%s, 'go', '\"again\"')", copy)
            m.work()

    for event, (words, copy) in forks(m, id, settle).items():
        m.output(copy)
        assert words.count("again") == (event <= signal), event
        assert words.count("sent") == (event > signal and event <= len(rows) - 1 and "sent" in words), event
        seqs = m.ns.rows("select seq, kind from @.history where instance_id = %s and event_id > 0", copy)
        assert sorted(seqs) == sorted(m.ns.rows("select seq, kind from @.history where instance_id = %s", id)), event
    m.clean()


def test_what_is_one_commit_is_not_cut(m: Machine) -> None:
    both = {"op": "atomic", "steps": [note("a"), {"op": "if", "when": "select true", "then": note("b")}, note("c")]}
    id = m.run([note("x"), both, both, note("y")])
    m.output(id)
    words = m.ledger()
    assert words == ["x", "a", "b", "c", "a", "b", "c", "y"]
    # Events: x; a, the condition, b, c; the same; y.
    for event, left in ((1, words), (2, words[1:]), (6, words[4:]), (10, words[7:]), (11, [])):
        m.ns.rows("truncate @.ledger")
        copy = m.ns.one("select @.fork(%s, from_event => %s)", id, event)
        m.work()
        m.output(copy)
        assert m.ledger() == left, event
    for event in (3, 4, 5, 7, 8, 9):
        with refused("PGD05", "one commit"):
            m.ns.one("select @.fork(%s, from_event => %s)", id, event)


def test_another_version_and_input(m: Machine) -> None:
    name = m.define([note("a"), note("$who")])
    id = m.start(name, {"who": "ann"})
    m.work()
    m.define([note("a"), note("new $who"), note("more")], name=name)
    copy = m.ns.one("select @.fork(%s, from_event => 2, version => '2', input => '{\"who\": \"bob\"}')", id)
    m.work()
    m.output(copy)
    assert m.ledger() == ["a", "ann", "new bob", "more"]
    # A version that does not come to what was copied is no copy: it stands still and says so.
    m.define([{"op": "sleep", "seconds": 0}, note("z")], name=name)
    lost = m.ns.one("select @.fork(%s, from_event => 3, version => '3')", id)
    m.work()
    error = m.error(lost, "paused")
    assert "does not come to event 1" in error["message"], error
    assert m.ledger()[-1] == "more"


def test_a_replay_that_is_cut_off_is_done_again(m: Machine) -> None:
    """The pump is killed after its turn, before the commit: the next one replays, and runs each step once."""
    id = m.run([note("a"), note("b")])
    copy = m.ns.one("select @.fork(%s, from_event => 2)", id)
    victim = m.ns.session()
    victim.autocommit = False
    pump = m.ns.rows("select @.pump_begin('10 s', null, false, null)", on=victim)[0][0]
    victim.commit()
    for _ in range(2):  # claims, then runs
        victim.commit()
        pump = m.ns.rows("select @.pump_turn(%s)", Jsonb(pump), on=victim)[0][0]
    assert m.ns.one("select owner is not null from @.instances where id = %s", copy)
    m.ns.rows("select pg_terminate_backend(%s, 5000)", victim.info.backend_pid)
    m.work()
    m.output(copy)
    assert m.ledger() == ["a", "b", "b"]
