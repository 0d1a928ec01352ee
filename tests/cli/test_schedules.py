"""`schedules` and `schedule ...`, without a worker: what reaches the table, what is printed and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .conftest import Run

Sql = Callable[..., list[tuple]]


def test_a_schedule_from_beginning_to_end(run: Run, sql: Sql) -> None:
    assert run("schedules").stdout == "no schedules\n"
    words = ["--cron", "0 3 * * 1-5", "--tz", "Europe/Berlin", "--overlap", "buffer_one", "--catch-up", "3600"]
    made = run("schedule", "put", "nightly", "report", '{"who": "ann"}', *words)
    assert made.exit_code == 0, made.stderr
    assert "schedule nightly: report, 0 3 * * 1-5 Europe/Berlin, active" in made.stdout
    assert sql("select workflow, input, definition from @.schedules") == [
        ("report", {"who": "ann"},
         {"cron": "0 3 * * 1-5", "tz": "Europe/Berlin", "overlap": "buffer_one", "catch_up_s": 3600.0})
    ]  # fmt: skip
    ticks = run("schedule", "next", "nightly", "3").stdout.splitlines()
    assert len(ticks) == 3
    assert all("T03:00:00+0" in tick for tick in ticks)
    assert "nightly  report    0 3 * * 1-5 Europe/Berlin  active" in run("schedules").stdout
    (line,) = run("schedules", "--json").stdout.splitlines()
    assert json.loads(line)["cron"] == "0 3 * * 1-5"
    assert run("schedule", "pause", "nightly", "we move house").stdout == "schedule nightly is paused\n"
    assert run("schedule", "pause", "nightly").stdout == "schedule nightly was paused already\n"
    assert "note: we move house" in run("schedule", "show", "nightly").stdout
    assert run("schedule", "edit", "nightly", "--every", "900", "--input", '["bob"]').exit_code == 0
    assert sql("select input, definition ->> 'every_s', definition ? 'cron' from @.schedules") == [
        (["bob"], "900.0", False)
    ]
    assert run("schedule", "resume", "nightly").stdout == "schedule nightly goes on\n"
    assert run("schedule", "backfill", "nightly", "2026-03-01T00:00:00Z").exit_code == 0
    assert sql("select jsonb_array_length(requests) from @.schedules") == [(1,)]
    late = run("schedule", "trigger", "nightly", "--timeout", "0")
    assert late.exit_code == 1
    assert "no worker has started" in late.stderr
    assert run("schedule", "delete", "nightly").stdout == "schedule nightly is removed\n"
    assert run("schedule", "delete", "nightly").stdout == "schedule nightly was not there\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["put", "s", "w"], 1, "needs one of cron, every and at"),
        (["put", "s", "w", "--cron", "x"], 1, "is no cron expression"),
        (["put", "s", "w", "1", "--cron", "@daily"], 1, "neither an object nor an array"),
        (["put", "s", "w", "--at", "soon"], 2, "is no time like"),
        (["show", "s"], 1, "there is no schedule 's'"),
        (["pause", "s"], 1, "there is no schedule 's'"),
        (["edit", "s", "--every", "5"], 1, "there is no schedule 's'"),
        (["backfill", "s", "2026-03-01"], 2, "has no offset"),
    ],
)
def test_refusals(run: Run, words: list[str], code: int, message: str) -> None:
    result = run("schedule", *words)
    assert result.exit_code == code
    assert message in result.stderr
