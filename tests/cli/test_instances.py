"""`start`, `list`, `signal` and `resume`, without a worker: what reaches the tables, and what is refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest

from .conftest import Run

Sql = Callable[..., list[tuple]]


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        ([], []),
        (['{"order": "o-1", "cents": 5}'], {"order": "o-1", "cents": 5}),
        (['  ["o-1", 5]'], ["o-1", 5]),
        (["o-1", "5", "true", "null", '"5"', "1.5"], ["o-1", 5, True, None, "5", 1.5]),
        (["o-1", '{"a": 1}'], ["o-1", {"a": 1}]),
        (["--", "-5"], [-5]),
        (["NaN"], ["NaN"]),
    ],
)
def test_start_stores_the_input(run: Run, sql: Sql, words: list[str], stored: object) -> None:
    result = run("start", "checkout", *words)
    assert result.exit_code == 0, result.stderr
    id = uuid.UUID(result.stdout.strip())
    assert sql("select workflow, status, input from @.instances where id = %s", id) == [("checkout", "pending", stored)]


def test_start_says_when_nobody_would_run_it(run: Run, sql: Sql, schema: str) -> None:
    result = run("start", "checkout")
    assert "no living worker has workflow checkout" in result.stderr
    assert f"pgdurable worker --schema {schema} MODULE" in result.stderr
    sql("""select @.join_worker('w', '[{"name": "checkout", "version": "7"}]', interval '1 minute')""")
    assert run("start", "checkout").stderr == ""


def test_start_options(run: Run, sql: Sql) -> None:
    words = ["--id", "order/1", "--queue", "slow", "--delay", "3600"]
    assert run("start", "checkout", *words).stdout == "order/1\n"
    ((queue, wait),) = sql("select queue, extract(epoch from wake_at - created_at)::int from @.instances")
    assert (queue, wait) == ("slow", 3600)
    assert run("start", "checkout", *words).stdout == "order/1\n"
    assert sql("select count(*) from @.instances") == [(1,)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkout", '{"a": }'], "INPUT_JSON is not valid JSON: Expecting value at line 1, column 7"),
        (["checkout", "o-1", "[1,"], "argument 2 is not valid JSON"),
        (["checkout", "[NaN]"], "JSON has no NaN"),
        (["checkout", '["\\u0000"]'], "NUL"),
        (["checkout", '["\\ud800"]'], "surrogate"),
        (["checkout", "--id", ""], "an id is a text of 1 to 512 bytes"),
        (["checkout", "--id", "x" * 513], "an id is a text of 1 to 512 bytes"),
        (["", "1"], "start needs a workflow"),
    ],
)
def test_start_refuses_bad_input_and_stores_nothing(run: Run, sql: Sql, words: list[str], message: str) -> None:
    result = run("start", *words)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert sql("select count(*) from @.instances") == [(0,)]


def test_start_refuses_an_id_of_another_workflow(run: Run) -> None:
    run("start", "checkout", "--id", "order/1")
    result = run("start", "refund", "--id", "order/1")
    assert result.exit_code == 1
    assert "order/1" in result.stderr
    assert "checkout" in result.stderr
    assert "hint: Choose another id" in result.stderr


@pytest.mark.parametrize(
    "words", [["--timeout", "3"], ["--delay", "-1"], ["--delay", "soon"], ["--colour"], ["--wait", "--timeout", "-1"]]
)
def test_start_usage_errors(run: Run, words: list[str]) -> None:
    assert run("start", "checkout", *words).exit_code == 2


def test_wait_runs_out(run: Run, schema: str) -> None:
    result = run("start", "checkout", "--id", "o", "--wait", "--timeout", "0.05")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("o\n")
    assert "error: instance o has not ended within 0.05 s" in result.stderr
    assert f"pgdurable show --schema {schema} o" in result.stderr


def test_list(run: Run, sql: Sql) -> None:
    assert run("list").stdout == "no instances\n"
    for id, workflow in (("o-1", "checkout"), ("o-2", "checkout"), ("r [bold]1\x1b[2J", "refund")):
        run("start", workflow, "--id", id)
    sql(
        "update @.instances set status = 'completed', version = '3', started_at = now() - interval '5 min',"
        " finished_at = now() where workflow = 'refund'"
    )
    head, *rows = run("list").stdout.splitlines()
    assert head.split() == ["ID", "WORKFLOW", "VERSION", "STATUS", "STARTED", "DURATION"]
    assert [row.split()[0] for row in rows] == ["r", "o-2", "o-1"]
    assert rows[0].startswith("r [bold]1\\x1b[2J  refund    3        completed  ")
    assert rows[0].endswith("5 min 0 s")
    assert rows[1].split() == ["o-2", "checkout", "pending"]
    assert [row.split()[0] for row in run("list", "--limit", "1").stdout.splitlines()[1:]] == ["r"]
    assert len(run("list", "--workflow", "checkout").stdout.splitlines()) == 3
    assert len(run("list", "--status", "completed").stdout.splitlines()) == 2
    assert run("list", "--status", "failed").stdout == "no instances like that\n"


def test_list_as_json(run: Run) -> None:
    run("start", "checkout", "--id", "o-1")
    run("start", "checkout", "--id", "o-2")
    first, second = map(json.loads, run("list", "--json").stdout.splitlines())
    assert (first["id"], second["id"]) == ("o-2", "o-1")
    assert first["status"] == "pending"
    assert uuid.UUID(first["instance_id"]).version == 7
    assert "input" not in first  # not read for a list, so not claimed to be null
    assert run("list", "--json", "--status", "failed").stdout == ""


@pytest.mark.parametrize("words", [["--status", "lost"], ["--limit", "0"], ["--limit", "many"]])
def test_list_usage_errors(run: Run, words: list[str]) -> None:
    assert run("list", *words).exit_code == 2


@pytest.mark.parametrize(("words", "payload"), [([], None), (['{"by": "ann"}'], {"by": "ann"}), (["5"], 5)])
def test_signal(run: Run, sql: Sql, words: list[str], payload: object) -> None:
    run("start", "checkout", "--id", "o-1")
    result = run("signal", "o-1", "approval", *words)
    assert (result.exit_code, result.stdout) == (0, "sent signal approval to instance o-1\n")
    assert sql("select kind, name, payload from @.events") == [("signal", "approval", payload)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody", "approval"], "no instance has the id 'nobody'"),
        (["o-1", "approval", "yes"], "PAYLOAD_JSON is not valid JSON: Expecting value at line 1, column 1"),
        (["o-1", ""], "a signal's name is a text of 1 to 512 bytes"),
        (["ended", "approval"], "has ended (failed)"),
    ],
)
def test_signal_refusals(run: Run, sql: Sql, words: list[str], message: str) -> None:
    run("start", "checkout", "--id", "o-1")
    run("start", "lost", "--id", "ended")
    sql("update @.instances set status = 'failed' where workflow = 'lost'")
    result = run("signal", *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "hint: " in result.stderr
    assert sql("select count(*) from @.events") == [(0,)]


def test_resume(run: Run, sql: Sql, schema: str) -> None:
    run("start", "checkout", "--id", "o-1")
    sql("update @.instances set status = 'paused', version = '1', wake_at = null")
    result = run("resume", "o-1")
    assert (result.exit_code, result.stdout) == (0, "instance o-1: resumed\n")
    assert "no living worker has workflow checkout" in result.stderr
    assert sql("select status from @.instances") == [("pending",)]
    again = run("resume", "o-1")
    assert again.exit_code == 1
    assert "instance o-1 is not resumed: it is not paused (pending)" in again.stderr


@pytest.mark.parametrize("command", ["show", "resume"])
@pytest.mark.parametrize("id", ["nobody", "", "0e3db22d-6e04-4d8b-8520-992db6073fb0"])
def test_unknown_id(run: Run, command: str, id: str) -> None:
    result = run(command, id)
    assert result.exit_code == 1
    assert "error: no instance has the id" in result.stderr
    assert "pgdurable list" in result.stderr
