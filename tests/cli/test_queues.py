"""`pgdurable queues`: what it shows and sets, and what it refuses; workers that listen, and queues nobody hears."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Process, Run

Sql = Callable[..., list[tuple]]

MODULE = """
import pgdurable as pgd

@pgd.workflow(name="queues_cli")
async def job(n: int = 0) -> int:
    return n
"""


def test_without_anything_it_says_so(run: Run) -> None:
    result = run("queues")
    assert result.exit_code == 0
    assert "nothing stands in any queue" in result.stdout


def test_limits_are_set_shown_and_taken_away(run: Run, sql: Sql) -> None:
    result = run(
        "queues", "set", "mail", "--concurrency", "10", "--rate", "100/60", "--partition-rate", "5/0.5",
        "--worker-concurrency", "3", "--partition-concurrency", "2", "--partition-worker-concurrency", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "queue mail: concurrency 10, " in result.stdout
    assert run("queues", "set", "mail", "--partition", "acme", "--weight", "3").exit_code == 0
    sql("select @.start('queues_cli', queue => 'mail', partition => 'acme')")
    (line,) = run("queues", "--json").stdout.splitlines()
    shown = json.loads(line)
    assert shown["rate"] == [100, 60.0]
    assert (shown["due"], shown["listeners"], shown["partitions"][0]["weight"]) == (1, 0, 3)
    for words in (("pause", "mail"), ("pause", "mail", "--partition", "acme")):
        assert run("queues", *words).exit_code == 0
    assert "paused, concurrency 10" in run("queues").stdout
    assert sql("select paused from @.queue_partitions") == [(True,)]
    for words in (("resume", "mail"), ("resume", "mail", "--partition", "acme")):
        assert run("queues", *words).exit_code == 0
    assert run("queues", "set", "mail", "--concurrency", "none", "--rate", "none").exit_code == 0
    assert sql("select paused, concurrency, rate_count, partition_concurrency from @.queues") == [
        (False, None, None, 2)
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mail",), "say what to set"),
        (("mail", "--concurrency", "many"), "a whole number"),
        (("mail", "--rate", "100"), "COUNT/SECONDS"),
        (("mail", "--rate", "a/b"), "COUNT/SECONDS"),
        (("mail", "--weight", "3"), "goes with --partition"),
        (("mail", "--partition", "a", "--partition-rate", "1/1"), "not for one partition"),
        (("default", "--concurrency", "1"), "can have no limits"),
        (("mail", "--concurrency", "0"), "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, sql: Sql, words: tuple[str, ...], said: str) -> None:
    result = run("queues", "set", *words)
    assert result.exit_code in (1, 2)
    assert said in result.output
    assert sql("select count(*) from @.queues") == [(0,)]


def test_doctor_finds_queues_that_nobody_hears(run: Run, sql: Sql) -> None:
    sql("""select @.join_worker('x', '[{"name": "queues_cli", "version": "1"}]', '1 minute', queues => '{sms}')""")
    assert "no queue is paused or without a listener" in run("doctor").stdout
    sql("select @.start('queues_cli', queue => 'mail')")
    result = run("doctor")
    assert result.exit_code == 1
    assert "queue mail: 1 instance due" in result.stdout
    assert "no living worker that has the workflow listens to it" in result.stdout
    sql("""select @.join_worker('y', '[{"name": "queues_cli", "version": "1"}]', '1 minute')""")
    assert run("doctor").exit_code == 0
    run("queues", "pause", "mail")
    result = run("doctor")
    assert result.exit_code == 0
    assert "it is paused" in result.stdout


def test_a_worker_listens_to_what_it_is_told(
    run: Run, sql: Sql, process: Callable[..., Process], tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    (tmp_path / "cli_queues_module.py").write_text(MODULE)
    worker = process("worker", "cli_queues_module", "--queues", "mail,sms", "--queues", "fax")
    eventually(worker.said("listens to mail, sms, fax"), "it says so")
    for queue in ("default", "fax", "mail"):
        assert run("start", "queues_cli", "--queue", queue, "--priority", "2", "--dedup", "k").exit_code == 0
    eventually(
        lambda: sql("select queue from @.instances where status = 'completed' order by 1") == [("fax",), ("mail",)],
        "both have run",
    )
    assert sql("select status, priority from @.instances where queue = 'default'") == [("pending", 2)]
    worker.tell(signal.SIGTERM)
    assert worker.ended() == 0
