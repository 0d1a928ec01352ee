"""claim() and judge(): who is suspected of killing workers, in which company it runs, and who is cleared."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from pgdurable._store.sql import named_queries

from .namespace import Namespace


def claim(ns: Namespace, worker: int, room: int = 5000, most: int | None = 5, on_trial: int = 0) -> list[Any]:
    """(id, strikes, trial) of each."""
    return ns.rows(
        "select id, strikes, trial from @.claim(%s, '{w}', '{1}', '{t}', %s, %s, %s)", worker, room, most, on_trial
    )


def die(ns: Namespace, worker: int) -> None:
    assert ns.one("select @.take_over(%s, 0, null)", worker)


def left_by_dead(ns: Namespace, n: int, strikes: int, lived: str = "1 s") -> int:
    """n instances of a worker that has just died, claimed so long before."""
    dead = ns.dead_worker()
    ns.rows(
        "insert into @.instances (id, workflow, version, input, status, owner, wake_at, strikes, taken_at)"
        " select @.new_id(), 'w', '1', '{}', 'running', %s, null, %s, now() - %s::interval"
        " from generate_series(1, %s)",
        dead, strikes, lived, n,
    )  # fmt: skip
    return dead


def record(ns: Namespace, id: uuid.UUID, event: int) -> None:
    ns.rows("insert into @.history (instance_id, event_id, kind) values (%s, %s, 'step')", id, event)


def test_strikes_count_up_while_it_does_not_get_on(ns: Namespace) -> None:
    id = ns.instance(status="running", owner=ns.dead_worker(), wake_at=None)
    record(ns, id, 1)
    for strikes in range(1, 5):
        worker = ns.worker()
        assert [row[:2] for row in claim(ns, worker)] == [(id, strikes)]
        die(ns, worker)
    assert claim(ns, ns.worker()) == []
    ((status, owner, error, takeovers),) = ns.rows("select status, owner, error, takeovers from @.instances")
    assert (status, owner, takeovers) == ("paused", None, 5)
    assert error["type"] == "pgdurable.errors.Quarantined"
    assert error["message"].startswith("each of the last 5 workers that ran this instance died before it got on, w (")
    assert ns.rows("select id, status, type from @.failures") == [(id, "paused", "pgdurable.errors.Quarantined")]

    assert ns.one("select @.retry(%s)", str(id)) is True
    assert ns.rows("select status, strikes, takeovers, error from @.instances") == [("pending", 0, 5, None)]
    assert [row[:2] for row in claim(ns, ns.worker())] == [(id, 0)]
    assert ns.one("select @.retry(%s)", str(id)) is False


@pytest.mark.parametrize(
    ("limits", "most", "others"),
    [
        ("worker_concurrency => 3", 3, 2), ("partition_worker_concurrency => 1", 2, 1), ("concurrency => 10", 5, 0),
        ("worker_concurrency => 4, partition_worker_concurrency => 1", 2, 1),
    ],
)  # fmt: skip
def test_suspects_keep_to_what_their_queue_lets_one_worker_hold(
    ns: Namespace, limits: str, most: int, others: int
) -> None:
    """With two strikes they leave the line; the limits stay."""
    ns.one(f"select @.set_queue('mail', {limits})")
    left_by_dead(ns, 5, strikes=2)
    ns.rows("update @.instances set queue = 'mail', partition = 'a'")
    ns.rows("update @.instances set partition = 'b' where id = (select min(id::text)::uuid from @.instances)")
    one = ns.worker()
    taken = [row for _ in range(6) for row in claim(ns, one)]
    assert len(taken) == most
    assert {(strikes, trial is not None) for _, strikes, trial in taken} == {(3, True)}
    other = ns.worker()
    assert len([row for _ in range(6) for row in claim(ns, other)]) == others


def test_without_a_limit_nothing_is_set_aside(ns: Namespace) -> None:
    left_by_dead(ns, 1, strikes=99)
    ((_, strikes, trial),) = claim(ns, ns.worker(), most=None)
    assert (strikes, trial is not None) == (100, True)


def test_what_gets_on_starts_again_with_one(ns: Namespace) -> None:
    left_by_dead(ns, 2, strikes=3)
    idle, busy = ns.rows("select id from @.instances order by id")
    record(ns, busy[0], 7)
    rows = claim(ns, ns.worker())
    assert [(id, strikes) for id, strikes, trial in rows if trial is None] == [(busy[0], 1)]
    assert [(id, strikes) for id, strikes, trial in rows if trial is not None] == [(idle[0], 4)]


def test_a_worker_that_stops_in_good_order_is_no_strike(ns: Namespace) -> None:
    stopped = ns.worker()
    id = ns.instance(status="running", owner=stopped, wake_at=None, strikes=1, taken_at="2020-01-01")
    ns.rows("select @.leave_worker(%s)", stopped)
    assert claim(ns, ns.worker()) == [(id, 1, None)]
    assert ns.one("select takeovers from @.instances") == 0


@pytest.mark.parametrize(
    ("had", "found"), [(1, [1000, 1000, 0]), (2, [32, 32, 0]), (3, [1, 1, 0])], ids=["two", "three", "the last"]
)
def test_suspects_run_in_ever_smaller_company(ns: Namespace, had: int, found: list[int]) -> None:
    left_by_dead(ns, 2000, strikes=had, lived="10 s")
    worker = ns.worker()
    first = claim(ns, worker)
    assert len(first) == found[0]
    assert {strikes for _, strikes, _ in first} == {had + 1}
    trials = {round(trial) for _, _, trial in first}
    assert trials == {2 if had == 1 else 25}
    assert len(claim(ns, worker, on_trial=found[0])) == found[2]
    assert len(claim(ns, worker, on_trial=0)) == found[1]
    assert len(claim(ns, ns.worker("other"))) == (0 if had == 1 else found[0])  # each worker has trials of its own


def test_a_company_is_filled_up(ns: Namespace) -> None:
    left_by_dead(ns, 100, strikes=2)
    worker = ns.worker()
    assert len(claim(ns, worker, on_trial=30)) == 2
    assert len(claim(ns, worker, room=5, on_trial=0)) == 5


def test_the_least_suspected_run_first_and_others_beside_them(ns: Namespace) -> None:
    left_by_dead(ns, 3, strikes=3)
    left_by_dead(ns, 3, strikes=2)
    left_by_dead(ns, 3, strikes=0)
    due = ns.instance()
    worker = ns.worker()
    assert sorted(strikes for _, strikes, _ in claim(ns, worker)) == [0, 1, 1, 1, 3, 3, 3]
    assert due in [row[0] for row in ns.rows("select id from @.instances where owner = %s", worker)]
    assert [strikes for _, strikes, _ in claim(ns, worker)] == [4]


def test_room_holds_for_suspects_too(ns: Namespace) -> None:
    left_by_dead(ns, 20, strikes=1)
    left_by_dead(ns, 20, strikes=0)
    worker = ns.worker()
    counts = []
    while rows := claim(ns, worker, room=7):
        counts.append(len(rows))
    assert sum(counts) == 40
    assert max(counts) == 7


def test_only_a_worker_that_has_the_workflow_judges(ns: Namespace) -> None:
    dead = left_by_dead(ns, 1, strikes=4)
    ns.rows("update @.instances set workflow = 'other'")
    assert claim(ns, ns.worker()) == []
    assert ns.rows("select owner, status, strikes from @.instances") == [(dead, "running", 4)]


def test_suspects_that_wait_for_their_turn_are_no_ones(ns: Namespace) -> None:
    dead = left_by_dead(ns, 40, strikes=2)
    claim(ns, ns.worker())
    assert ns.rows("select owner, status, count(*) from @.instances where owner < 0 group by 1, 2") == [
        (-dead, "pending", 8)
    ]
    assert ns.rows("select due, running from @.queue_stats") == [(8, 32)]
    assert ns.one("select count(*) from @.running") == 32
    # The worker they come from is not forgotten while they wait.
    ns.rows("update @.workers set ended_at = now() - interval '2 days' where id = %s", dead)
    ns.worker()
    assert ns.one("select count(*) from @.workers where id = %s", dead) == 1


def test_leaving_memory_in_good_order_clears(ns: Namespace) -> None:
    worker = ns.worker()
    id = ns.instance(status="running", owner=worker, wake_at=None, strikes=3)
    ns.main.pgconn.exec_params(
        named_queries("flush", ns.schema)["release_instances"].encode(),
        [str(worker).encode(), f"{{{id}}}".encode(), b"{waiting}", b"{null}", b"{null}", b"{null}"],
    )
    assert ns.rows("select status, owner, strikes from @.instances") == [("waiting", None, 0)]


def test_workers_that_left_nothing_are_passed_over(ns: Namespace) -> None:
    """A claim looks at each that ended: a year of deploys must not slow it down."""
    mark = named_queries("worker", ns.schema)["mark_emptied"]
    dead = left_by_dead(ns, 40, strikes=2)
    ns.dead_worker()
    worker = ns.worker()
    assert len(claim(ns, worker)) == 32
    ns.rows(mark)
    state = "select id, emptied from @.workers where state = 'dead' order by id"
    assert ns.rows(state) == [(dead, False), (dead + 1, True)]  # eight still wait for their turn
    assert len(claim(ns, worker)) == 8
    ns.rows(mark)
    assert ns.rows(state) == [(dead, True), (dead + 1, True)]
    assert ns.one("select emptied from @.workers where id = %s", worker) is False

    ns.rows("insert into @.workers (state, lease_until, name, emptied)"
            " select 'stopped', now(), 'w', true from generate_series(1, 5000)")  # fmt: skip
    ns.rows("set plan_cache_mode = force_generic_plan")
    reads = "select idx_scan from pg_stat_all_indexes where indexrelname = 'instances_owned' and schemaname = %s"
    before = ns.one(reads, ns.schema)
    claim(ns, worker)
    ns.rows("select pg_stat_force_next_flush()" if ns.main.info.server_version >= 150000 else "select pg_sleep(1)")
    assert ns.one(reads, ns.schema) - before < 50
