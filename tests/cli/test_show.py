"""`show`: the history as people read it, and why an instance does not go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import pgdurable as pgd

from .conftest import Run

Sql = Callable[..., list[tuple]]
BOOM = {"type": "builtins.RuntimeError", "message": "boom [red]\x1b[2J\nmore", "traceback": "Traceback of boom\n"}


@pytest.fixture
def add(sql: Sql) -> Callable[..., None]:
    """Gives instance o-1 rows of history, a second apart."""

    def add(*rows: tuple[Any, ...]) -> None:
        for place, (kind, seq, name, attempt, payload, error) in enumerate(rows, 1):
            sql(
                "insert into @.history (instance_id, event_id, seq, kind, name, attempt, payload, error, elapsed_ms,"
                " recorded_at) select id, %s, %s, %s, %s, %s, %s, %s, 12.34, created_at + make_interval(secs => %s)"
                " from @.instances",
                place, seq, kind, name, attempt, Jsonb(payload), None if error is None else Jsonb(error), place,
            )  # fmt: skip

    return add


def worker(sql: Sql, name: str = "w-1", version: str = "1", workflow: str = "checkout") -> int:
    has = Jsonb([{"name": workflow, "version": version}])
    return sql("select @.join_worker(%s, %s, interval '1 minute')", name, has)[0][0]


def test_history_is_one_line_per_transition(run: Run, sql: Sql, add: Callable) -> None:
    run("start", "checkout", '{"order": "o-1"}', "--id", "o-1")
    add(
        ("attempt", 0, "reserve", 1, {"retry_in": 0.2}, BOOM),
        ("step", 0, "reserve", 2, "stock-7", None),
        ("timer", 1, None, None, None, None),
        ("signal", None, "approval", None, {"by": "ann"}, None),
        ("void", 2, "debit", 1, None, None),
        ("step", 3, "ship", 1, None, BOOM),
    )
    sql(
        "update @.instances set status = 'failed', version = '1', error = %s,"
        " finished_at = created_at + interval '7 s'",
        Jsonb(BOOM),
    )
    result = run("show", "o-1")
    assert result.exit_code == 0
    head, _, history = result.stdout.partition("\nhistory\n")
    lines = [" ".join(line.split()) for line in history.splitlines()]
    assert lines == [
        '+0.000 s started checkout {"order": "o-1"}',
        "+1.000 s attempt reserve #1 12.3 ms again after 200 ms: RuntimeError: boom [red]\\x1b[2J more",
        '+2.000 s step reserve #2 12.3 ms "stock-7"',
        "+3.000 s timer 12.3 ms fired",
        '+4.000 s signal approval 12.3 ms {"by": "ann"}',
        "+5.000 s void debit #1 12.3 ms a transaction that did not commit, and never will",
        "+6.000 s step failed ship #1 12.3 ms RuntimeError: boom [red]\\x1b[2J more",
        "+7.000 s failed RuntimeError: boom [red]\\x1b[2J more",
    ]
    fields = {line.split(None, 1)[0]: line.split(None, 1)[1] for line in head.splitlines() if line[:1] != " "}
    assert fields["instance"] == "o-1"
    assert fields["status"] == "failed"
    assert fields["workflow"] == "checkout version 1"
    assert fields["finished"].endswith(", after 7.0 s")
    assert fields["error"].startswith("RuntimeError: boom")
    assert "why" not in result.stdout
    assert "Traceback of boom" not in result.stdout
    assert run("show", "o-1", "--full").stdout.count("Traceback of boom") == 3


def test_long_values_are_cut_unless_all_is_wanted(run: Run) -> None:
    long = "x" * 5000
    run("start", "checkout", json.dumps({"text": long}), "--id", "o-1")
    assert long not in run("show", "o-1").stdout
    assert "…" in run("show", "o-1").stdout
    assert long in run("show", "o-1", "--full").stdout
    assert json.loads(run("show", "o-1", "--json").stdout)["input"] == {"text": long}


def test_json_holds_everything(run: Run, add: Callable) -> None:
    run("start", "checkout", '{"order": "o-1"}', "--id", "o-1")
    run("signal", "o-1", "approval", '{"by": "ann"}')
    add(("step", 0, "reserve", 1, [1, 2], None))
    shown = json.loads(run("show", "o-1", "--json").stdout)
    assert shown["status"] == "pending"
    assert [(e["kind"], e["name"], e["value"]) for e in shown["history"]] == [
        ("started", "checkout", {"order": "o-1"}),
        ("step", "reserve", [1, 2]),
    ]
    assert [(e["name"], e["payload"]) for e in shown["events"]] == [("approval", {"by": "ann"})]
    assert any("No living worker has workflow checkout" in reason for reason in shown["reasons"])


def test_unknown_workflow_stays_pending_and_says_how_to_start_a_worker(run: Run, sql: Sql, schema: str) -> None:
    run("start", "checkout", "--id", "o-1")
    text = run("show", "o-1").stdout
    assert "status    pending" in text
    assert f"No living worker has workflow checkout. Start one: pgdurable worker --schema {schema} MODULE" in text
    assert "No worker lives" in text
    worker(sql, "other", workflow="refund")
    assert "Workers that live, without it: other." in run("show", "o-1").stdout
    worker(sql, "mine")
    text = run("show", "o-1").stdout
    assert "the next worker with room takes it (mine)" in text
    assert "No living worker" not in text


def test_other_versions_are_named(run: Run, sql: Sql) -> None:
    run("start", "checkout", "--id", "o-1")
    sql("update @.instances set version = '1', status = 'waiting'")
    worker(sql, "new", version="2")
    text = run("show", "o-1").stdout
    assert "No living worker has workflow checkout version 1." in text
    assert "Living workers have other versions of it: version 2 (new)." in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("status = 'waiting', wake_at = null", "Waits for a signal. Send it: pgdurable signal"),
        ("status = 'waiting', wake_at = now() + interval '1 hour'", "Waits for a timer, or a signal before it: at "),
        ("wake_at = now() + interval '1 hour'", "Starts at "),
        ("status = 'running', owner = 12345", "Its worker 12345 is gone. The next worker with room takes it over"),
    ],
)
def test_what_it_waits_for(run: Run, sql: Sql, change: str, said: str) -> None:
    run("start", "checkout", "--id", "o-1")
    worker(sql)
    sql(f"update @.instances set version = '1', {change}")
    run("signal", "o-1", "approval", "5")
    text = run("show", "o-1").stdout
    assert said in text
    assert "No living worker" not in text
    events = text.partition("\nnot yet delivered\n")[2].splitlines()
    assert events[0].startswith("signal  approval  sent ")
    assert events[0].endswith(" 5")


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("state = 'stopped', ended_at = now()", "Its worker w-1 stopped "),
        ("state = 'dead', ended_at = now()", "Its worker w-1 died "),
        ("lease_until = now() - interval '1 s'", "Its worker w-1 has not been heard of"),
    ],
)
def test_its_worker_is_gone(run: Run, sql: Sql, end: str, said: str) -> None:
    run("start", "checkout", "--id", "o-1")
    sql("update @.instances set status = 'running', owner = %s", worker(sql))
    sql(f"update @.workers set {end}")
    text = run("show", "o-1").stdout
    assert said in text
    assert "No living worker has workflow checkout" in text


def test_its_worker_lives_and_a_step_will_be_tried_again(run: Run, sql: Sql, add: Callable) -> None:
    run("start", "checkout", "--id", "o-1")
    sql("update @.instances set status = 'running', owner = %s", worker(sql))
    add(
        ("attempt", 0, "reserve", 1, {"retry_in": 1}, BOOM),
        ("step", 0, "reserve", 2, "fine", None),
        ("attempt", 1, "ship", 1, {"retry_in": 3600}, BOOM),
    )
    text = run("show", "o-1").stdout
    assert "Held by the living worker w-1" in text
    assert "Step ship: attempt 1 failed, the next begins in 1 h 0 min." in text
    assert "Step reserve" not in text


async def test_paused_shows_where_the_code_left_its_history(run: Run, dsn: str, schema: str) -> None:
    @pgd.step
    async def reserve(sku: str) -> str:
        return sku

    @pgd.step
    async def ship(sku: str) -> str:
        return sku

    async def old(sku: str) -> str:
        await reserve(sku)
        return str(await pgd.wait_signal("approval"))

    async def new(sku: str) -> str:
        await ship(sku)
        return str(await pgd.wait_signal("approval"))

    first, second = (pgd.Workflow(fn, name="checkout", version="1") for fn in (old, new))
    async with pgd.Engine(dsn, schema=schema, workflows=[first]) as engine:
        handle = await engine.start(first, "sku-9", id="order/1")
        while not [entry async for entry in handle.history() if entry.kind == "step"]:
            await pgd.sleep(0.01)
    async with pgd.Engine(dsn, schema=schema, workflows=[second]) as engine:
        handle = await engine.get("order/1")
        with pytest.raises(pgd.InstancePaused):
            await handle.result(timeout=30)
    text = run("show", "order/1").stdout
    assert "status    paused" in text
    assert "NonDeterminismError: instance order/1" in text
    assert "first difference: event 1, command #0" in text
    assert "reserve" in text
    assert "ship" in text
    assert "its code no longer fits its history. Nothing is lost." in text
    assert f"pgdurable resume --schema {schema} order/1" in text
    assert run("doctor").stdout.count("1 instance paused") == 1
    assert run("resume", "order/1").exit_code == 0
    async with pgd.Engine(dsn, schema=schema, workflows=[first]) as engine:
        handle = await engine.get("order/1")
        await handle.signal("approval", "yes")
        assert await handle.result(timeout=30) == "yes"


def test_steps_that_run_long_and_their_progress_are_shown(run: Run, sql: Sql) -> None:
    run("start", "checkout", '{"order": "o-1"}', "--id", "o-1")
    number = worker(sql)
    sql("update @.instances set status = 'running', owner = %s, version = '1', started_at = now()", number)
    sql(
        "insert into @.attempts (instance_id, seq, attempt, worker, name, started_at, beat_at, done, total)"
        " select id, 3, 2, %s, 'copy_rows', now() - interval '90 s', now() - interval '2 s', 250, 1000"
        " from @.instances",
        number,
    )
    result = run("show", "o-1")
    assert result.exit_code == 0
    _, _, shown = result.stdout.partition("\nrunning\n")
    line = " ".join(shown.splitlines()[0].split())
    assert line.startswith("copy_rows #2 for 1 min 3")
    assert "250 of 1000 (25%) last sign 2." in line
    (step,) = json.loads(run("show", "o-1", "--json").stdout)["running_steps"]
    assert (step["name"], step["attempt"], step["done"], step["total"]) == ("copy_rows", 2, 250, 1000)
    # Where its worker has gone nothing is claimed to run.
    sql("update @.instances set owner = null, status = 'waiting'")
    assert "copy_rows" not in run("show", "o-1").stdout
