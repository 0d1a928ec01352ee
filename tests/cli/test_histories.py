"""`pgdurable export` and `pgdurable replay`: out of a database, and into somebody's CI."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pgdurable as pgd
from pgdurable.workflow import registry

from .conftest import Run

CODE = """
import pgdurable as pgd

keys = pgd.Encryption({{"k": {key!r}}})
options = {{"encryption": keys}}

@pgd.step
async def greet(name: str) -> str:
    return "hello " + name

@pgd.step
async def wave(name: str) -> str:
    return "wave " + name

@pgd.workflow(name={name!r})
async def greeting(name: str) -> str:
    return await {step}(name)
"""
KEY = pgd.Encryption.new_key()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module whose workflow calls that step, imports it, and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(step: str) -> str:
        name = f"greetings_{uuid.uuid4().hex[:8]}"
        (tmp_path / f"{name}.py").write_text(CODE.format(step=step, name="cli.greeting", key=KEY))
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)
    registry._by_key.pop(("cli.greeting", "1"), None)
    registry._current.pop("cli.greeting", None)


def ran(module: str, dsn: str, schema: str, *, sealed: bool = False) -> list[str]:
    """Runs two instances and gives their ids."""
    code = __import__(module)
    encryption = code.keys if sealed else None
    with pgd.sync.Engine(dsn, schema=schema, workflows=[code.greeting], encryption=encryption) as engine:
        handles = [engine.start("cli.greeting", name, id=f"id {name}") for name in ("ann", "bob")]
        assert [handle.result(30) for handle in handles] == ["hello ann", "hello bob"]
    registry._by_key.pop(("cli.greeting", "1"), None)
    return [handle.id for handle in handles]


def test_histories_go_out_and_are_followed(run: Run, module: Callable[[str], str], dsn: str, schema: str) -> None:
    first = module("greet")
    ids = ran(first, dsn, schema)
    exported = run("export", *ids)
    assert exported.exit_code == 0
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [line.get("kind") for line in lines] == [None, "step", None, None, "step", None]
    assert lines[0]["format"] == "pgdurable.history"
    assert lines[0]["instance"]["key"] == "id ann"
    assert lines[1]["payload"] == "hello ann"
    Path("h.jsonl").write_text(exported.stdout)

    same = run("replay", "h.jsonl", "--import", module("greet"))
    assert same.exit_code == 0, same.output
    assert "follows  id ann  cli.greeting v1, 1 event" in same.stdout
    assert "follows  id bob" in same.stdout
    registry._by_key.pop(("cli.greeting", "1"), None)

    other = run("replay", "h.jsonl", "--import", module("wave"))
    assert other.exit_code == 1
    assert "differs  id ann" in other.stdout
    assert "history:  step 'greet'" in other.stdout
    assert "code now: step 'wave'" in other.stdout
    assert "2 of 2 histories are not followed" in other.output


def test_a_workflows_newest_and_redaction(run: Run, module: Callable[[str], str], dsn: str, schema: str) -> None:
    ran(module("greet"), dsn, schema)
    exported = run("export", "--workflow", "cli.greeting", "--status", "completed", "--limit", "1", "--redact")
    assert exported.exit_code == 0
    head, step, end = [json.loads(line) for line in exported.stdout.splitlines()]
    assert head["payloads"] == "redacted"
    assert head["instance"]["input"] == {"name": "xxx"}
    assert step["payload"] == "x" * len("hello bob")
    assert end == {"end": 1}
    Path("h.jsonl").write_text(exported.stdout)
    assert run("replay", "h.jsonl", "--import", module("greet")).exit_code == 0


def test_what_is_encrypted_stays_so(run: Run, module: Callable[[str], str], dsn: str, schema: str) -> None:
    name = module("greet")
    ids = ran(name, dsn, schema, sealed=True)
    exported = run("export", ids[0])
    assert "hello" not in exported.stdout
    Path("h.jsonl").write_text(exported.stdout)
    again = module("greet")
    without = run("replay", "h.jsonl", "--import", again)
    assert without.exit_code == 1
    assert "encrypted" in without.output
    assert run("replay", "h.jsonl", "--import", f"{again}:options").exit_code == 0


def test_bad_words_are_refused(run: Run, module: Callable[[str], str], dsn: str, schema: str) -> None:
    assert run("export").exit_code == 2
    assert run("export", "x", "--workflow", "y").exit_code == 2
    assert "no instance has the id 'nobody'" in run("export", "nobody").output
    assert "there is no such instance of workflow nothing" in run("export", "--workflow", "nothing").output
    Path("bad.jsonl").write_text("{}\n")
    bad = run("replay", "bad.jsonl", "--import", module("greet"))
    assert bad.exit_code == 1
    assert "bad.jsonl, line 1" in bad.output
    assert run("replay", "none.jsonl", "--import", "os").exit_code == 2
