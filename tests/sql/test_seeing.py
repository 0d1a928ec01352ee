"""What the views tell of workflows in SQL: each step's state, what is waited for, errors, throughput, and to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgdurable._store.migrations import migrate

Ask = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def ask(dsn: str, schema: str) -> Iterator[Ask]:
    """Runs a statement in which `@` is a migrated schema, and gives its rows."""
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:

        def run(text: str, *args: Any) -> list[tuple[Any, ...]]:
            cursor = conn.execute(text.replace("@", schema).encode(), args or None)
            return cursor.fetchall() if cursor.description else []

        yield run


def pump(ask: Ask) -> None:
    ask("call @.work(max_time => '20 s')")


def states(ask: Ask, id: str) -> dict[str, str]:
    rows = ask("select name, status from @.step_status where instance_id = @.find_instance(%s)", id)
    return dict(rows)


REVIEW = """select @.define('seeing_review', @.seq(
    @.sql('select 1 as n', "into" => 'first', name => 'look'),
    @."if"(@.sql('select $big::boolean', name => 'big?'),
        @.seq(@.wait_signal('approval', name => 'approval'), @.sql('select 2', name => 'approved')),
        @.sql('select 3', name => 'small')),
    @.sql('select 4', name => 'last')))"""


def test_the_state_of_each_step_and_what_is_skipped(ask: Ask) -> None:
    ask(REVIEW)
    for id, big in (("big", "true"), ("small", "false")):
        ask("select @.start('seeing_review', jsonb_build_object('big', %s::bool), %s)", big, id)
    assert set(states(ask, "big").values()) == set()  # no version is known before it is claimed
    pump(ask)
    assert states(ask, "big") == {
        "look": "completed", "big?": "completed", "approval": "waiting", "approved": "pending", "small": "skipped",
        "last": "pending",
    }  # fmt: skip
    assert states(ask, "small") == {
        "look": "completed", "big?": "completed", "approval": "skipped", "approved": "skipped", "small": "completed",
        "last": "completed",
    }  # fmt: skip
    assert ask("select what, name from @.waiting_on") == [("signal", "approval")]
    ask("select @.signal('big', 'approval')")
    pump(ask)
    assert states(ask, "big")["approved"] == "completed"
    assert ask("select count(*) from @.waiting_on") == [(0,)]


def test_what_ended_or_was_cancelled_before_its_turn_is_skipped(ask: Ask) -> None:
    ask(REVIEW)
    ask("select @.start('seeing_review', '{\"big\": true}', 'gone')")
    pump(ask)
    ask("select @.cancel('gone')")
    pump(ask)
    assert ask("select @.status('gone')") == [("cancelled",)]
    found = states(ask, "gone")
    assert (found["look"], found["approved"], found["last"]) == ("completed", "skipped", "skipped")


def test_errors_attempts_and_timeouts(ask: Ask) -> None:
    ask(
        """select @.define('seeing_errors', '[
            {"op": "sql", "query": "select 1 / 0", "name": "divide", "continue_on_error": true,
             "retry": {"max_attempts": 2, "initial": 0.01}},
            {"op": "sql", "query": "select pg_sleep(0.5)", "name": "slow", "timeout": 0.05,
             "retry": {"max_attempts": 1}}
        ]')"""
    )
    ask("select @.start('seeing_errors', '{}', 'bad')")
    for _ in range(100):
        pump(ask)
        if ask("select @.status('bad')") == [("failed",)]:
            break
    assert states(ask, "bad") == {"divide": "failed", "slow": "timed_out"}
    rows = ask("select name, attempt, retried, timed_out, type, message from @.step_errors order by event_id")
    assert [row[:5] for row in rows] == [
        ("divide", 1, True, False, "22012"), ("divide", 2, False, False, "22012"), ("slow", 1, False, True, "57014"),
    ]  # fmt: skip
    assert "division by zero" in rows[0][5]
    assert ask("select name, attempt from @.timed_out_steps") == [("slow", 1)]
    assert ask("select attempts, times from @.step_status where name = 'divide'") == [(2, 1)]
    assert ask("select workflow, type from @.failures") == [("seeing_errors", "pgdurable.errors.StepTimeout")]


def test_what_is_waited_for(ask: Ask) -> None:
    ask("select @.define('seeing_sleep', @.with(@.sleep('1 hour'), name => 'nap'))")
    ask("select @.define('seeing_outside', @.external('sign'))")
    ask("select @.define('seeing_child', @.start_child('seeing_sleep', name => 'child'))")
    for name in ("sleep", "outside", "child"):
        ask("select @.start(%s, '{}', %s)", f"seeing_{name}", name)
    ask("select @.start('seeing_sleep', '{}', 'later', delay => '1 hour'), @.start('nobody', '{}', 'nobody')")
    for _ in range(3):
        pump(ask)
    text = """select coalesce(k.id, 'its child'), w.what, w.until is not null from @.waiting_on w
              left join @.instance_keys k on k.instance_id = w.instance_id order by 1, 2"""
    assert ask(text) == [
        ("child", "child", False), ("its child", "timer", True), ("later", "delay", True), ("nobody", "worker", False),
        ("outside", "task", False), ("sleep", "timer", True),
    ]  # fmt: skip
    assert ask("select kind, queue, due, later, taken from @.task_stats") == [("external", "default", 1, 0, 0)]
    assert states(ask, "outside") == {"sign": "queued"}
    assert states(ask, "sleep") == {"nap": "waiting"}
    ask("select * from @.claim_external('default', 1)")
    assert states(ask, "outside") == {"sign": "running"}
    assert ask("select name, workflow from @.running_steps") == [("sign", "seeing_outside")]
    ask("select @.pause('later')")
    assert ask("select what from @.waiting_on where instance_id = @.find_instance('later')") == [("resume",)]


def test_throughput_per_minute(ask: Ask) -> None:
    ask("select @.define('seeing_two', @.seq(@.sql('select 1'), @.sql('select 2')))")
    ask("select count(@.start('seeing_two')) from generate_series(1, 30)")
    pump(ask)
    (sums,) = ask("select sum(started), sum(completed), sum(failed), sum(steps) from @.throughput_per_minute")
    assert sums == (30, 30, 0, 60)
    (first,) = ask("select minute = date_trunc('minute', now()) from @.throughput_per_minute limit 1")
    assert first == (True,)
    assert ask("select count(*) from @.throughput('5 minutes')") == [(6,)]


def test_each_sees_their_own(dsn: str, ask: Ask, schema: str) -> None:
    """Through every view, on servers whose views ask with the rights of whoever asks."""
    migrate(dsn, schema, roles=True, row_security=True)
    people = [f"{schema}_ann", f"{schema}_bob"]
    try:
        ask(REVIEW)
        for who in people:
            ask(f"create role {who} in role {schema}_client")
            ask(f"set role {who}")
            ask("select @.start('seeing_review', '{\"big\": true}', %s)", who)
            ask("reset role")
            ask("select @.admit_submitter(%s)", who)
        pump(ask)
        for view in ("step_status", "waiting_on"):
            assert ask(f"select count(distinct instance_id) from @.{view}") == [(2,)], view
            ask(f"set role {people[0]}")
            assert ask(f"select distinct instance_id from @.{view}") == ask("select @.find_instance(%s)", people[0]), (
                view
            )
            ask("reset role")
        ask(f"set role {people[1]}")
        for table in ("sql_runs", "instances"):
            assert ask(f"select count(*) from @.{table}") == [(1,)], table
        assert ask("select sum(started) from @.throughput_per_minute") == [(1,)]
        ask("reset role")
        ask(f"set role {schema}_reader")
        assert ask("select count(distinct instance_id) from @.step_status") == [(2,)]
    finally:
        ask("reset role")
        ask("drop schema @ cascade")
        for who in (*people, *(f"{schema}_{kind}" for kind in ("reader", "client", "worker", "admin"))):
            ask(f"drop role {who}")
