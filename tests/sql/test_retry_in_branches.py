"""retry of an instance that failed inside a fork: from the branch that failed, with what the others had done kept."""

from __future__ import annotations

from typing import Any

import pytest
from store.namespace import Namespace

from .machine import Machine, note

ONCE = {"max_attempts": 1}
FAILING = {"op": "sql", "query": "select 1 / count(*) as n from answers", "retry": ONCE}


@pytest.fixture
def m(ns: Namespace) -> Machine:
    machine = Machine(ns)
    ns.rows("create table @.answers (n int)")
    return machine


def retried(m: Machine, definition: Any, input: Any = None) -> str:
    """Runs it until it fails, mends the cause, and has it tried again."""
    id = m.run(definition, input)
    assert m.error(id)["sqlstate"] == "22012"
    m.ns.rows("insert into @.answers values (1)")
    assert m.ns.one("select @.retry(%s)", id)
    m.work()
    m.output(id)
    m.clean()
    return id


def test_branches_of_parallel(m: Machine) -> None:
    id = retried(m, [note("a"), {"op": "parallel", "branches": [
        [note("p"), note("p2")], [note("q"), FAILING, note("q2")], note("r")]}, note("z")])  # fmt: skip
    # What the others had done by then is not done again.
    assert sorted(m.ledger()) == ["a", "p", "p2", "q", "q2", "r", "z"]
    kinds = [kind for kind, _ in m.history(id)]
    assert kinds.count("undone step") == kinds.count("retry") == 1


def test_a_branch_within_a_branch(m: Machine) -> None:
    inner = {"op": "parallel", "branches": [note("in"), [FAILING, note("after")]]}
    retried(m, [{"op": "parallel", "branches": [note("out"), [inner, note("joined")]]}, note("z")])
    assert sorted(m.ledger()) == ["after", "in", "joined", "out", "z"]


def test_items_of_for_each(m: Machine) -> None:
    body = [note("$item"), FAILING, note("$item again")]
    retried(m, {"op": "for_each", "in": "$items", "body": body, "limit": 1}, {"items": ["x", "y"]})
    assert m.ledger() == ["x", "x again", "y", "y again"]


def test_a_race_and_one_that_waits_beside(m: Machine) -> None:
    race = {"op": "race", "branches": [{"op": "wait_signal", "signal": "never"}, [note("w"), FAILING, note("won")]]}
    retried(m, [race, note("z")])
    assert m.ledger() == ["w", "won", "z"]


def test_a_pump_that_dies_after_the_retry_leaves_it_to_the_next(m: Machine) -> None:
    """Its step runs and its session is killed before the commit: nothing is lost, nothing twice."""
    name = m.define({"op": "parallel", "branches": [[note("q"), FAILING, note("q2")], note("r")]})
    id = m.start(name)
    m.work()
    m.error(id)
    m.ns.rows("insert into @.answers values (1)")
    m.ns.one("select @.retry(%s)", id)
    victim = m.ns.session()
    victim.execute(f"set search_path = {m.ns.schema}, public")
    pump = m.ns.one("select @.pump_begin('30 s', null, false, null)::text", on=victim)
    pump = m.ns.one("select @.pump_turn(%s::jsonb)::text", pump, on=victim)  # claims
    victim.autocommit = False
    for _ in range(3):
        pump = m.ns.one("select @.pump_turn(%s::jsonb)::text", pump, on=victim)
    m.ns.rows("select pg_terminate_backend(%s, 5000)", victim.info.backend_pid)
    assert m.ledger() == ["q"] or sorted(m.ledger()) == ["q", "r"]
    m.work()
    m.output(id)
    assert sorted(m.ledger()) == ["q", "q2", "r"]
    m.clean()
