"""What `doctor` looks at. Each check gives findings; the later ones need what the earlier ones found.

`broken` (✗) is what keeps work from being done; `warning` (!) is what people should know of; `fine` (✓) the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pgdurable._engine.connections import server_of
from pgdurable._engine.route import is_pooled
from pgdurable._store import migrations
from pgdurable.cli import table_checks
from pgdurable.cli.finding import Finding
from pgdurable.cli.options import Session, Target
from pgdurable.cli.text import count, span
from pgdurable.errors import PgDurableError

__all__ = ["Finding", "examine"]

_SLOTS_LEFT = 10
_SKEW_S = 1.0
_OLDEST, _NEWEST = 14, 18


def examine(where: Target) -> Iterator[Finding]:
    """All findings, in the order of the checks; stops where nothing more can be seen."""
    try:
        with where.session() as session:
            through = ", through a pooler" if is_pooled(session.conn) else ""
            yield Finding("fine", f"server reachable: {server_of(where.dsn)}{through}")
            yield from _server(session)
            try:
                migrations.check(session.conn, where.schema)
            except PgDurableError as error:
                yield _of(error)
                return
            yield Finding("fine", f"schema {where.schema} is migrated, version {migrations.latest_version()}")
            yield from _privileges(session, where)
            yield from _workers(session, where)
            yield from _stuck(session, where)
            yield from _queues(session, where)
            yield from _troubled(session, where)
            yield from _events(session)
            senseless = list(table_checks.settings(session, where))
            yield from senseless
            if any(finding.level == "broken" for finding in senseless):
                return
            yield from table_checks.retention(session, where)
            yield from table_checks.partitions(session, where)
            yield from table_checks.longest_history(session, where)
            yield from table_checks.vacuum(session, where)
    except PgDurableError as error:
        yield _of(error)


def _of(error: PgDurableError) -> Finding:
    text = f"{error.message}: {error.detail}" if error.detail else error.message
    return Finding("broken", text, error.hint)


def _server(session: Session) -> Iterator[Finding]:
    found = session.row("server")
    skew = _skew(session)
    yield _version(found)
    if found["in_recovery"]:
        yield Finding("broken", "the server is a standby, which cannot be written to", _PRIMARY)
    elif found["read_only"]:
        yield Finding("broken", "default_transaction_read_only is on: the server cannot be written to", _PRIMARY)
    else:
        yield Finding("fine", "writable")
    yield from _durability(found)
    yield _connections(found)
    yield (
        Finding("fine", "autovacuum is on")
        if found["autovacuum"]
        else Finding(
            "warning", "autovacuum is off: tables grow and slow down", "Set autovacuum = on and track_counts = on."
        )
    )
    if abs(skew) > _SKEW_S:
        yield Finding(
            "warning",
            f"this machine's clock is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the database's",
            "Timers and ids go by the database's clock and stay right; logs do not. Synchronise them (NTP).",
        )
    else:
        yield Finding("fine", f"clocks agree within {span(abs(skew))}")


_PRIMARY = "Point the DSN at the primary; with several hosts target_session_attrs=read-write finds it."


def _version(found: dict[str, Any]) -> Finding:
    major, text = found["version_num"] // 10000, f"PostgreSQL {found['version']}"
    if major < _OLDEST:
        return Finding("broken", f"{text} is too old", f"pgdurable needs PostgreSQL {_OLDEST} to {_NEWEST}.")
    if major > _NEWEST:
        return Finding("warning", f"{text} is newer than what was tested", f"Tested: {_OLDEST} to {_NEWEST}.")
    return Finding("fine", text)


def _durability(found: dict[str, Any]) -> Iterator[Finding]:
    weak = [
        (not found["fsync"], "fsync is off: a crash of the machine can lose or corrupt everything", "fsync"),
        (
            found["synchronous_commit"] == "off",
            "synchronous_commit is off: what was acknowledged last can be lost in a crash",
            "synchronous_commit",
        ),
        (
            not found["full_page_writes"],
            "full_page_writes is off: a crash of the machine can corrupt pages",
            "full_page_writes",
        ),
    ]
    for is_weak, text, setting in weak:
        if is_weak:
            yield Finding("warning", text, f"Set {setting} = on.")
    if not any(is_weak for is_weak, _, _ in weak):
        yield Finding("fine", "fsync, synchronous_commit and full_page_writes are on")


def _connections(found: dict[str, Any]) -> Finding:
    used, slots = found["connections"], found["slots"]
    text = f"{used} of {slots} connections are in use"
    if slots - used < _SLOTS_LEFT:
        return Finding("warning", text, "A worker opens up to 12. Raise max_connections, or close some.")
    return Finding("fine", text)


def _skew(session: Session) -> float:
    """Seconds this machine's clock is ahead of the database's, as far as the round trip lets us see."""
    best, width = 0.0, float("inf")
    for _ in range(3):
        before = time.time()
        now = session.row("clock")["now"].timestamp()
        after = time.time()
        if after - before < width:
            best, width = (before + after) / 2 - now, after - before
    return 0.0 if abs(best) <= width / 2 else best


def _privileges(session: Session, where: Target) -> Iterator[Finding]:
    missing = [f"{row['privilege']} on {row['name']}" for row in session.rows("privileges")]
    role = session.row("server")["role"]
    if missing:
        yield Finding(
            "broken",
            f"role {role} may not {', '.join(missing)}",
            f"Grant it select, insert, update and delete on all tables in schema {where.schema}.",
        )


def _workers(session: Session, where: Target) -> Iterator[Finding]:
    known = session.rows("workers")
    living = [worker for worker in known if worker["living"]]
    for worker in living:
        has = ", ".join(f"{w.get('name')} v{w.get('version')}" for w in worker["workflows"]) or "no workflow"
        yield Finding(
            "fine", f"worker {worker['name']} lives (lease runs {span(worker['lease_left'])} more) and has {has}"
        )
        if worker["trouble"]:
            yield Finding(
                "warning",
                f"worker {worker['name']} cannot write: {worker['trouble']}",
                "It tries again until it works; what it has done is kept in its memory.",
            )
        if worker["callers_waiting"]:
            yield Finding(
                "warning",
                f"worker {worker['name']} holds back {count(worker['callers_waiting'], 'call')}: the server is behind "
                f"with {count(worker['backlog'], 'transition')}",
                "More is started than the server can store. Look at its disk, or start less at a time.",
            )
    if not living:
        yield Finding("warning", "no worker lives", f"Start one: {where.command('worker', 'MODULE')}")
    for worker in known:
        if not worker["living"]:
            yield Finding(
                "warning",
                f"worker {worker['name']} went silent: its lease ran out {span(-worker['lease_left'])} ago",
                "Any living worker declares it dead and takes its instances over.",
            )


def _stuck(session: Session, where: Target) -> Iterator[Finding]:
    """What is due and nobody does."""
    start = f"Start a worker that has it: {where.command('worker', 'MODULE')}"
    healthy = True
    for row in session.rows("orphans"):
        healthy = False
        what = f"{_instances(row)} still held by a worker that is gone ({row['worker'] or 'forgotten'})"
        if row["rescued"]:
            yield Finding("warning", what, "A living worker has the workflow and takes them over within seconds.")
        else:
            yield Finding("broken", f"{what}, and no living worker has the workflow", start)
    for row in session.rows("unknown_workflows", file="client"):
        healthy = False
        what = _instances({**row, "instances": row["count"]})
        yield Finding("broken", f"{what} due, and no living worker has the workflow", start)
    if healthy:
        yield Finding("fine", "every instance that is due has a worker that can run it")


def _queues(session: Session, where: Target) -> Iterator[Finding]:
    """Queues in which something waits in vain: they are paused, or nobody listens to them."""
    healthy = True
    for row in session.rows("deaf_queues"):
        what = f"queue {row['queue']}: {count(row['due'], 'instance')} due, the oldest for {span(row['oldest'] or 0.0)}"
        if row["paused"]:
            healthy = False
            yield Finding(
                "warning", f"{what}; it is paused", f"Let it go on: {where.command('queues', 'resume', row['queue'])}"
            )
        elif row["has_workers"]:  # else nobody has the workflow, which has been said
            healthy = False
            yield Finding(
                "broken",
                f"{what}, and no living worker that has the workflow listens to it",
                f"Start one that does: {where.command('worker', 'MODULE', '--queues', row['queue'])}",
            )
    if healthy:
        yield Finding("fine", "no queue is paused or without a listener while something waits in it")


def _instances(row: dict[str, Any]) -> str:
    version = f" version {row['version']}" if row["version"] else ""
    verb = "is" if row["instances"] == 1 else "are"
    return f"workflow {row['workflow']}{version}: {count(row['instances'], 'instance')} {verb}"


def _troubled(session: Session, where: Target) -> Iterator[Finding]:
    counts = {row["status"]: row["instances"] for row in session.rows("troubled_counts")}
    for status, ended, todo in (
        ("paused", "paused", "`show` says why. Deploy code that fits, then `resume` them. They are in"),
        ("failed", "failed", "See"),
        ("timed_out", "ran over the deadline", "See"),
    ):
        if number := counts.get(status, 0):
            yield Finding(
                "warning",
                f"{count(number, 'instance')} {ended}",
                f"{todo}: {where.command('list', '--status', status)}",
            )
    if number := session.row("quarantined")["instances"]:
        yield Finding(
            "warning",
            f"{count(number, 'instance')} of the paused: quarantined, each of the last workers died that held it",
            "`show` says more. Mend what kills the worker, then `retry` them.",
        )
    if number := session.row("suspects")["instances"]:
        yield Finding(
            "warning",
            f"{count(number, 'instance')} suspected of killing workers: they run in small numbers, one after the other",
            "What gets on is cleared; what kills its worker again and again is quarantined.",
        )
    if not counts.keys() - {"cancelled"}:
        yield Finding("fine", "no instance is paused or failed")


def _events(session: Session) -> Iterator[Finding]:
    row = session.row("old_events")
    if row["events"]:
        yield Finding(
            "warning",
            f"{count(row['events'], 'event')} for {count(row['instances'], 'instance')} waited for over a minute, "
            f"the oldest for {span(row['oldest'])}",
            "They are delivered when a worker has their instance: it is paused, not yet due, or nobody runs it.",
        )
    else:
        yield Finding("fine", "no event has waited for over a minute")
