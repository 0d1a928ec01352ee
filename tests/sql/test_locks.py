"""A step that waits for somebody's lock: what shares its commit does not wait, and it waits as long as it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from store.namespace import Namespace

from .machine import Machine, note

Eventually = Callable[..., None]


@pytest.fixture
def m(ns: Namespace) -> Machine:
    machine = Machine(ns)
    ns.rows("create table @.rows (id int primary key, n int)")
    ns.rows("insert into @.rows values (1, 0)")
    return machine


def test_those_that_share_its_commit_do_not_wait_with_it(m: Machine, eventually: Eventually) -> None:
    ns = m.ns
    quick = m.define([note("quick"), note("quick too")])
    stuck = m.define([note("before"), "update rows set n = n + 1 where id = 1", note("behind")])
    m.start(quick)
    id = m.start(stuck)
    for _ in range(3):
        m.start(quick)
    holder, pump = ns.session(), ns.session()
    with holder.transaction():
        ns.rows("update @.rows set n = 10 where id = 1", on=holder)
        pump.execute(f"set search_path = {ns.schema}, public")
        call = ns.threads.submit(lambda: ns.rows("call @.work(max_time => '30 s')", on=pump))
        eventually(lambda: m.ledger().count("quick too") == 4, "all others are done, and committed")
        eventually(ns.waits(pump, holder), "it waits, alone")
        assert "behind" not in m.ledger()
        assert m.ledger().count("before") == 1
    call.result()
    m.output(id)
    assert ns.one("select n from @.rows") == 11
    assert m.ledger().count("before") == m.ledger().count("behind") == 1
    # No attempt was counted, nor is anything left of the setting.
    assert [kind for kind, _ in m.history(id)] == ["step"] * 3
    assert ns.one("show lock_timeout", on=pump) == "0"
    m.clean()


def test_a_row_of_ours_that_a_client_holds_makes_nothing_fail(m: Machine, eventually: Eventually) -> None:
    """A cancellation, say, in a transaction that stays open: the machine waits for it, and pauses nobody."""
    ns = m.ns
    ids = [m.start(m.define(note(word))) for word in "abc"]
    holder, pump = ns.session(), ns.session()
    pump.execute(f"set search_path = {ns.schema}, public")
    turns = pump.execute(f"select {ns.schema}.pump_begin('30 s', null, false, null)").fetchone()
    assert turns
    # Claimed, so that the row can be locked between the claim and its end.
    claimed: Any = ns.rows("select @.pump_turn(%s::jsonb)::text", json.dumps(turns[0]), on=pump)[0][0]
    with holder.transaction():
        ns.rows("select from @.instances where id = %s for update", ids[1], on=holder)
        turn = ns.threads.submit(lambda: ns.rows("select @.pump_turn(%s::jsonb)::text", claimed, on=pump)[0][0])
        again = turn.result()
        assert '"patient": true' in again
        again = ns.rows("select @.pump_turn(%s::jsonb)::text", again, on=pump)[0][0]  # of tasks
        turn = ns.threads.submit(lambda: ns.rows("select @.pump_turn(%s::jsonb)::text", again, on=pump)[0][0])
        eventually(ns.waits(pump, holder), "it waits")
    turn.result()
    assert [m.status(id) for id in ids] == ["completed"] * 3
    assert sorted(m.ledger()) == ["a", "b", "c"]


def test_branches_do_not_wait_with_one_another(m: Machine, eventually: Eventually) -> None:
    ns = m.ns
    name = m.define({"op": "parallel", "branches": [
        note("one"), "update rows set n = n + 1 where id = 1", note("two"), note("three")]})  # fmt: skip
    id = m.start(name)
    holder, pump = ns.session(), ns.session()
    with holder.transaction():
        ns.rows("update @.rows set n = 10 where id = 1", on=holder)
        pump.execute(f"set search_path = {ns.schema}, public")
        call = ns.threads.submit(lambda: ns.rows("call @.work(max_time => '30 s')", on=pump))
        eventually(lambda: m.ledger() == ["one"], "what was done before it is committed")
        eventually(ns.waits(pump, holder), "it waits")
    call.result()
    m.output(id)
    assert sorted(m.ledger()) == ["one", "three", "two"]
    assert ns.one("select n from @.rows") == 11


def test_a_step_that_was_slow_once_shares_commits_again(m: Machine) -> None:
    """As on a machine that was busy for a moment; one that is slow each time goes on beginning after a commit."""
    ns = m.ns
    ns.rows("create sequence @.calls")
    once = "select pg_sleep(case nextval('calls') when 1 then 0.05 else 0 end)"
    name = m.define([once, {"op": "sql", "query": "select pg_sleep(0.03)", "name": "each time"}])
    for _ in range(4):
        m.start(name)
    pump = ns.one("select @.pump_begin('30 s', null, false, null)::text")
    seen = set()
    while json.loads(pump)["going"]:
        pump = ns.one("select @.pump_turn(%s::jsonb)::text", pump)
        seen |= set(json.loads(pump)["slow"])
    ns.rows("select @.pump_end(%s::jsonb)", pump)
    assert seen == {f"{name}/1/1", f"{name}/1/2"}
    assert json.loads(pump)["slow"] == {f"{name}/1/2": 4}
    assert ns.rows("select distinct status from @.instances") == [("completed",)]
