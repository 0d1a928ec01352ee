"""Why an instance does not go on: what it waits for, and what to do. For `show`, and for starts nobody would run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgdurable.cli.options import Session, Target
from pgdurable.cli.text import clock, count, span
from pgdurable.client import Entry, InstanceInfo

__all__ = ["ENDED", "Facts", "capable_workers", "gather_facts", "reasons"]

ENDED = ("completed", "failed", "cancelled", "timed_out")


@dataclass(frozen=True)
class Facts:
    """What the database knows around an instance.

    Attributes:
        now: database time.
        owner: the `workers` row of its owner, or None.
        capable: living workers that have its workflow in its version.
        others: living workers, whatever they have.
        events: what was sent to it and is not yet in its history.
    """

    now: datetime
    owner: dict[str, Any] | None
    capable: Sequence[dict[str, Any]]
    others: Sequence[dict[str, Any]]
    events: Sequence[dict[str, Any]]


def capable_workers(session: Session, workflow: str, version: str | None) -> list[dict[str, Any]]:
    """The living workers (id, name) that run this workflow in this version; None: in any version."""
    return session.rows("capable_workers", workflow, version, version)


def gather_facts(session: Session, info: InstanceInfo) -> Facts:
    owner = session.rows("worker", info.owner) if info.owner is not None else []
    return Facts(
        now=session.row("clock")["now"],
        owner=owner[0] if owner else None,
        capable=capable_workers(session, info.workflow, info.version),
        others=[worker for worker in session.rows("workers") if worker["living"]],
        events=session.rows("waiting_events", info.instance_id, file="client"),
    )


def reasons(where: Target, info: InstanceInfo, history: Sequence[Entry], facts: Facts) -> list[str]:
    """Sentences that say what the instance waits for; none when it has ended."""
    if info.status in ENDED:
        return []
    if info.status == "paused":
        return _paused(where, info)
    if info.owner is not None and info.owner < 0:
        said = [
            "Its last workers died while they held it, so it waits for its turn: such instances run in small numbers, "
            "until it is known which of them kills its worker."
        ]
        if not facts.capable:
            said += _nobody(where, info, facts)
    elif info.owner is None:
        said = _without_owner(where, info, facts)
        if not facts.capable:
            said += _nobody(where, info, facts)
    elif facts.owner is not None and facts.owner["living"]:
        said = _running(info, history, facts)
    else:
        said = _orphaned(where, info, facts)
    if facts.events and info.status != "running":
        said.append(f"{count(len(facts.events), 'event')} sent to it will be delivered when a worker has it.")
    return said


def _paused(where: Target, info: InstanceInfo) -> list[str]:
    if info.error is None:
        return [f"Paused by somebody. To let it go on: {where.command('resume', info.id)}"]
    kind = str((info.error or {}).get("type", "")).rpartition(".")[2]
    if kind == "Quarantined":
        return [
            f"Quarantined: {(info.error or {}).get('message')}. Nothing is lost.",
            f"Mend what kills the worker, then run: {where.command('retry', info.id)}",
        ]
    if kind == "PayloadSealed":
        return [
            f"Paused: {(info.error or {}).get('message')}. Nothing is lost.",
            f"Give its workers the key (Engine(encryption=...)), then run: {where.command('resume', info.id)}",
        ]
    cause = "its code no longer fits its history" if kind == "NonDeterminismError" else "it cannot go on by itself"
    return [
        f"Paused: {cause}. Nothing is lost.",
        f"Deploy code that fits, then run: {where.command('resume', info.id)}",
    ]


def _without_owner(where: Target, info: InstanceInfo, facts: Facts) -> list[str]:
    due = info.wake_at
    if due is not None and due > facts.now:
        what = "Starts" if info.status == "pending" else "Waits for a timer, or a signal before it:"
        return [f"{what} at {clock(due)}, in {span(due - facts.now)}."]
    if info.status == "waiting" and due is None:
        return [f"Waits for a signal. Send it: {where.command('signal', info.id, 'NAME')} [PAYLOAD_JSON]"]
    late = "" if due is None else f", for {span(facts.now - due)} now"
    if not facts.capable:
        return [f"Due{late}."]
    names = ", ".join(worker["name"] for worker in facts.capable[:3])
    return [f"Due{late}: the next worker with room takes it ({names})."]


def _nobody(where: Target, info: InstanceInfo, facts: Facts) -> list[str]:
    wanted = f"workflow {info.workflow}" + (f" version {info.version}" if info.version else "")
    said = [f"No living worker has {wanted}. Start one: {where.command('worker', 'MODULE')}"]
    there = sorted(
        {
            f"version {entry.get('version')} ({worker['name']})"
            for worker in facts.others
            for entry in worker["workflows"]
            if entry.get("name") == info.workflow
        }
    )
    if there:
        said.append(f"Living workers have other versions of it: {', '.join(there)}.")
    elif facts.others:
        said.append(f"Workers that live, without it: {', '.join(worker['name'] for worker in facts.others)}.")
    else:
        said.append(f"No worker lives in schema {where.schema} at all.")
    return said


def _orphaned(where: Target, info: InstanceInfo, facts: Facts) -> list[str]:
    owner = facts.owner
    if owner is None:
        gone = f"Its worker {info.owner} is gone."
    elif owner["ended_at"] is not None:
        end = "stopped" if owner["state"] == "stopped" else "died"
        gone = f"Its worker {owner['name']} {end} {span(facts.now - owner['ended_at'])} ago."
    else:
        gone = f"Its worker {owner['name']} has not been heard of: its lease ran out at {clock(owner['lease_until'])}."
    if facts.capable:
        names = ", ".join(worker["name"] for worker in facts.capable[:3])
        return [f"{gone} The next worker with room takes it over ({names})."]
    return [gone, *_nobody(where, info, facts)]


def _running(info: InstanceInfo, history: Sequence[Entry], facts: Facts) -> list[str]:
    assert facts.owner is not None
    said = [f"Held by the living worker {facts.owner['name']}: it runs a step, or waits for a timer or a signal."]
    answered = {entry.seq for entry in history if entry.kind in ("step", "void")}
    latest: dict[int | None, Entry] = {e.seq: e for e in history if e.kind == "attempt" and e.seq not in answered}
    for entry in latest.values():
        wait = float((entry.value or {}).get("retry_in", 0.0))
        left = wait - (facts.now - entry.at).total_seconds()
        again = f"the next begins in {span(left)}" if left > 0 else f"attempt {(entry.attempt or 0) + 1} is under way"
        said.append(f"Step {entry.name}: attempt {entry.attempt} failed, {again}.")
    return said
