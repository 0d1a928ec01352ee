"""`worker` as a process: what it loads, how it stops."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pgdurable import EmbeddedServer
from pgdurable._store.migrations import migrate

from .conftest import Process, Run

Sql = Callable[..., list[tuple]]
Start = Callable[..., Process]

SHOP = """
import asyncio, threading, time
from pathlib import Path
import pgdurable as pgd

ENGINE_OPTIONS = {"name": "shop-worker", "lease": 17, "max_threads": 3}
WRONG = {"leese": 17}
UNFIT = {"lease": "soon"}
LIST = [1]

@pgd.step
async def until(file: str) -> str:
    Path(file + ".begun").touch()
    while not Path(file).exists():
        await asyncio.sleep(0.01)
    return "saw it"

@pgd.step
def block(file: str) -> None:
    Path(file + ".begun").touch()
    while not Path(file).exists():
        time.sleep(0.01)

@pgd.workflow(version="3")
async def watch(file: str) -> str:
    return await until(file)

@pgd.workflow
async def hold(file: str) -> None:
    await block(file)

@pgd.workflow
async def double(n: int) -> int:
    return 2 * n

ONLY_DOUBLE = {"workflows": [double]}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def test_runs_what_the_module_registers_and_stops_quietly(
    run: Run, shop: Path, process: Start, eventually: Callable[..., None]
) -> None:
    worker = process("worker", "shop")
    eventually(worker.said("worker of shop runs at "), "the worker runs")
    assert worker.lines[:3] == [
        "workflow watch version 3\n",
        "workflow hold version 1\n",
        "workflow double version 1\n",
    ]
    result = run("start", "double", "21", "--wait", "--timeout", "30")
    assert (result.exit_code, result.stdout) == (0, "42\n")
    worker.tell(signal.SIGINT)
    assert worker.ended() == 0
    said = [line for line in worker.lines if " INFO " not in line]
    assert said[-2:] == ["stops after the running steps; again to stop at once\n", "drained; stopped\n"]
    assert any("INFO pgdurable.engine: worker 1 drained: 0 instances handed over" in line for line in worker.lines)


def test_sigterm_drains_the_running_step(
    run: Run, sql: Sql, shop: Path, process: Start, eventually: Callable[..., None]
) -> None:
    worker = process("worker", "shop")
    file = shop / "go"
    run("start", "watch", str(file), "--id", "w-1")
    eventually((shop / "go.begun").exists, "the step runs")
    assert "Held by the living worker" in run("show", "w-1").stdout
    worker.tell(signal.SIGTERM)
    eventually(worker.said("instance w-1: step until, attempt 1, for "), "the worker says what it waits for")
    assert "waits for 1 running step, 30.0 s at most:" in worker.output
    assert worker.child.poll() is None
    assert sql("select distinct state from @.workers") == [("draining",)]
    file.touch()
    assert worker.ended() == 0
    assert sql("select kind, payload from @.history") == [("step", "saw it")]
    assert sql("select distinct state from @.workers") == [("stopped",)]


@pytest.mark.parametrize("workflow", ["watch", "hold"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(
    run: Run,
    sql: Sql,
    shop: Path,
    process: Start,
    eventually: Callable[..., None],
    workflow: str,
    number: signal.Signals,
) -> None:
    worker = process("worker", "shop")
    run("start", workflow, str(shop / "go"))
    eventually((shop / "go.begun").exists, "the step runs")
    worker.tell(signal.SIGTERM)
    eventually(worker.said("waits for 1 running step"), "the first signal is taken")
    worker.tell(number)
    assert worker.ended() == 128 + number
    assert "stops at once" in worker.output
    assert "Traceback" not in worker.output
    assert sql("select count(*) from @.history") == [(0,)]
    assert sql("select distinct state from @.workers") == [("stopped",)]


def test_a_drain_that_takes_too_long_is_given_up(
    run: Run, sql: Sql, shop: Path, process: Start, eventually: Callable[..., None]
) -> None:
    worker = process("worker", "shop", "--drain", "0.2")
    run("start", "hold", str(shop / "go"))
    eventually((shop / "go.begun").exists, "the step runs")
    worker.tell(signal.SIGTERM)
    assert worker.ended() == 3
    assert worker.lines[-1] == "stopped; what was running is done again by another worker\n"
    assert "drained" not in worker.output
    assert sql("select count(*) from @.history") == [(0,)]


def test_engine_options_of_the_module(
    run: Run, sql: Sql, shop: Path, process: Start, eventually: Callable[..., None]
) -> None:
    worker = process("worker", "shop:ENGINE_OPTIONS")
    eventually(worker.said("worker of shop runs at "), "the worker runs")
    ((name, lease),) = sql("select name, extract(epoch from lease_until - now())::float from @.workers")
    assert name == "shop-worker"
    assert 10 < lease <= 17
    doctor = run("doctor")
    assert doctor.exit_code == 0
    assert "✓ worker shop-worker lives" in doctor.stdout
    assert "and has watch v3, hold v1, double v1" in doctor.stdout


def test_engine_options_choose_the_workflows(
    run: Run, shop: Path, process: Start, eventually: Callable[..., None]
) -> None:
    worker = process("worker", "shop:ONLY_DOUBLE")
    eventually(worker.said("worker of shop runs at "), "the worker runs")
    assert worker.lines[0] == "workflow double version 1\n"
    assert "watch" not in worker.output


@pytest.mark.parametrize("options", [[], ["--schema", "from_the_command_line"]])
def test_the_command_line_wins_over_the_module_and_the_module_over_the_environment(
    bare_run: Run, dsn: str, schema: str, tmp_path: Path, process: Start, monkeypatch, options: list[str]
) -> None:
    monkeypatch.setenv("PGDURABLE_SCHEMA", "from_the_environment")
    monkeypatch.setenv("PGDURABLE_DSN", "host=/from/the/environment")
    (tmp_path / "shop.py").write_text(SHOP + f"\nWHERE = {{'dsn': {dsn!r}, 'schema': 'from_the_module'}}\n")
    worker = process("worker", "shop:WHERE", *options)
    assert worker.ended() == 1
    wanted = options[1] if options else "from_the_module"
    assert f"error: schema {wanted} is not migrated" in worker.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "error: there is no module nowhere: No module named 'nowhere'"),
        (["shop.nowhere"], "error: there is no module shop.nowhere"),
        (["shop.py"], "hint: Write it as an import statement does: pgdurable worker shop\n"),
        (["./a/shop.py"], "pgdurable worker a.shop\n"),
        ([""], "is not the name of a module"),
        (["shop:NOTHING"], "error: module shop has no NOTHING"),
        (["shop:LIST"], "error: shop:LIST is no dict of Engine options"),
        (["shop:WRONG"], "error: shop:WRONG has options that Engine does not take: leese"),
        (["shop:UNFIT"], "error: the Engine options of shop do not fit"),
        (["empty"], "error: module empty registers no workflow"),
        (["needs"], "error: importing needs failed: ModuleNotFoundError: No module named 'not_installed_here'"),
        (["broken"], "error: importing broken failed: ZeroDivisionError: division by zero"),
        (["garbled"], "error: importing garbled failed: SyntaxError: "),
        (["leaves"], "error: importing leaves failed: SystemExit: 3"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_loaded(run: Run, shop: Path, process: Start, words: list[str], said: str) -> None:
    (shop / "empty.py").write_text("")
    (shop / "needs.py").write_text("import not_installed_here\n")
    (shop / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")
    (shop / "garbled.py").write_text("def f(:\n")
    (shop / "leaves.py").write_text("raise SystemExit(3)\n")
    worker = process("worker", *words)
    assert worker.ended() == 1
    assert said in worker.output
    assert "Traceback" not in worker.output
    if words == ["broken"]:
        assert "broken.py, line 2: return 1 / 0" in worker.output


def test_not_migrated(new_run: Run, shop: Path, process: Start, schema: str) -> None:
    worker = process("worker", "shop")
    assert worker.ended() == 1
    assert f"hint: Run: pgdurable migrate --schema {schema}" in worker.output


def test_unreachable(shop: Path, process: Start) -> None:
    worker = process("worker", "shop", "--dsn", f"host={shop}", "--wait", "0.5")
    assert worker.ended() == 1
    assert worker.output.startswith(f"cannot use PostgreSQL at {shop}")
    assert worker.output.replace("\n", " ").count("waits for 500 ms at most") == 1
    assert f"error: cannot use PostgreSQL at {shop}" in worker.output
    assert "Traceback" not in worker.output


def test_what_waiting_would_not_mend_is_told_at_once(shop: Path, process: Start, dsn: str) -> None:
    worker = process("worker", "shop", "--dsn", f"{dsn}&dbname=not_there" if "?" in dsn else f"{dsn} dbname=not_there")
    assert worker.ended(20) == 1
    assert "hint: Create the database" in worker.output
    assert "waits for" not in worker.output


def test_waits_for_a_server_that_comes_later(
    shop: Path, process: Start, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """After a power cut everything starts at once, and the server is not the first."""
    with EmbeddedServer(tmp_path / "server") as server:
        migrate(server.dsn)
        server.stop()
        worker = process("worker", "shop", "--dsn", server.dsn, "--schema", "durable")
        eventually(worker.said("waits for"), "it says what it waits for")
        server.start()
        eventually(worker.said("worker of shop runs at "), "it runs")
        worker.tell(signal.SIGTERM)
        assert worker.ended() == 0
        assert worker.output.count("waits for") == 1


def test_bad_log_level_is_a_usage_error(shop: Path, process: Start) -> None:
    assert process("worker", "shop", "--log-level", "loud").ended() == 2


def test_ctrl_c_while_waiting_is_quiet(
    run: Run, sql: Sql, process: Start, schema: str, eventually: Callable[..., None]
) -> None:
    waiting = process("start", "nobody_has_it", "--id", "o-1", "--wait")
    eventually(waiting.said("no living worker has workflow nobody_has_it"), "it waits")
    waiting.tell(signal.SIGINT)
    assert waiting.ended() == 130
    assert len(waiting.lines) == 2, waiting.output
    assert json.loads(run("list", "--json").stdout)["status"] == "pending"


def test_a_failure_is_told_without_a_traceback(
    run: Run, shop: Path, process: Start, eventually: Callable[..., None]
) -> None:
    worker = process("worker", "shop")
    eventually(worker.said("worker of shop runs at "), "the worker runs")
    result = run("start", "double", '{"m": 1}', "--id", "d-1", "--wait", "--timeout", "30")
    assert result.exit_code == 1
    assert "error: instance d-1 ended failed" in result.stderr
    assert "Traceback" not in result.stderr
    assert "status    failed" in run("show", "d-1").stdout
