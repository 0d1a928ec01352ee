"""validate: everything that is wrong with a definition, each with the path to it and what to do."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb
from store.namespace import Namespace

WRONG: list[tuple[Any, str, str]] = [
    (5, "", 'a node is an object with "op"'),
    (["select 1", None], "2", 'a node is an object with "op"'),
    ([], "", "steps is an array with a node or more"),
    ({"op": "jump"}, "", "there is no op 'jump'"),
    ({"op": "sql"}, "", "it needs query"),
    ({"op": "sql", "query": "select 1", "retries": 3}, "", "it has no field retries"),
    ({"op": "for_each", "body": "select 1"}, "", "it needs query or in"),
    (
        [{"op": "if", "when": "select 1", "then": ["select 1", {"op": "break"}]}],
        "1.then.2",
        "there is no loop around this break",
    ),
    ({"op": "atomic", "steps": ["select 1", {"op": "sleep", "seconds": 1}]}, "2", "sleep cannot be part of an atomic"),
    ({"op": "rows", "of": "x"}, "", "rows is a condition"),
    ({"op": "sleep", "seconds": "soon"}, "", "seconds is a number of seconds"),
    ("selec 1", "", "no statement begins with 'selec'"),
    ("select 1 fro", "", ""),
    ("select $x from $y.* where", "", "its query: syntax error"),
    ("select * from $table", "", "its query: syntax error"),
    ("select 1; select 2", "", "there is a second statement"),
    ("select 'a", "", "a string is not closed"),
    ("select $1", "", "there is a numbered parameter"),
    ("commit", "", "its query is COMMIT"),
    (
        {"op": "for_each", "query": "select", "body": {"op": "loop", "body": "update"}},
        "body.body",
        "its query: syntax error",
    ),
    ({"op": "sql", "query": "select 1", "retry": {"max_attempts": 0}}, "", "retry is an object"),
    ({"op": "sql", "query": "select 1", "timeout": -1}, "", "timeout is a number of seconds above 0"),
]


@pytest.mark.parametrize(("definition", "path", "problem"), WRONG, ids=[str(wrong[0])[:60] for wrong in WRONG])
def test_a_problem_is_told_with_its_path(ns: Namespace, definition: Any, path: str, problem: str) -> None:
    found = ns.rows("select path, problem, hint from @.validate(%s)", Jsonb(definition))
    if not problem:
        assert found == []  # an alias
        return
    assert [row[0] for row in found] == [path]
    assert problem in found[0][1]
    assert found[0][2]


def test_all_problems_are_told_at_once(ns: Namespace) -> None:
    found = ns.rows("select path from @.validate(%s)", Jsonb([wrong[0] for wrong in WRONG[1:]]))
    assert len(found) >= len(WRONG) - 2
    assert len({path for (path,) in found}) >= len(WRONG) - 3


def test_tables_that_are_not_there_yet_are_no_problem(ns: Namespace) -> None:
    definition = [
        "create table later (id int)",
        "insert into later values ($x)",
        "select f($x.a, $y?) from later where a in (select id from $z.*)",
    ]
    assert ns.rows("select * from @.validate(%s)", Jsonb(definition)) == []


def test_a_definition_nested_too_deep_is_told(ns: Namespace) -> None:
    node: Any = "select 1"
    for _ in range(258):
        node = [node]
    assert any("256 deep" in problem for (problem,) in ns.rows("select problem from @.validate(%s)", Jsonb(node)))
