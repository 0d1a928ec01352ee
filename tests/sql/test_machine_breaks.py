"""A break leaves the loop around it, also out of branches; and branches do not hold one another up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from store.namespace import Namespace

from .machine import QUICK, Machine

Eventually = Callable[..., None]
SLOW = {"op": "sleep", "seconds": 3600}
OUT = {"op": "break", "value": "out"}


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


@pytest.mark.parametrize(
    "inside",
    [
        {"op": "parallel", "branches": [OUT, "insert into ledger (word) values ('beside')"]},
        {"op": "race", "branches": [SLOW, ["select 1", OUT]]},
        {
            "op": "parallel",
            "branches": [SLOW, {"op": "race", "branches": [{"op": "parallel", "branches": [OUT]}, SLOW]}],
        },
        {"op": "for_each", "query": "select 1 as n", "body": OUT},
        {"op": "if", "when": "select true", "then": {"op": "parallel", "branches": [OUT]}},
    ],
)
def test_a_break_in_a_branch_leaves_the_loop_around_the_fork(m: Machine, inside: Any) -> None:
    round_of = ["insert into ledger (word) values ('round')", inside, "insert into ledger (word) values ('behind')"]
    id = m.run([{"op": "loop", "body": round_of, "into": "left"}, "select $left as v"])
    assert m.output(id)["rows"] == [{"v": "out"}]
    words = m.ledger()
    assert words.count("round") == 1, "one round"
    assert "behind" not in words
    m.clean()


def test_a_break_of_a_loop_in_a_branch_leaves_that_loop_only(m: Machine) -> None:
    inner = {"op": "loop", "body": ["insert into ledger (word) values ('inner')", {"op": "break", "value": 1}]}
    id = m.run({"op": "parallel", "branches": [inner, {"op": "value", "value": 2}]})
    assert m.output(id) == [1, 2]
    assert m.ledger() == ["inner"]


def test_what_the_branch_named_is_known_behind_the_loop(m: Machine) -> None:
    body = {"op": "parallel", "branches": [[{"op": "sql", "query": "select 7 as n", "into": "x"}, OUT], "select 1"]}
    assert m.output(m.run([{"op": "loop", "body": body}, "select $x as n"]))["rows"] == [{"n": 7}]


def test_a_slow_statement_does_not_hold_up_a_branch_that_waited(m: Machine, eventually: Eventually) -> None:
    """One pump is in the statement, another runs the branch whose time has come: the race ends without it."""
    quick = [{"op": "sleep", "seconds": 0.2}, "insert into ledger (word) values ('quick')"]
    name = m.define({"op": "race", "branches": ["select pg_sleep(60)", quick]})
    id = m.start(name)
    pumps = [m.ns.session() for _ in range(3)]
    working = [
        m.ns.in_thread("call @.work(max_time => '50 s', max_steps => 3, wait => true)", on=pump) for pump in pumps
    ]
    try:
        eventually(lambda: m.status(id) == "completed", "the race is over", timeout=20)
    finally:
        for pump in pumps:
            pump.cancel()
        for each in working:
            each.exception()
    assert m.ledger() == ["quick"]


def test_commands_behind_a_fork_have_numbers_and_attempts_of_their_own(m: Machine) -> None:
    """The step before it was saved under way: with its number, and as a second attempt."""
    m.ns.rows("create sequence @.tries")
    retried = {"op": "sql", "query": "select 1 / (nextval('tries') - 1)", "timeout": 60, "retry": QUICK}
    fork = {"op": "parallel", "branches": ["select 1", "select 2"]}
    id = m.run(["select 0", retried, fork, {"op": "sleep", "seconds": 0}, "select 3"])
    m.output(id)
    rows = m.ns.rows(
        "select seq, kind, attempt from @.history where instance_id = %s and seq is not null order by seq, event_id", id
    )
    assert rows == [
        (0, "step", 1), (1, "attempt", 1), (1, "step", 2), (2, "step", 1), (3, "step", 1), (4, "timer", 1),
        (5, "step", 1),
    ]  # fmt: skip
