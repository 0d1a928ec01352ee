"""The checker finds every violation that is planted in good evidence, and none in the good evidence itself."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from . import ledger
from .driver import Scenario
from .ledger import Evidence, Execution, Instance, check
from .replay import Row

SEED = 20_240_501


@pytest.fixture(scope="module")
def good(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The evidence of a run in which nothing died."""

    async def run() -> Evidence:
        async with Scenario(dsn, tmp_path_factory.mktemp("good"), SEED) as scenario:
            scenario.wave(await scenario.begin())
            return await scenario.finish()

    return asyncio.run(run())


def one(evidence: Evidence, workflow: str) -> Instance:
    return next(instance for instance in evidence.instances if instance.workflow == workflow)


def replace(instance: Instance, kind: str, change: Callable[[Row], Row], last: bool = False) -> None:
    places = [place for place, row in enumerate(instance.history) if row.kind == kind]
    place = places[-1 if last else 0]
    instance.history[place] = change(instance.history[place])


PLANTS: dict[str, tuple[str, Callable[[Evidence], None]]] = {}


def plant(promise: str) -> Callable[[Callable[[Evidence], None]], Callable[[Evidence], None]]:
    def register(how: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
        PLANTS[how.__name__] = promise, how
        return how

    return register


@plant("an acknowledged start is never lost")
def missing_instance(evidence: Evidence) -> None:
    lost = one(evidence, "sleeper")
    evidence.instances.remove(lost)


@plant("an acknowledged start is never lost")
def acknowledged_as_another(evidence: Evidence) -> None:
    evidence.acknowledged[one(evidence, "sleeper").token] = one(evidence, "unlucky").id


@plant("a start happens once")
def started_twice(evidence: Evidence) -> None:
    evidence.instances.append(copy.deepcopy(one(evidence, "unlucky")))


@plant("every instance ends")
def still_running(evidence: Evidence) -> None:
    one(evidence, "shop").status = "running"


@plant("every instance ends")
def ended_the_other_way(evidence: Evidence) -> None:
    one(evidence, "unlucky").status = "completed"


@plant("every instance ends")
def still_owned(evidence: Evidence) -> None:
    one(evidence, "shop").owner = 1


@plant("a transaction step takes effect exactly once")
def double_entry(evidence: Evidence) -> None:
    entry = evidence.ledger[0]
    evidence.ledger.append(entry)
    evidence.balances[entry.source] -= entry.cents
    evidence.balances[entry.target] += entry.cents


@plant("a transaction step takes effect exactly once")
def lost_entry(evidence: Evidence) -> None:
    entry = evidence.ledger.pop()
    evidence.balances[entry.source] += entry.cents
    evidence.balances[entry.target] -= entry.cents


@plant("a transaction step takes effect exactly once")
def entry_of_nobody(evidence: Evidence) -> None:
    evidence.ledger.append(ledger.Entry("nobody", "debit", 1, 1, 0))


@plant("a transaction step takes effect exactly once")
def rolled_back_transaction_took_effect(evidence: Evidence) -> None:
    token = one(evidence, "unlucky").token
    evidence.ledger.append(ledger.Entry(token, "debit", 1, 1, 0))


@plant("sums match")
def wrong_sum(evidence: Evidence) -> None:
    evidence.balances[3] += 1


@plant("an instance ends with the right result")
def result_of_another_checkpoint(evidence: Evidence) -> None:
    one(evidence, "shop").output["noted"][0]["nonce"] = "0" * 12


@plant("an instance ends with the right result")
def other_error(evidence: Evidence) -> None:
    error = one(evidence, "unlucky").error
    assert error is not None
    error["message"] = "something else"


@plant("a command is answered once")
def answered_twice(evidence: Evidence) -> None:
    history = one(evidence, "sleeper").history
    history.append(dataclasses.replace(history[-1], event_id=history[-1].event_id + 1))


@plant("attempts are counted across crashes")
def attempts_counted_anew(evidence: Evidence) -> None:
    replace(one(evidence, "unlucky"), "attempt", lambda row: dataclasses.replace(row, attempt=1), last=True)


@plant("a checkpointed step never runs again")
def executed_again(evidence: Evidence) -> None:
    instance = one(evidence, "shop")
    row = next(row for row in instance.history if row.kind == "step")
    late = row.at_us + 50_000 - round(evidence.ahead_us[0])
    evidence.executions.append(Execution(instance.token, "first", "f" * 12, late, 1))


@plant("steps run at least once")
def never_executed(evidence: Evidence) -> None:
    instance = one(evidence, "typist")
    evidence.executions = [e for e in evidence.executions if (e.token, e.tag) != (instance.token, "second")]


@plant("a checkpoint holds what the step returned")
def checkpoint_of_another_execution(evidence: Evidence) -> None:
    token = one(evidence, "sleeper").token
    evidence.executions = [
        dataclasses.replace(e, nonce="0" * 12) if (e.token, e.tag) == (token, "before") else e
        for e in evidence.executions
    ]


@plant("a signal is delivered once, in order")
def signals_out_of_order(evidence: Evidence) -> None:
    instance = one(evidence, "postman")
    first, second = [place for place, row in enumerate(instance.history) if row.kind == "signal"][:2]
    rows = instance.history
    payloads = rows[first].payload, rows[second].payload
    rows[first] = dataclasses.replace(rows[first], payload=payloads[1])
    rows[second] = dataclasses.replace(rows[second], payload=payloads[0])


@plant("a signal is delivered once, in order")
def signal_delivered_twice(evidence: Evidence) -> None:
    one(evidence, "postman").output["got"].append(3)


@plant("a signal is delivered once, in order")
def signal_left_over(evidence: Evidence) -> None:
    evidence.queued.append((one(evidence, "typist").id, "go"))


@plant("a signal is delivered once, in order")
def signal_lost(evidence: Evidence) -> None:
    evidence.sent[one(evidence, "typist").token].append(1)


@plant("a timer never fires early")
def early_timer(evidence: Evidence) -> None:
    early = timedelta(milliseconds=500)
    replace(
        one(evidence, "sleeper"), "timer", lambda row: dataclasses.replace(row, recorded_at=row.recorded_at - early)
    )


@plant("a timer never fires early")
def timer_by_a_microsecond_and_a_half(evidence: Evidence) -> None:
    instance = one(evidence, "sleeper")
    before = next(row for row in instance.history if row.kind == "step")
    due = before.recorded_at + timedelta(seconds=1.3) - timedelta(microseconds=2)
    replace(instance, "timer", lambda row: dataclasses.replace(row, recorded_at=due))


@plant("replay reproduces the original run")
def other_output(evidence: Evidence) -> None:
    one(evidence, "shop").output["id"] = "another"


@plant("replay reproduces the original run")
def other_times(evidence: Evidence) -> None:
    instance = one(evidence, "shop")
    instance.started_at += timedelta(microseconds=1)


@plant("replay reproduces the original run")
def other_fingerprint(evidence: Evidence) -> None:
    replace(one(evidence, "shop"), "step", lambda row: dataclasses.replace(row, fingerprint=0))


@plant("replay reproduces the original run")
def lost_row(evidence: Evidence) -> None:
    history = one(evidence, "sleeper").history
    del history[-1]


def test_good_evidence_has_no_violation(good: Evidence) -> None:
    assert check(good) == []
    kinds = {row.kind for instance in good.instances for row in instance.history}
    assert kinds == {"step", "attempt", "timer", "signal"}
    assert len(good.ledger) > 20
    assert {json.loads(instance.input)["token"] for instance in good.instances} >= good.acknowledged.keys()


@pytest.mark.parametrize("name", PLANTS)
def test_planted_violation_is_found(good: Evidence, name: str) -> None:
    promise, how = PLANTS[name]
    bad = copy.deepcopy(good)
    how(bad)
    found = {violation.promise for violation in check(bad)}
    assert promise in found


def test_a_zombies_execution_is_no_violation(good: Evidence) -> None:
    bad = copy.deepcopy(good)
    executed_again(bad)
    bad.zombies = frozenset({1})
    assert check(bad) == []


def test_every_promise_has_a_plant(good: Evidence) -> None:
    source = Path(ledger.__file__).read_text()
    promises = {promise for promise, _ in PLANTS.values()}
    assert all(f'"{promise}"' in source for promise in promises)
    literals = {part.split('"')[1] for part in source.split("Violation(")[1:] if part.lstrip().startswith('"')}
    literals |= {part.split('"')[1] for part in source.split("promise = ")[1:]}
    assert literals == promises
