"""The checker finds every violation that is planted in good evidence, and none in the good evidence itself."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from crash.replay import Row

from . import checker, kinds, plants_sql
from .checker import check
from .evidence import Evidence, Incarnation, Instance, Tenure, Write
from .history import Event
from .run import play
from .world import Settings

SEED = 20_260_501


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The evidence of a run in which nothing was broken, long enough to have some of everything."""
    settings = Settings(SEED, workers=2, customers=14)
    result = asyncio.run(play(settings, tmp_path_factory.mktemp("good"), [], 8.0))
    assert result.unended is None
    assert result.evidence is not None
    return result.evidence


def one(evidence: Evidence, workflow: str) -> Instance:
    return next(instance for instance in evidence.instances if instance.workflow == workflow)


def with_letters(evidence: Evidence, least: int = 2) -> Instance:
    return next(
        instance for instance in evidence.instances
        if instance.workflow == "confirmed" and instance.arguments["letters"] >= least
    )  # fmt: skip


def place(instance: Instance, kind: str, last: bool = False) -> int:
    places = [place for place, row in enumerate(instance.history) if row.kind == kind]
    return places[-1 if last else 0]


def change(instance: Instance, kind: str, how: Callable[[Row], Row], last: bool = False) -> None:
    at = place(instance, kind, last)
    instance.history[at] = how(instance.history[at])


def write_of(evidence: Evidence, instance: Instance) -> int:
    """Where in `writes` the instance's first history row is."""
    return next(n for n, write in enumerate(evidence.writes) if write.instance_id == instance.id)


def joined(evidence: Evidence) -> Incarnation:
    return next(one for one in evidence.incarnations if one.state == "alive")


PLANTS: dict[str, tuple[str, Callable[[Evidence], None]]] = dict(plants_sql.PLANTS)


def plant(promise: str) -> Callable[[Callable[[Evidence], None]], Callable[[Evidence], None]]:
    def register(how: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
        PLANTS[how.__name__] = promise, how
        return how

    return register


# -- money ----------------------------------------------------------------------------------------------------------


@plant(checker.MONEY)
def money_made(evidence: Evidence) -> None:
    evidence.balances[3] += 1


@plant(checker.MONEY)
def money_on_the_wrong_account(evidence: Evidence) -> None:
    evidence.balances[3] += 1
    evidence.balances[4] -= 1


@plant(checker.TRANSACTIONS)
def effect_twice(evidence: Evidence) -> None:
    effect = evidence.ledger[0]
    evidence.ledger.append(effect)
    evidence.balances[effect.source] -= effect.cents
    evidence.balances[effect.target] += effect.cents


@plant(checker.TRANSACTIONS)
def effect_lost(evidence: Evidence) -> None:
    effect = evidence.ledger.pop()
    evidence.balances[effect.source] += effect.cents
    evidence.balances[effect.target] -= effect.cents


@plant(checker.TRANSACTIONS)
def effect_of_nobody(evidence: Evidence) -> None:
    evidence.ledger.append(kinds.Effect("nobody", "debit", 1, 1, 0))


@plant(checker.TRANSACTIONS)
def effect_of_a_transaction_that_lost_its_race(evidence: Evidence) -> None:
    instance = next(i for i in evidence.instances if i.workflow == "raced" and "tip" not in i.output["won"])
    args = instance.arguments
    evidence.ledger.append(kinds.Effect(instance.token, "tip", args["source"], args["target"], args["cents"]))


# -- starts and results ---------------------------------------------------------------------------------------------


@plant(checker.STARTS)
def acknowledged_and_gone(evidence: Evidence) -> None:
    evidence.instances.remove(one(evidence, "standing"))


@plant(checker.STARTS)
def acknowledged_as_another(evidence: Evidence) -> None:
    starts = [event for event in evidence.events if event["event"] == "ok" and "instance" in event]
    starts[0]["instance"], starts[1]["instance"] = starts[1]["instance"], starts[0]["instance"]


@plant(checker.STARTS)
def started_twice(evidence: Evidence) -> None:
    again = copy.deepcopy(one(evidence, "transfer"))
    again.id = uuid.uuid4()
    evidence.instances.append(again)


@plant(checker.STARTS)
def never_ended(evidence: Evidence) -> None:
    one(evidence, "transfer").status = "running"


@plant(checker.STARTS)
def ended_the_other_way(evidence: Evidence) -> None:
    one(evidence, "doomed").status = "completed"


@plant(checker.STARTS)
def paused(evidence: Evidence) -> None:
    one(evidence, "revised").status = "paused"


@plant(checker.STARTS)
def ended_and_still_owned(evidence: Evidence) -> None:
    one(evidence, "transfer").owner = 1


@plant(checker.STARTS)
def ended_twice(evidence: Evidence) -> None:
    ordered = {instance.id for instance in evidence.instances}
    ends = [tenure for tenure in evidence.tenures if tenure.status == "completed" and tenure.instance_id in ordered]
    evidence.tenures.append(dataclasses.replace(ends[0], old_status="running", position=ends[-1].position + 1))


@plant(checker.RESULTS)
def another_result_told(evidence: Evidence) -> None:
    told = next(event for event in evidence.events if event["event"] == "told" and event["output"])
    told["output"]["token"] = "another"


@plant(checker.RESULTS)
def told_of_another_end(evidence: Evidence) -> None:
    told = next(event for event in evidence.events if event["event"] == "told" and event["output"])
    told["status"], told["output"] = "failed", None


@plant(checker.RESULTS)
def told_of_nobody(evidence: Evidence) -> None:
    evidence.events.append({"event": "told", "token": "nobody", "status": "completed", "output": None})


@plant(checker.RESULTS)
def result_with_another_checkpoint(evidence: Evidence) -> None:
    one(evidence, "transfer").output["noted"][0]["nonce"] = "0" * 12


@plant(checker.RESULTS)
def another_error(evidence: Evidence) -> None:
    error = one(evidence, "doomed").error
    assert error is not None
    error["message"] = "something else"


@plant(checker.ONCE)
def posted_twice(evidence: Evidence) -> None:
    run = next(e for e in evidence.events if e["event"] == "run" and e["tag"] == "posted")
    evidence.events.insert(evidence.events.index(run), {**run, "nonce": "0" * 12})


# -- queues ---------------------------------------------------------------------------------------------------------


@plant(checker.LIMITS)
def too_many_held(evidence: Evidence) -> None:
    evidence.excess.append(("counter", "all workers", 21, 20))


@plant(checker.LIMITS)
def too_many_begun(evidence: Evidence) -> None:
    ((queue, (count, _)),) = evidence.rates.items()
    first = evidence.begun[queue][0]
    evidence.begun[queue] = [first + n * timedelta(milliseconds=1) for n in range(count + 1)]


@plant(checker.TICKS)
def a_tick_that_is_lost(evidence: Evidence) -> None:
    del evidence.ticks[2]


@plant(checker.TICKS)
def a_tick_that_came_twice(evidence: Evidence) -> None:
    evidence.ticks.insert(2, evidence.ticks[2])


@plant(checker.TICKS)
def a_tick_that_was_missed(evidence: Evidence) -> None:
    anchor, every, started, _, skipped = evidence.patrol
    evidence.patrol = (anchor, every, started, 1, skipped)


# -- updates, published state, streams, runs --------------------------------------------------------------------------


@plant(checker.UPDATES)
def update_accepted_twice(evidence: Evidence) -> None:
    instance = one(evidence, "teller")
    row = instance.history[place(instance, "update")]
    instance.history.insert(place(instance, "update"), row)


@plant(checker.UPDATES)
def update_nobody_sent(evidence: Evidence) -> None:
    payload = f'{{"key": "{uuid.uuid4()}", "input": [0]}}'
    change(one(evidence, "teller"), "update", lambda row: dataclasses.replace(row, payload=payload))


@plant(checker.UPDATES)
def update_acknowledged_and_gone(evidence: Evidence) -> None:
    told = next(event for event in evidence.events if event["event"] == "ok" and "reply" in event)
    key = next(event["key"] for event in evidence.events if event["event"] == "call" and event["call"] == told["call"])
    evidence.updates = [row for row in evidence.updates if row[1] != key]


@plant(checker.UPDATES)
def another_reply_told(evidence: Evidence) -> None:
    told = next(event for event in evidence.events if event["event"] == "ok" and "reply" in event)
    told["reply"] = {**told["reply"], "nonce": "0" * 12}


@plant(checker.UPDATES)
def reply_that_no_checkpoint_is(evidence: Evidence) -> None:
    """The table and its reader agree, and the step has returned something else."""
    told = next(event for event in evidence.events if event["event"] == "ok" and "reply" in event)
    key = next(event["key"] for event in evidence.events if event["event"] == "call" and event["call"] == told["call"])
    told["reply"] = {**told["reply"], "nonce": "0" * 12}
    evidence.updates = [(*row[:3], told["reply"] if row[1] == key else row[3]) for row in evidence.updates]


@plant(checker.UPDATES)
def update_rejected_and_carried_out(evidence: Evidence) -> None:
    call = _call(evidence, do="update", number=kinds.NO_DEPOSIT)
    evidence.updates = [
        (*row[:2], "completed", {}) if row[1] == call["key"] else row for row in evidence.updates
    ]  # fmt: skip


@plant(checker.STATES)
def state_of_before(evidence: Evidence) -> None:
    evidence.states[one(evidence, "teller").id]["deposits"] -= 1


@plant(checker.STATES)
def state_published_twice(evidence: Evidence) -> None:
    instance = one(evidence, "teller")
    instance.history.append(instance.history[place(instance, "state", last=True)])


@plant(checker.STREAMS)
def item_twice(evidence: Evidence) -> None:
    items = evidence.streams[one(evidence, "teller").id, kinds.TAPE]
    items.insert(1, items[0])


@plant(checker.STREAMS)
def item_of_the_workflow_twice(evidence: Evidence) -> None:
    items = evidence.streams[one(evidence, "teller").id, kinds.SLIPS]
    items.append(items[0])


@plant(checker.STREAMS)
def item_lost(evidence: Evidence) -> None:
    evidence.streams[one(evidence, "teller").id, kinds.TAPE].pop(1)


@plant(checker.STREAMS)
def item_read_twice(evidence: Evidence) -> None:
    lines = next(event["lines"] for event in evidence.events if event["event"] == "read")
    lines.insert(1, lines[0])


@plant(checker.STREAMS)
def item_not_read(evidence: Evidence) -> None:
    next(event["lines"] for event in evidence.events if event["event"] == "read").pop()


@plant(checker.REPLAY)
def continued_with_another_input(evidence: Evidence) -> None:
    instance = one(evidence, "rounds")
    change(
        instance, "continued",
        lambda row: dataclasses.replace(row, payload=(row.payload or "").replace('"cents": ', '"cents": 1')),
    )  # fmt: skip


@plant(checker.REPLAY)
def run_that_is_lost(evidence: Evidence) -> None:
    instance = one(evidence, "rounds")
    del instance.history[place(instance, "continued") :]


@plant(checker.SIGNALS)
def signal_taken_again_by_the_next_run(evidence: Evidence) -> None:
    instance = one(evidence, "rounds")
    row = instance.history[place(instance, "signal")]
    instance.history.append(dataclasses.replace(row, event_id=instance.history[-1].event_id + 1))


# -- signals --------------------------------------------------------------------------------------------------------


@plant(checker.SIGNALS)
def signal_lost(evidence: Evidence) -> None:
    instance = with_letters(evidence)
    del instance.history[place(instance, "signal")]


@plant(checker.SIGNALS)
def signal_consumed_twice(evidence: Evidence) -> None:
    instance = with_letters(evidence)
    at = place(instance, "signal")
    again = dataclasses.replace(instance.history[at], event_id=instance.history[-1].event_id + 1)
    instance.history.append(again)


@plant(checker.SIGNALS)
def signals_out_of_order(evidence: Evidence) -> None:
    instance = with_letters(evidence)
    first, last = place(instance, "signal"), place(instance, "signal", last=True)
    rows = instance.history
    one_payload, other = rows[first].payload, rows[last].payload
    rows[first] = dataclasses.replace(rows[first], payload=other)
    rows[last] = dataclasses.replace(rows[last], payload=one_payload)


@plant(checker.SIGNALS)
def signal_nobody_sent(evidence: Evidence) -> None:
    change(with_letters(evidence), "signal", lambda row: dataclasses.replace(row, payload="[77, 0]"))


@plant(checker.SIGNALS)
def refused_signal_consumed(evidence: Evidence) -> None:
    token = with_letters(evidence).token
    call = _call(evidence, do="signal", token=token)
    answer = next(event for event in evidence.events if event["event"] == "ok" and event["call"] == call["call"])
    answer["event"] = "refused"


@plant(checker.SIGNALS)
def result_with_another_signal(evidence: Evidence) -> None:
    with_letters(evidence).output["got"].append([9, 0])


@plant(checker.SIGNALS)
def signal_still_waiting(evidence: Evidence) -> None:
    instance = with_letters(evidence)
    instance.status = "waiting"
    evidence.queued.append((instance.id, "confirm", [0, 0]))


def _call(evidence: Evidence, **what: Any) -> Event:
    return next(
        event for event in evidence.events
        if event["event"] == "call" and all(event.get(name) == value for name, value in what.items())
    )  # fmt: skip


# -- steps ----------------------------------------------------------------------------------------------------------


@plant(checker.STEPS)
def step_ran_again(evidence: Evidence) -> None:
    run = next(event for event in evidence.events if event["event"] == "run" and event["tag"] == "first")
    evidence.events.append(run)


@plant(checker.STEPS)
def transaction_ran_again(evidence: Evidence) -> None:
    run = next(event for event in evidence.events if event["event"] == "run" and event["tag"] == "debit")
    evidence.events.append(run)


@plant(checker.STEPS)
def step_ran_again_in_the_next_owner(evidence: Evidence) -> None:
    """A worker that was taken over may still run what it had begun; its successor may not."""
    run = next(event for event in evidence.events if event["event"] == "run" and event["tag"] == "first")
    instance = next(instance for instance in evidence.instances if instance.token == run["token"])
    last = max(tenure.position for tenure in evidence.tenures)
    taken = Tenure(last + 1, 1, "worker-9.1", 99, instance.id, run["worker"], 99, "running", "running", "1")
    evidence.tenures.append(taken)
    evidence.events.append({**run, "worker": 99})


@plant(checker.STEPS)
def two_checkpoints_of_a_step(evidence: Evidence) -> None:
    instance = one(evidence, "transfer")
    row = instance.history[place(instance, "step")]
    instance.history.append(dataclasses.replace(row, event_id=instance.history[-1].event_id + 1))


@plant(checker.RUNS)
def checkpoint_nobody_returned(evidence: Evidence) -> None:
    change(
        one(evidence, "transfer"), "step",
        lambda row: dataclasses.replace(row, payload='{"tag": "first", "nonce": "000000000000"}'),
    )  # fmt: skip


@plant(checker.ATTEMPTS)
def attempt_counted_anew(evidence: Evidence) -> None:
    instance = one(evidence, "doomed")
    change(instance, "attempt", lambda row: dataclasses.replace(row, attempt=1), last=True)


@plant(checker.ATTEMPTS)
def command_answered_twice(evidence: Evidence) -> None:
    instance = one(evidence, "standing")
    row = instance.history[place(instance, "timer")]
    instance.history.append(dataclasses.replace(row, event_id=instance.history[-1].event_id + 1))


# -- timers and replay ----------------------------------------------------------------------------------------------


@plant(checker.TIMERS)
def timer_early(evidence: Evidence) -> None:
    instance = one(evidence, "standing")
    change(
        instance, "timer", lambda row: dataclasses.replace(row, recorded_at=row.recorded_at - timedelta(seconds=0.9))
    )


@plant(checker.TIMERS)
def timer_a_hair_early(evidence: Evidence) -> None:
    instance = one(evidence, "standing")
    asked = instance.history[place(instance, "timer") - 1].recorded_at
    change(
        instance,
        "timer",
        lambda row: dataclasses.replace(row, recorded_at=asked + timedelta(seconds=kinds.LONG_NAP, microseconds=-5)),
    )


@plant(checker.REPLAY)
def history_of_other_code(evidence: Evidence) -> None:
    change(one(evidence, "transfer"), "step", lambda row: dataclasses.replace(row, name="another step"))


@plant(checker.REPLAY)
def history_of_other_arguments(evidence: Evidence) -> None:
    change(one(evidence, "transfer"), "step", lambda row: dataclasses.replace(row, fingerprint=1))


@plant(checker.REPLAY)
def history_cut_short(evidence: Evidence) -> None:
    one(evidence, "revised").history.pop()


@plant(checker.REPLAY)
def end_at_another_time(evidence: Evidence) -> None:
    """The workflow's own time is part of its result."""
    instance = one(evidence, "transfer")
    change(instance, "timer", lambda row: dataclasses.replace(row, recorded_at=row.recorded_at + timedelta(seconds=1)))


# -- the fence ------------------------------------------------------------------------------------------------------


def _end(evidence: Evidence, worker: int, seen: str, state: str = "dead") -> None:
    evidence.incarnations = [
        one for one in evidence.incarnations if one.worker != worker or one.state == "alive"
    ]  # fmt: skip
    evidence.incarnations.append(Incarnation(0, 1, seen, worker, "worker", state, None))


@plant(checker.FENCE)
def written_after_the_takeover(evidence: Evidence) -> None:
    write = evidence.writes[-1]
    assert write.fenced is not None
    _end(evidence, write.fenced, f"{write.xid}:{write.xid}:")


@plant(checker.FENCE)
def written_while_it_was_taken_over(evidence: Evidence) -> None:
    """It had a transaction under way that the takeover did not wait for."""
    write = evidence.writes[-1]
    assert write.fenced is not None
    _end(evidence, write.fenced, f"{write.xid}:{write.xid + 1000}:{write.xid}")


@plant(checker.FENCE)
def written_without_the_fence_after_the_takeover(evidence: Evidence) -> None:
    write = evidence.writes[-1]
    assert write.owner is not None
    evidence.writes[-1] = dataclasses.replace(write, fenced=None)
    _end(evidence, write.owner, f"{write.xid}:{write.xid}:")


@plant(checker.FENCE)
def completed_after_the_takeover(evidence: Evidence) -> None:
    place = max(n for n, tenure in enumerate(evidence.tenures) if tenure.status == "completed")
    end = evidence.tenures[place]
    assert end.old_owner is not None
    evidence.tenures[place] = dataclasses.replace(end, fenced=None)
    _end(evidence, end.old_owner, f"{end.xid}:{end.xid}:")


@plant(checker.FENCE)
def claimed_after_it_had_left(evidence: Evidence) -> None:
    claim = next(tenure for tenure in reversed(evidence.tenures) if tenure.owner is not None)
    assert claim.fenced is not None
    _end(evidence, claim.fenced, f"{claim.xid}:{claim.xid}:", state="stopped")


@plant(checker.OWNERS)
def written_by_another_worker(evidence: Evidence) -> None:
    at = write_of(evidence, one(evidence, "transfer"))
    write = evidence.writes[at]
    assert write.owner is not None
    evidence.writes[at] = dataclasses.replace(write, fenced=write.owner + 1)


@plant(checker.OWNERS)
def written_by_another_process(evidence: Evidence) -> None:
    at = write_of(evidence, one(evidence, "transfer"))
    evidence.writes[at] = dataclasses.replace(evidence.writes[at], process="worker-9.9")


@plant(checker.OWNERS)
def written_while_nobody_owned_it(evidence: Evidence) -> None:
    at = write_of(evidence, one(evidence, "transfer"))
    evidence.writes[at] = dataclasses.replace(evidence.writes[at], owner=None)


# -------------------------------------------------------------------------------------------------------------------


def test_finds_nothing_in_a_good_run(good: Evidence) -> None:
    assert check(good) == []
    assert {instance.workflow for instance in good.instances} == set(kinds.KINDS)
    assert all(
        checker.looked_at(good)[what] > 0
        for what in ("acknowledged starts", "checkpoints", "timers", "acknowledged updates")
    )


@pytest.mark.parametrize("name", PLANTS)
def test_finds_what_is_planted(good: Evidence, name: str) -> None:
    promise, how = PLANTS[name]
    evidence = copy.deepcopy(good)
    how(evidence)
    found = check(evidence)
    assert promise in {violation.promise for violation in found}, found


def test_every_promise_is_planted_against() -> None:
    assert {promise for promise, _ in PLANTS.values()} == set(checker.PROMISES)


def test_what_a_worker_still_ran_after_it_was_taken_over_is_no_violation(good: Evidence) -> None:
    """Its writes can be forbidden, what it had begun cannot."""
    evidence = copy.deepcopy(good)
    # Of an instance that was its worker's from its first row.
    run, tenures = next(
        (event, tenures)
        for event in evidence.events if event["event"] == "run" and event["tag"] == "first"
        for instance in evidence.instances if instance.token == event["token"]
        if (tenures := [one for one in evidence.tenures if one.instance_id == instance.id])[0].owner is not None
    )  # fmt: skip
    instance_id = tenures[0].instance_id
    before = Tenure(-2, 1, "worker-9.1", 99, instance_id, None, 99, None, "running", "1")
    evidence.tenures = [before, *evidence.tenures]
    evidence.tenures[evidence.tenures.index(tenures[0])] = dataclasses.replace(tenures[0], old_owner=99)
    evidence.events.append({**run, "worker": 99})
    assert check(evidence) == []


def test_a_letter_sent_twice_may_end_with_the_instance(good: Evidence) -> None:
    """Its sender was not told that the first had arrived; the instance ended without needing the second."""
    evidence = copy.deepcopy(good)
    instance = with_letters(evidence)
    call = _call(evidence, do="signal", token=instance.token, payload=[instance.arguments["letters"] - 1, 0])
    evidence.events = [e for e in evidence.events if not (e["event"] == "ok" and e["call"] == call["call"])]
    evidence.events += [
        {**call, "call": "again", "payload": [call["payload"][0], 1]}, {"event": "ok", "call": "again"},
    ]  # fmt: skip
    assert check(evidence) == []


def test_history_survives_a_line_that_was_cut_short(tmp_path: Path) -> None:
    from .history import History, read

    path = tmp_path / "history"
    History(path, "one").note("first")
    with open(path, "ab") as file:
        file.write(b'\n{"event": "torn", "by"')
    History(path, "two").note("second")
    assert [event["event"] for event in read(path)] == ["first", "second"]


def test_writes_are_seen_by_a_snapshot_as_the_server_sees_them() -> None:
    end = Incarnation(1, 1, "10:20:12,15", 1, "worker", "dead", None)
    assert [xid for xid in range(8, 22) if not end.saw(xid)] == [12, 15, 20, 21]
    assert Write(1, 5, "worker", 1, uuid.uuid4(), 1, 1).position == 1
