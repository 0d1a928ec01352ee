"""Results as bind parameters: of every type, whatever the value, and nothing of a value ever becomes a statement."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from pgdurable._store.migrations import migrate

HOSTILE = [
    "'; drop table precious; --",
    "$x",
    "$1",
    "$$; drop table precious; $$",
    "\\",
    "\\'",
    "'",
    "''",
    '"',
    '","admin":true,"x":"',
    '","b',
    "}",
    "{",
    "NULL",
    "null",
    "a,b",
    "(a)",
    "[1,2)",
    "<a>&'\"",
    "--",
    "/*",
    "*/",
    "E'\\'",
    "%s",
    "\n",
    " ",
    "",
    "true",
    "$tag$",
    "é😀",
    "x'||(select 1)||'",
    "\x01" + "1" + "\x01",
    "?",
    ";",
]
texts = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12).map(float),
)
values = st.recursive(
    st.one_of(st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
patient = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Steps:
    """Runs queries as steps would: results of one, kept by name, are there for the next."""

    def __init__(self, conn: psycopg.Connection[Any], schema: str) -> None:
        self.conn = conn
        self.schema = schema
        self.kept: dict[str, str] = {}

    def one(self, text: str, *args: Any) -> Any:
        ((value,),) = self.conn.execute(text.replace("@", self.schema), args or None).fetchall()
        return value

    def set(self, **variables: Any) -> None:
        for name, value in variables.items():
            self.keep(name, "%s", Jsonb(value))

    def keep(self, name: str, value: str, *args: Any) -> None:
        # As text: Python's floats have not all the digits of a number in JSON.
        self.kept[name] = self.one(f"select @.env_entry({value})::text", *args)

    @property
    def env(self) -> str:
        return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in self.kept.items()) + "}"

    def bind(self, query: str) -> Any:
        return self.one("select @.bind(%s, %s)", query, f"{self.schema}, public")

    def text(self, query: str) -> str:
        args = (Jsonb(self.bind(query)), query, self.env, f"{self.schema}, public")
        return str(self.one("select @.fit(%s, %s, %s::jsonb, %s)", *args))

    def execute(self, text: str) -> psycopg.RawCursor[Any]:
        return psycopg.RawCursor(self.conn).execute(text.encode(), (Jsonb(self.env, dumps=str),))

    def run(self, query: str, into: str | None = None) -> list[Any]:
        """Runs it as the engine does: the environment is the one parameter, and of a row to_jsonb of it is kept."""
        text = self.text(query)
        if self.bind(query)["mode"] == "plain":
            self.execute(text)
            return []
        found = self.execute(f"select to_jsonb(q), to_jsonb(q)::text from ({text}\n) q").fetchall()
        if into:
            names = [column.name for column in self.execute(f"select * from ({text}\n) q limit 0").description or ()]
            rows = f"[{', '.join(raw for _, raw in found)}]"
            self.keep(
                into,
                "jsonb_build_object('rows', %s::jsonb, 'row_count', %s, 'columns', %s)",
                rows,
                len(found),
                Jsonb(names),
            )
        return [row for row, _ in found]


@pytest.fixture
def steps(dsn: str, schema: str) -> Iterator[Steps]:
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"set search_path = {schema}, public")
        conn.execute("create table precious (id int primary key, note text)")
        conn.execute("insert into precious values (1, 'kept')")
        conn.execute("create type mood as enum ('glad', 'it''s', 'null')")
        conn.execute("create type place as (street text, no int, tags text[])")
        conn.execute("create domain posint as int check (value > 0)")
        yield Steps(conn, schema)
        assert conn.execute("select id, note from precious").fetchall() == [(1, "kept")]


# -- every type

TYPED = [
    ("int2", "'-7'"),
    ("int4", "'2147483647'"),
    ("int8", "'9223372036854775807'"),
    ("numeric", "'123456789012345678901.2345'"),
    ("numeric", "'NaN'"),
    ("float8", "'1e-300'"),
    ("float8", "'Infinity'"),
    ("float4", "'1.5'"),
    ("bool", "'true'"),
    ("text", "'it''s'"),
    ("varchar(20)", "'x'"),
    ("char(5)", "'ab'"),
    ("name", "'n'"),
    ("bytea", "'\\x00ff27'"),
    ("uuid", "'0190163d-8694-739b-aea5-966c26f8ad91'"),
    ("date", "'2024-02-29'"),
    ("date", "'infinity'"),
    ("timestamp", "'2024-02-29 12:00:00.123456'"),
    ("interval", "'1 year -2 days 03:00'"),
    ("timestamptz", "'2024-02-29 12:00:00.123456+05'"),
    ("timestamptz", "'-infinity'"),
    ("time", "'23:59:59'"),
    ("timetz", "'23:59:59+02'"),
    ("json", "'{\"a\": [1, null]}'"),
    ("jsonb", "'{\"a\": [1, null]}'"),
    ("jsonb", "'\"just a text\"'"),
    ("jsonb", "'[\"'' $x\"]'"),
    ("int4[]", "'{1,NULL,3}'"),
    ("int4[]", "'{{1,2},{3,4}}'"),
    ("text[]", "array['a,b', '\"', null, 'NULL', '{}', $$it's$$]"),
    ("bytea[]", "array['\\x00'::bytea]"),
    ("mood", "'it''s'"),
    ("mood[]", "'{glad,null}'::mood[]"),
    ("posint", "'5'"),
    ("int4range", "'[1,5)'"),
    ("tstzrange", "'[2024-01-01,)'"),
    ("int4multirange", "'{[1,3),[7,9)}'"),
    ("int4range[]", "array['[1,2)'::int4range]"),
    ("place", "row($$it's, \"x\"$$, 3, array['a','b,c'])"),
    ("place[]", "array[row('a', 1, null)::place, null]"),
    ("inet", "'10.0.0.1/8'"),
    ("cidr", "'10.0.0.0/8'"),
    ("macaddr", "'08:00:2b:01:02:03'"),
    ("bit(3)", "'101'"),
    ("varbit", "'10101'"),
    ("point", "'(1,2)'"),
    ("tsvector", "'a b:2'"),
    ("tsquery", "'a & b'"),
    ("jsonpath", "'$.a'"),
    ("pg_lsn", "'16/B374D848'"),
    ("money", "'12.34'"),
    ("oid", "'42'"),
]


@pytest.mark.parametrize(("type", "value"), TYPED)
def test_a_value_of_every_type_comes_back_as_it_was(steps: Steps, type: str, value: str) -> None:
    steps.conn.execute(f"create table t (id int, v {type})")
    steps.run(f"select {value}::{type} as v", into="r")
    for n, query in enumerate(
        (
            "insert into t (id, v) values (1, $r.v)",
            "insert into t (id, v) select 2, $r",
            "update t set v = $r.v where id = 1",
            "insert into t (id, v) values (3, $r.v?)",
        )
    ):
        bound = steps.bind(query)
        assert not bound["late"], (n, bound)
        steps.execute(bound["text"])
    same = "v::text = w::text" if type in ("json", "jsonpath", "point") else "v = w"
    assert steps.one(f"select count(*) from t, (select {value}::{type} as w) s where {same}") == 3
    assert steps.one("select count(distinct v::text) from t") == 1


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("select $n * 2 as v", [{"v": 200.10}]),
        ("select $i * 2 as v", [{"v": 14}]),
        ("select $big + 1 as v", [{"v": 5_000_000_001}]),
        ("select $i + $n as v", [{"v": 107.05}]),
        (
            "select $t || '!' as v, $t as w, $i as x, $b as y, $o as z",
            [{"v": "it's!", "w": "it's", "x": 7, "y": True, "z": {"a": [1]}}],
        ),
        (
            "select $none? as v, coalesce($none?, 'else') as w, $gone? is null as x",
            [{"v": None, "w": "else", "x": True}],
        ),
        ("select 'Dear $t, $i of $gone' as v", [{"v": "Dear it's, 7 of $gone"}]),
        ("select E'a\\n$t\\$t' as v", [{"v": "a\nit's$t"}]),
        ("select $$ $t $$ as v, $x$ $t $x$ as w -- $gone\n /* $gone /* $gone */ */", [{"v": " $t ", "w": " $t "}]),
        ("select interval '$i days' as v, date '2024-01-0$i' + 1 as w", [{"v": "7 days", "w": "2024-01-08"}]),
        (
            "select timestamp with time zone '2024-01-0$i 00:00+00' at time zone '$zone' as v",
            [{"v": "2024-01-07T00:00:00"}],
        ),
        ("select id from precious where id = any ($ids) and note = 'kept'", [{"id": 1}]),
        ("select sum(u)::int as v from unnest($ids) u", [{"v": 6}]),
        ("select jsonb_build_object('i', $i, 't', $t, 'o', $o) as v", [{"v": {"i": 7, "t": "it's", "o": {"a": [1]}}}]),
        ("select $o.a.0 as v, $ids.2 as w", [{"v": 1, "w": 3}]),
        ("select ($js)::jsonb ->> 'k' as v, cast($js as jsonb) -> 'k' as w", [{"v": "1", "w": 1}]),
        ("select count(*)::int as v from $batch.*", [{"v": 2}]),
        ("select b.id as v, upper(name) as w from $batch.* as b where id > 1", [{"v": 2, "w": "B"}]),
        ("select p.id as v from precious p join $batch.* on p.id = batch.id", [{"v": 1}]),
        ("select count(*)::int as v from precious where id in (select id from $empty.*)", [{"v": 0}]),
        ("select $batch as v, $batch.name as w, $batch.row_count as x", [{"v": 1, "w": "a", "x": 2}]),
        ("select value as v from $ids.* order by value desc limit $one", [{"v": 3}]),
        ('select \'{"name": "$t", "o": $o}\'::jsonb as v', [{"v": {"name": "it's", "o": {"a": [1]}}}]),
        ("with a as (select $i as i) select i + 1 as v from a", [{"v": 8}]),
        ('select a$b.v, "$t".w from (select 1 as v) as a$b, (select 2 as w) as "$t"', [{"v": 1, "w": 2}]),
        ("select $o?->>'a' as v, $o ? 'a' as w", [{"v": "[1]", "w": True}]),
    ],
)
def test_what_a_query_says_is_what_it_means(steps: Steps, query: str, rows: list[Any]) -> None:
    steps.set(
        n=100.05,
        i=7,
        big=5_000_000_000,
        t="it's",
        b=True,
        o={"a": [1]},
        none=None,
        ids=[1, 2, 3],
        js='{"k": 1}',
        one=1,
        zone="UTC",
        batch={"rows": [{"name": "a", "id": 1}, {"name": "b", "id": 2}], "row_count": 2, "columns": ["id", "name"]},
        empty={"rows": [], "row_count": 0, "columns": ["id"]},
    )
    assert steps.run(query) == rows


def test_a_number_keeps_the_index_usable(steps: Steps) -> None:
    steps.conn.execute("create table big (id bigint primary key); insert into big select generate_series(1, 5000)")
    steps.conn.execute("analyze big")
    steps.set(x=17)
    raw = steps.execute(f"explain {steps.text('select * from big where id = $x')}")
    assert "Index" in "\n".join(row[0] for row in raw.fetchall())


def test_types_come_from_the_tables_that_are_there_when_it_runs(steps: Steps) -> None:
    steps.set(at="2024-01-01T00:00:00+00:00")
    query = "insert into later (at) values ($at) returning at"
    assert steps.bind(query)["late"]
    steps.conn.execute("create table later (at timestamptz)")
    raw = steps.execute(steps.text(query))
    assert raw.fetchone()[0].year == 2024  # type: ignore[index]


# -- what is not there


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select $gone", r"\$gone has no value: there is no result or input called gone"),
        ("select $none", r"\$none has no value: it is null"),
        ("select $o.b", r"\$o.b has no value: o has no field b"),
        ("select $empty", r"\$empty has no value: empty has no rows"),
        ("select 'Dear $none'", r"\$none has no value: it is null"),
        ("select * from $gone.*", r"\$gone.\* has no value"),
    ],
)
def test_a_reference_without_a_value_is_refused_by_name(steps: Steps, query: str, message: str) -> None:
    steps.set(none=None, o={"a": 1}, empty={"rows": [], "row_count": 0, "columns": ["id"]})
    with pytest.raises(psycopg.Error, match=message) as refused:
        steps.text(query)
    assert refused.value.sqlstate == "PGD20"
    assert refused.value.diag.message_hint


@pytest.mark.parametrize(
    "query",
    [
        "select 1; drop table precious",
        "select 'a",
        "select $1",
        "select /* a",
        "select $a$ b",
        "",
        "-- only a comment",
        "select 'a\\'; drop table precious; --'",
        'select "a',
    ],
)
def test_what_is_no_single_statement_is_refused(steps: Steps, query: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        steps.bind(query)
    assert refused.value.sqlstate == "PGD05"


def test_the_server_itself_says_that_it_is_one_statement(steps: Steps) -> None:
    """Whatever our scanner made of it, and whatever strings mean in the session."""
    steps.conn.execute("set standard_conforming_strings = off; set escape_string_warning = off")
    found = steps.conn.execute(
        f"select state, problem from {steps.schema}.infer_types('select 1; drop table precious', '{{}}', 'public')"
    ).fetchone()
    assert found is not None
    assert "multi-query" in found[1]


# -- hostile values


@patient
@given(values)
@example("\\")
@example({"a": "'"})
def test_any_value_stays_what_it_is_and_changes_nothing_else(steps: Steps, value: Any) -> None:
    steps.set(x=value, o={"f": value}, batch={"rows": [{"f": value}], "row_count": 1, "columns": ["f"]})
    steps.conn.execute("create table if not exists notes (t text, j jsonb); truncate notes")
    before = steps.one("select count(*) from pg_class where relnamespace = %s::regnamespace", steps.schema)
    for ref in ("$x", "$o.f", "$batch.f", "$batch"):
        steps.run(f"insert into notes (t, j) values ({ref}, {ref})")
    assert steps.one("select count(*) from notes where j = %s", Jsonb(value)) == 4
    as_text = value if isinstance(value, str) else None
    assert as_text is None or steps.one("select count(*) from notes where t = %s", as_text) == 4
    assert steps.run("select $x as v")[0]["v"] == steps.one("select %s::jsonb", Jsonb(value))
    assert steps.one(
        'select @.resolve(\'["$x", {"a": "$o.f"}]\', %s::jsonb)'
        " = jsonb_build_array(%s::jsonb, jsonb_build_object('a', %s::jsonb))",
        steps.env,
        Jsonb(value),
        Jsonb(value),
    )
    assert steps.one("select count(*) from pg_class where relnamespace = %s::regnamespace", steps.schema) == before
    assert steps.one("select note from precious") == "kept"


@patient
@given(texts)
def test_a_text_adds_nothing_to_what_a_string_becomes(steps: Steps, value: str) -> None:
    steps.set(x=value)
    expected = steps.one("select %s::text", value)
    (row,) = steps.run(
        'select \'a $x b\' as plain, \'{"k": "$x", "z": 1}\'::jsonb as j,'
        " '{\"k\": $x}'::jsonb as k, '{a,$x}'::text[] as l,"
        " '{\"$x\",b}'::text[] as m, '($x,5,)'::place as p, concat('$x', 1) as c"
    )
    assert row["plain"] == f"a {expected} b"
    assert row["j"] == {"k": expected, "z": 1}
    assert row["k"] == {"k": expected}
    assert row["l"] == ["a", expected]
    assert row["m"] == [expected, "b"]
    assert row["p"] == {"street": expected, "no": 5, "tags": None}
    assert row["c"] == f"{expected}1"


@patient
@given(st.text("'\"$x1a\\;-/*\n E(){}", max_size=40))
def test_the_scanner_agrees_with_the_server(steps: Steps, tail: str) -> None:
    """Whatever stands behind it, a query without references that we take is to the letter what the server gets."""
    query = f"select 'a' as v {tail}"
    scanned = steps.one("select @.scan_query(%s)", query)
    if (
        any(isinstance(part, dict) for part in scanned["parts"])
        or scanned["params"]
        or scanned["open"]
        or scanned["more"]
    ):
        return
    assert steps.bind(query)["text"].rstrip() == query.split(";")[0].rstrip() if ";" not in tail else True


def test_names_in_a_hostile_path_are_not_called(steps: Steps) -> None:
    evil = f"evil_{uuid.uuid4().hex[:8]}"
    steps.conn.execute(f"create schema {evil}")
    try:
        steps.conn.execute(
            f"""create function {evil}.trap(jsonb, text[]) returns text language plpgsql as 'begin raise ''trap''; end';
            create operator {evil}.#>> (leftarg = jsonb, rightarg = text[], function = {evil}.trap);
            create function {evil}.glue(text, text) returns text language plpgsql as 'begin raise ''trap''; end';
            create operator {evil}.|| (leftarg = text, rightarg = text, function = {evil}.glue);
            create function {evil}.jsonb_to_record(jsonb) returns record language plpgsql
                as 'begin raise ''trap''; end'"""
        )
        steps.set(x="a", l=["b"])
        steps.conn.execute("create table t (a text, l text[])")
        query = "insert into t (a, l) values ($x, $l)"
        bound = steps.one("select @.bind(%s, %s)", query, f"{evil}, pg_catalog, {steps.schema}")
        assert not bound["late"], "what analyses it met a trap"
        steps.conn.execute(f"set search_path = {evil}, pg_catalog, {steps.schema}")
        steps.execute(bound["text"])
        assert steps.conn.execute(f"select a, l from {steps.schema}.t").fetchall() == [("a", ["b"])]
    finally:
        steps.conn.execute("reset search_path")
        steps.conn.execute(f"set client_min_messages = warning; drop schema {evil} cascade")
        steps.conn.execute(f"set search_path = {steps.schema}, public")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (None, False),
        (0, False),
        (0.0, False),
        (-1, True),
        ("", False),
        ("f", False),
        ("No", False),
        (" false ", False),
        ("0", False),
        ("0.00", False),
        ("1e-9", True),
        ("yes", True),
        ("anything", True),
        ([], False),
        ([0], True),
        ({}, False),
        ({"a": 1}, True),
        ({"rows": [], "row_count": 0, "columns": ["a"]}, False),
        ({"rows": [{"b": True, "a": False}], "row_count": 1, "columns": ["a", "b"]}, False),
        ({"rows": [{"a": 2}], "row_count": 1, "columns": ["a"]}, True),
    ],
)
def test_what_counts_as_true(steps: Steps, value: Any, expected: bool) -> None:
    assert steps.one("select @.truthy(%s)", Jsonb(value)) is expected


def test_references_in_json_become_values(steps: Steps) -> None:
    steps.set(x={"f": [1, {"g": None}], "t": "it's"}, n=5)
    found = steps.one(
        "select @.resolve(%s, %s::jsonb)",
        Jsonb({"a": "$x.f", "b": "n=$n t=$x.t, $gone $5", "c": "$x.f.1.g?", "d": "$$n", "e": ["$n", 1, None]}),
        steps.env,
    )
    assert found == {"a": [1, {"g": None}], "b": "n=5 t=it's, $gone $5", "c": None, "d": "$n", "e": [5, 1, None]}
    with pytest.raises(psycopg.Error, match=r"\$gone has no value"):
        steps.one("select @.resolve('\"$gone\"', %s::jsonb)", steps.env)
