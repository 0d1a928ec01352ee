"""While somebody holds an old snapshot nothing can be cleaned up: what the hot path reads must not grow with it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from pgdurable._engine.looks import Looks
from pgdurable._store.sql import named_queries

from .namespace import Namespace

ROUNDS = 60
AT_ONCE = 500


@pytest.fixture
def snapshot(ns: Namespace) -> Iterator[psycopg.Connection]:
    """A session that still sees everything as it is now."""
    with psycopg.connect(ns.dsn) as conn:
        conn.execute("set transaction isolation level repeatable read")
        conn.execute(f"select count(*) from {ns.schema}.instances")
        yield conn
        conn.rollback()


class Poller:
    """Looks as the engine's does."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self.conn = psycopg.connect(ns.dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)
        self.sql = named_queries("worker", ns.schema)
        self.looks = Looks()
        self.worker = ns.worker()

    def params(self, query: str, room: int = 1) -> tuple[Any, ...]:
        since = self.looks.since(["w"])
        return {
            "claim": (self.worker, ["w"], ["1"], [True], room, 5, 0, since, self.looks.after_event, None),
            "next_due": (["w"], since, None, ["w"]),
            "owned_events": (self.worker, self.looks.after_event, self.looks.after_event),
            "fence": (self.worker,),
            "drop_stale_events": None,
        }[query]  # type: ignore[return-value]

    def close(self) -> None:
        self.conn.close()

    def claim(self, room: int) -> list[uuid.UUID]:
        now = self.ns.one("select (extract(epoch from now()) * 1e6)::bigint")
        rows = self.conn.execute(self.sql["claim"], self.params("claim", room)).fetchall()
        rows = [row for row in rows if row[0] is not None]
        self.looks.learn(["w"], [(row[1], row[10]) for row in rows], len(rows) < room, now)
        return [row[0] for row in rows]

    def pages(self, query: str) -> int:
        """Pages of the tables that one look reads. Undone afterwards."""
        text = "select " + self.ns.schema + ".fence(%s)" if query == "fence" else self.sql[query]
        with self.conn.transaction(force_rollback=True):
            row = self.conn.execute("explain (analyze, buffers, format json) " + text, self.params(query)).fetchone()
        (plan,) = row if row is not None else (None,)
        plan = json.loads(plan) if isinstance(plan, str) else plan
        return plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


def churn(ns: Namespace, poller: Poller) -> None:
    """Claims, parks, signals and beats, as many as a busy while brings."""
    for _ in range(ROUNDS):
        ids = poller.claim(AT_ONCE)
        assert len(ids) == AT_ONCE
        ns.rows(
            "update @.instances set status = 'waiting', wake_at = clock_timestamp(), owner = null where id = any (%s)",
            ids,
        )
        place = ns.one(
            "with e as (insert into @.events (instance_id, kind, name) select u, 'signal', 's'"
            " from unnest(%s::uuid[]) u returning seq) select max(seq) from e",
            ids[:300],
        )
        ns.rows("delete from @.events where seq <= %s", place)
        poller.looks._after_event, poller.looks.full = place, False  # as ten seconds later
        for _ in range(20):
            ns.rows("select @.beat(%s, '1 minute', %s)", poller.worker, json.dumps({"stats": "x" * 400}))


@pytest.mark.parametrize("vacuumed", [False, True])
def test_what_a_look_reads_does_not_grow_behind_an_old_snapshot(
    ns: Namespace, snapshot: psycopg.Connection, vacuumed: bool
) -> None:
    ns.rows(
        "insert into @.instances (id, workflow, version, status, input, wake_at)"
        " select @.new_id(), 'w', '1', 'waiting', '{}', now() from generate_series(1, %s)",
        2 * AT_ONCE,
    )
    with closing(Poller(ns)) as poller:
        grow(ns, poller, vacuumed)


def grow(ns: Namespace, poller: Poller, vacuumed: bool) -> None:
    queries = ("claim", "next_due", "owned_events", "fence", "drop_stale_events")
    before = {query: poller.pages(query) for query in queries}
    churn(ns, poller)
    if vacuumed:
        ns.rows("vacuum @.instances, @.events, @.workers, @.fences")
    after = {query: poller.pages(query) for query in queries[:4]}

    for query, pages in after.items():
        assert pages <= 2 * before[query] + 60, (query, before, after)
    # This is what was held back: a look from the beginning walks over it.
    poller.looks = Looks()
    whole = {query: poller.pages(query) for query in ("claim", "next_due", "owned_events")}
    assert all(whole[query] > 3 * after[query] for query in whole), (after, whole)


def test_a_fence_that_fell_stays_down_also_for_a_transaction_that_keeps_its_snapshot(ns: Namespace) -> None:
    worker = ns.worker()
    step = ns.session(autocommit=False)
    step.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    ns.rows("select count(*) from @.fences", on=step)  # the snapshot
    assert ns.one("select @.take_over(%s, 0, null)", worker)
    with pytest.raises(psycopg.errors.SerializationFailure):
        ns.rows("select @.fence(%s)", worker, on=step)
    step.rollback()
    assert ns.rows("select * from @.fences") == []


def test_a_worker_that_leaves_takes_its_fence_along(ns: Namespace) -> None:
    worker, other = ns.worker(), ns.worker()
    assert ns.rows("select worker from @.fences order by 1") == [(worker,), (other,)]
    ns.rows("select @.leave_worker(%s)", worker)
    assert ns.rows("select worker from @.fences") == [(other,)]
