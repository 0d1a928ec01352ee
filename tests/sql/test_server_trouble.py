"""What no instance can help: a server that cannot write for a while. Nothing is paused for it, and nothing lost."""

from __future__ import annotations

import pytest
from store.namespace import Namespace

from .machine import Machine


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


def fails_first(m: Machine, code: str, times: int) -> None:
    """History cannot be written so many times."""
    m.ns.rows("create sequence @.refusals")
    m.ns.rows(
        "create function @.fail() returns trigger language plpgsql as $$ begin"
        f" if nextval('{m.ns.schema}.refusals') <= {times} then"
        f" raise exception 'could not extend file' using errcode = '{code}'; end if; return new; end $$"
    )
    m.ns.rows("create trigger fail before insert on @.history for each row execute function @.fail()")


@pytest.mark.parametrize("code", ["53100", "58030", "40001", "40P01"])
def test_instances_wait_until_the_server_can_write_again(m: Machine, code: str) -> None:
    name = m.define(["insert into ledger (word) values ($word::text)", "select 1"])
    ids = [m.start(name, {"word": word}) for word in ("one", "two")]
    fails_first(m, code, 5)
    m.work()
    for id in ids:
        m.output(id)
    assert sorted(m.ledger()) == ["one", "two"]
    assert m.ns.one("select last_value from @.refusals") > 5
    m.clean()


def test_a_call_ends_in_time_though_the_server_cannot_write(m: Machine) -> None:
    id = m.start(m.define("insert into ledger (word) values ('one')"))
    fails_first(m, "53100", 1_000_000)
    m.work(max_time="0.5 s")
    assert m.status(id) != "paused"
    m.ns.rows("drop trigger fail on @.history")
    m.work()
    m.output(id)
    assert m.ledger() == ["one"]


def test_what_fails_for_another_reason_is_paused_and_holds_nobody_up(m: Machine) -> None:
    """A server that is well and an instance that is not: it is looked at by somebody."""
    id = m.start(m.define("insert into ledger (word) values ('one')"))
    fails_first(m, "23514", 1_000_000)
    m.work()
    assert m.status(id) == "paused"
    assert m.ns.one("select error ->> 'sqlstate' from @.instances where id = %s", id) == "23514"
    assert m.ledger() == []
