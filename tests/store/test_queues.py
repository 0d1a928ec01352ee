"""Queues: what their lines let go, by limits, rates, priority and shares, whoever claims at once and whoever dies."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgdurable._store import migrations

from .namespace import Namespace, refused
from .test_partitions import version_1

ENDS = ("completed", "failed", "cancelled", "timed_out")


def claim(ns: Namespace, worker: int, room: int = 100, listens: list[str] | None = None, on: Any = None) -> list[Any]:
    """The ids of what a worker is given that has version 1 of workflow w."""
    text = "select id from @.claim(%s, '{w}', '{1}', '{t}', %s, listens => %s)"
    return [id for (id,) in ns.rows(text, worker, room, listens, on=on)]


def again(ns: Namespace, worker: int, listens: list[str] | None = None) -> float | None:
    """In how many seconds a claim of nothing says to look again."""
    rows = ns.rows(
        "select id, extract(epoch from woke_at - clock_timestamp())::float8"
        " from @.claim(%s, '{w}', '{1}', '{t}', 100, listens => %s, tell => true)", worker, listens,
    )  # fmt: skip
    assert [id for id, _ in rows if id is not None] == []
    return rows[0][1] if rows else None


def fill(ns: Namespace, n: int, queue: str = "mail", partition: str = "", priority: int = 0) -> list[uuid.UUID]:
    """n instances of w, started by start_many."""
    ids = [ns.one("select @.new_id()") for _ in range(n)]
    ns.rows(
        "select @.start_many(%s, 'w', '1', %s, %s, priority => %s, partition => %s)",
        ids, queue, ["{}"] * n, priority, partition,
    )  # fmt: skip
    return ids


def end(ns: Namespace, ids: Any, status: str = "completed") -> None:
    """As a worker ends them."""
    ns.rows(
        "update @.instances set status = %s, owner = null, finished_at = now() where id = any (%s)", status, list(ids)
    )


def held(ns: Namespace, queue: str = "mail") -> int:
    return ns.one("select count(*) from @.instances where queue = %s and owner is not null", queue)


def of_partition(ns: Namespace, ids: Any) -> Counter[str]:
    return Counter(p for (p,) in ns.rows("select partition from @.instances where id = any (%s)", list(ids)))


# -- which queues


def test_a_queue_without_limits_lets_everybody_go(ns: Namespace) -> None:
    ids = fill(ns, 30)
    assert set(claim(ns, ns.worker(), 20)) | set(claim(ns, ns.worker(), 20)) == set(ids)
    assert ns.rows("select distinct status, line from @.instances") == [("running", None)]


def test_a_worker_takes_only_of_queues_it_listens_to(ns: Namespace) -> None:
    mail, sms, plain = fill(ns, 2, "mail"), fill(ns, 2, "sms"), [ns.instance(), ns.instance()]
    worker = ns.worker()
    assert claim(ns, worker, listens=["fax"]) == []
    assert set(claim(ns, worker, listens=["mail", "fax"])) == set(mail)
    assert set(claim(ns, worker, listens=["default"])) == set(plain)
    assert set(claim(ns, worker)) == set(sms)


@pytest.mark.parametrize("what", ["orphan", "parked", "called", "pending", "suspect"])
def test_what_is_of_another_queue_is_left_alone_whatever_it_waits_for(ns: Namespace, what: str) -> None:
    columns: dict[str, Any] = {"queue": "sms", "started_at": "2001-01-01"}
    if what in ("orphan", "suspect"):
        columns |= {"status": "running", "owner": ns.dead_worker(), "wake_at": None}
        columns |= {"strikes": 2 if what == "suspect" else 0}
    elif what in ("parked", "called"):
        columns |= {"status": "waiting", "wake_at": "2001-01-01" if what == "parked" else None}
    id = ns.instance(**columns)
    if what == "called":
        ns.rows("insert into @.events (instance_id, kind) values (%s, 'signal')", id)
    worker = ns.worker()
    for listens in (["mail"], ["default"]):
        assert claim(ns, worker, listens=listens) == []
        assert claim(ns, worker, listens=listens) == []
    assert claim(ns, worker, listens=["sms"]) == [id]


def test_an_instance_of_before_there_were_lines_is_found(ns: Namespace) -> None:
    # As the library before wrote it: with a queue or a priority, and nothing else.
    ids = {ns.instance(queue="mail"), ns.instance(priority=5), ns.instance(queue="mail", wake_at="2001-01-01")}
    assert set(claim(ns, ns.worker())) == ids


def test_a_delayed_start_is_not_in_line_before_its_time(ns: Namespace) -> None:
    worker = ns.worker()
    id = uuid.UUID(ns.one("select @.start('w', queue => 'mail', delay => '1 hour')"))
    assert claim(ns, worker) == []
    due = ns.one("select @.next_due('{w}', array[null]::timestamptz[])")
    assert 3590 < due <= 3600
    assert ns.one("select @.next_due('{w}', array[null]::timestamptz[], '{sms}')") is None
    ns.rows("update @.instances set wake_at = now()")
    assert claim(ns, worker) == [id]


# -- how many


def test_concurrency_holds_over_all_workers(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 5)")
    fill(ns, 20)
    one, two = ns.worker(), ns.worker()
    first = claim(ns, one, 3) + claim(ns, two)
    assert len(first) == 5
    assert claim(ns, one) == claim(ns, two) == []
    end(ns, first[:2])
    assert len(claim(ns, two)) == 2


@pytest.mark.parametrize("status", [*ENDS, "paused", "waiting"])
def test_whatever_an_instance_comes_to_frees_its_slot(ns: Namespace, status: str) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 1, partition_concurrency => 1, worker_concurrency => 1)")
    fill(ns, 2, partition="a")
    worker = ns.worker()
    (first,) = claim(ns, worker)
    assert claim(ns, worker) == []
    ns.rows("update @.instances set status = %s, owner = null where id = %s", status, first)
    (second,) = claim(ns, worker)
    assert second != first


def test_worker_concurrency_holds_for_each(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', worker_concurrency => 2, concurrency => 5)")
    fill(ns, 20)
    assert [len(claim(ns, ns.worker())) for _ in range(4)] == [2, 2, 1, 0]


def test_a_limit_can_be_taken_away_and_a_queue_paused(ns: Namespace) -> None:
    worker = ns.worker()
    ns.rows("select @.set_queue('mail', concurrency => 1, paused => true)")
    fill(ns, 10)
    assert claim(ns, worker) == []
    ns.rows("select @.set_queue('mail', paused => false)")
    assert len(claim(ns, worker)) == 1
    ns.rows("select @.set_queue('mail', concurrency => 4)")
    assert len(claim(ns, worker)) == 3
    ns.rows("select @.set_queue('mail', concurrency => 0)")
    assert len(claim(ns, worker)) == 6


def test_a_dead_workers_slots_are_kept_until_taken_over_and_never_doubled(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 3, worker_concurrency => 2)")
    doomed, other, third = ns.worker("doomed"), ns.worker(), ns.worker()
    ids = fill(ns, 10)
    lost = claim(ns, doomed)
    assert (len(lost), len(claim(ns, other))) == (2, 1)
    assert claim(ns, third) == []
    assert ns.one("select @.take_over(%s, 0, null)", doomed)

    # What he held goes first; the survivor has one already and may have two.
    again_one = claim(ns, other)
    assert len(again_one) == 1
    assert set(again_one) < set(lost)
    assert held(ns) == 2
    again_two = claim(ns, third)
    assert set(again_one + again_two) == set(lost)
    assert held(ns) == 3
    assert ns.rows("select takeovers, strikes from @.instances where id = any (%s)", lost) == [(1, 1)] * 2
    end(ns, ids[:10])
    assert held(ns) == 0


def test_limits_hold_when_worker_after_worker_dies(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 4, worker_concurrency => 2)")
    fill(ns, 8)
    for _ in range(3):
        workers = [ns.worker(), ns.worker()]
        assert [len(claim(ns, worker)) for worker in workers] == [2, 2]
        assert claim(ns, workers[0]) == []
        for worker in workers:
            # They got on: what dies without getting on is another matter (test_strikes).
            ns.rows(
                "insert into @.history (instance_id, event_id, kind, recorded_at)"
                " select id, (select count(*) from @.history), 'step', clock_timestamp()"
                " from @.instances where owner = %s", worker,
            )  # fmt: skip
            assert ns.one("select @.take_over(%s, 0, null)", worker)
    survivor = ns.worker()
    assert len(claim(ns, survivor)) == 2
    assert held(ns) == 2


def test_one_bad_instance_in_a_claimed_batch_strands_nobody(ns: Namespace) -> None:
    ids = fill(ns, 5)
    locked = ns.session(autocommit=False)
    ns.rows("select from @.instances where id = %s for update", ids[2], on=locked)
    worker = ns.worker()
    assert set(claim(ns, worker)) == set(ids) - {ids[2]}
    locked.rollback()
    assert claim(ns, worker) == [ids[2]]


# -- parked instances


def park(ns: Namespace, ids: Any, wake_at: Any = None) -> None:
    ns.rows(
        "update @.instances set status = 'waiting', owner = null, wake_at = %s where id = any (%s)", wake_at, list(ids)
    )


def test_a_parked_instance_holds_no_slot_and_needs_one_to_go_on_before_what_has_not_begun(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 1)")
    worker = ns.worker()
    first, second, third = fill(ns, 3)
    assert claim(ns, worker) == [first]
    park(ns, [first], "2001-01-01")
    # Its time has come: it goes on before the second begins.
    assert claim(ns, worker) == [first]
    park(ns, [first], "2999-01-01")
    assert claim(ns, worker) == [second]
    ns.rows("insert into @.events (instance_id, kind) values (%s, 'signal')", first)
    assert claim(ns, worker) == []  # called, and no slot is free
    end(ns, [second])
    assert claim(ns, worker) == [first]
    end(ns, [first])
    assert claim(ns, worker) == [third]


def test_parked_instances_of_queues_without_limits_are_woken_by_time_and_by_events(ns: Namespace) -> None:
    worker = ns.worker()
    ids = fill(ns, 2)
    assert set(claim(ns, worker)) == set(ids)
    park(ns, ids[:1], "2001-01-01")
    park(ns, ids[1:])
    assert claim(ns, worker) == ids[:1]
    ns.rows("insert into @.events (instance_id, kind) select %s, 'signal' from generate_series(1, 3)", ids[1])
    assert claim(ns, worker) == ids[1:]


# -- rates


def test_no_more_begin_in_any_window_than_the_rate_says(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', rate_count => 7, rate_seconds => 0.5)")
    fill(ns, 30)
    sessions = [(ns.worker(), ns.session()) for _ in range(5)]

    def work(worker: int, session: psycopg.Connection) -> int:
        taken = 0
        until = time.monotonic() + 30
        while ns.one("select count(*) from @.instances where owner is null", on=session) and time.monotonic() < until:
            taken += len(claim(ns, worker, random.randint(1, 5), on=session))
        return taken

    assert sum(share.result(40) for share in [ns.threads.submit(work, *one) for one in sessions]) == 30
    most = ns.one(
        "select max(n) from (select count(*) over (order by started_at range between interval '0.499999 s' preceding"
        " and current row) as n from @.instances) w"
    )
    assert most == 7
    took = ns.one("select extract(epoch from max(started_at) - min(started_at))::float8 from @.instances")
    assert 2.0 <= took < 10


def test_what_begins_counts_when_it_is_gone_and_what_goes_on_does_not(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', rate_count => 2, rate_seconds => 3600)")
    worker = ns.worker()
    fill(ns, 5)
    begun = claim(ns, worker)
    assert len(begun) == 2
    assert 3590 < (again(ns, worker) or 0) <= 3600
    park(ns, begun, "2001-01-01")
    assert set(claim(ns, worker)) == set(begun)  # they have begun before
    ns.rows("delete from @.instances where id = any (%s)", begun)
    assert claim(ns, worker) == []
    ns.rows("update @.queue_starts set at = at - interval '1 hour'")
    assert len(claim(ns, worker)) == 2


def test_each_partition_has_its_rate(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', partition_rate_count => 2, partition_rate_seconds => 60)")
    ns.rows("select @.set_queue_partition('mail', 'vip', rate_count => 5, rate_seconds => 60)")
    for partition in ("a", "b", "vip"):
        fill(ns, 10, partition=partition)
    worker = ns.worker()
    assert of_partition(ns, claim(ns, worker)) == {"a": 2, "b": 2, "vip": 5}
    assert 50 < (again(ns, worker) or 0) <= 60


def test_old_starts_are_forgotten(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', rate_count => 2, rate_seconds => 60)")
    ns.rows("insert into @.queue_starts select 'mail', '', now() - n * interval '30 s', 1 from generate_series(0, 9) n")
    assert ns.one("select @.forget_queue_starts('mail')") == 6
    assert ns.one("select count(*) from @.queue_starts") == 4


# -- order


def test_the_lower_priority_goes_first_then_who_waits_longest(ns: Namespace) -> None:
    for queue in ("mail", "default"):
        low, usual, urgent = fill(ns, 2, queue, priority=5), fill(ns, 2, queue), fill(ns, 2, queue, priority=-3)
        worker = ns.worker()
        order = [claim(ns, worker, 1, listens=[queue]) for _ in range(6)]
        if queue == "mail":
            assert order == [[id] for id in urgent + usual + low]
        else:  # Those of the usual priority are plain: they take turns with the others.
            assert [id for (id,) in order if id in urgent + low] == urgent + low
            assert [id for (id,) in order if id in usual] == usual


def test_plain_instances_and_lines_do_not_starve_each_other(ns: Namespace) -> None:
    fill(ns, 300, "mail")
    plain = fill(ns, 300, "default")
    worker = ns.worker()
    given = [claim(ns, worker, room) for room in [1, 4] * 40]
    assert all(len(one) == room for one, room in zip(given, [1, 4] * 40, strict=True))
    of_plain = len({id for one in given for id in one} & set(plain))
    assert 20 <= of_plain <= 160


def test_partitions_share_by_weight(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 40)")
    ns.rows("select @.set_queue_partition('mail', 'b', weight => 3)")
    for partition in ("a", "b"):
        fill(ns, 200, partition=partition)
    worker = ns.worker()
    assert of_partition(ns, claim(ns, worker)) == {"a": 10, "b": 30}
    # Whoever has the fewest for its weight gets what is free.
    end(ns, [id for (id,) in ns.rows("select id from @.instances where owner is not null and partition = 'b'")])
    assert of_partition(ns, claim(ns, worker)) == {"b": 30}
    end(ns, [id for (id,) in ns.rows("select id from @.instances where owner is not null and partition = 'a' limit 1")])
    assert of_partition(ns, claim(ns, worker)) == {"a": 1}


def test_a_small_partition_does_not_wait_behind_a_large_one(ns: Namespace) -> None:
    fill(ns, 2000, partition="large")
    (small,) = fill(ns, 1, partition="small")
    assert small in claim(ns, ns.worker(), 2)


def test_many_partitions_all_get_their_turn(ns: Namespace) -> None:
    ns.rows(
        "insert into @.instances (id, workflow, version, queue, partition, line, input)"
        " select @.new_id(), 'w', '1', 'mail', 'p' || mod(g, 1500), 0, '{}' from generate_series(1, 3000) g"
    )
    worker = ns.worker()
    rounds = [claim(ns, worker, 500) for _ in range(6)]
    assert [len(one) for one in rounds] == [500] * 6
    assert max(of_partition(ns, rounds[0]).values()) == 1


def test_partitions_have_limits_of_their_own(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', partition_concurrency => 2)")
    ns.rows("select @.set_queue_partition('mail', 'c', concurrency => 4, worker_concurrency => 1)")
    ns.rows("select @.set_queue_partition('mail', 'd', paused => true)")
    for partition in ("a", "b", "c", "d"):
        fill(ns, 10, partition=partition)
    one, two = ns.worker(), ns.worker()
    assert of_partition(ns, claim(ns, one)) == {"a": 2, "b": 2, "c": 1}
    assert of_partition(ns, claim(ns, two)) == {"c": 1}
    ns.rows("select @.set_queue_partition('mail', 'd', paused => false)")
    assert of_partition(ns, claim(ns, two)) == {"d": 2}


# -- at once


def test_many_workers_at_once_keep_all_limits(ns: Namespace) -> None:
    ns.rows("select @.set_queue('mail', concurrency => 6, worker_concurrency => 3, partition_concurrency => 2)")
    for partition in "abcde":
        fill(ns, 30, partition=partition)
    sessions = [(ns.worker(), ns.session()) for _ in range(6)]
    excess: list[Any] = []

    def look(session: psycopg.Connection) -> None:
        rows = ns.rows(
            "select count(*), max(n_here), max(n_part) from (select count(*) over (partition by owner) as n_here,"
            " count(*) over (partition by partition) as n_part from @.instances where owner is not null) h", on=session,
        )  # fmt: skip
        if rows[0][0] > 6 or (rows[0][1] or 0) > 3 or (rows[0][2] or 0) > 2:
            excess.append(rows)

    def work(worker: int, session: psycopg.Connection) -> int:
        done = 0
        until = time.monotonic() + 60
        while time.monotonic() < until:
            given = claim(ns, worker, on=session)
            look(session)
            if given:
                ns.rows(
                    "update @.instances set status = 'completed', owner = null where id = any (%s)", given, on=session
                )
                done += len(given)
            elif not ns.one("select exists (select from @.instances where status = 'pending')", on=session):
                break
        return done

    assert sum(share.result(90) for share in [ns.threads.submit(work, *one) for one in sessions]) == 150
    assert not excess


def test_a_busy_queue_is_passed_over_and_looked_at_again(ns: Namespace) -> None:
    fill(ns, 20)
    plain = ns.instance()
    one, two = ns.worker(), ns.worker()
    open_session = ns.session(autocommit=False)
    assert len(claim(ns, one, 5, listens=["mail"], on=open_session)) == 5
    assert claim(ns, two) == [plain]
    soon = again(ns, two)
    assert soon is not None
    assert soon < 1
    open_session.commit()
    assert len(claim(ns, two)) == 15


# -- what is refused


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("set_queue('default', concurrency => 1)", "queue 'default' can have no limits"),
        ("set_queue(null)", "can have no limits"),
        ("set_queue('q', concurrency => -1)", "do not fit"),
        ("set_queue('q', rate_count => 1)", "do not fit"),
        ("set_queue('q', rate_seconds => 1)", "do not fit"),
        ("set_queue('q', partition_rate_count => 1, partition_rate_seconds => 1e9)", "do not fit"),
        ("set_queue_partition('q', '')", "is no partition"),
        ("set_queue_partition('q', 'p', weight => 0)", "do not fit"),
        ("set_queue_partition('q', 'p', rate_count => 3)", "do not fit"),
        ("set_queue_partition('default', 'p')", "can have no limits"),
    ],
)
def test_what_is_no_limit_is_refused(ns: Namespace, text: str, match: str) -> None:
    with refused("PGD05", match):
        ns.rows(f"select @.{text}")
    assert ns.one("select count(*) from @.queues") == 0


def test_queue_stats_tell_who_listens(ns: Namespace) -> None:
    fill(ns, 2, partition="a")
    fill(ns, 1, partition="b")
    ns.one("""select @.join_worker('x', '[{"name": "w", "version": "1"}]', '1 minute', queues => '{sms}')""")
    ns.rows("select @.set_queue('mail', paused => true)")
    stats = "select queue, due, partitions_due, listeners, paused from @.queue_stats"
    assert ns.rows(stats) == [("mail", 3, 2, 0, True)]
    ns.one("""select @.join_worker('y', '[{"name": "w", "version": "1"}]', '1 minute')""")
    assert ns.rows(stats) == [("mail", 3, 2, 1, True)]


def test_a_fork_stays_in_its_partition(ns: Namespace) -> None:
    (id,) = fill(ns, 1, partition="a")
    ns.rows("update @.instances set status = 'completed'")
    ns.one("select @.fork(%s)", str(id))
    assert ns.rows("select partition, queue from @.instances where status = 'pending'") == [("a", "mail")]
    assert len(claim(ns, ns.worker())) == 1


# -- from before there were queues


def test_a_schema_of_version_1_is_brought_forward_with_its_data(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first version stored with a queue or a priority is claimed as if it had been started today."""
    version_1(dsn, schema, monkeypatch)
    rows = [
        ("default", 0, "pending"), ("mail", 0, "pending"), ("default", 7, "pending"), ("mail", 0, "waiting"),
        ("mail", -1, "pending"), ("mail", 0, "completed"), ("mail", 0, "running"),
    ]  # fmt: skip
    with psycopg.connect(dsn, autocommit=True) as conn:
        for queue, priority, status in rows:
            conn.execute(
                f"insert into {schema}.instances"
                " (id, wake_at, workflow, version, input, queue, priority, status, owner)"
                " values (gen_random_uuid(), now() - interval '1 hour', 'w', '1', '{}', %s, %s, %s, %s)",
                (queue, priority, status, 1 if status == "running" else None),
            )
        conn.execute(f"update {schema}.instances set started_at = created_at where status = 'waiting'")
        conn.execute(f"insert into {schema}.workers (name, lease_until, state) values ('old', now(), 'dead')")
        migrations.migrate(dsn, schema)
        with ThreadPoolExecutor(1) as threads:
            ns = Namespace(dsn, schema, threads, [conn])
            ns.rows("select @.set_queue('mail', concurrency => 2)")
            worker = ns.worker()
            given = claim(ns, worker)
            # Two of the queue: what has begun before goes first. The plain one, and the one that waits by its priority.
            assert len(given) == 4
            of_mail = "select status, priority from @.instances where queue = 'mail' and id = any (%s)"
            of_each = "select queue, count(*) from @.instances where id = any (%s) group by 1 order by 1"
            assert ns.rows(of_each, given) == [("default", 2), ("mail", 2)]
            end(ns, given)
            rest = claim(ns, worker)
            assert sorted(ns.rows(of_mail, rest)) == [("running", -1), ("running", 0)]
            assert ns.one("select count(*) from @.instances where status = 'pending'") == 0
