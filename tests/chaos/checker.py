"""Holds the evidence of a run against the promises. A pure function: no clock, no database, no chance.

`check` names every promise that does not hold; `test_checker.py` shows that each kind of violation is found.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from crash.replay import Row, compare, runs_of, wrong_timers

from . import bank, checker_sql, kinds
from .evidence import Evidence, Incarnation, Instance, SqlRun, Tenure, Write
from .programs import value_of

__all__ = ["PROMISES", "Violation", "check", "looked_at"]

ENDED = ("completed", "failed", "cancelled", "timed_out")

MONEY = "money is conserved"
STARTS = "an acknowledged start ends exactly once"
RESULTS = "an instance ends with the right result, the one its caller was told"
SIGNALS = "an acknowledged signal is consumed once, in its sender's order"
STEPS = "a step never runs again after its acknowledged checkpoint"
RUNS = "a checkpoint holds what an execution of the step returned"
TRANSACTIONS = "a transaction step takes effect exactly once"
TIMERS = "a timer never fires early"
FENCE = "a worker that was taken over writes nothing"
OWNERS = "only the owner of an instance writes its history"
REPLAY = "replay reproduces the original run"
ATTEMPTS = "commands are answered once, attempts are counted across crashes"
ONCE = "an at_most_once step begins at most once"
LIMITS = "the limits of a queue hold, whoever dies"
TICKS = "each tick of a schedule starts one instance, whoever dies"
UPDATES = "an update is carried out once per key, and its sender told what it came to"
STATES = "what an instance publishes last is what everybody sees"
STREAMS = "a stream has every item once, for who reads along and who reads later"
PROGRAMS = "the history of a workflow in SQL is a run of its definition"
COMMITS = "a step in SQL and its checkpoint are one commit"

PROMISES = (
    MONEY, STARTS, RESULTS, SIGNALS, STEPS, RUNS, TRANSACTIONS, TIMERS, FENCE, OWNERS, REPLAY, ATTEMPTS,
    LIMITS, TICKS, ONCE, UPDATES, STATES, STREAMS, PROGRAMS, COMMITS,
)  # fmt: skip


@dataclass(frozen=True)
class Violation:
    promise: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}"


@dataclass
class Call:
    """A customer's call: what it was, and `ok`, `refused` or `unknown`."""

    what: dict[str, Any]
    outcome: str = "unknown"
    instance: str | None = None
    reply: Any = None


def check(evidence: Evidence) -> list[Violation]:
    """Every way in which the evidence breaks a promise; empty when all hold."""
    calls = _calls(evidence)
    found = [*_starts(evidence, calls), *_money(evidence), *_transactions(evidence)]
    found += [*_fence(evidence), *_owners(evidence), *_told(evidence), *_executions(evidence)]
    found += _limits(evidence)
    found += _once(evidence)
    found += _ticks(evidence)
    found += [*_updates(evidence, calls), *_published(evidence), *_streams(evidence)]
    found += [Violation(STEPS, what) for what in checker_sql.ran_again(evidence)]
    found += [Violation(RUNS, what) for what in checker_sql.unreturned(evidence)]
    found += [Violation(COMMITS, what) for what in checker_sql.one_commit(evidence)]
    sent: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.what["do"] == "signal":
            sent[call.what["token"]].append(call)
    queued: dict[uuid.UUID, list[Any]] = defaultdict(list)
    for id, _, payload in evidence.queued:
        queued[id].append(payload)
    for instance in evidence.instances:
        found += _signals(instance, sent[instance.token], queued[instance.id])
        found += _results(instance)
        if instance.kind.program is None:
            found += [*_attempts(instance), *_replays(instance)]
        else:
            found += [Violation(ATTEMPTS, what) for what in checker_sql.attempts(instance)]
            found += [Violation(PROGRAMS, what) for what in checker_sql.programs(instance)]
            found += [Violation(TIMERS, what) for what in checker_sql.early(instance)]
    return found


def looked_at(evidence: Evidence) -> dict[str, int]:
    """How much there was to check."""
    calls = _calls(evidence)
    rows = Counter(row.kind for instance in evidence.instances for row in instance.history)
    return {
        "acknowledged starts": sum(call.outcome == "ok" for call in calls if call.what["do"] == "start"),
        "acknowledged signals": sum(call.outcome == "ok" for call in calls if call.what["do"] == "signal"),
        "acknowledged updates": sum(call.outcome == "ok" for call in calls if call.what["do"] == "update"),
        "items of streams": sum(map(len, evidence.streams.values())),
        "runs continued as new": rows["continued"],
        "calls whose outcome was unknown": sum(call.outcome == "unknown" for call in calls),
        "instances": len(evidence.instances),
        "instances of workflows in SQL": sum(one.kind.program is not None for one in evidence.instances),
        "checkpoints": rows["step"],
        "failed attempts": rows["attempt"],
        "timers": rows["timer"],
        "executions of steps": sum(event["event"] == "run" for event in evidence.events),
        "entries in the ledger": len(evidence.ledger),
        "worker incarnations": sum(one.state == "alive" for one in evidence.incarnations),
        "beginnings in a queue with limits": sum(map(len, evidence.begun.values())),
        "ticks of a schedule": len(evidence.ticks),
        "takeovers": sum(one.state == "dead" for one in evidence.incarnations),
    }


def _calls(evidence: Evidence) -> list[Call]:
    calls: dict[str, Call] = {}
    for event in evidence.events:
        if event["event"] == "call":
            calls[event["call"]] = Call(event)
        elif event["event"] in ("ok", "refused"):
            call = calls[event["call"]]
            call.outcome, call.instance, call.reply = event["event"], event.get("instance"), event.get("reply")
    return list(calls.values())


# -- schedules ------------------------------------------------------------------------------------------------------


def _ticks(evidence: Evidence) -> Iterator[Violation]:
    anchor, every, started, missed, skipped = evidence.patrol
    for n, (id, tick, status, output) in enumerate(evidence.ticks, 1):
        wanted = anchor + n * timedelta(seconds=every)
        if tick != wanted:
            yield Violation(TICKS, f"tick {n} is {tick} ({id}), not {wanted}: one is lost, or there twice")
            return
        if (status, output and datetime.fromisoformat(output)) != ("completed", tick):
            yield Violation(TICKS, f"{id} is {status}, with {output}")
    if (started, missed, skipped) != (len(evidence.ticks), 0, 0):
        found = f"{started} started, {missed} missed and {skipped} skipped"
        yield Violation(TICKS, f"the schedule counts {found}; there are {len(evidence.ticks)}")


# -- queues ---------------------------------------------------------------------------------------------------------


def _limits(evidence: Evidence) -> Iterator[Violation]:
    for queue, what, n, most in evidence.excess:
        yield Violation(LIMITS, f"queue {queue}, {what}: {n} were held at once, {most} is the most")
    for queue, (count, seconds) in evidence.rates.items():
        begun = evidence.begun.get(queue, [])
        for first, last in zip(begun, begun[count:], strict=False):
            if (last - first).total_seconds() < seconds:
                yield Violation(LIMITS, f"queue {queue}: more than {count} began within {seconds:g} s, from {first} on")


# -- starts and ends ------------------------------------------------------------------------------------------------


def _starts(evidence: Evidence, calls: list[Call]) -> Iterator[Violation]:
    there = {str(instance.id): instance for instance in evidence.instances}
    for call in calls:
        if call.what["do"] != "start" or call.outcome != "ok":
            continue
        instance = there.get(str(call.instance))
        if instance is None:
            yield Violation(STARTS, f"{call.what['token']} was told {call.instance}, which does not exist")
        elif instance.token != call.what["token"]:
            yield Violation(STARTS, f"{call.what['token']} was told {call.instance}, which is {instance.token}")
    for token, times in Counter(instance.token for instance in evidence.instances).items():
        if times > 1:
            yield Violation(STARTS, f"{token} was started {times} times")
    ends = Counter(
        tenure.instance_id for tenure in evidence.tenures
        if tenure.status in ENDED and tenure.status != tenure.old_status
    )  # fmt: skip
    for instance in evidence.instances:
        if instance.status != instance.kind.ends:
            yield Violation(STARTS, f"{instance} is {instance.status}, not {instance.kind.ends}: {instance.error}")
        elif instance.finished_at is None or instance.owner is not None:
            yield Violation(STARTS, f"{instance} has ended, but is owned by {instance.owner}")
        elif ends[instance.id] != 1:
            yield Violation(STARTS, f"{instance} has ended {ends[instance.id]} times")


def _told(evidence: Evidence) -> Iterator[Violation]:
    there = {instance.token: instance for instance in evidence.instances}
    for event in evidence.events:
        if event["event"] != "told":
            continue
        instance = there.get(event["token"])
        if instance is None:
            yield Violation(RESULTS, f"{event['token']} was told to be {event['status']}, and does not exist")
        elif (event["status"], event["output"]) != (instance.status, instance.output):
            yield Violation(RESULTS, f"{instance} is {instance.status}: {instance.output}, its caller was told {event}")


# -- money ----------------------------------------------------------------------------------------------------------


def _money(evidence: Evidence) -> Iterator[Violation]:
    balances = dict.fromkeys(range(bank.ACCOUNTS + 1), bank.OPENING_BALANCE)
    if sum(evidence.balances.values()) != sum(balances.values()):
        yield Violation(MONEY, f"{sum(evidence.balances.values())} in all, not {sum(balances.values())}")
    for effect in evidence.ledger:
        balances[effect.source] -= effect.cents
        balances[effect.target] += effect.cents
    for id, balance in balances.items():
        if evidence.balances.get(id) != balance:
            yield Violation(MONEY, f"account {id} holds {evidence.balances.get(id)}, its entries say {balance}")


def _transactions(evidence: Evidence) -> Iterator[Violation]:
    happened: dict[str, Counter[kinds.Effect]] = defaultdict(Counter)
    for effect in evidence.ledger:
        happened[effect.token][effect] += 1
    for instance in evidence.instances:
        there = happened.pop(instance.token, Counter())
        if instance.status != instance.kind.ends:
            continue  # a violation already, and what it should have done is not known
        wanted = kinds.expected(instance.kind, instance.arguments, instance.status, instance.output)
        for effect in there - wanted:
            yield Violation(TRANSACTIONS, f"{instance}: {effect} took effect {there[effect]} times")
        for effect in wanted - there:
            yield Violation(TRANSACTIONS, f"{instance}: {effect} took no effect")
    for token in happened:
        yield Violation(TRANSACTIONS, f"effects of {token}, which is no instance")


# -- steps ----------------------------------------------------------------------------------------------------------


def _checkpoints(instance: Instance) -> Iterator[tuple[str, str, Row]]:
    """(tag, nonce, row) of the steps that returned something."""
    if instance.kind.program is not None:
        yield from checker_sql.checkpoints(instance)
        return
    for row in instance.history:
        if row.kind == "step" and row.payload is not None:
            payload = json.loads(row.payload)
            yield payload["tag"], payload["nonce"], row


def _value(instance: Instance, row: Row) -> Any:
    """What a step returned, or which signal came."""
    if instance.kind.program is None:
        return json.loads(row.payload or "null")
    return checker_sql.heard(row) if row.kind == "signal" else value_of(row)


def _executions(evidence: Evidence) -> Iterator[Violation]:
    """By the order of the history's lines alone: clocks are skewed in these runs."""
    nonces: dict[tuple[str, str], set[str]] = defaultdict(set)
    seen: set[tuple[str, str]] = set()
    late: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for event in evidence.events:
        if event["event"] == "run":
            at = event["token"], event["tag"]
            nonces[at].add(event["nonce"])
            # What a process of a step's was told by a worker that died is begun or not: it is not told which.
            if at in seen and not event.get("process"):
                late[at].append(event)
        elif event["event"] == "saw":
            seen.add((event["token"], event["tag"]))
    written = {(write.instance_id, write.event_id): write for write in evidence.writes}
    tenures = _by_instance(evidence)
    for instance in evidence.instances:
        tags: set[str] = set()
        for tag, nonce, row in _checkpoints(instance):
            if tag in tags:
                yield Violation(STEPS, f"{instance}: {tag} has two checkpoints")
            tags.add(tag)
            if instance.kind.program is None and nonce not in nonces[instance.token, tag]:
                yield Violation(RUNS, f"{instance}: no execution of {tag} returned {row}")
            write = written.get((instance.id, row.event_id))
            for event in late[instance.token, tag]:
                if write is None or not _had_lost(event["worker"], tenures[instance.id], write):
                    yield Violation(
                        STEPS, f"{instance}: {tag} ran again in {event['by']} as worker {event['worker']}, after {row}"
                    )


def _once(evidence: Evidence) -> Iterator[Violation]:
    begun = Counter(e["token"] for e in evidence.events if e["event"] == "run" and e["tag"] == kinds.POSTED)
    for token, times in begun.items():
        if times > 1:
            yield Violation(ONCE, f"{kinds.POSTED} of {token} began {times} times")


def _had_lost(worker: int | None, tenures: list[Tenure], write: Write) -> bool:
    """Whether a worker had owned the instance and lost it before the write: what it still runs cannot be forbidden."""
    mine = [place for place, tenure in enumerate(tenures) if tenure.owner == worker]
    if worker is None or not mine:
        return False
    after = tenures[mine[-1] + 1 :]
    return bool(after) and after[0].position < write.position and after[0].old_owner == worker


def _attempts(instance: Instance) -> Iterator[Violation]:
    for rows in runs_of(instance.history):
        yield from _attempts_of_run(instance, rows)


def _attempts_of_run(instance: Instance, rows: list[Row]) -> Iterator[Violation]:
    answered: set[int] = set()
    attempts: Counter[int] = Counter()
    for row in rows:
        if row.kind == "attempt":
            attempts[row.seq or 0] += 1
            if row.attempt != attempts[row.seq or 0]:
                yield Violation(ATTEMPTS, f"{instance}: {row}")
        elif row.kind in ("step", "timer"):
            assert row.seq is not None
            if row.seq in answered:
                yield Violation(ATTEMPTS, f"{instance}: answered twice: {row}")
            answered.add(row.seq)
            if row.kind == "step" and row.attempt != attempts[row.seq] + 1:
                yield Violation(ATTEMPTS, f"{instance}: {row}")


# -- signals --------------------------------------------------------------------------------------------------------


def _signals(instance: Instance, calls: list[Call], queued: list[Any]) -> Iterator[Violation]:
    got = _consumed(instance)
    times = Counter(json.dumps(payload) for payload in got)
    sent = {json.dumps(call.what["payload"]): call for call in calls}
    for text, count in times.items():
        if count > 1:
            yield Violation(SIGNALS, f"{instance} consumed {text} {count} times")
        if text not in sent:
            yield Violation(SIGNALS, f"{instance} consumed {text}, which nobody sent")
        elif sent[text].outcome == "refused":
            yield Violation(SIGNALS, f"{instance} consumed {text}, which was refused")
    for text, call in sent.items():
        if call.outcome == "ok" and not times[text] and not _overtaken(call, got, instance):
            yield Violation(SIGNALS, f"{instance} did not consume {text}")
    told = [call.what["payload"] for call in calls if call.outcome == "ok"]
    if [payload for payload in got if payload in told] != [payload for payload in told if payload in got]:
        yield Violation(SIGNALS, f"{instance} was sent {told}, consumed {got}")
    for payload in queued:
        if payload in told and instance.status not in ENDED:
            yield Violation(SIGNALS, f"{payload} still waits for {instance}")
    if isinstance(instance.output, dict) and "got" in instance.output and instance.output["got"] != got:
        yield Violation(SIGNALS, f"{instance} says it got {instance.output['got']}, its history has {got}")


def _consumed(instance: Instance) -> list[Any]:
    """The signals in history, in order. What a run had not taken stands once more at the beginning of the next."""
    got: list[Any] = []
    before: list[Any] = []
    for rows in runs_of(instance.history):
        kept = rows[:1] != [] and rows[0].kind == "continued"
        mine = []
        for row in rows[1:] if kept else rows:
            payload = _value(instance, row) if row.kind == "signal" else None
            kept = kept and row.kind == "signal" and payload in before
            if row.kind == "signal":
                mine.append(payload)
                if not kept:
                    got.append(payload)
        before = mine
    return got


def _overtaken(call: Call, got: list[Any], instance: Instance) -> bool:
    """Whether the instance ended with an earlier sending of the same letter, whose sender was not told its fate."""
    letter, attempt = call.what["payload"]
    return instance.status in ENDED and any(there[0] == letter and there[1] < attempt for there in got)


# -- updates, published state, streams -------------------------------------------------------------------------------


def _updates(evidence: Evidence, calls: list[Call]) -> Iterator[Violation]:
    rows = {key: (id, status, result) for id, key, status, result in evidence.updates}
    accepted: Counter[str] = Counter()
    noted: dict[tuple[str, str], Any] = {}
    for instance in evidence.instances:
        accepted.update(json.loads(row.payload or "{}")["key"] for row in instance.history if row.kind == "update")
        for tag, _, row in _checkpoints(instance):
            noted[instance.token, tag] = json.loads(row.payload or "null")
    sent = {call.what["key"] for call in calls if call.what["do"] == "update"}
    for key, times in accepted.items():
        if times > 1 or key not in sent:
            yield Violation(
                UPDATES, f"update {key} was accepted {times} times, sent by {'us' if key in sent else 'nobody'}"
            )
    for call in calls:
        if call.what["do"] != "update" or call.outcome == "unknown":
            continue
        key, number, token = call.what["key"], call.what["number"], call.what["token"]
        _, status, result = rows.get(key, (None, "gone", None))
        if call.outcome == "refused" or number == kinds.NO_DEPOSIT:
            if call.outcome == "ok" or accepted[key] or status == "completed":
                yield Violation(UPDATES, f"{token}: {number} was rejected, and is {status}")
        elif not accepted[key] or (status, result) != ("completed", call.reply):
            yield Violation(UPDATES, f"{token}: {number} was told {call.reply}, and is {status} with {result}")
        elif noted.get((token, f"deposit {number}")) != call.reply:
            found = noted.get((token, f"deposit {number}"))
            yield Violation(UPDATES, f"{token}: {number} was told {call.reply}, its checkpoint is {found}")


def _published(evidence: Evidence) -> Iterator[Violation]:
    for instance in evidence.instances:
        rows = [(row.name, json.loads(row.payload or "null")) for row in instance.history if row.kind == "state"]
        if evidence.states.get(instance.id, {}) != dict(rows):
            yield Violation(STATES, f"{instance} publishes {evidence.states.get(instance.id)}, its history says {rows}")
        if instance.workflow == "teller" and instance.status == instance.kind.ends:
            wanted = [("deposits", n) for n in range(1, instance.arguments["deposits"] + 1)]
            if rows != wanted:
                yield Violation(STATES, f"{instance} has published {rows}")


def _streams(evidence: Evidence) -> Iterator[Violation]:
    read = {event["token"]: event["lines"] for event in evidence.events if event["event"] == "read"}
    for instance in evidence.instances:
        if instance.workflow != "teller" or instance.status != instance.kind.ends:
            continue
        lines = list(range(kinds.printed_lines(instance.arguments["deposits"])))
        slips = evidence.streams.get((instance.id, kinds.SLIPS))
        tape = evidence.streams.get((instance.id, kinds.TAPE))
        if slips != instance.output["order"]:
            yield Violation(STREAMS, f"{instance} wrote {instance.output['order']}, its stream is {slips}")
        if tape != lines:
            yield Violation(STREAMS, f"a step of {instance} wrote {lines}, its stream is {tape}")
        if read.get(instance.token, lines) != lines:
            yield Violation(STREAMS, f"who read along with {instance} saw {read[instance.token]} of {lines}")


# -- fencing --------------------------------------------------------------------------------------------------------


def _by_instance(evidence: Evidence) -> dict[uuid.UUID, list[Tenure]]:
    """Changes of owner, in order."""
    tenures: dict[uuid.UUID, list[Tenure]] = defaultdict(list)
    for tenure in evidence.tenures:
        if tenure.owner != tenure.old_owner:
            tenures[tenure.instance_id].append(tenure)
    return tenures


def _fence(evidence: Evidence) -> Iterator[Violation]:
    ends = {one.worker: one for one in evidence.incarnations if one.state in ("dead", "stopped")}
    for write in evidence.writes:
        # Who holds no fence is told by whose instance it is.
        yield from _after(ends, write.fenced if write.fenced is not None else write.owner, write.xid, write)
    for tenure in evidence.tenures:
        worker = tenure.fenced
        if worker is None and tenure.old_owner is not None and tenure.owner is None:
            worker = tenure.old_owner  # what an owner does last
        yield from _after(ends, worker, tenure.xid, tenure)
    for run in evidence.sql_runs:
        yield from _after(ends, checker_sql.worker_of(evidence, run), run.xid, run)


def _after(
    ends: dict[int, Incarnation], worker: int | None, xid: int, what: Write | Tenure | SqlRun
) -> Iterator[Violation]:
    end = ends.get(worker) if worker is not None else None
    if end is not None and not end.saw(xid):
        yield Violation(FENCE, f"worker {worker} had ended ({end.state}, {end.position}) when it wrote {what}")


def _owners(evidence: Evidence) -> Iterator[Violation]:
    process = {one.worker: one.process for one in evidence.incarnations}
    for write in evidence.writes:
        if write.owner is None or process.get(write.owner) != write.process:
            yield Violation(OWNERS, f"{write.process} wrote {write}")
        elif write.fenced is not None and write.fenced != write.owner:
            yield Violation(OWNERS, f"worker {write.fenced} wrote {write}")


# -- results and replay ---------------------------------------------------------------------------------------------


def _results(instance: Instance) -> Iterator[Violation]:
    if instance.status != instance.kind.ends:
        return
    if instance.kind.ends == "failed":
        text = (instance.error or {}).get("message", "")
        if f"{instance.token} gave up: " not in text:
            yield Violation(RESULTS, f"{instance}: {text!r}")
        return
    output = instance.output
    if not isinstance(output, dict) or output.get("token") != instance.token:
        yield Violation(RESULTS, f"{instance}: {output!r}")
        return
    recorded = {tag: _value(instance, row) for tag, _, row in _checkpoints(instance)}
    for noted in output["noted"]:
        if recorded.get(noted["tag"]) != noted:
            yield Violation(RESULTS, f"{instance} saw {noted}, its history has {recorded.get(noted['tag'])}")


def _replays(instance: Instance) -> Iterator[Violation]:
    if instance.version is None:
        return
    different, again = compare(kinds.definition(instance.workflow, instance.version), instance)
    if different is not None:
        yield Violation(REPLAY, different)
    if again is not None:
        for wrong in wrong_timers(instance, again, instance.kind.delays):
            yield Violation(TIMERS, wrong)
