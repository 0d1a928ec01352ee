"""What the checker asks of workflows in SQL alone. Each function yields what is wrong, in words."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from crash.replay import Row

from . import sqlkinds
from .evidence import Evidence, Instance, SqlRun
from .programs import Node, Wrong, follow, numbered, value_of

__all__ = [
    "attempts", "checkpoints", "early", "heard", "one_commit", "programs", "ran_again", "unreturned", "worker_of",
]  # fmt: skip


def of_sql(evidence: Evidence) -> list[Instance]:
    return [instance for instance in evidence.instances if instance.kind.program is not None]


def checkpoints(instance: Instance) -> Iterator[tuple[str, str, Row]]:
    """(tag, nonce, row) of the steps that are functions of bank.sql."""
    for row in instance.history:
        value = value_of(row) if row.kind == "step" and row.payload is not None else None
        if isinstance(value, dict) and "nonce" in value:
            yield value["tag"], value["nonce"], row


def programs(instance: Instance) -> Iterator[str]:
    """The history is a run of the definition."""
    assert instance.kind.program is not None
    try:
        follow(instance.kind.program, instance.history, instance.status)
    except Wrong as wrong:
        yield f"{instance}: {wrong}"


def ran_again(evidence: Evidence) -> Iterator[str]:
    """Executions that were not undone: of each step one."""
    for (token, tag), times in Counter((run.token, run.tag) for run in evidence.sql_runs).items():
        if times > 1:
            yield f"{tag} of {token} took effect {times} times"


def unreturned(evidence: Evidence) -> Iterator[str]:
    """Each checkpoint is what an execution returned; each execution that is there has its checkpoint."""
    nonces = {(run.token, run.tag): run.nonce for run in evidence.sql_runs}
    for instance in of_sql(evidence):
        for tag, nonce, row in checkpoints(instance):
            if nonces.pop((instance.token, tag), None) != nonce:
                yield f"{instance}: no execution of {tag} returned {row}"
    kinds = {instance.token: instance.workflow for instance in of_sql(evidence)}
    for token, tag in nonces:
        if not (kinds.get(token) == "sql_raced" and tag in sqlkinds.LOSERS):
            yield f"{tag} of {token} took effect, and has no checkpoint"


def one_commit(evidence: Evidence) -> Iterator[str]:
    """A step is of one transaction with its checkpoint, or with what tells of it where another ran it; atomic too."""
    runs = {(run.token, run.tag): run for run in evidence.sql_runs}
    written = {(write.instance_id, write.event_id): write.xid for write in evidence.writes}
    for instance in of_sql(evidence):
        atomics = _atomics(instance)
        together: dict[int, set[int]] = defaultdict(set)
        for tag, _, row in checkpoints(instance):
            run = runs.get((instance.token, tag))
            if run is None:
                continue
            xid = written.get((instance.id, row.event_id))
            if run.xid != xid and (instance.id, row.seq, run.xid) not in evidence.told:
                yield f"{instance}: {tag} took effect in transaction {run.xid}, its checkpoint in {xid}"
            if row.fingerprint in atomics:
                together[atomics[row.fingerprint]].add(run.xid)
        for number, xids in together.items():
            if len(xids) > 1:
                yield f"{instance}: what node {number} does took effect in transactions {sorted(xids)}"


def attempts(instance: Instance) -> Iterator[str]:
    """Commands are answered once, and attempts counted; those of an atomic are attempts of each step in it."""
    atomics = _atomics(instance)
    counts: Counter[int] = Counter()
    answered: set[int] = set()
    first, before = 0, None  # the first command of an atomic; the row before
    for row in instance.history:
        if row.seq is None or row.fingerprint is None:
            continue
        within = row.fingerprint in atomics and row.kind == "step"
        goes_on = (
            before is not None and before.seq == row.seq - 1 and within and before.kind == "step"
            and atomics[row.fingerprint] == atomics.get(before.fingerprint or 0)
        )  # fmt: skip
        first = first if goes_on else row.seq
        before = row
        if row.kind == "attempt":
            counts[row.seq] += 1
            if row.attempt != counts[row.seq]:
                yield f"{instance}: {row}"
            continue
        if row.seq in answered:
            yield f"{instance}: answered twice: {row}"
        answered.add(row.seq)
        if row.attempt != counts[first] + 1:
            yield f"{instance}: {row}"
    if answered and answered != set(range(max(answered) + 1)) and instance.workflow != "sql_raced":
        yield f"{instance}: of its commands only {sorted(answered)} are answered"


def _atomics(instance: Instance) -> dict[int, int]:
    """By number of a node within an atomic: the atomic's."""
    found: dict[int, int] = {}

    def look(node: Node, n: int, atomic: int | None) -> None:
        if atomic is not None:
            found[n] = atomic
        for child, number in numbered(node, n):
            look(child, number, n if node["op"] == "atomic" else atomic)

    assert instance.kind.program is not None
    look(instance.kind.program, 0, None)
    return found


def early(instance: Instance) -> Iterator[str]:
    """Between the step before a timer and the step behind it there is its time at least, by the server's clock."""
    delays = _delays(instance.kind.program or {}, 0)
    before: float | None = None
    waited = 0.0
    for row in instance.history:
        if row.kind == "timer":
            waited += delays[row.fingerprint or 0]
        at = _at(row)
        if at is None:
            continue
        if waited and before is not None and at - before < waited:
            yield f"{instance}: {waited:g} s were to be waited, it was {at - before:.6f} s before {row}"
        before, waited = at, 0.0


def _at(row: Row) -> float | None:
    value: Any = value_of(row) if row.kind == "step" and row.payload is not None else None
    return value.get("at") if isinstance(value, dict) else None


def _delays(node: Node, n: int) -> dict[int, float]:
    mine = {n: float(node["seconds"])} if node["op"] == "sleep" else {}
    if node["op"] == "wait_signal" and "timeout" in node:
        mine = {n: float(node["timeout"])}
    for child, number in numbered(node, n):
        mine |= _delays(child, number)
    return mine


def worker_of(evidence: Evidence, run: SqlRun) -> int | None:
    """Whose fence it held; where it held none, which worker its session was last."""
    if run.fenced is not None:
        return run.fenced
    mine = [
        one.worker for one in evidence.incarnations
        if one.process == run.process and one.state == "alive" and one.position < run.position
    ]  # fmt: skip
    return mine[-1] if mine else None


def heard(row: Row) -> Any:
    """The payload of a signal."""
    return json.loads(row.payload or "null")["data"]
