"""The composing functions: what each gives, callable without quotes, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from store.namespace import Namespace, refused

A, B = {"op": "sql", "query": "select 1"}, {"op": "sql", "query": "select 2"}

MADE: list[tuple[str, Any]] = [
    ("@.sql('select 1', 'x')", {**A, "into": "x"}),
    ("@.sql('select 1', \"into\" => 'x', name => 'first')", {**A, "into": "x", "name": "first"}),
    ("@.into('x', 'select 1')", {**A, "into": "x"}),
    ("@.into('x', @.seq('select 1'))", {"op": "seq", "steps": [A], "into": "x"}),
    (
        "@.call('shop.ship', '[\"$o.id\"]', timeout => '5 s')",
        {"op": "call", "function": "shop.ship", "args": ["$o.id"], "timeout": 5},
    ),
    ("@.seq('select 1', 'select 2')", {"op": "seq", "steps": [A, B]}),
    ("@.seq(@.sql('select 1'), @.sleep('1 min'))", {"op": "seq", "steps": [A, {"op": "sleep", "seconds": 60}]}),
    ("@.atomic('select 1', 'select 2')", {"op": "atomic", "steps": [A, B]}),
    ("@.parallel('select 1', 'select 2')", {"op": "parallel", "branches": [A, B]}),
    ("@.parallel(array[@.sql('select 1')], max_parallel => 3)", {"op": "parallel", "branches": [A], "limit": 3}),
    ("@.race(@.sql('select 1'), @.sleep(2.5))", {"op": "race", "branches": [A, {"op": "sleep", "seconds": 2.5}]}),
    (
        "@.if('select true', 'select 1', 'select 2')",
        {"op": "if", "when": {"op": "sql", "query": "select true"}, "then": A, "else": B},
    ),
    (
        "@.if('select true', @.sql('select 1'), 'select 2')",
        {"op": "if", "when": {"op": "sql", "query": "select true"}, "then": A, "else": B},
    ),
    ("@.if(@.sql('select 1'), 'select 2', @.sql('select 1'))", {"op": "if", "when": A, "then": B, "else": A}),
    ("@.if('select 1', @.sql('select 2'))", {"op": "if", "when": A, "then": B}),
    ("@.if_rows('x', 'select 1')", {"op": "if", "when": {"op": "rows", "of": "x"}, "then": A}),
    ("@.loop('select 1', while => 'select 2')", {"op": "loop", "body": A, "while": B}),
    (
        "@.loop(@.seq(@.sql('select 1'), @.break('{\"n\": \"$x\"}')))",
        {"op": "loop", "body": {"op": "seq", "steps": [A, {"op": "break", "value": {"n": "$x"}}]}},
    ),
    ("@.for_each('select 1', 'select 2')", {"op": "for_each", "query": "select 1", "body": B}),
    (
        "@.for_each('$orders.*', @.sql('select 1'), item => 'o', max_parallel => 4)",
        {"op": "for_each", "in": "$orders.*", "body": A, "as": "o", "limit": 4},
    ),
    ("@.sleep('$delay')", {"op": "sleep", "seconds": "$delay"}),
    ("@.wait_until('2030-01-01 00:00+00')", {"op": "wait_until", "at": "2030-01-01T00:00:00+00:00"}),
    ("@.wait_until('$day')", {"op": "wait_until", "at": "$day"}),
    (
        "@.wait_for_schedule('0 9 * * 1-5', 'Europe/Berlin')",
        {"op": "wait_for_schedule", "cron": "0 9 * * 1-5", "tz": "Europe/Berlin"},
    ),
    (
        "@.wait_signal('go', '1 day', 'answer')",
        {"op": "wait_signal", "signal": "go", "timeout": 86400, "into": "answer"},
    ),
    (
        "@.http('https://x/$id', 'POST', body => '{\"a\": null}')",
        {"op": "http", "url": "https://x/$id", "method": "POST", "body": {"a": None}},
    ),
    (
        "@.start_child('ship', '{\"id\": \"$id\"}', wait => false, parent_close => 'abandon')",
        {"op": "start_child", "workflow": "ship", "input": {"id": "$id"}, "wait": False, "parent_close": "abandon"},
    ),
    ("@.python('send', '[1]')", {"op": "python", "step": "send", "args": [1]}),
    ("@.python('send', '{\"to\": 1}')", {"op": "python", "step": "send", "kwargs": {"to": 1}}),
    (
        "@.external('pack', '{\"id\": 1}', queue => 'store')",
        {"op": "external", "name": "pack", "input": {"id": 1}, "queue": "store"},
    ),
    ("@.on_error('select 1', @.sql('select 2'))", {"op": "on_error", "body": A, "handler": B}),
    ("@.on_error(@.sql('select 1'), 'select 2')", {"op": "on_error", "body": A, "handler": B}),
    ("@.compensate('select 1', 'select 2')", {"op": "compensate", "body": A, "undo": B}),
    ("@.value('{\"a\": null}', 'v')", {"op": "value", "value": {"a": None}, "into": "v"}),
    (
        "@.with('select 1', retry => '3', timeout => '10 s', name => 'n',"
        " continue_on_error => true, label => 'l', \"into\" => 'x')",
        {
            **A,
            "retry": {"max_attempts": 3},
            "timeout": 10,
            "name": "n",
            "continue_on_error": True,
            "label": "l",
            "into": "x",
        },
    ),
    (
        "@.with(@.seq('select 1'), retry => @.retries(8, initial => '500 ms', retry_on => '{40,55P03}', jitter => 0))",
        {"op": "seq", "steps": [A], "retry": {"max_attempts": 8, "initial": 0.5, "on": ["40", "55P03"], "jitter": 0}},
    ),
]


@pytest.mark.parametrize(("call", "node"), MADE, ids=[call for call, _ in MADE])
def test_each_function_gives_its_node_and_the_check_takes_it(ns: Namespace, call: str, node: Any) -> None:
    assert ns.one(f"select {call}") == node
    whole = f"jsonb_build_object('op', 'loop', 'body', {call})"
    assert ns.rows(f"select * from @.validate({whole})") == []
    assert ns.one(f"select @.normalize({call}) = {call}")


def test_every_kind_of_node_has_its_function(ns: Namespace) -> None:
    ops = {
        op
        for (op,) in ns.rows(
            "select distinct n.op from unnest(%s::jsonb[]) d, @.nodes(d) n",
            [ns.one(f"select ({call})::text") for call, _ in MADE],
        )
    }
    known = "sql call seq atomic parallel race if rows loop for_each break sleep wait_until wait_for_schedule"
    assert ops == {*known.split(), *"wait_signal http start_child python external on_error compensate value".split()}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ("@.sql('')", "query is a text that is not empty"),
        ("@.sql('select 1', 'no name')", "into is a name of letters"),
        ("@.sql('select 1', 'input')", "into is a name of letters"),
        ("@.into('no name', 'select 1')", "into is a name of letters"),
        ("@.into('x', '{\"op\": \"none\"}'::jsonb)", "op"),
        ("@.with('select 1', retry => '0')", "retry is an object"),
        ("@.with('select 1', retry => '{\"tries\": 3}')", "retry is an object"),
        ("@.with('select 1', retry => @.retries(retry_on => '{4}'))", "retry is an object"),
        ("@.with('select 1', timeout => '0')", "timeout is a number of seconds above 0"),
        ("@.sleep(-1)", "seconds is a number of seconds of 0 or more"),
        ("@.parallel(array[@.sql('a')], max_parallel => 0)", "limit is a whole number"),
        ("@.start_child('w', parent_close => 'kill')", "parent_close is cancel or abandon"),
        ("@.call('f', '1')", "args is an array, or an object"),
        ("@.external('')", "name is a text"),
    ],
)
def test_what_is_no_node_is_refused_at_once(ns: Namespace, call: str, match: str) -> None:
    with refused("PGD05", match):
        ns.one(f"select {call}")


def test_texts_and_arrays_are_nodes_in_the_plain_form(ns: Namespace) -> None:
    plain = '["select 1", {"op": "if", "when": "select 1", "then": ["select 2"], "retry": 2, "timeout": "5 minutes"}]'
    assert ns.one("select @.normalize(%s)", plain) == {
        "op": "seq",
        "steps": [
            A,
            {"op": "if", "when": A, "then": {"op": "seq", "steps": [B]}, "retry": {"max_attempts": 2}, "timeout": 300},
        ],
    }


def test_nodes_are_numbered_as_they_are_read(ns: Namespace) -> None:
    rows = ns.rows(
        "select n, parent, path, op, name from @.nodes(%s)",
        '["a", {"op": "if", "when": "b", "then": ["c", {"op": "external", "name": "sign"}], "else": "d"}, '
        '{"op": "on_error", "body": "e", "handler": "f"}]',
    )
    assert rows == [
        (0, None, "", "seq", "root"),
        (1, 0, "1", "sql", "1"),
        (2, 0, "2", "if", "2"),
        (3, 2, "2.when", "sql", "2.when"),
        (4, 2, "2.then", "seq", "2.then"),
        (5, 4, "2.then.1", "sql", "2.then.1"),
        (6, 4, "2.then.2", "external", "sign"),
        (7, 2, "2.else", "sql", "2.else"),
        (8, 0, "3", "on_error", "3"),
        (9, 8, "3.body", "sql", "3.body"),
        (10, 8, "3.handler", "sql", "3.handler"),
    ]
