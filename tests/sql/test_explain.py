"""explain: the tree of a definition, and what became of each node of an instance."""

from __future__ import annotations

import pytest
from store.namespace import Namespace, refused

from .machine import Machine


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


def lines(ns: Namespace, call: str, *args: object) -> list[str]:
    return [line for (line,) in ns.rows(f"select d from @.explain({call}) as d", *args)]


def test_a_definition_is_drawn_as_a_tree(ns: Namespace) -> None:
    definition = """@.seq(@.sql('select id
        from orders', 'o'), @.if('select $o', @.parallel('select 1', 'select 2'),
        @.with('select 3', retry => '3', timeout => '5 s', name => 'third')), @.loop(@.seq(@.sleep(90), @.break())),
        @.for_each('$o.*', @.call('ship', '["$item.id"]'), max_parallel => 4))"""
    assert lines(ns, definition) == [
        "seq",
        "|- sql select id from orders -> $o",
        "|- if",
        "|  |- when: sql select $o",
        "|  |- then: parallel",
        "|  |  |- sql select 1",
        "|  |  `- sql select 2",
        "|  `- else: third: sql select 3 [at most 3 attempts] [timeout 5 s]",
        "|- loop",
        "|  `- body: seq",
        "|     |- sleep 00:01:30",
        "|     `- break",
        "`- for_each $item in $o.* (4 at once)",
        '   `- body: call ship("$item.id")',
    ]
    assert lines(ns, "%s", '["select 1"]') == ["seq", "`- sql select 1"]


def test_an_instance_is_drawn_with_what_became_of_each_node(m: Machine) -> None:
    definition = [
        {"op": "sql", "query": "select 1 as n", "into": "n"},
        {"op": "loop", "body": [
            "select 2", {"op": "if", "when": "select count(*) > 2 from ledger", "then": {"op": "break"}},
            "insert into ledger (word) values ('x')",
        ]},
        {"op": "on_error", "body": {"op": "sql", "query": "select 1 / 0", "retry": {"max_attempts": 2, "initial": 0}},
         "handler": "select $error.message"},
        {"op": "if", "when": "select false", "then": "select 4", "else": "select 5"},
        {"op": "wait_signal", "signal": "go"},
        "select 6",
    ]  # fmt: skip
    name = m.define(definition)
    assert lines(m.ns, "%s", name)[0] == "seq"
    id = m.start(name)
    assert lines(m.ns, "%s", id)[0].endswith(": pending")
    m.work()

    def said(text: str) -> str:
        (line,) = [line for line in lines(m.ns, "%s", id) if text in line]
        return line

    assert lines(m.ns, "%s", id)[0] == f"{name} version 1: waiting"
    assert "done, " in said("select 1 as n")
    assert "done 4 times" in said("select 2")
    assert "done 3 times" in said("insert into ledger")
    assert "division by zero" in said("select 1 / 0")
    assert "FAILED" in said("select 1 / 0")
    assert "done" in said("select $error.message")
    assert said("wait_signal").endswith("WAITING (signal)")
    assert said("select 4").endswith("pending")
    assert said("select 6").endswith("pending")
    m.ns.rows("select @.signal(%s, 'go')", id)
    m.work()
    assert lines(m.ns, "%s", id)[0] == f"{name} version 1: completed"
    assert said("select 4").endswith("skipped")
    assert "done" in said("select 6")


def test_who_has_no_tree_is_told(m: Machine) -> None:
    with refused("PGD02", "no instance has the id"):
        lines(m.ns, "%s", "nobody")
    id = m.start("a_python_workflow")
    with refused("PGD05", "which is not one in SQL"):
        lines(m.ns, "%s", id)
