"""SQL workflows in the database: steps in sequence, variables, conditions, loops, errors and retries."""

from __future__ import annotations

import psycopg
import pytest
from store.namespace import Namespace, refused

from .machine import QUICK, Machine, note


@pytest.fixture
def m(ns: Namespace) -> Machine:
    return Machine(ns)


# -- steps


def test_steps_run_in_order_and_their_results_are_variables(m: Machine) -> None:
    id = m.run(
        [
            {"op": "sql", "query": "select 7 as n, 'seven' as word", "into": "seven", "name": "look"},
            note("$seven.word"),
            {"op": "sql", "query": "select $seven + $more as sum", "name": "add"},
        ],
        {"more": 3},
    )
    assert m.output(id) == {"rows": [{"sum": 10}], "columns": ["sum"], "row_count": 1}
    assert m.ledger() == ["seven"]
    assert m.history(id) == [("step", "look"), ("step", "2"), ("step", "add")]
    rows = m.ns.rows("select seq, fingerprint, attempt from @.history where instance_id = %s order by event_id", id)
    assert rows == [(0, 1, 1), (1, 2, 1), (2, 3, 1)]
    m.clean()


def test_a_step_without_rows_says_how_many_it_changed(m: Machine) -> None:
    m.ns.rows("insert into @.ledger (word) values ('a'), ('b'), ('c')")
    id = m.run(["update ledger set word = upper(word) where word < 'c'"])
    assert m.output(id) == {"row_count": 2}
    id = m.run(["select word from ledger where false"])
    assert m.output(id) == {"rows": [], "columns": [], "row_count": 0}


def test_a_function_is_a_step(m: Machine) -> None:
    m.ns.rows("""create function @.pay(account text, amount numeric, tags text[], extra jsonb default null) returns text
                 language plpgsql as $$ begin
                 insert into ledger (word) values (format('%s %s %s %s', account, amount, tags, extra ->> 'k'));
                 return 'paid '||account; end $$""")
    m.ns.rows(
        "create procedure @.shout(what text) language sql as $$ insert into ledger (word) values (upper(what)) $$"
    )
    id = m.run(
        [
            {
                "op": "call",
                "function": f"{m.ns.schema}.pay",
                "args": ["$who", 12.5, ["x", "it's"], {"k": "$1 'v'"}],
                "into": "p",
            },
            {
                "op": "call",
                "function": "pay",
                "args": {"account": "$who.name?", "amount": 1, "tags": []},
                "continue_on_error": True,
            },
            {"op": "call", "function": "shout(text)", "args": ["$p"]},
        ],
        {"who": "ann"},
    )
    assert m.output(id) == {"row_count": 0}
    words = m.ledger()
    assert words[0] == """ann 12.5 {x,it's} $1 'v'"""
    assert words[-1] == "PAID ANN"


def test_conditions(m: Machine) -> None:
    graph = [
        {"op": "sql", "query": "select * from ledger where word = $word", "into": "found"},
        {
            "op": "if",
            "when": {"op": "rows", "of": "found"},
            "then": note("again"),
            "else": {"op": "if", "when": "select $n > 5", "then": note("big"), "else": note("small")},
        },
        {"op": "if", "when": "select false", "then": note("never")},
    ]
    name = m.define(graph)
    ids = [m.start(name, {"word": word, "n": n}) for word, n in (("x", 6), ("y", 5))]
    m.work()
    ids.append(m.start(name, {"word": "big", "n": 0}))
    m.work()
    assert sorted(m.ledger()) == ["again", "big", "small"]
    assert [m.output(id) for id in ids] == [None, None, None]


def test_loops_end_by_their_condition_or_by_break(m: Machine) -> None:
    id = m.run(
        [
            {"op": "value", "value": 0, "into": "n"},
            {
                "op": "loop",
                "body": [
                    {"op": "sql", "query": "select $n + 1 as n", "into": "n"},
                    note("round $n"),
                    {"op": "value", "value": "$n"},
                ],
                "while": "select $n < 4",
                "into": "last",
            },
            {
                "op": "loop",
                "body": [
                    {"op": "sql", "query": "select $n + 10 as n", "into": "n"},
                    {"op": "if", "when": "select $n > 30", "then": {"op": "break", "value": "$n"}},
                ],
                "into": "broke",
            },
            {"op": "value", "value": {"last": "$last", "broke": "$broke"}},
        ]
    )
    assert m.output(id) == {"last": 4, "broke": 34}
    assert m.ledger() == [f"round {n}" for n in (1, 2, 3, 4)]
    m.clean()


def test_a_long_loop_commits_on_its_way_and_lets_others_run(m: Machine) -> None:
    long = m.define(
        [
            {"op": "value", "value": 0, "into": "n"},
            {
                "op": "loop",
                "body": {"op": "sql", "query": "select $n + 1 as n", "into": "n"},
                "while": "select $n < 3000",
            },
        ]
    )
    ids = [m.start(long), m.start(m.define([note("short")]))]
    m.work()
    ended = m.ns.rows("select id::text from @.instances order by finished_at")
    assert [id for (id,) in ended] == ids[::-1]
    assert m.ns.one("select count(distinct recorded_at) > 3 from @.history where instance_id = %s", ids[0])
    assert m.output(ids[0])["rows"] == [{"n": 3000}]


def test_max_steps_and_max_time_end_a_call_and_the_next_goes_on(m: Machine) -> None:
    id = m.start(m.define([note(str(n)) for n in range(10)]))
    for done in (3, 6, 9):
        m.work(max_steps=3)
        assert m.ledger() == [str(n) for n in range(done)]
        assert m.status(id) == "running"
    m.work(max_time="0 s")
    m.work()
    assert m.ledger() == [str(n) for n in range(10)]
    m.output(id)
    m.clean()
    with refused("PGD05", "max_steps"):
        m.work(max_steps=0)


# -- errors


def test_a_failing_step_is_tried_again_and_what_it_did_is_undone(m: Machine) -> None:
    m.ns.rows("create sequence @.tries")
    m.ns.rows("""create function @.third_time() returns text language plpgsql as $$ begin
                 insert into ledger (word) values ('try');
                 if nextval('tries') < 3 then raise exception using errcode = 'AB123', message = 'not yet',
                 detail = 'd', hint = 'h'; end if;
                 return 'done'; end $$""")
    id = m.run([{"op": "call", "function": "third_time", "retry": QUICK, "name": "third"}, note("after")])
    m.output(id)
    assert m.ledger() == ["try", "after"]
    assert m.history(id) == [("attempt", "third"), ("attempt", "third"), ("step", "third"), ("step", "2")]
    error, attempt = m.ns.rows("select error, attempt from @.history where instance_id = %s order by event_id", id)[1]
    assert attempt == 2
    assert error.pop("context").startswith("PL/pgSQL function third_time() line")
    assert error == {
        "sqlstate": "AB123",
        "type": "SQLSTATE AB123",
        "message": "not yet",
        "detail": "d",
        "hint": "h",
        "step": "third",
    }
    m.clean()


def test_backoff_is_durable_and_no_attempt_comes_early(m: Machine) -> None:
    id = m.start(
        m.define([{"op": "sql", "query": "select 1/0", "retry": {"max_attempts": 2, "initial": 0.4, "jitter": 0}}])
    )
    m.work()
    assert m.status(id) == "waiting"
    m.work()
    assert m.history(id) == [("attempt", "1")]
    m.work(wait=True, max_time="1 s")
    assert m.error(id)["sqlstate"] == "22012"
    between = m.ns.one(
        "select extract(epoch from max(recorded_at) - min(recorded_at)) from @.history where instance_id = %s", id
    )
    assert between >= 0.39
    m.clean()


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [
        ({**QUICK, "on": ["22"]}, 3), ({**QUICK, "on": ["22013", "40"]}, 1), ({**QUICK, "never_on": ["22012"]}, 1),
        ({**QUICK, "max_attempts": 1}, 1),
    ],
)  # fmt: skip
def test_which_errors_are_tried_again(m: Machine, policy: dict[str, object], attempts: int) -> None:
    id = m.run([{"op": "sql", "query": "select 1/0", "retry": policy}])
    m.error(id)
    assert len(m.history(id)) == attempts


def test_mistakes_in_a_statement_are_not_tried_again_unless_asked(m: Machine) -> None:
    m.ns.rows("create table @.comes_and_goes (n int)")
    name = m.define(["select * from comes_and_goes"])
    m.ns.rows("drop table @.comes_and_goes")
    id = m.start(name)
    m.work()
    assert m.error(id)["sqlstate"] == "42P01"
    assert m.history(id) == [("step", "1")]


def test_a_reference_to_nothing_names_instance_and_step(m: Machine) -> None:
    id = m.run(
        [
            {"op": "sql", "query": "select null::int as n", "into": "x"},
            {"op": "sql", "query": "select $x + 1", "name": "add"},
        ]
    )
    error = m.error(id)
    assert error["sqlstate"] == "PGD20"
    assert id in error["message"]
    assert "step add: $x" in error["message"].replace(f" of workflow {m.workflow_of(id)} (instance {id})", "")
    assert "$x?" in error["hint"]
    assert m.output(m.run([{"op": "sql", "query": "select null::int as n", "into": "x"}, "select $x? as n"]))[
        "rows"
    ] == [{"n": None}]


def test_on_error_takes_up_what_failed_within(m: Machine) -> None:
    id = m.run(
        [
            {
                "op": "on_error",
                "body": [
                    note("before"),
                    {"op": "sql", "query": "select 1/0", "retry": {"max_attempts": 1}, "name": "div"},
                    note("no"),
                ],
                "handler": note("caught $error.sqlstate in $error.step"),
            },
            note("after"),
        ]
    )
    m.output(id)
    assert m.ledger() == ["before", "caught 22012 in div", "after"]
    m.clean()


def test_continue_on_error_goes_on_with_null(m: Machine) -> None:
    once = {"max_attempts": 1}
    id = m.run(
        [
            {"op": "sql", "query": "select 1/0 as n", "retry": once, "continue_on_error": True, "into": "n"},
            note("$error.sqlstate"),
            {"op": "sql", "query": "select coalesce($n?::int, -1) as n", "into": "n"},
            {
                "op": "seq",
                "steps": [note("x"), {"op": "sql", "query": "select 1/0", "retry": once}],
                "continue_on_error": True,
            },
            {"op": "value", "value": "$n"},
        ]
    )
    assert m.output(id) == -1
    assert m.ledger() == ["22012", "x"]


def test_a_node_with_a_retry_of_its_own_begins_anew(m: Machine) -> None:
    m.ns.rows("create sequence @.rounds")
    id = m.run(
        [
            {
                "op": "seq",
                "steps": [
                    note("round"),
                    {"op": "sql", "query": "select 1 / (nextval('rounds') / 3)", "retry": {"max_attempts": 1}},
                ],
                "retry": QUICK,
            },
            note("end"),
        ]
    )
    m.output(id)
    assert m.ledger() == ["round", "round", "round", "end"]


def test_compensations_run_backwards_and_know_what_was_then(m: Machine) -> None:
    def booking(name: str) -> dict[str, object]:
        return {
            "op": "compensate",
            "body": {
                "op": "sql",
                "query": f"insert into ledger (word) values ('book {name}') returning id, '{name}' as name",
                "into": "b",
            },
            "undo": note("undo $b.name"),
        }

    id = m.run(
        [
            booking("car"),
            booking("hotel"),
            {"op": "sql", "query": "select 1/0", "retry": {"max_attempts": 1}},
            booking("x"),
        ]
    )
    assert m.error(id)["sqlstate"] == "22012"
    assert m.ledger() == ["book car", "book hotel", "undo hotel", "undo car"]
    m.clean()


def test_a_compensation_that_fails_is_said_and_the_others_run(m: Machine) -> None:
    once = {"max_attempts": 1}
    id = m.run(
        [
            {"op": "compensate", "body": note("a"), "undo": note("undo a")},
            {"op": "compensate", "body": note("b"), "undo": {"op": "sql", "query": "select 1/0", "retry": once}},
            {"op": "sql", "query": "select ('x'::text)::int", "retry": once},
        ]
    )
    error = m.error(id)
    assert error["sqlstate"] == "22P02"
    assert [e["sqlstate"] for e in error["not_undone"]] == ["22012"]
    assert m.ledger() == ["a", "b", "undo a"]


def test_a_workflows_own_handler_runs_before_it_fails(m: Machine) -> None:
    from psycopg.types.json import Jsonb

    id = m.run(
        [{"op": "sql", "query": "select 1/0", "retry": {"max_attempts": 1}}],
        on_error=Jsonb(note("failed: $error.sqlstate")),
    )
    assert m.error(id)["sqlstate"] == "22012"
    assert m.ledger() == ["failed: 22012"]


def test_atomic_steps_are_one_commit_or_nothing(m: Machine) -> None:
    def pay(amount: int) -> list[object]:
        return [
            {
                "op": "atomic",
                "name": "pay",
                "steps": [
                    {"op": "sql", "query": note(f"deduct {amount}"), "into": "d"},
                    {"op": "if", "when": f"select {amount} > 100", "then": {"op": "sql", "query": "select 1/0"}},
                    {"op": "sql", "query": note("record $d"), "name": "record"},
                ],
                "retry": {"max_attempts": 2, "initial": 0},
                "into": "paid",
            },
            note("notify $d"),
        ]

    id = m.run(pay(5))
    m.output(id)
    assert m.ledger() == ["deduct 5", "record deduct 5", "notify deduct 5"]
    times = m.ns.rows("select distinct recorded_at from @.history where instance_id = %s and seq < 3", id)
    assert len(times) == 1
    id = m.run(pay(500))
    assert m.error(id)["step"] == "pay"
    assert len(m.ledger()) == 3
    assert m.history(id) == [("attempt", "pay"), ("step", "pay")]
    m.clean()


def test_a_constraint_looked_at_at_the_commit_harms_its_own_step_only(m: Machine) -> None:
    m.ns.rows("create table @.parents (id int primary key)")
    m.ns.rows("create table @.children (id int references @.parents deferrable initially deferred)")
    name = m.define(
        [{"op": "sql", "query": "insert into children values ($n)", "retry": {"max_attempts": 1}}, note("$n is there")]
    )
    m.ns.rows("insert into @.parents select generate_series(1, 9)")
    ids = [m.start(name, {"n": n}) for n in range(12)]
    m.work()
    assert sorted(m.ledger()) == sorted(f"{n} is there" for n in range(1, 10))
    assert [m.status(id) for id in ids] == ["failed"] + ["completed"] * 9 + ["failed"] * 2
    assert m.error(ids[0])["sqlstate"] == "23503"
    m.clean()


# -- defining


def test_versions_are_kept_by_who_has_begun(m: Machine) -> None:
    name = m.define([note("one"), {"op": "wait_signal", "signal": "go"}, note("one b")])
    first = m.start(name)
    m.work()
    assert m.ns.one("select @.define(%s, %s)", name, psycopg.types.json.Jsonb([note("two")])) == "2"
    second = m.start(name)
    asked = m.start(name, version="1")
    m.ns.rows("select @.signal(%s, 'go')", first)
    m.ns.rows("select @.signal(%s, 'go')", asked)
    m.work()
    assert sorted(m.ledger()) == ["one", "one", "one b", "one b", "two"]
    versions = m.ns.rows("select id::text, version from @.instances")
    assert dict(versions) == {first: "1", second: "2", asked: "1"}


def test_defining_the_same_again_changes_nothing(m: Machine) -> None:
    graph = psycopg.types.json.Jsonb([note("x")])
    assert [m.ns.one("select @.define('same', %s)", graph) for _ in range(2)] == ["1", "1"]
    assert m.ns.one("select @.define('same', %s, version => '1')", graph) == "1"
    with refused("PGD04", "another definition"):
        m.define([note("y")], "same", version="1")
    assert m.ns.one("select @.define('same', %s)", psycopg.types.json.Jsonb([note("y")])) == "2"
    assert m.ns.one("select @.define('same', %s)", graph) == "1"
    assert m.ns.one("select count(*) from @.workflows where name = 'same'") == 2
    m.start("same")
    m.work()
    assert m.ledger() == ["x"]


def test_what_cannot_run_is_refused_with_all_that_is_wrong(m: Machine) -> None:
    with refused("PGD05", "cannot run") as _:
        m.define({"op": "seq", "steps": [{"op": "nonsense"}, {"op": "sleep"}]})
    with refused("PGD05", "512 bytes"):
        m.define([note("x")], "w" * 600)
    with refused("PGD05", "deadline"):
        m.define([note("x")], deadline="-1 s")


def test_a_pythons_name_is_not_taken(m: Machine) -> None:
    m.ns.rows("insert into @.workflows (name, version) values ('theirs', '7')")
    with refused("PGD04", "Python"):
        m.define([note("x")], "theirs")
