"""A pump logged in as a role of the workers' group, no superuser and no owner of anything, runs everything."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from security.conftest import House, house, lot

__all__ = ["house", "lot"]


def define(house: House, name: str, definition: Any, **options: Any) -> str:
    given = {"name": name, "definition": Jsonb(definition), "search_path": house.schema, **options}
    places = ", ".join(f"{key} => %s" for key in given)
    house.one("wes", f"select @.define({places})", *given.values())
    return name


def work(house: House) -> None:
    house.of("wes").execute(house.text("call @.work(max_time => '20 s')"))


def outcome(house: House, id: str) -> tuple[Any, ...]:
    (row,) = house.rows("wes", "select status, output, error from @.instances where id = @.find_instance(%s)", id)
    return row


@pytest.fixture
def shop(house: House) -> House:
    """Ann is admitted, and has a table that nobody else may write to."""
    schema = house.schema
    house.root.execute(
        f"create table {schema}.ledger (id int generated always as identity, who text default current_user, word text)"
    )
    house.root.execute(house.text("grant select, insert on @.ledger to @ann"))
    house.root.execute(house.text("select @.admit_submitter('@ann', '@worker')"))
    return house


def note(word: str) -> str:
    return f"insert into ledger (word) values ('{word}') returning word"


def test_a_pump_that_is_a_worker_and_nothing_more_runs_everything(shop: House) -> None:
    once = {"max_attempts": 1}
    define(shop, "kid", ["select 5 as five"])
    failing = {"op": "sql", "query": "select 1 / 0", "retry": {"max_attempts": 2, "initial": 0}}
    define(shop, "everything", [
        note("a"),
        {"op": "atomic", "steps": [note("b"), note("c")]},
        {"op": "parallel", "branches": [note("p"), [note("q"), note("q2")]]},
        {"op": "race", "branches": [note("won"), {"op": "wait_signal", "signal": "never"}]},
        {"op": "for_each", "in": "$items", "body": note("item $item")},
        {"op": "on_error", "body": failing, "handler": note("$error.sqlstate")},
        {"op": "compensate", "body": note("d"), "undo": note("undone")},
        {"op": "sleep", "seconds": 0},
        {"op": "sql", "query": "select sum(r.a) as total from $rows.* as r", "timeout": 30, "into": "sum"},
        {"op": "wait_signal", "signal": "go", "into": "sent"},
        {"op": "start_child", "workflow": "kid", "input": {}},
        "select current_user::text as who, $sent.data as sent, $sum as total",
    ])  # fmt: skip
    define(shop, "fails", {"op": "sql", "query": "delete from ledger", "retry": once})
    id = shop.one("ann", "select @.start('everything', %s)", Jsonb({"items": [1, 2], "rows": [{"a": 2}, {"a": 3}]}))
    failed = shop.one("ann", "select @.start('fails')")
    shop.one("ann", "select @.schedule('hers', 'kid', at => now())")
    shop.one("ann", "select @.signal(%s, 'go', '\"x\"')", id)
    work(shop)
    status, output, error = outcome(shop, id)
    assert (status, error) == ("completed", None)
    assert output["rows"] == [{"who": shop.name("ann"), "sent": "x", "total": 5}]
    words = [w for (w,) in shop.rows("ann", "select word from @.ledger where who = current_user order by id")]
    assert sorted(words) == sorted(["a", "b", "c", "p", "q", "q2", "won", "item 1", "item 2", "22012", "d"])
    assert shop.one("ann", "select count(*) from @.ledger") == len(words)
    status, _, error = outcome(shop, failed)
    assert (status, error["sqlstate"]) == ("failed", "42501")  # what Ann may not do
    assert shop.one("wes", "select started from @.schedules") == 1
    assert (
        outcome(shop, shop.one("wes", "select id from @.instance_keys where starts_with(id, 'hers')"))[0] == "completed"
    )
    # What people do to instances.
    shop.one("ann", "select @.retry(%s)", failed)
    copy = shop.one("ann", "select @.fork(%s, from_event => 2)", id)
    shop.one("ann", "select @.signal(%s, 'go', '\"again\"')", copy)
    gone = shop.one("ann", 'select @.start(\'everything\', \'{"items": [], "rows": [{"a": 1}]}\')')
    work(shop)
    assert outcome(shop, failed)[0] == "failed"
    assert outcome(shop, copy)[0] == "completed"
    assert outcome(shop, gone)[0] == "waiting"
    shop.one("ann", "select @.cancel(%s)", gone)
    work(shop)
    assert outcome(shop, gone)[0] == "cancelled"
    assert shop.one("ann", "select count(*) from @.ledger where word = 'undone'") == 1
    assert shop.rows("wes", "select name from @.workers") == []


def test_a_submitter_that_is_not_admitted_stands_still(shop: House) -> None:
    define(shop, "plain", "select 1 as one")
    id = shop.one("bob", "select @.start('plain')")
    own = shop.one("wes", "select @.start('plain')")
    work(shop)
    status, _, error = outcome(shop, id)
    assert (status, error["type"]) == ("paused", "pgdurable.errors.NotAllowed")
    assert outcome(shop, own)[0] == "completed"
