"""Holds what a crashed run left behind against the promises: tables, histories, the log of executions.

`gather` reads everything into an `Evidence`, a plain value; `check` names every promise that does not hold in it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from . import workflows
from .replay import Row, compare, wrong_timers

ENDED = ("completed", "failed", "cancelled", "timed_out")


@dataclass
class Instance:
    id: uuid.UUID
    key: str | None
    workflow: str
    status: str
    owner: int | None
    input: str
    output: Any
    error: dict[str, Any] | None
    started_at: datetime
    finished_at: datetime | None
    history: list[Row] = field(default_factory=list)

    @property
    def arguments(self) -> dict[str, Any]:
        values, _ = workflows.WORKFLOWS[self.workflow].signature.load_input(self.input)
        return dict(zip(_parameters(self.workflow), values, strict=True))

    @property
    def token(self) -> str:
        return str(self.arguments["token"])

    def __str__(self) -> str:
        return f"{self.workflow} {self.token} ({self.id})"


@dataclass(frozen=True)
class Execution:
    """A step began to run. `at_us` is this machine's time."""

    token: str
    tag: str
    nonce: str
    at_us: int
    pid: int


@dataclass(frozen=True)
class Entry:
    """A row of the ledger: one effect of a transaction step."""

    token: str
    step: str
    source: int
    target: int
    cents: int


@dataclass
class Evidence:
    """Everything a run left behind.

    Attributes:
        acknowledged: instance by token, of the starts whose acknowledgement somebody received.
        sent: the signals `go` committed, in order, by token.
        queued: events nobody consumed, as (instance, name).
        ahead_us: how far the database's clock is ahead of this machine's, and how exactly that is known.
        zombies: processes that were stopped past their lease: what they run cannot be forbidden, only their writes.
    """

    acknowledged: dict[str, uuid.UUID]
    instances: list[Instance]
    ledger: list[Entry]
    balances: dict[int, int]
    sent: dict[str, list[Any]]
    queued: list[tuple[uuid.UUID, str]]
    executions: list[Execution]
    ahead_us: tuple[float, float] = (0.0, 0.0)
    zombies: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Violation:
    promise: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}"


# -- reading --------------------------------------------------------------------------------------------------------


def gather(
    conn: psycopg.Connection[Any], schema: str, shop: str, log: Path, acknowledged: dict[str, uuid.UUID],
    zombies: frozenset[int] = frozenset(),
) -> Evidence:  # fmt: skip
    instances = {
        row[0]: Instance(*row)
        for row in conn.execute(
            f"""select i.id, k.id, i.workflow, i.status, i.owner, i.input::text, i.output, i.error,
                       coalesce(i.started_at, i.created_at), i.finished_at
                  from {schema}.instances i left join {schema}.instance_keys k on k.instance_id = i.id
                 order by i.id"""
        )
    }
    for id, *row in conn.execute(
        f"""select instance_id, event_id, kind, seq, name, attempt, fingerprint, payload::text, error::text, recorded_at
              from {schema}.history order by instance_id, event_id"""
    ):
        instances[id].history.append(Row(*row))
    sent: dict[str, list[Any]] = defaultdict(list)
    for token, letter in conn.execute(f"select token, letter from {shop}.sent order by id"):
        sent[token].append(letter)
    before = time.time()
    row = conn.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    after = time.time()
    assert row is not None
    lines = log.read_text().splitlines() if log.exists() else []
    return Evidence(
        acknowledged=dict(acknowledged),
        instances=list(instances.values()),
        ledger=[Entry(*r) for r in conn.execute(f"select token, step, source, target, cents from {shop}.ledger")],
        balances=dict(conn.execute(f"select id, balance from {shop}.accounts").fetchall()),
        sent=dict(sent),
        queued=conn.execute(f"select instance_id, name from {schema}.events").fetchall(),
        executions=[Execution(**json.loads(line)) for line in lines],
        ahead_us=((row[0] - (before + after) / 2) * 1e6, (after - before) / 2 * 1e6 + 1),
        zombies=zombies,
    )


# -- checking -------------------------------------------------------------------------------------------------------


def check(evidence: Evidence) -> list[Violation]:
    """Every way in which the evidence breaks a promise; empty when all hold."""
    found = [*_starts(evidence), *_effects(evidence), *_sums(evidence), *_executions(evidence)]
    for instance in evidence.instances:
        found += _ending(instance)
        found += _results(instance)
        found += _rows(instance)
        found += _signals(instance, evidence)
        found += _replays(instance)
    return found


def _starts(evidence: Evidence) -> Iterator[Violation]:
    there = {instance.id: instance for instance in evidence.instances}
    for token, id in evidence.acknowledged.items():
        if id not in there:
            yield Violation("an acknowledged start is never lost", f"{token}: there is no instance {id}")
        elif there[id].token != token:
            yield Violation("an acknowledged start is never lost", f"{token} was told {id}, which is {there[id].token}")
    for token, times in Counter(instance.token for instance in evidence.instances).items():
        if times > 1:
            yield Violation("a start happens once", f"{token} was started {times} times")


def _ending(instance: Instance) -> Iterator[Violation]:
    wanted = "failed" if instance.workflow == "unlucky" else "completed"
    if instance.status != wanted:
        yield Violation("every instance ends", f"{instance} is {instance.status}, not {wanted}: {instance.error}")
    elif instance.finished_at is None or instance.owner is not None:
        yield Violation("every instance ends", f"{instance} has ended, but is owned by {instance.owner}")


def _expected_entries(instance: Instance) -> list[Entry]:
    """The effects this instance must have had, from its arguments and what it says of its races."""
    args, token = instance.arguments, instance.token
    if instance.workflow == "shop":
        source, target, cents = args["source"], args["target"], args["cents"]
        entries = [
            Entry(token, "debit", source, target, cents),
            Entry(token, "fee", source, target, 1),
            Entry(token, "back", target, source, 2),
        ]
        if instance.output["moved"]["tip"]:
            entries.append(Entry(token, "tip", source, target, 3))
        return entries
    if instance.workflow == "typist":
        return [
            Entry(token, "debit", args["source"], args["target"], args["cents"]),
            Entry(token, "tip", args["source"], args["target"], 1),
        ]
    if instance.workflow == "postman":
        # A letter that came before the first wait ran out is not booked.
        first = 0 if any(noted["tag"] == "none yet" for noted in instance.output["noted"]) else 1
        return [Entry(token, f"letter {letter}", 1, 2, 1) for letter in range(first, args["signals"])]
    if instance.workflow == "slow_payer":
        return [Entry(token, "pay", 1, 1, 0)]
    if instance.workflow == "rivals":
        moves = [Entry(token, str(cents), 1, 2, cents) for cents in (1, 2, 3)]
        return [Entry(token, "enter", 1, 1, 0), *moves]
    if instance.workflow == "locker":
        return [Entry(token, "pay", 1, 2, 5)]
    return []


def _effects(evidence: Evidence) -> Iterator[Violation]:
    promise = "a transaction step takes effect exactly once"
    happened: dict[str, Counter[Entry]] = defaultdict(Counter)
    for entry in evidence.ledger:
        happened[entry.token][entry] += 1
    for instance in evidence.instances:
        there = happened.pop(instance.token, Counter())
        if instance.status != "completed":
            expected: Counter[Entry] = Counter()
        else:
            expected = Counter(_expected_entries(instance))
        for entry in there - expected:
            yield Violation(promise, f"{instance}: {entry.step} took effect {there[entry]} times: {entry}")
        for entry in expected - there:
            yield Violation(promise, f"{instance}: {entry.step} took no effect: {entry}")
    for token in happened:
        yield Violation(promise, f"effects of {token}, which is no instance")


def _sums(evidence: Evidence) -> Iterator[Violation]:
    balances = dict.fromkeys(range(1, workflows.ACCOUNTS + 1), workflows.OPENING_BALANCE)
    for entry in evidence.ledger:
        balances[entry.source] -= entry.cents
        balances[entry.target] += entry.cents
    for id in sorted(balances):
        if evidence.balances.get(id) != balances[id]:
            found = evidence.balances.get(id)
            yield Violation("sums match", f"account {id} holds {found}, its entries say {balances[id]}")


def _checkpoints(instance: Instance) -> Iterator[tuple[str, Row]]:
    """(tag, row) of the plain steps."""
    for row in instance.history:
        if row.kind == "step" and row.payload is not None:
            payload = json.loads(row.payload)
            if isinstance(payload, dict):
                yield payload["tag"], row
        elif row.kind == "step":
            yield str(row.name), row


def _results(instance: Instance) -> Iterator[Violation]:
    promise = "an instance ends with the right result"
    if instance.workflow == "unlucky":
        text = (instance.error or {}).get("message", "")
        if f"{instance.token} gave up: " not in text:
            yield Violation(promise, f"{instance}: {text!r}")
        return
    output = instance.output
    if not isinstance(output, dict) or output.get("token") != instance.token:
        yield Violation(promise, f"{instance}: {output!r}")
        return
    recorded = {tag: json.loads(row.payload) for tag, row in _checkpoints(instance) if row.payload is not None}
    for noted in output["noted"]:
        if noted is not None and recorded.get(noted["tag"]) != noted:
            yield Violation(promise, f"{instance} saw {noted}, its history has {recorded.get(noted['tag'])}")
    if instance.workflow in ("shop", "typist") and output["moved"]["debit"] != instance.arguments["cents"]:
        yield Violation(promise, f"{instance}: {output['moved']}")


def _rows(instance: Instance) -> Iterator[Violation]:
    answered: set[int] = set()
    attempts: Counter[int] = Counter()
    for row in instance.history:
        if row.kind == "attempt":
            attempts[row.seq or 0] += 1
            if row.attempt != attempts[row.seq or 0]:
                yield Violation("attempts are counted across crashes", f"{instance}: {row}")
        elif row.kind in ("step", "timer"):
            assert row.seq is not None
            if row.seq in answered:
                yield Violation("a command is answered once", f"{instance}: {row}")
            answered.add(row.seq)
            if row.kind == "step" and row.attempt != attempts[row.seq] + 1:
                yield Violation("attempts are counted across crashes", f"{instance}: {row}")


def _executions(evidence: Evidence) -> Iterator[Violation]:
    runs: dict[tuple[str, str], list[Execution]] = defaultdict(list)
    for execution in evidence.executions:
        runs[execution.token, execution.tag].append(execution)
    ahead, doubt = evidence.ahead_us
    for instance in evidence.instances:
        seen: set[str] = set()
        for tag, row in _checkpoints(instance):
            there = runs[instance.token, tag]
            if tag in seen:
                yield Violation("a checkpointed step never runs again", f"{instance}: {tag} has two checkpoints")
            seen.add(tag)
            if len(there) < (row.attempt or 1):
                yield Violation("steps run at least once", f"{instance}: {tag} ran {len(there)} times: {row}")
            if row.payload is not None and json.loads(row.payload)["nonce"] not in {e.nonce for e in there}:
                yield Violation("a checkpoint holds what the step returned", f"{instance}: {row}")
            for execution in there:
                late = execution.at_us + ahead - row.at_us - doubt
                if late > 0 and execution.pid not in evidence.zombies:
                    yield Violation(
                        "a checkpointed step never runs again",
                        f"{instance}: {tag} ran {late / 1e3:.1f} ms after its checkpoint, in process {execution.pid}",
                    )


def _signals(instance: Instance, evidence: Evidence) -> Iterator[Violation]:
    promise = "a signal is delivered once, in order"
    sent = evidence.sent.get(instance.token, [])
    recorded = [json.loads(row.payload or "null") for row in instance.history if row.kind == "signal"]
    if recorded != sent:
        yield Violation(promise, f"{instance} was sent {sent}, its history has {recorded}")
    if instance.workflow in workflows.SIGNALS:
        got = (instance.output or {}).get("got")
        if got != sent or sent != list(range(workflows.SIGNALS[instance.workflow])):
            yield Violation(promise, f"{instance} was sent {sent}, got {got}")
    for id, name in evidence.queued:
        if id == instance.id:
            yield Violation(promise, f"{instance} has ended, its signal {name!r} was not delivered")


def _replays(instance: Instance) -> Iterator[Violation]:
    different, again = compare(workflows.WORKFLOWS[instance.workflow], instance)
    if different is not None:
        yield Violation("replay reproduces the original run", different)
    if again is not None:
        for wrong in wrong_timers(instance, again, workflows.DELAYS[instance.workflow]):
            yield Violation("a timer never fires early", wrong + _shown(instance))


def _shown(instance: Instance) -> str:
    rows = [f"{r.event_id} {r.kind} #{r.seq} {r.name} {r.recorded_at:%H:%M:%S.%f}" for r in instance.history]
    return "\n    ".join(["", f"started {instance.started_at:%H:%M:%S.%f}", *rows])


def _parameters(workflow: str) -> Sequence[str]:
    code = workflows.WORKFLOWS[workflow].fn.__code__
    return code.co_varnames[: code.co_argcount]
