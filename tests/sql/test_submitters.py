"""Steps run with the rights of whoever started the instance, and with no others, however hostile they are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from store.namespace import Namespace, refused

from .machine import Machine

ONCE = {"max_attempts": 1}


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


@pytest.fixture
def ann(m: Machine) -> Iterator[str]:
    """A role that may start instances and write to its own table `hers`."""
    name = f"pgd_test_{uuid.uuid4().hex[:10]}"
    schema = m.ns.schema
    m.ns.rows(f"create role {name}")
    m.ns.rows(f"grant usage on schema @ to {name}")
    m.ns.rows(f"grant execute on function @.start to {name}")
    m.ns.rows("create table @.hers (who text default current_user, word text)")
    m.ns.rows(f"grant select, insert on @.hers to {name}")
    yield name
    with psycopg.connect(m.ns.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))
        conn.execute(f"drop owned by {name}")
        conn.execute(f"drop role {name}")


def start_as(m: Machine, role: str, workflow: str) -> str:
    m.ns.rows(f"set role {role}")
    try:
        id = m.ns.one("select @.start(%s)", workflow)
    finally:
        m.ns.rows("reset role")
    return str(id)


def test_a_submitters_steps_run_as_the_submitter_once_admitted(m: Machine, ann: str) -> None:
    name = m.define(["insert into hers (word) values ('x') returning who", "select current_user::text as who"])
    id = start_as(m, ann, name)
    m.work()
    error = m.error(id, "paused")
    assert error["type"] == "pgdurable.errors.NotAllowed"
    assert "admit_submitter" in error["hint"]
    assert ann in error["message"]
    m.ns.rows("select @.admit_submitter(%s)", ann)
    m.ns.rows("select @.resume(%s)", id)
    m.work()
    assert m.output(id)["rows"] == [{"who": ann}]
    assert m.ns.rows("select who, word from @.hers") == [(ann, "x")]
    with refused("PGD05", "no role"):
        m.ns.rows("select @.admit_submitter('nobody_of_this_name')")


def test_late_types_are_chosen_as_the_submitter(m: Machine, ann: str) -> None:
    """To find them the server plans the statement, and so runs functions of constants: not with the pump's rights."""
    m.ns.rows("select set_config('spy.seen', '', false)")
    m.ns.rows(
        "create function @.spy(n int) returns int immutable language plpgsql as $$ begin"
        " perform set_config('spy.seen', current_setting('spy.seen') || ' ' || current_user, false); return n; end $$"
    )
    name = m.define(
        [
            {"op": "value", "value": [{"a": 1}, {"a": 2}], "into": "x"},
            "select spy(1) as spied, sum(r.a) as total from $x.* as r",
        ]
    )
    program = m.ns.one("select program::text from @.workflows where name = %s", name)
    assert '"late"' in program
    m.ns.rows("select set_config('spy.seen', '', false)")  # defining plans it too, as whoever defines
    m.ns.rows("select @.admit_submitter(%s)", ann)
    m.ns.rows(f"grant execute on function @.spy to {ann}")
    id = start_as(m, ann, name)
    m.work()
    assert m.output(id)["rows"] == [{"spied": 1, "total": 3}]
    seen = m.ns.one("select current_setting('spy.seen')").split()
    assert seen
    assert set(seen) == {ann}


def test_branches_of_a_submitter_run_as_the_submitter(m: Machine, ann: str) -> None:
    m.ns.rows("select @.admit_submitter(%s)", ann)
    query = "select current_user::text as who"
    id = start_as(m, ann, m.define({"op": "parallel", "branches": [query, query]}))
    m.work()
    assert [branch["rows"][0]["who"] for branch in m.output(id)] == [ann, ann]


@pytest.mark.parametrize(
    ("attempt", "sqlstate"),
    [
        ("insert into ledger (word) values ('not mine')", "42501"),
        ("do $$ begin set role postgres; end $$", "42501"),
        ("do $$ begin execute 'reset role'; insert into ledger (word) values ('x'); end $$", "42501"),
        (
            "do $$ begin execute 'set session authorization default'; insert into ledger (word) values ('x'); end $$",
            "42501",
        ),
        ("update instances set status = 'completed'", "42501"),
        ("commit", "0A000"),
    ],
)
def test_what_a_submitter_may_not_do_fails_its_own_step(m: Machine, ann: str, attempt: str, sqlstate: str) -> None:
    m.ns.rows("select @.admit_submitter(%s)", ann)
    if attempt == "commit":
        attempt = "do $$ begin commit; end $$"
        sqlstate = "2D000"
    id = start_as(m, ann, m.define([{"op": "sql", "query": attempt, "retry": ONCE}]))
    other = m.start(m.define(["insert into ledger (word) values (current_user)"]))
    m.work()
    assert m.error(id)["sqlstate"] == sqlstate
    m.output(other)
    assert m.ledger() == [m.ns.one("select current_user::text")]


def test_settings_that_a_step_leaves_behind_are_put_back(m: Machine, ann: str) -> None:
    m.ns.rows("select @.admit_submitter(%s)", ann)
    settings = {"synchronous_commit": "off", "search_path": "pg_temp", "statement_timeout": "1", "lock_timeout": "1"}
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    pump = m.ns.session()
    names = [*settings, "role"]
    before = [m.ns.one("select current_setting(%s)", name, on=pump) for name in names]
    start_as(m, ann, m.define([f"select {calls}"]))
    m.start(m.define([f"select {calls}"]))
    m.work(on=pump)
    assert [m.ns.one("select current_setting(%s)", name, on=pump) for name in names] == before
    assert {status for (status,) in m.ns.rows("select status from @.instances")} == {"completed"}


def test_a_path_that_a_step_sets_leads_the_pump_into_no_trap(m: Machine, ann: str) -> None:
    m.ns.rows("select @.admit_submitter(%s)", ann)
    evil = f"evil_{uuid.uuid4().hex[:8]}"
    m.ns.rows(f"create schema {evil} authorization {ann}")
    try:
        m.ns.rows(
            f"create function {evil}.clock_timestamp() returns timestamptz language plpgsql as "
            "$$ begin raise exception 'trapped, as %', current_user; end $$"
        )
        m.ns.rows(f"alter function {evil}.clock_timestamp() owner to {ann}")
        leave = f"select set_config('search_path', '{evil}, pg_catalog', false)"
        id = start_as(m, ann, m.define([{"op": "sql", "query": leave, "retry": ONCE}, "select 1 as n"]))
        m.work()
        assert m.output(id)["rows"] == [{"n": 1}]
    finally:
        m.ns.rows(f"drop schema {evil} cascade")
