"""The schema df: its functions and operators compose graphs, which become definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from .df_database import df_database, one

SQL_1 = {"node_type": "SQL", "query": "SELECT 1"}
SQL_2 = {"node_type": "SQL", "query": "SELECT 2"}
SQL_3 = {"node_type": "SQL", "query": "SELECT 3"}


@pytest.fixture(scope="module")
def df(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with df_database(dsn) as there, psycopg.connect(there, autocommit=True) as conn:
        yield conn


def graph(df: psycopg.Connection[Any], expression: str) -> Any:
    return json.loads(one(df, f"select {expression}"))


def translated(df: psycopg.Connection[Any], expression: str, variables: dict[str, str] | None = None) -> Any:
    """The definition that a graph becomes, without the policies that all of its statements have."""
    found = one(df, f"select df.translate(({expression})::jsonb, %s::jsonb)", json.dumps(variables or {}))

    def bare(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: bare(value) for key, value in node.items() if key != "retry"}
        return [bare(part) for part in node] if isinstance(node, list) else node

    return bare(found)


# -- what they make


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        (["df.sql('SELECT 1')"], SQL_1),
        (
            ["'SELECT 1' ~> 'SELECT 2'", "df.seq('SELECT 1', df.sql('SELECT 2'))"],
            {"node_type": "THEN", "left_node": SQL_1, "right_node": SQL_2},
        ),
        (["'SELECT 1' |=> 'x'", "df.as('SELECT 1', 'x')"], {**SQL_1, "result_name": "x"}),
        (
            ["'SELECT 1' & 'SELECT 2'", "df.join('SELECT 1', 'SELECT 2')"],
            {"node_type": "JOIN", "left_node": SQL_1, "right_node": SQL_2},
        ),
        (
            ["df.join3('SELECT 1', 'SELECT 2', 'SELECT 3')"],
            {"node_type": "JOIN", "left_node": SQL_1, "right_node": SQL_2, "extra_nodes": [SQL_3]},
        ),
        (
            ["'SELECT 1' | 'SELECT 2'", "df.race('SELECT 1', 'SELECT 2')"],
            {"node_type": "RACE", "left_node": SQL_1, "right_node": SQL_2},
        ),
        (
            ["'SELECT 1' ?> 'SELECT 2' !> 'SELECT 3'", "df.if('SELECT 1', 'SELECT 2', 'SELECT 3')"],
            {"node_type": "IF", "condition_node": SQL_1, "left_node": SQL_2, "right_node": SQL_3},
        ),
        (["@> 'SELECT 1'", "df.loop('SELECT 1')"], {"node_type": "LOOP", "left_node": SQL_1}),
        (["df.loop('SELECT 1', 'SELECT 2')"], {"node_type": "LOOP", "left_node": SQL_1, "condition_node": SQL_2}),
        (["df.sleep(30)"], {"node_type": "SLEEP", "query": "30"}),
        (["df.sleep(0.25)"], {"node_type": "SLEEP", "query": "0.25"}),
    ],
)
def test_operators_and_functions_make_the_same_graph(
    df: psycopg.Connection[Any], expressions: list[str], expected: dict[str, Any]
) -> None:
    assert [graph(df, each) for each in expressions] == [expected] * len(expressions)


def test_configured_nodes_hold_json(df: psycopg.Connection[Any]) -> None:
    def config(expression: str) -> Any:
        return json.loads(graph(df, expression)["query"])

    assert config("df.break('{\"a\": 1}')") == {"break_value": '{"a": 1}'}
    assert config("df.break()") == {"break_value": None}
    assert config("df.wait_for_schedule('0 9 * * 1-5')") == {"cron_expr": "0 9 * * 1-5"}
    assert config("df.wait_for_signal('go', 5)") == {"signal_name": "go", "timeout_seconds": 5}
    assert config("df.if_rows('x', 'SELECT 1', 'SELECT 2')") == {
        "condition_type": "result_has_rows",
        "result_name": "x",
    }
    assert config("df.http('https://h/p')") == {
        "url": "https://h/p", "method": "POST", "body": None, "headers": None, "timeout_seconds": 30,
    }  # fmt: skip


def test_a_null_step_makes_a_null_graph(df: psycopg.Connection[Any]) -> None:
    assert one(df, "select df.seq(null, 'SELECT 1')") is None
    assert one(df, "select df.loop(null)") is None


def test_what_looks_like_json_and_is_none_is_a_statement(df: psycopg.Connection[Any]) -> None:
    assert graph(df, "df.seq('{statement}', 'SELECT 2')")["left_node"] == {"node_type": "SQL", "query": "{statement}"}


def test_operators_on_definitions(df: psycopg.Connection[Any]) -> None:
    def made(expression: str) -> Any:
        return one(df, f"select {expression}")

    a, b, c = ({"op": "sql", "query": f"select {n}"} for n in (1, 2, 3))
    one_, two, three = (f"'{json.dumps(node)}'::jsonb" for node in (a, b, c))
    assert made(f"{one_} ~> {two} ~> {three}") == {"op": "seq", "steps": [a, b, c]}
    assert made(f"{one_} |=> 'x'") == {**a, "into": "x"}
    assert made(f"{one_} & {two} & {three}") == {"op": "parallel", "branches": [a, b, c]}
    assert made(f"{one_} | {two}") == {"op": "race", "branches": [a, b]}
    assert made(f"({one_} ?> {two}) !> {three}") == {"op": "if", "when": a, "then": b, "else": c}
    assert made(f"@> {one_}") == {"op": "loop", "body": a}


# -- what is refused


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("df.sql('SELECT 1') |=> 'has space'", "'has space' is not a valid identifier"),
        ("'SELECT 1' |=> '123abc'", "not a valid identifier"),
        ("'SELECT 1' |=> 'x) UNION SELECT version()--'", "not a valid identifier"),
        ("'SELECT 1' !> 'SELECT 2'", r"left side of !> must be a \?> expression"),
        ("df.sleep(-1)", "0 seconds or more"),
        ("df.wait_for_schedule('61 * * * *')", "'61' is no minute"),
        ("df.wait_for_signal('')", "needs the name of a signal"),
        ("df.wait_for_signal('x', 0)", "more than 0 seconds"),
        ("df.http('ftp://x')", "needs a URL"),
        ("df.http('https://x', 'BREW')", "Invalid HTTP method"),
        ("df.http('https://x', timeout_seconds => 0)", "more than 0 seconds"),
        ("df.http_multipart('https://x', 'POST', '[]')", "needs parts"),
        ("df.http_multipart('https://x', 'GET', '[{}]')", "Invalid HTTP method"),
        ("df.seq(df.setvar('a', 'b'), 'SELECT 1')", "df.setvar cannot be used as a workflow step"),
        ("df.seq('{\"node_type\": \"NONE\"}', 'SELECT 1')", "Unknown node_type 'NONE'"),
    ],
)
def test_what_is_no_step_is_refused(df: psycopg.Connection[Any], expression: str, says: str) -> None:
    with pytest.raises(psycopg.Error, match=says) as refused:
        one(df, f"select {expression}")
    assert refused.value.diag.message_hint


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"node_type": "NONE"}, "root: Unknown node_type 'NONE'"),
        ({"node_type": "THEN", "left_node": SQL_1, "right_node": {"node_type": "X"}},
         "root.right: Unknown node_type 'X'"),
        ({"node_type": "IF", "left_node": SQL_1, "right_node": SQL_2}, "root: IF needs a condition_node"),
        ({"node_type": "IF", "left_node": SQL_1, "right_node": SQL_2, "condition_node": {"foo": 1}},
         "root.condition_node: condition_node: Unknown node_type 'null'"),
        ({"node_type": "IF", "left_node": SQL_1, "right_node": SQL_2, "condition_node": 42},
         "condition_node must be a Durofut JSON object"),
        ({"node_type": "LOOP", "left_node": SQL_1, "condition_node": "a1b2c3d4"}, "condition_node must be a Durofut"),
        ({"node_type": "JOIN", "left_node": SQL_1, "right_node": SQL_2, "extra_nodes": ["a1b2c3d4"]},
         "extra_nodes entries must be Durofut JSON objects"),
        ({"node_type": "IF", "left_node": SQL_1, "right_node": SQL_2, "condition_node": SQL_3, "query": "not-json"},
         "query in IF must be valid JSON config"),
        ({"node_type": "IF", "left_node": SQL_1, "right_node": SQL_2, "query": '{"condition_node": {}}'},
         "condition_node in IF must be a first-class Durofut field"),
        ({**SQL_1, "condition_node": SQL_2}, "condition_node is not valid for SQL nodes"),
        ({"node_type": "SQL"}, "SQL needs a query"),
        ({"node_type": "SLEEP", "query": "soon"}, "SLEEP needs a number of seconds"),
        ({"node_type": "RACE", "left_node": SQL_1}, "RACE lacks a node below it"),
        ({"node_type": "SLEEP", "query": "1", "left_node": SQL_1}, "SLEEP has no node below it"),
        ({**SQL_1, "result_name": "a b"}, "result_name 'a b' is not a valid identifier"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_be_is_refused_with_a_path(df: psycopg.Connection[Any], node: Any, says: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        one(df, "select df.translate(%s::jsonb)", json.dumps(node))
    assert says in str(refused.value)
    assert says in one(df, "select df.explain(%s)", json.dumps(node))


def test_at_most_256_levels(df: psycopg.Connection[Any]) -> None:
    made = """with recursive g (n, graph) as (
        select 0, df.sql('SELECT 1') union all select n + 1, df.seq(graph, 'SELECT 1') from g where n < {0})
        select df.explain(graph) from g where n = {0}"""
    assert one(df, made.format(256)).count("→") == 256
    assert "maximum nesting depth of 256" in one(df, made.format(257))


# -- what becomes of them


def test_a_sequence_is_flat(df: psycopg.Connection[Any]) -> None:
    steps = [{"op": "sql", "name": name, "query": f"SELECT {n}"} for n, name in ((1, "00000002"), (2, "00000003"))]
    assert translated(df, "'SELECT 1' ~> 'SELECT 2' ~> df.sleep(1)") == {
        "op": "seq",
        "steps": [
            *({**step, "name": f"0000000{n}"} for n, step in enumerate(steps, 2)),
            {"op": "sleep", "seconds": 1, "name": "00000004"},
            {"op": "value", "value": {"slept": True, "seconds": 1}},
        ],
    }


def test_a_named_sequence_keeps_its_name(df: psycopg.Connection[Any]) -> None:
    found = translated(df, "('SELECT 1' ~> 'SELECT 2' |=> 'both') ~> 'SELECT $both'")
    assert found["steps"][0]["into"] == "both"
    assert [step["query"] for step in found["steps"][0]["steps"]] == ["SELECT 1", "SELECT 2"]


def test_branches_loops_and_conditions(df: psycopg.Connection[Any]) -> None:
    found = translated(
        df, "df.if_rows('x', df.race('SELECT 1', 'SELECT 2'), df.loop(df.join3('a', 'b', 'c'), 'SELECT 3'))"
    )
    assert (found["op"], found["when"], found["then"]["op"]) == ("if", {"op": "rows", "of": "x"}, "race")
    assert found["else"]["op"] == "loop"
    assert [branch["query"] for branch in found["else"]["body"]["branches"]] == ["a", "b", "c"]
    assert found["else"]["while"]["query"] == "SELECT 3"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("null", None),
        ("'done'", "done"),
        ('\'{"a": [1, "x"]}\'', {"a": [1, "x"]}),
        ("'$r.total'", "$r.total"),
        ('\'{"total": "$r.total", "n": 1}\'', {"total": "$r.total", "n": 1}),
    ],
)
def test_what_a_loop_is_left_with(df: psycopg.Connection[Any], value: str, expected: object) -> None:
    assert translated(df, f"df.loop(df.break({value}))")["body"].get("value") == expected


def test_a_break_without_a_loop_fails_when_it_runs(df: psycopg.Connection[Any]) -> None:
    found = translated(df, "'select 1' & df.break('x')")["branches"][1]
    assert found["op"] == "sql"
    with pytest.raises(psycopg.Error, match=r"df.break has no loop around it"):
        one(df, found["query"])


def test_a_value_with_a_reference_inside_is_a_query(df: psycopg.Connection[Any]) -> None:
    assert translated(df, "df.loop(df.break('{\"total\": $r.total}'))")["body"] == {
        "op": "seq",
        "steps": [
            {"op": "sql", "query": "select df._json('{\"total\": $r.total}') as v", "into": "df_00000001"},
            {"op": "break", "name": "00000001", "value": "$df_00000001.v?"},
        ],
    }


def test_a_condition_may_be_a_reference(df: psycopg.Connection[Any]) -> None:
    found = translated(df, "'$batch.done' ?> 'SELECT 1' !> 'SELECT 2'")
    assert found["when"] == {"op": "value", "value": "$batch.done", "name": "00000003"}


def test_a_signal_says_its_name(df: psycopg.Connection[Any]) -> None:
    found = translated(df, "df.wait_for_signal('go', 5) |=> 'sig'")
    assert found["into"] == "sig"
    assert found["steps"][0] == {
        "op": "wait_signal", "signal": "go", "timeout": 5, "into": "df_00000000", "name": "00000000",
    }  # fmt: skip
    assert found["steps"][1]["value"] == {
        "signal_name": "go", "timed_out": "$df_00000000.timed_out", "data": "$df_00000000.data?",
    }  # fmt: skip


def test_variables_are_put_in_as_they_are_and_once(df: psycopg.Connection[Any]) -> None:
    found = translated(
        df,
        "df.sql($$SELECT '{a}', {b}, '{unknown}', '{ a}', '{}' FROM {a}$$)",
        {"a": "{b}", "b": "O'Hara"},
    )
    assert found["query"] == "SELECT '{b}', O'Hara, '{unknown}', '{ a}', '{}' FROM {b}"


def test_a_request_with_references(df: psycopg.Connection[Any]) -> None:
    found = translated(
        df,
        """df.http('{base}/u/$user.id', 'PUT', '{"n": "$user.name"}', '{"A": "$token", "B": "{key}"}', 7) |=> 'r'""",
        {"base": "https://api.test", "key": "k"},
    )
    assert found["into"] == "r"
    query, request = found["steps"]
    assert query["query"] == "select 'https://api.test/u/$user.id' as c0, '{\"n\": \"$user.name\"}' as c1"
    assert request == {
        "op": "http", "name": "00000000", "method": "PUT", "timeout": 7, "ok": ["1xx", "2xx", "3xx", "4xx"],
        "url": "$df_00000000.c0", "body": "$df_00000000.c1",
        "headers": {"A": "$token", "B": "k", "Content-Type": "application/json"},
    }  # fmt: skip


PARTS = """jsonb_build_array(jsonb_build_object('name', 'f"1', 'data_b64', '{}'),
           jsonb_build_object('name', 'g', 'filename', '$doc.name.txt', 'content_type', 'text/plain',
                              'data_b64', 'aGkK'))"""


def test_a_form(df: psycopg.Connection[Any]) -> None:
    query, request = translated(df, f"df.http_multipart('https://x', 'POST', {PARTS.format('$pdf.body')})")["steps"]
    assert request["body"] == "$df_00000000.c0"
    kind, boundary = request["headers"]["Content-Type"].split("; boundary=")
    assert kind == "multipart/form-data"
    assert "'data_b64', ($pdf.body)::text" in query["query"]
    assert "'filename', '$doc.name.txt'" in query["query"]
    form = one(df, query["query"].replace("$pdf.body", "encode('hello', 'base64')").replace("$doc.name", "d"))
    assert form.split("\r\n") == [
        f"--{boundary}", 'Content-Disposition: form-data; name="f%221"', "", "hello",
        f"--{boundary}", 'Content-Disposition: form-data; name="g"; filename="d.txt"', "Content-Type: text/plain", "",
        "hi\n", f"--{boundary}--", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ('{"name": "f"}', "needs name and data_b64"),
        ('{"name": "f", "data_b64": "%%%"}', "part 'f' is no base64"),
        ('{"name": "f", "data_b64": "/w=="}', "part 'f' is no text in UTF-8"),
    ],
)
def test_what_is_no_part_of_a_form(df: psycopg.Connection[Any], part: str, says: str) -> None:
    with pytest.raises(psycopg.Error, match=says):
        one(df, "select df._form('b', %s::jsonb)", f"[{part}]")


def test_a_part_of_base64_is_refused_when_it_runs(df: psycopg.Connection[Any]) -> None:
    part = translated(df, f"df.http_multipart('https://x', 'POST', {PARTS.format('prefix$pdf.body')})")
    assert part["op"] == "sql"
    with pytest.raises(psycopg.Error, match="whole-value reference"):
        one(df, part["query"])


# -- drawn


def test_a_graph_drawn(df: psycopg.Connection[Any]) -> None:
    drawn = one(
        df,
        """select df.explain('SELECT 1' |=> 'a' ~> df.loop(df.wait_for_schedule('0 * * * *') ~> df.if('SELECT $a > 0',
             df.join('SELECT ''yes''', df.break('done')), df.wait_for_signal('go', 5)), 'SELECT true'))""",
    )
    assert drawn.splitlines() == [
        "SQL |=> 'a': SELECT 1",
        "→ LOOP (while)",
        "    ↻ body:",
        "      WAIT_SCHEDULE '0 * * * *'",
        "      → IF",
        "          ? condition:",
        "            SQL: SELECT $a > 0",
        "          ✓ then:",
        "            JOIN (2)",
        "                ║ branch 1:",
        "                  SQL: SELECT 'yes'",
        "                ║ branch 2:",
        "                  BREAK 'done'",
        "          ✗ else:",
        "            SIGNAL 'go' (5s)",
        "    ? while:",
        "      SQL: SELECT true",
    ]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("'SELECT 1' | df.sleep(30)", "RACE"),
        ("df.http('https://api.test/x', 'GET')", "HTTP GET https://api.test/x"),
        ("update t set x = 1", "SQL: update t set x = 1"),
        ("df.nothing('x')", "Failed to evaluate expression: function df.nothing"),
        ("what is this", "Cannot explain this"),
        ("00000000", "Instance '00000000' not found"),
    ],
)
def test_what_can_be_drawn(df: psycopg.Connection[Any], text: str, begins: str) -> None:
    assert one(df, "select df.explain(%s)", text).startswith(begins)
