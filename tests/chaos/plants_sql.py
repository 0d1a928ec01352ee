"""Violations of workflows in SQL, planted in good evidence one at a time by test_checker.py."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from crash.replay import Row

from . import checker
from .evidence import Evidence, Incarnation, Instance
from .programs import value_of

PLANTS: dict[str, tuple[str, Callable[[Evidence], None]]] = {}


def plant(promise: str) -> Callable[[Callable[[Evidence], None]], Callable[[Evidence], None]]:
    def register(how: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
        PLANTS[f"sql: {how.__name__}"] = promise, how
        return how

    return register


def one(evidence: Evidence, workflow: str) -> Instance:
    return next(instance for instance in evidence.instances if instance.workflow == workflow)


def at(instance: Instance, name: str, kind: str = "step") -> int:
    """Where in its history a node's row is."""
    return next(n for n, row in enumerate(instance.history) if (row.name, row.kind) == (name, kind))


def changed(row: Row, **fields: Any) -> Row:
    """A step's row with another result."""
    payload = json.loads(row.payload or "null")
    (column,) = payload["columns"]
    payload["rows"][0][column] = {**payload["rows"][0][column], **fields}
    return dataclasses.replace(row, payload=json.dumps(payload))


def swap(instance: Instance, first: int, second: int) -> None:
    rows = instance.history
    rows[first], rows[second] = rows[second], rows[first]


@plant(checker.TRANSACTIONS)
def compensation_lost(evidence: Evidence) -> None:
    token = one(evidence, "sql_doomed").token
    evidence.ledger = [effect for effect in evidence.ledger if (effect.token, effect.entry) != (token, "refund")]


@plant(checker.TRANSACTIONS)
def half_of_an_atomic(evidence: Evidence) -> None:
    token = one(evidence, "sql_atomic").token
    evidence.ledger = [effect for effect in evidence.ledger if (effect.token, effect.entry) != (token, "pay")]


@plant(checker.STEPS)
def step_ran_again(evidence: Evidence) -> None:
    evidence.sql_runs.append(dataclasses.replace(evidence.sql_runs[0], nonce="0" * 12))


@plant(checker.STEPS)
def two_checkpoints(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    row = instance.history[at(instance, "debit")]
    instance.history.append(dataclasses.replace(row, event_id=instance.history[-1].event_id + 1))


@plant(checker.RUNS)
def checkpoint_nobody_returned(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    place = at(instance, "debit")
    instance.history[place] = changed(instance.history[place], nonce="0" * 12)


@plant(checker.RUNS)
def effect_without_a_checkpoint(evidence: Evidence) -> None:
    evidence.sql_runs.append(dataclasses.replace(evidence.sql_runs[0], tag="another"))


@plant(checker.RUNS)
def a_step_that_was_undone_has_a_checkpoint(evidence: Evidence) -> None:
    token = one(evidence, "sql_atomic").token
    evidence.sql_runs = [run for run in evidence.sql_runs if (run.token, run.tag) != (token, "hold")]


def _moved_to_another_transaction(evidence: Evidence, workflow: str, tag: str) -> None:
    token = one(evidence, workflow).token
    evidence.sql_runs = [
        dataclasses.replace(run, xid=run.xid + 1_000_000) if (run.token, run.tag) == (token, tag) else run
        for run in evidence.sql_runs
    ]  # fmt: skip


@plant(checker.COMMITS)
def step_before_its_checkpoint(evidence: Evidence) -> None:
    _moved_to_another_transaction(evidence, "sql_transfer", "debit")


@plant(checker.COMMITS)
def branch_before_what_tells_of_it(evidence: Evidence) -> None:
    _moved_to_another_transaction(evidence, "sql_transfer", "left")


@plant(checker.COMMITS)
def atomic_in_two_commits(evidence: Evidence) -> None:
    """Each of its steps is in one commit with its checkpoint."""
    instance = one(evidence, "sql_atomic")
    _moved_to_another_transaction(evidence, "sql_atomic", "pay")
    event = instance.history[at(instance, "pay")].event_id
    evidence.writes = [
        dataclasses.replace(write, xid=write.xid + 1_000_000)
        if (write.instance_id, write.event_id) == (instance.id, event) else write
        for write in evidence.writes
    ]  # fmt: skip


@plant(checker.PROGRAMS)
def steps_the_wrong_way_round(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    swap(instance, at(instance, "first"), at(instance, "debit"))


@plant(checker.PROGRAMS)
def timer_before_its_branches(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    timer = next(n for n, row in enumerate(instance.history) if row.kind == "timer")
    swap(instance, at(instance, "left"), timer)


@plant(checker.PROGRAMS)
def branch_left_out(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    del instance.history[at(instance, "right")]


@plant(checker.PROGRAMS)
def another_node(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    place = at(instance, "last")
    instance.history[place] = dataclasses.replace(instance.history[place], name="another")


@plant(checker.PROGRAMS)
def round_left_out(evidence: Evidence) -> None:
    instance = one(evidence, "sql_standing")
    first, timer = at(instance, "instalment"), next(n for n, r in enumerate(instance.history) if r.kind == "timer")
    for place in sorted((first, timer), reverse=True):
        del instance.history[place]


@plant(checker.PROGRAMS)
def way_not_taken(evidence: Evidence) -> None:
    """A condition that was false, and what stands behind `then`."""
    instance = next(
        one for one in evidence.instances if one.workflow == "sql_confirmed" and one.arguments["letters"] > 1
    )  # fmt: skip
    place = next(n for n, row in enumerate(instance.history) if row.kind == "step" and value_of(row) is False)
    payload = json.loads(instance.history[place].payload or "null")
    payload["rows"][0] = dict.fromkeys(payload["rows"][0], True)
    instance.history[place] = dataclasses.replace(instance.history[place], payload=json.dumps(payload))


@plant(checker.PROGRAMS)
def two_winners_of_a_race(evidence: Evidence) -> None:
    instance = one(evidence, "sql_raced")
    place = next(n for n, row in enumerate(instance.history) if row.name in ("left", "right"))
    row = instance.history[place]
    number = row.fingerprint or 0
    other = {"left": ("right", number + 1), "right": ("left", number - 1)}[row.name or ""]
    again = dataclasses.replace(row, name=other[0], fingerprint=other[1], seq=99)
    instance.history.insert(place + 1, again)


@plant(checker.PROGRAMS)
def compensated_in_the_order_of_the_steps(evidence: Evidence) -> None:
    instance = one(evidence, "sql_doomed")
    swap(instance, at(instance, "fee back"), at(instance, "refund"))


@plant(checker.PROGRAMS)
def compensation_before_the_failure(evidence: Evidence) -> None:
    instance = one(evidence, "sql_doomed")
    swap(instance, at(instance, "fee back"), at(instance, "hopeless"))


@plant(checker.ATTEMPTS)
def attempt_counted_anew(evidence: Evidence) -> None:
    instance = one(evidence, "sql_doomed")
    place = at(instance, "hopeless")
    instance.history[place] = dataclasses.replace(instance.history[place], attempt=1)


@plant(checker.ATTEMPTS)
def attempt_of_a_step_before(evidence: Evidence) -> None:
    """What a step inherits that is not its own."""
    instance = one(evidence, "sql_transfer")
    place = at(instance, "last")
    instance.history[place] = dataclasses.replace(instance.history[place], attempt=2)


@plant(checker.ATTEMPTS)
def number_of_a_command_before(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    place = at(instance, "last")
    instance.history[place] = dataclasses.replace(instance.history[place], seq=1)


@plant(checker.TIMERS)
def timer_early(evidence: Evidence) -> None:
    instance = one(evidence, "sql_transfer")
    place = at(instance, "last")
    before = max(value_of(instance.history[at(instance, name)])["at"] for name in ("left", "right", "fee"))
    instance.history[place] = changed(instance.history[place], at=before + 0.049)


@plant(checker.SIGNALS)
def signal_lost(evidence: Evidence) -> None:
    instance = one(evidence, "sql_confirmed")
    del instance.history[next(n for n, row in enumerate(instance.history) if row.kind == "signal")]


@plant(checker.SIGNALS)
def signal_nobody_sent(evidence: Evidence) -> None:
    instance = one(evidence, "sql_confirmed")
    place = next(n for n, row in enumerate(instance.history) if row.kind == "signal")
    payload = json.dumps({"timed_out": False, "data": [77, 0]})
    instance.history[place] = dataclasses.replace(instance.history[place], payload=payload)


@plant(checker.FENCE)
def step_after_the_takeover(evidence: Evidence) -> None:
    """A branch, of which nothing else is written down by whoever runs it."""
    token = one(evidence, "sql_transfer").token
    run = next(run for run in evidence.sql_runs if (run.token, run.tag) == (token, "left"))
    assert run.fenced is not None
    _dead(evidence, run.fenced, run.xid)


@plant(checker.FENCE)
def step_without_the_fence_after_the_takeover(evidence: Evidence) -> None:
    place = max(n for n, run in enumerate(evidence.sql_runs) if run.fenced is not None)
    run = evidence.sql_runs[place]
    evidence.sql_runs[place] = dataclasses.replace(run, fenced=None)
    assert run.fenced is not None
    _dead(evidence, run.fenced, run.xid)


@plant(checker.OWNERS)
def written_by_another_pump(evidence: Evidence) -> None:
    id = one(evidence, "sql_transfer").id
    place = next(n for n, write in enumerate(evidence.writes) if write.instance_id == id)
    evidence.writes[place] = dataclasses.replace(evidence.writes[place], process="pump 1")


def _dead(evidence: Evidence, worker: int, xid: int) -> None:
    evidence.incarnations = [one for one in evidence.incarnations if one.worker != worker or one.state == "alive"]
    evidence.incarnations.append(Incarnation(0, 1, f"{xid}:{xid}:", worker, "pump", "dead", None))
