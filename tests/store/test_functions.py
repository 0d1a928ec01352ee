"""Every SQL function and view but claim, one at a time, as any client may call it."""

from __future__ import annotations

import re
import uuid

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgdurable._store.sql import channel_of, named_queries, sql_files

from .namespace import Eventually, Namespace, refused

# -- start


def test_start_leaves_a_pending_instance_that_is_due(ns: Namespace) -> None:
    id = ns.one("""select @.start('checkout', '{"order": "o-1"}', labels => '{"tier": 1}', priority => 3)""")

    row = ns.rows(
        """select workflow, version, status, queue, priority, owner, input, labels, wake_at <= now(),
                  submitted_by = current_user, created_at is not null, started_at
             from @.instances where id = %s""",
        uuid.UUID(id),
    )
    assert row == [
        ("checkout", None, "pending", "default", 3, None, {"order": "o-1"}, {"tier": 1}, True, True, True, None)
    ]
    assert ns.one("select @.status(%s)", id) == "pending"


def test_start_with_a_delay_is_due_later(ns: Namespace) -> None:
    ns.one("select @.start('w', id => 'later', delay => '1 hour')")
    assert ns.one("select wake_at = created_at + interval '1 hour' from @.instances")
    assert ns.claim(ns.worker()) == []


def test_start_with_the_same_id_again_is_the_same_instance(ns: Namespace) -> None:
    for n in range(3):
        assert ns.one("select @.start('w', jsonb_build_object('n', %s::int), 'order/o-1')", n) == "order/o-1"
    assert ns.rows("select input from @.instances") == [({"n": 0},)]
    assert ns.one("select @.find_instance('order/o-1') = (select id from @.instances)")


def test_start_without_an_id_is_a_new_instance_each_time(ns: Namespace) -> None:
    first, second = (uuid.UUID(ns.one("select @.start('w')")) for _ in range(2))
    assert first != second
    assert ns.one("select count(*) from @.instances") == 2


@pytest.mark.parametrize(("ending", "instances"), [("commit", [{"n": 1}]), ("rollback", [{"n": 2}])])
def test_two_starts_of_one_id_at_once(ns: Namespace, eventually: Eventually, ending: str, instances: list) -> None:
    one, two = ns.session(autocommit=False), ns.session()
    ns.one("""select @.start('w', '{"n": 1}', 'same')""", on=one)
    second = ns.in_thread("""select @.start('w', '{"n": 2}', 'same')""", on=two)
    eventually(ns.waits(two, on=one), "the second start waits for the first")
    getattr(one, ending)()

    assert second.result(30) == "same"
    assert [row for (row,) in ns.rows("select input from @.instances")] == instances
    assert ns.one("select instance_id from @.instance_keys") == ns.one("select id from @.instances")


def test_start_is_visible_when_its_transaction_commits(ns: Namespace) -> None:
    mine = ns.session(autocommit=False)
    ns.one("select @.start('w', id => 'mine')", on=mine)
    assert ns.one("select @.status('mine')", on=mine) == "pending"
    with refused("PGD02", "mine"):
        ns.one("select @.status('mine')")
    assert ns.claim(ns.worker()) == []
    mine.commit()
    assert ns.one("select @.status('mine')") == "pending"


def test_an_id_of_another_workflow_is_refused(ns: Namespace) -> None:
    ns.one("select @.start('checkout', id => 'a')")
    with refused("PGD04", "id 'a' is an instance of workflow 'checkout', not of 'refund'"):
        ns.one("select @.start('refund', id => 'a')")
    assert ns.one("select count(*) from @.instances") == 1


def test_ids_have_1_to_512_bytes(ns: Namespace) -> None:
    assert ns.one("select @.start('w', id => %s)", "x" * 512) == "x" * 512
    for id in ("", "x" * 513, "\u00e9" * 257):
        with refused("PGD05", f"an id has 1 to 512 bytes, this one has {len(id.encode())}"):
            ns.one("select @.start('w', id => %s)", id)
    assert ns.one("select count(*) from @.instances") == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("''", "needs the name"),
        ("null", "needs the name"),
        ("'w', '3'", "is a JSON number"),
        ("'w', 'null'", "is a JSON null"),
        ("'w', null", "is a JSON null"),
    ],
)
def test_start_of_nothing_is_refused(ns: Namespace, arguments: str, match: str) -> None:
    with refused("PGD05", match):
        ns.one(f"select @.start({arguments})")
    assert ns.one("select count(*) from @.instances") == 0


def test_start_signal_and_resume_give_a_hint_on_the_channel(ns: Namespace) -> None:
    listening = ns.session()
    listening.execute(f"listen {channel_of(ns.schema)}")
    assert ns.one("select @.channel()") == channel_of(ns.schema)
    ns.one("select @.start('w', id => 'a')")
    ns.one("select @.signal('a', 'go')")
    ns.rows("update @.instances set status = 'paused'")
    assert ns.one("select @.resume('a')")
    heard = [notify.payload for notify in listening.notifies(timeout=30, stop_after=3)]
    assert heard == ["due", "event", "due"]


# -- start_keyed

START_KEYED = """
select place, instance_id, created, workflow
  from @.start_keyed(%s, %s::text[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[])
"""


def keyed(ns: Namespace, worker: int | None, keys: list[str], delays: list | None = None) -> tuple[list, list]:
    ids = sorted(ns.one("select @.new_id()") for _ in keys)
    n = len(keys)
    inputs = [f'{{"n": {i}}}' for i in range(n)]
    rows = ns.rows(START_KEYED, worker, keys, ids, ["w"] * n, ["1"] * n, inputs, ["q"] * n, delays or [None] * n)
    return ids, rows


def test_start_keyed_without_a_worker(ns: Namespace) -> None:
    ids, rows = keyed(ns, None, ["a", "b", "c"], [None, 0, 3600])
    assert rows == [(n, id, True, "w") for n, id in enumerate(ids, 1)]
    stored = ns.rows(
        "select id, status, owner, queue, version, input, started_at, wake_at > now() from @.instances order by id"
    )
    assert stored == [(id, "pending", None, "q", "1", {"n": n}, None, n == 2) for n, id in enumerate(ids)]
    assert ns.claim(ns.worker()) == ids[:2]


def test_start_keyed_under_a_worker(ns: Namespace) -> None:
    worker = ns.worker()
    ids, rows = keyed(ns, worker, ["a", "b"], [None, 3600])
    assert [created for _, _, created, _ in rows] == [True, True]
    stored = ns.rows("select id, status, owner, started_at = created_at, wake_at from @.instances order by id")
    assert stored[0] == (ids[0], "running", worker, True, None)
    assert stored[1][:4] == (ids[1], "pending", None, None)
    assert ns.claim(ns.worker("other")) == []


def test_start_keyed_leaves_what_is_there(ns: Namespace) -> None:
    ns.one("select @.start('other', id => 'b')")
    (a, *_), rows = keyed(ns, None, ["a", "b", "a"])
    assert rows == [(1, a, True, "w"), (2, None, False, None), (3, None, False, None)]
    assert ns.one("select count(*) from @.instances") == 2
    there = named_queries("client", ns.schema)["keys_there"]
    assert sorted(ns.rows(there, ["a", "b"])) == [("a", a, "w"), ("b", ns.one("select @.find_instance('b')"), "other")]


def test_start_keyed_is_fenced(ns: Namespace) -> None:
    with refused("PGD01", "no longer holds its lease"):
        keyed(ns, ns.dead_worker(), ["a"])
    assert ns.one("select count(*) from @.instance_keys") == 0


# -- ids


def test_new_id_is_version_7_unique_and_ascends_by_millisecond(ns: Namespace) -> None:
    clock = "floor(extract(epoch from clock_timestamp()) * 1000)"
    rows = ns.rows(f"select {clock}, @.new_id(), {clock} from generate_series(1, 10000)")
    ids = [id for _, id, _ in rows]
    assert {id.version for id in ids} == {7}
    assert {id.variant for id in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 10_000
    times = [id.int >> 80 for id in ids]
    assert times == sorted(times)
    assert all(before <= time <= after for (before, _, after), time in zip(rows, times, strict=True))
    random_bits = [id.int & ((1 << 62) - 1) for id in ids]
    assert len({bits >> 48 for bits in random_bits}) > 5_000


def test_find_instance_takes_a_key_before_a_uuid(ns: Namespace) -> None:
    id = ns.instance()
    for text in (str(id), str(id).upper(), id.hex):
        assert ns.one("select @.find_instance(%s)", text) == id
    for text in ("", "nobody", str(uuid.uuid4()), f"{id}x", f"{id}\n"):
        assert ns.one("select @.find_instance(%s)", text) is None
    ns.one("select @.start('w', id => %s)", str(id))  # an id that looks like somebody's uuid
    assert ns.one("select @.find_instance(%s)", str(id)) != id


# -- signal


def test_signals_keep_their_order(ns: Namespace) -> None:
    ns.one("select @.start('w', id => 'a')")
    places = [ns.one("select @.signal('a', 'go', to_jsonb(%s::int))", n) for n in range(20)]
    assert places == sorted(places)
    rows = ns.rows(
        """select kind, name, payload, instance_id = @.find_instance('a'), sent_by = current_user
             from @.events order by seq"""
    )
    assert rows == [("signal", "go", n, True, True) for n in range(20)]


def test_a_signal_without_payload_is_null(ns: Namespace) -> None:
    ns.one("select @.start('w', id => 'a')")
    ns.one("select @.signal('a', 'go')")
    ns.one("select @.signal('a', 'go', null)")
    assert ns.rows("select payload = 'null'::jsonb from @.events") == [(True,), (True,)]


def test_signals_that_go_nowhere_are_refused(ns: Namespace) -> None:
    with refused("PGD02", "no instance has the id 'nobody'"):
        ns.one("select @.signal('nobody', 'go')")
    with refused("PGD02", "no instance has the id NULL"):
        ns.one("select @.signal(null, 'go')")
    ns.one("select @.start('w', id => 'a')")
    for name in ("", None):
        with refused("PGD05", "needs a name"):
            ns.one("select @.signal('a', %s)", name)
    for status in ("completed", "failed", "cancelled", "timed_out"):
        ns.rows("update @.instances set status = %s", status)
        with refused("PGD03", f"instance 'a' has ended \\({status}\\)"):
            ns.one("select @.signal('a', 'go')")
    assert ns.one("select count(*) from @.events") == 0


def test_an_open_signal_keeps_nobody_from_the_instance(ns: Namespace) -> None:
    ns.one("select @.start('w', id => 'a')")
    sender, other = ns.session(autocommit=False), ns.session(options="-c lock_timeout=2s")
    ns.one("select @.signal('a', 'go')", on=sender)
    ns.rows("update @.instances set status = 'waiting'", on=other)
    ns.one("select @.signal('a', 'go')", on=other)
    ns.rows("delete from @.instances", on=other)
    sender.rollback()
    assert ns.one("select count(*) from @.events") == 1


# -- status, result, resume


def test_result(ns: Namespace) -> None:
    id = str(ns.instance())
    assert ns.one("select @.result(%s)", id) is None
    ns.rows("update @.instances set status = 'completed', output = '[1]'")
    assert ns.one("select @.result(%s)", id) == [1]
    assert ns.one("select @.status(%s)", id) == "completed"


@pytest.mark.parametrize("status", ["failed", "cancelled", "timed_out"])
def test_result_of_an_instance_that_ended_otherwise(ns: Namespace, status: str) -> None:
    error = Jsonb({"type": "shop.OutOfStock", "message": "none left"})
    with refused("PGD06", f"ended {status}: none left\nDETAIL:  shop.OutOfStock"):
        ns.one("select @.result(%s)", str(ns.instance(status=status, error=error)))
    with refused("PGD06", f"ended {status}\nDETAIL:  No error was recorded"):
        ns.one("select @.result(%s)", str(ns.instance(status=status)))


@pytest.mark.parametrize("function", ["status", "result", "resume", "need_instance"])
def test_an_unknown_id_is_an_error_even_in_an_empty_namespace(ns: Namespace, function: str) -> None:
    ns.rows("vacuum @.instances")  # now the planner knows it is empty, and scans it
    with refused("PGD02", "no instance has the id 'nobody'"):
        ns.one(f"select @.{function}('nobody')")


def test_resume(ns: Namespace) -> None:
    id = ns.instance(status="paused", error=Jsonb({"message": "diverged"}), wake_at=None)
    worker = ns.worker()
    assert ns.claim(worker) == []
    assert ns.one("select @.resume(%s)", str(id)) is True
    assert ns.rows("select status, owner, error, wake_at <= now() from @.instances") == [("pending", None, None, True)]
    assert ns.one("select @.resume(%s)", str(id)) is False
    assert ns.claim(worker) == [id]


# -- workers: fence, beat, take over, leave


def test_every_incarnation_has_its_own_id(ns: Namespace) -> None:
    ids = [ns.worker("same name", lease=30) for _ in range(3)]
    assert len(set(ids)) == 3
    assert ns.rows("select distinct state, beat, lease_until = started_at + interval '30 s' from @.workers") == [
        ("alive", 0, True)
    ]


def test_incarnations_that_ended_long_ago_are_forgotten_when_they_own_nothing(ns: Namespace) -> None:
    gone, owning, recent, alive = (ns.worker(str(n)) for n in range(4))
    ns.rows(
        "update @.workers set state = 'dead', ended_at = now() - interval '2 days' where id = any (%s)", [gone, owning]
    )
    ns.rows("update @.workers set state = 'dead', ended_at = now() where id = %s", recent)
    ns.rows("delete from @.fences where worker <> %s", alive)
    ns.instance(status="running", owner=owning)
    new = ns.worker("new")
    assert [id for (id,) in ns.rows("select id from @.workers order by id")] == [owning, recent, alive, new]
    with refused("PGD01", f"worker {gone} no longer"):
        ns.one("select @.fence(%s)", gone)


def test_a_live_workers_fence_gives_the_transactions_time(ns: Namespace) -> None:
    worker = ns.worker()
    assert ns.one("select @.fence(%s) = now()", worker)
    ns.rows("update @.workers set state = 'draining', lease_until = now() - interval '1 hour'")
    assert ns.one("select @.fence(%s) = now()", worker)  # late, but nobody has taken it over


def test_the_fence_stops_who_was_taken_over_or_never_was(ns: Namespace) -> None:
    for worker in (ns.dead_worker(), 987_654):
        with refused("PGD01", f"worker {worker} no longer holds its lease"):
            ns.one("select @.fence(%s)", worker)
        with refused("PGD01", f"worker {worker} no longer holds its lease"):
            ns.rows("select * from @.beat(%s, '1 min')", worker)
        with refused("PGD01", f"worker {worker} no longer holds its lease"):
            ns.claim(worker)


def test_many_transactions_hold_one_fence_at_once_and_lock_no_row(ns: Namespace) -> None:
    worker = ns.worker()
    one, two = ns.session(autocommit=False), ns.session(autocommit=False, options="-c lock_timeout=2s")
    ns.one("select @.fence(%s)", worker, on=one)
    ns.one("select @.fence(%s)", worker, on=two)
    assert ns.one("select xmax::text from @.workers") == "0"
    ns.rows("select * from @.beat(%s, '1 min')", worker, on=two)
    one.commit()
    two.commit()


def test_a_fence_waits_for_the_takeover_and_then_fails(ns: Namespace, eventually: Eventually) -> None:
    worker = ns.worker()
    successor, zombie = ns.session(autocommit=False), ns.session()
    assert ns.one("select @.take_over(%s, 0, null)", worker, on=successor)
    fence = ns.in_thread("select @.fence(%s)", worker, on=zombie)
    eventually(ns.waits(zombie, on=successor), "the fence waits for the takeover")
    successor.commit()
    with refused("PGD01", "no longer holds its lease"):
        fence.result(30)


def test_a_takeover_ends_the_transaction_that_holds_the_fence(ns: Namespace, eventually: Eventually) -> None:
    worker, successor = ns.worker(), ns.worker("successor")
    zombie = ns.session(autocommit=False)
    ns.one("select @.fence(%s)", worker, on=zombie)
    ns.rows("insert into @.events (instance_id, kind) values (@.new_id(), 'written by a zombie')", on=zombie)

    assert ns.one("select @.take_over(%s, 0, %s)", worker, successor) is False
    assert ns.one("select state from @.workers where id = %s", worker) == "alive"
    eventually(
        lambda: not ns.rows("select 1 from pg_stat_activity where pid = %s", zombie.info.backend_pid),
        "the zombie's session is terminated",
    )
    assert ns.one("select @.take_over(%s, 0, %s)", worker, successor) is True

    with pytest.raises(psycopg.OperationalError):
        zombie.execute("select 1")
    assert ns.one("select count(*) from @.events") == 0
    rows = ns.rows("select state, successor, ended_at is not null from @.workers where id = %s", worker)
    assert rows == [("dead", successor, True)]
    assert ns.one("select @.take_over(%s, 0, %s)", worker, successor) is False  # only once


def test_who_has_beaten_meanwhile_is_not_taken_over(ns: Namespace) -> None:
    worker = ns.worker()
    ns.rows("select * from @.beat(%s, '1 min')", worker)
    flushing = ns.session(autocommit=False)
    ns.one("select @.fence(%s)", worker, on=flushing)
    assert ns.one("select @.take_over(%s, 0, null)", worker) is False
    flushing.execute("select 1")  # nor is its flush terminated
    flushing.commit()
    assert ns.one("select @.take_over(%s, 0, null)", worker) is False
    assert ns.one("select state from @.workers") == "alive"


def test_who_beats_during_the_takeover_is_not_taken_over(ns: Namespace, eventually: Eventually) -> None:
    worker = ns.worker()
    beating, successor = ns.session(autocommit=False), ns.session()
    ns.rows("select * from @.beat(%s, '1 min')", worker, on=beating)
    takeover = ns.in_thread("select @.take_over(%s, 0, null)", worker, on=successor)
    eventually(ns.waits(successor, on=beating), "the takeover waits for the beat")
    beating.commit()
    assert takeover.result(30) is False
    assert ns.one("select state from @.workers") == "alive"


def test_two_successors_do_not_end_each_other(ns: Namespace) -> None:
    worker = ns.worker()
    one, two = ns.session(autocommit=False), ns.session()
    assert ns.one("select @.take_over(%s, 0, null)", worker, on=one) is True
    assert ns.one("select @.take_over(%s, 0, null)", worker, on=two) is False
    one.execute("select 1")
    one.commit()
    assert ns.one("select state from @.workers") == "dead"


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_an_old_snapshot_does_not_let_a_zombie_pass(ns: Namespace, level: psycopg.IsolationLevel) -> None:
    worker = ns.worker()
    zombie = ns.session(autocommit=False)
    zombie.isolation_level = level
    ns.one("select count(*) from @.workers", on=zombie)  # takes the snapshot
    ns.rows("select * from @.beat(%s, '1 min')", worker)
    assert ns.one("select @.fence(%s) = now()", worker, on=zombie)
    ns.rows("select * from @.beat(%s, '1 min')", worker, on=ns.session(options="-c lock_timeout=2s"))
    zombie.commit()

    ns.one("select count(*) from @.workers", on=zombie)
    assert ns.one("select @.take_over(%s, 2, null)", worker) is True
    with pytest.raises(psycopg.errors.SerializationFailure):
        ns.one("select @.fence(%s)", worker, on=zombie)


BEAT = "select other, other_beat, expired, absent from @.beat(%s, '1 min') order by other"


def test_beat_renews_the_lease_and_keeps_the_stats(ns: Namespace) -> None:
    worker = ns.worker(lease=-1)
    assert ns.rows("select * from @.beat(%s, '1 min', '{\"n\": 1}')", worker) == []
    assert ns.rows("select * from @.beat(%s, '1 min')", worker) == []
    assert ns.rows("select beat, lease_until > now() + interval '50 s', stats from @.workers") == [(2, True, {"n": 1})]


def test_beat_shows_the_others(ns: Namespace, eventually: Eventually) -> None:
    me, present, absent, expired = (ns.worker(str(n)) for n in range(4))
    stopped, _ = ns.worker(), ns.dead_worker()
    ns.rows("select @.leave_worker(%s)", stopped)
    ns.rows("select * from @.beat(%s, '1 min')", present)
    ns.rows("update @.workers set state = 'draining', lease_until = now() - interval '1 s' where id = %s", expired)
    holding = ns.session()
    for worker in (present, expired):
        assert ns.one("select pg_try_advisory_lock_shared(@.lock_class(1), %s::int)", worker, on=holding)
    # Neither the fence nor another namespace's presence is this one's presence.
    assert ns.one("select pg_try_advisory_lock_shared(@.lock_class(0), %s::int)", absent, on=holding)
    assert ns.one("select pg_try_advisory_lock_shared(@.lock_class(1) + 4, %s::int)", absent, on=holding)

    seen = [(present, 1, False, False), (absent, 0, False, True), (expired, 0, True, False)]
    assert ns.rows(BEAT, me) == seen
    holding.close()
    eventually(lambda: ns.rows(BEAT, me)[0] == (present, 1, False, True), "the session is gone")


def test_a_worker_that_cannot_mark_its_presence_is_not_missed(ns: Namespace) -> None:
    """Behind a pooler there is no session to mark it with: only the lease tells."""
    me = ns.worker()
    unmarked = ns.one("select @.join_worker('pooled', '[]', '1 min', false)")
    assert ns.rows(BEAT, me) == [(unmarked, 0, False, False)]
    ns.rows("update @.workers set lease_until = now() - interval '1 s' where id = %s", unmarked)
    assert ns.rows(BEAT, me) == [(unmarked, 0, True, False)]


def test_leave_worker_frees_its_instances(ns: Namespace, eventually: Eventually) -> None:
    leaving, other = ns.worker(), ns.worker("other")
    id = ns.instance(status="running", owner=leaving)
    flushing, going = ns.session(autocommit=False), ns.session()
    ns.one("select @.fence(%s)", leaving, on=flushing)
    done = ns.in_thread("select @.leave_worker(%s)", leaving, on=going)
    eventually(ns.waits(going, on=flushing), "leaving waits for the last flush")
    assert ns.claim(other) == []
    flushing.commit()
    done.result(30)

    assert ns.rows("select state, ended_at is not null from @.workers where id = %s", leaving) == [("stopped", True)]
    with refused("PGD01", "no longer holds its lease"):
        ns.one("select @.fence(%s)", leaving)
    assert ns.claim(other) == [id]


def test_namespaces_have_their_own_locks(ns: Namespace) -> None:
    mine = [ns.one("select @.lock_class(%s)", part) for part in range(3)]
    assert mine == list(range(mine[0], mine[0] + 3))
    assert ns.one("select @.lock_class()") == mine[0] == ns.one("select hashtext('pgdurable:@') & 2147483644")


# -- views


def test_views_show_the_right_rows(ns: Namespace) -> None:
    error = Jsonb({"type": "E", "message": "m"})
    worker = ns.worker("box-1")
    ids = {s: ns.instance(status=s, error=error) for s in ("failed", "timed_out", "paused", "cancelled", "completed")}
    ids["running"] = ns.instance(status="running", owner=worker, wake_at=None)
    ns.instance()
    ns.instance(status="waiting", wake_at=None)
    ns.rows(
        "insert into @.instances (workflow, id, input, wake_at) values ('w', @.new_id(), '{}', now() + interval '1 h')"
    )
    ns.rows(
        """insert into @.history (instance_id, event_id, seq, attempt, kind, name, payload, error) values
           (%(i)s, 1, 0, 1, 'attempt', 'a', null, '{}'), (%(i)s, 2, 0, 2, 'step', 'a', '7', null),
           (%(i)s, 3, 1, 1, 'step', 'b', null, '{}'), (%(i)s, 4, 2, null, 'timer', null, null, null)""".replace(
            "%(i)s", f"'{ids['running']}'"
        )
    )

    failures = ns.rows("select id, status, type, message from @.failures")
    assert sorted(failures) == sorted((ids[s], s, "E", "m") for s in ("failed", "timed_out", "paused"))
    assert ns.rows("select id from @.timed_out") == [(ids["timed_out"],)]
    assert ns.rows("select id, owner, worker from @.running") == [(ids["running"], worker, "box-1")]
    queues = ns.rows(
        "select queue, workflow, due, later, awaiting_event, running, oldest_due <= now() from @.queue_stats"
    )
    assert queues == [("default", "w", 1, 1, 1, 1, True)]
    steps = ns.rows("select event_id, seq, name, status, attempt, result from @.steps order by event_id")
    assert steps == [
        (1, 0, "a", "retried", 1, None),
        (2, 0, "a", "completed", 2, 7),
        (3, 1, "b", "failed", 1, None),
    ]


def test_every_view_can_be_read(ns: Namespace) -> None:
    filled = ("history_partitions.sql", "dead_rows.sql", "settings.sql", "throughput_per_minute.sql")
    for name, _ in sql_files("views"):
        rows = ns.rows(f"select * from @.{name.removesuffix('.sql')}")
        if name != "held_back.sql":  # which is about the whole database
            assert bool(rows) == (name in filled), name


@pytest.mark.parametrize("file", ["client", "flush", "session", "upkeep", "worker"])
def test_the_server_accepts_every_named_query(ns: Namespace, file: str) -> None:
    for name, text in named_queries(file, ns.schema).items():
        if text.startswith("copy"):
            columns = text[text.index("(") + 1 : text.index(")")]
            ns.rows(f"select {columns} from {text.split()[1]}")
            continue
        if "%(" in text:
            for n, argument in enumerate(dict.fromkeys(re.findall(r"%\(\w+\)s", text)), 1):
                text = text.replace(argument, f"${n}")
        else:
            for n in range(1, text.count("%s") + 1):
                text = text.replace("%s", f"${n}", 1)
        done = ns.main.pgconn.prepare(name.encode(), text.encode())  # a `call` is none of what PREPARE takes
        assert done.status == psycopg.pq.ExecStatus.COMMAND_OK, f"{name}: {done.get_error_message()}"
