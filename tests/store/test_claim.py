"""claim(): which instances a worker is given, never one twice, never by reading the whole table."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from .namespace import Namespace


def backlog(ns: Namespace, n: int, **columns: str) -> None:
    """n instances by one statement; the columns' values are SQL with `g` counting from 1."""
    row = {"id": "@.new_id()", "workflow": "'w'", "version": "'1'", "input": "'{}'", **columns}
    ns.rows(
        f"insert into @.instances ({', '.join(row)}) select {', '.join(row.values())} from generate_series(1, {n}) g"
    )


# -- what is claimed


def test_a_pending_instance_becomes_the_workers(ns: Namespace) -> None:
    worker, parent = ns.worker(), uuid.uuid4()
    ns.one("""select @.start('w', '{"n": 1}', 'order/1', labels => '{"a": 1}')""")
    ns.rows("update @.instances set parent = %s, deadline = now() + interval '1 h'", parent)

    rows = ns.rows(
        """select id = @.find_instance('order/1'), workflow, version, input, key, started_at = now(),
                  deadline is not null, takeovers, parent, labels
             from @.claim(%s, '{w}', '{7}', '{t}', 1)""",
        worker,
    )
    assert rows == [(True, "w", "7", '{"n": 1}', "order/1", True, True, 0, parent, '{"a": 1}')]
    stored = ns.rows("select owner, status, version, wake_at, started_at is not null from @.instances")
    assert stored == [(worker, "running", "7", None, True)]
    assert ns.claim(worker) == []
    assert ns.claim(ns.worker("other")) == []


def test_only_workflows_and_versions_the_worker_has(ns: Namespace) -> None:
    wanted = {
        ns.instance(workflow="a", version="1"),
        ns.instance(workflow="a", version="2"),
        ns.instance(workflow="a", version=None),
        ns.instance(workflow="b", version="1"),
        ns.instance(workflow="b", version=None),
    }
    for workflow, version in (("a", "3"), ("b", "2"), ("c", "1"), ("c", None), ("d", None)):
        ns.instance(workflow=workflow, version=version)

    # Of d there is only an old version here: an instance without a version is not for this worker.
    claimed = ns.claim(
        ns.worker(), names=["a", "a", "b", "d"], versions=["1", "2", "1", "1"], current=[False, True, True, False]
    )
    assert set(claimed) == wanted
    versions = ns.rows("select workflow, version, count(*) from @.instances where owner is not null group by 1, 2")
    assert sorted(versions) == [("a", "1", 1), ("a", "2", 2), ("b", "1", 2)]


@pytest.mark.parametrize("room", [0, -5])
def test_without_room_nothing_is_claimed(ns: Namespace, room: int) -> None:
    worker = ns.worker()
    backlog(ns, 3)
    backlog(ns, 3, owner=str(ns.dead_worker()), status="'running'")
    backlog(ns, 3, status="'waiting'", wake_at="null")
    ns.rows("insert into @.events (instance_id, kind) select id, 'signal' from @.instances")
    assert ns.claim(worker, room) == []
    assert ns.one("select count(*) from @.instances where owner = %s", worker) == 0


def test_room_holds_for_all_kinds_together(ns: Namespace) -> None:
    worker = ns.worker()
    dead = ns.dead_worker()
    backlog(ns, 5, owner=str(dead), status="'running'")
    backlog(ns, 5, status="'waiting'", wake_at="null")
    ns.rows("insert into @.events (instance_id, kind) select id, 'signal' from @.instances where status = 'waiting'")
    backlog(ns, 5, workflow="'v'")
    backlog(ns, 5)

    counts = []
    while claimed := ns.claim(worker, 6, names=["v", "w"]):
        assert claimed == sorted(claimed)
        counts.append(len(claimed))
    assert counts == [6, 6, 6, 2]
    assert ns.rows("select owner, status, count(*) from @.instances group by 1, 2") == [(worker, "running", 20)]


def test_those_of_ended_workers_come_first_then_those_with_events(ns: Namespace) -> None:
    worker = ns.worker()
    due = ns.instance(wake_at="2000-01-01")
    called = ns.instance(status="waiting", wake_at=None)
    ns.rows("insert into @.events (instance_id, kind) values (%s, 'signal')", called)
    orphan = ns.instance(status="running", owner=ns.dead_worker(), wake_at=None)
    assert [ns.claim(worker, 1) for _ in range(4)] == [[orphan], [called], [due], []]


def test_the_longest_due_come_first(ns: Namespace) -> None:
    days = (3, 1, 2)
    ids = {day: ns.instance(status="waiting", wake_at=f"2000-01-0{day}") for day in days}
    worker = ns.worker()
    assert [ns.claim(worker, 1) for _ in days] == [[ids[day]] for day in sorted(days)]


def test_what_is_not_due_waits(ns: Namespace) -> None:
    worker = ns.worker()
    for status in ("pending", "waiting"):
        ns.instance(status=status, wake_at="2999-01-01")
    ns.instance(status="waiting", wake_at=None)
    assert ns.claim(worker) == []
    ns.rows("update @.instances set wake_at = now() where wake_at is not null")
    assert len(ns.claim(worker)) == 2


@pytest.mark.parametrize("status", ["paused", "completed", "failed", "cancelled", "timed_out"])
@pytest.mark.parametrize("owned", [False, True])
def test_paused_and_ended_instances_are_never_claimed(ns: Namespace, status: str, owned: bool) -> None:
    id = ns.instance(status=status, wake_at="2000-01-01", owner=ns.dead_worker() if owned else None)
    ns.rows("insert into @.events (instance_id, kind) values (%s, 'signal')", id)
    assert ns.claim(ns.worker()) == []


@pytest.mark.parametrize("wake_at", [None, "2999-01-01", "2000-01-01"])
def test_a_waiting_instance_with_events_is_claimed_once(ns: Namespace, wake_at: Any) -> None:
    id = ns.instance(status="waiting", wake_at=wake_at, started_at="2001-01-01")
    ns.rows("insert into @.events (instance_id, kind) select %s, 'signal' from generate_series(1, 3)", id)
    running = ns.instance(status="running", owner=ns.worker("busy"), wake_at=None)
    ns.rows("insert into @.events (instance_id, kind) values (%s, 'signal')", running)
    worker = ns.worker()
    assert ns.claim(worker) == [id]
    assert ns.rows("select takeovers, extract(year from started_at)::int from @.instances where id = %s", id) == [
        (0, 2001)
    ]
    assert ns.claim(worker) == []


def test_an_event_does_not_wake_other_workflows_or_versions(ns: Namespace) -> None:
    for columns in ({"workflow": "other"}, {"version": "2"}):
        id = ns.instance(status="waiting", wake_at=None, **columns)
        ns.rows("insert into @.events (instance_id, kind) values (%s, 'signal')", id)
    assert ns.claim(ns.worker()) == []


def test_what_a_dead_worker_held_is_taken_with_a_takeover_more(ns: Namespace) -> None:
    worker, alive, dead = ns.worker(), ns.worker("alive"), ns.worker("doomed")
    never_claimed = ns.instance(status="running", owner=dead, wake_at=None, created_at="2001-01-01")
    twice = ns.instance(status="running", owner=dead, wake_at=None, started_at="2002-01-01", takeovers=1)
    ns.instance(status="running", owner=alive, wake_at=None)
    ns.instance(status="running", owner=dead, wake_at=None, workflow="other")
    assert ns.claim(worker) == []
    assert ns.one("select @.take_over(%s, 0, %s)", dead, worker)

    assert set(ns.claim(worker)) == {never_claimed, twice}
    rows = ns.rows("select id, takeovers, extract(year from started_at)::int from @.instances where owner = %s", worker)
    assert sorted(rows) == sorted([(never_claimed, 1, 2001), (twice, 2, 2002)])
    assert ns.claim(ns.worker("late")) == []


def test_no_workflows_backlog_starves_another(ns: Namespace) -> None:
    worker = ns.worker()
    backlog(ns, 1000, workflow="'a'", wake_at="'2000-01-01'")
    backlog(ns, 1000, workflow="'z'", wake_at="'2000-01-01'")
    waiting = ns.instance(workflow="m")
    for _ in range(60):  # each time m comes first with a chance of one in three: 1 in 10^10 of missing it
        if waiting in ns.claim(worker, 10, names=["a", "m", "z"]):
            return
    pytest.fail("m was never claimed")


# -- never one twice


def test_a_claim_passes_over_what_another_is_claiming(ns: Namespace) -> None:
    one, two = ns.worker("1"), ns.worker("2")
    backlog(ns, 20)
    backlog(ns, 20, owner=str(ns.dead_worker()), status="'running'")
    backlog(ns, 20, status="'waiting'", wake_at="null")
    ns.rows("insert into @.events (instance_id, kind) select id, 'signal' from @.instances where status = 'waiting'")
    open_session = ns.session(autocommit=False)
    other = ns.session(options="-c lock_timeout=5s")

    first = ns.claim(one, 30, on=open_session)
    second = ns.claim(two, 100, on=other)
    open_session.commit()

    assert (len(first), len(second)) == (30, 30)
    assert not set(first) & set(second)
    owners = ns.rows("select owner, count(*) from @.instances group by 1 order by 1")
    assert owners == [(one, 30), (two, 30)]


def test_many_workers_at_once_share_the_instances_out(ns: Namespace) -> None:
    backlog(ns, 1000)
    backlog(ns, 500, owner=str(ns.dead_worker()), status="'running'")
    backlog(ns, 500, status="'waiting'", wake_at="null")
    ns.rows("insert into @.events (instance_id, kind) select id, 'signal' from @.instances where status = 'waiting'")

    def drain(worker: int, session: Any) -> list[uuid.UUID]:
        mine: list[uuid.UUID] = []
        while ns.one("select exists (select from @.instances where owner is null or owner = 1)", on=session):
            mine += ns.claim(worker, 37, on=session)
        return mine

    workers = [(ns.worker(str(n)), ns.session()) for n in range(6)]
    ns.rows("update @.instances set owner = 1 where owner is not null")
    assert ns.one("select state from @.workers where id = 1") == "dead"
    shares = [ns.threads.submit(drain, *worker) for worker in workers]
    claimed = {worker: share.result(60) for (worker, _), share in zip(workers, shares, strict=True)}

    everything = [id for share in claimed.values() for id in share]
    assert len(everything) == len(set(everything)) == 2000
    assert dict(ns.rows("select owner, count(*) from @.instances group by 1")) == {
        worker: len(share) for worker, share in claimed.items() if share
    }


# -- never by reading the whole table


def reads(ns: Namespace, worker: int, room: int) -> tuple[int, int, int]:
    """(claimed, whole reads of `instances`, its rows fetched through an index) of one claim."""
    session = ns.session(autocommit=False)  # a fresh one: what it counts is this claim's alone
    claimed = len(ns.claim(worker, room, on=session))
    counts = ns.rows(
        "select seq_scan, idx_tup_fetch from pg_stat_xact_user_tables where schemaname = %s and relname = 'instances'",
        ns.schema,
        on=session,
    )
    session.rollback()
    return (claimed, *counts[0])


@pytest.mark.parametrize("statistics", ["vacuum", "vacuum analyze"])
def test_claiming_reads_what_it_claims_and_no_more(ns: Namespace, statistics: str) -> None:
    worker = ns.worker()
    backlog(ns, 20_000, wake_at="now() - g * interval '1 s'")
    backlog(ns, 20_000, status="'completed'")
    ns.rows(f"{statistics} @.instances")
    claimed, scans, fetched = reads(ns, worker, 100)
    assert (claimed, scans) == (100, 0)
    assert fetched <= 1000


@pytest.mark.parametrize("statistics", ["vacuum", "vacuum analyze"])
def test_waking_a_few_of_many_waiting_reads_only_those(ns: Namespace, statistics: str) -> None:
    worker = ns.worker()
    backlog(ns, 20_000, status="'waiting'", wake_at="null")
    backlog(ns, 10, owner=str(ns.dead_worker()), status="'running'")
    ns.rows(
        "insert into @.events (instance_id, kind) select id, 'signal' from @.instances where status = 'waiting' limit 5"
    )
    ns.rows(f"{statistics} @.instances")
    claimed, scans, fetched = reads(ns, worker, 100)
    assert (claimed, scans) == (15, 0)
    assert fetched <= 200
