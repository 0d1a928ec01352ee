"""The operations on instances in SQL, one at a time and on many: done at once, or asked of the owner."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from .namespace import Eventually, Namespace, refused

LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
FIRST = "00000000-0000-0000-0000-000000000000"


def status(ns: Namespace, id: uuid.UUID) -> str:
    return ns.one("select status from @.instances where id = %s", id)


def events(ns: Namespace, id: uuid.UUID) -> list[str]:
    return [kind for (kind,) in ns.rows("select kind from @.events where instance_id = %s order by seq", id)]


def held(ns: Namespace, worker: int, **columns: Any) -> uuid.UUID:
    return ns.instance(status="running", owner=worker, **columns)


def step_rows(ns: Namespace, id: uuid.UUID, *rows: tuple[int, int, str, bool]) -> None:
    for event_id, seq, name, failed in rows:
        ns.rows(
            "insert into @.history (instance_id, event_id, seq, fingerprint, attempt, kind, name, payload, error)"
            " values (%s, %s, %s, 7, 1, 'step', %s, %s, %s)",
            id, event_id, seq, name, None if failed else Jsonb(event_id), Jsonb({"type": "E"}) if failed else None,
        )  # fmt: skip


def bulk(ns: Namespace, operation: str, fits: dict, options: dict | None = None, **more: Any) -> tuple:
    rows = ns.rows(
        "select last, looked, done, idle, cardinality(busy) from @.bulk_step(%s, %s, %s, %s, %s, %s, %s)",
        operation, more.get("since", FIRST), LAST, Jsonb(fits), Jsonb(options or {}), more.get("most", 200),
        more.get("dry", False), on=more.get("on"),
    )  # fmt: skip
    return rows[0]


# -- cancel


def test_what_has_not_begun_is_cancelled_at_once(ns: Namespace) -> None:
    id = ns.one("select @.start('w')")
    assert ns.one("select @.cancel(%s, 'not wanted')", id) is True
    ((state, finished, owner, error),) = ns.rows(
        "select status, finished_at is not null, owner, error from @.instances where id = %s", id
    )
    assert (state, finished, owner) == ("cancelled", True, None)
    assert error["type"] == "pgdurable.errors.Cancelled"
    assert error["message"] == "it was cancelled before it began: not wanted"
    assert ns.one("select @.cancel(%s)", id) is False
    assert ns.claim(ns.worker()) == []
    with refused("PGD06", "cancelled before it began: not wanted"):
        ns.one("select @.result(%s)", id)


def test_what_runs_is_asked_once(ns: Namespace) -> None:
    id = held(ns, ns.worker())
    for _ in range(3):
        assert ns.one("select @.cancel(%s, 'enough')", str(id)) is True
    assert ns.rows("select kind, payload from @.events") == [("cancel", {"reason": "enough"})]
    # Consumed, it has become a row of history: asked again, nothing is sent.
    ns.rows("delete from @.events")
    ns.rows("insert into @.history (instance_id, event_id, kind) values (%s, 1, 'cancel')", id)
    assert ns.one("select @.cancel(%s)", str(id)) is True
    assert events(ns, id) == []


def test_a_parked_instance_is_claimed_to_be_cancelled(ns: Namespace) -> None:
    id = ns.instance(status="waiting", wake_at=None, started_at="2026-01-01")
    assert ns.one("select @.cancel(%s)", str(id))
    assert status(ns, id) == "waiting"
    assert ns.claim(ns.worker()) == [id]
    assert events(ns, id) == ["cancel"]


def test_cancel_lets_go_on_what_somebody_paused_but_not_what_cannot_go_on(ns: Namespace) -> None:
    by_hand = ns.instance(status="paused", started_at="2026-01-01")
    broken = ns.instance(status="paused", started_at="2026-01-01", error=Jsonb({"type": "x.NonDeterminismError"}))
    for id in (by_hand, broken):
        assert ns.one("select @.cancel(%s)", str(id))
        assert events(ns, id) == ["cancel"]
    assert (status(ns, by_hand), status(ns, broken)) == ("pending", "paused")


@pytest.mark.parametrize("operation", ["cancel", "terminate"])
def test_a_reason_has_its_limit(ns: Namespace, operation: str) -> None:
    with refused("PGD05", "4096 bytes, this one has 4097"):
        ns.one(f"select @.{operation}(%s, repeat('x', 4097))", ns.one("select @.start('w')"))


# -- terminate


@pytest.mark.parametrize("state", ["pending", "waiting", "paused", "orphaned", "suspected"])
def test_what_nobody_holds_is_terminated_at_once(ns: Namespace, state: str) -> None:
    dead = ns.dead_worker()
    owner = {"orphaned": dead, "suspected": -dead}.get(state)
    id = ns.instance(status={"orphaned": "running", "suspected": "pending"}.get(state, state), owner=owner)
    assert ns.one("select @.terminate(%s, 'broken')", str(id)) is True
    ((now, owner, error),) = ns.rows("select status, owner, error from @.instances where id = %s", id)
    assert (now, owner, error["type"]) == ("cancelled", None, "pgdurable.errors.Terminated")
    assert error["message"] == "it was terminated: broken"
    assert ns.one("select @.terminate(%s)", str(id)) is False


def test_what_is_held_is_terminated_by_its_worker(ns: Namespace) -> None:
    worker = ns.worker()
    id = held(ns, worker)
    for _ in range(2):
        assert ns.one("select @.terminate(%s, 'broken')", str(id)) is True
    assert (status(ns, id), events(ns, id)) == ("running", ["terminate"])
    assert ns.rows("select * from @.heed(%s, %s)", worker, [id]) == [(id, "cancelled")]
    assert ns.one("select error ->> 'message' from @.instances where id = %s", id) == "it was terminated: broken"


def test_an_instance_that_is_being_claimed_is_its_new_workers(ns: Namespace, eventually: Eventually) -> None:
    """Also where that worker has joined after the statement that waits for the claim had begun."""
    id = ns.instance(status="waiting", wake_at="2026-01-01", started_at="2026-01-01")
    claiming, asking = ns.session(autocommit=False), ns.session()
    worker = ns.one("select @.join_worker('late', '[]', interval '1 minute')", on=claiming)
    assert ns.claim(worker, on=claiming) == [id]
    asked = ns.in_thread("select @.terminate(%s)", str(id), on=asking)
    eventually(ns.waits(asking, on=claiming), "terminate waits for the claim")
    claiming.commit()
    assert asked.result(30) is True
    assert (status(ns, id), events(ns, id)) == ("running", ["terminate"])


# -- pause and resume


def test_pause_and_resume_of_what_nobody_holds(ns: Namespace) -> None:
    id = ns.one("select @.start('w', delay => '1 hour')")
    assert ns.one("select @.pause(%s)", id) is True
    assert ns.one("select @.pause(%s)", id) is False
    ns.rows("update @.instances set wake_at = now() + interval '1 hour'")
    assert ns.one("select @.resume(%s)", id) is True
    assert ns.one("select wake_at > now() + interval '50 minutes' from @.instances")  # still a delayed start
    assert ns.one("select @.resume(%s)", id) is False


def test_a_paused_instance_is_not_claimed_and_keeps_its_signals(ns: Namespace) -> None:
    worker = ns.worker()
    id = ns.instance(status="waiting", wake_at=None, started_at="2026-01-01")
    ns.one("select @.pause(%s)", str(id))
    ns.one("select @.signal(%s, 'go')", str(id))
    assert ns.claim(worker) == []
    ns.one("select @.resume(%s)", str(id))
    assert ns.claim(worker) == [id]
    assert events(ns, id) == ["signal"]


def test_the_owner_pauses_what_it_was_asked_to(ns: Namespace) -> None:
    worker = ns.worker()
    id, untouched = held(ns, worker), held(ns, worker)
    assert ns.one("select @.pause(%s)", str(id)) is True
    assert (status(ns, id), events(ns, id)) == ("running", ["pause"])
    assert ns.rows("select * from @.heed(%s, %s)", worker, [id]) == [(id, "paused")]
    assert ns.rows("select owner from @.instances where id = %s", id) == [(None,)]
    assert events(ns, id) == []
    assert status(ns, untouched) == "running"


@pytest.mark.parametrize("why", ["resumed", "cancelled"])
def test_a_pause_that_is_called_off_lets_it_go_on(ns: Namespace, why: str) -> None:
    worker = ns.worker()
    id = held(ns, worker)
    ns.one("select @.pause(%s)", str(id))
    assert ns.one(f"select @.{'resume' if why == 'resumed' else 'cancel'}(%s)", str(id)) is True
    assert ns.rows("select * from @.heed(%s, %s)", worker, [id]) == [(id, "waiting")]
    assert ns.claim(ns.worker()) == [id]


def test_a_resume_that_is_not_committed_yet_decides(ns: Namespace) -> None:
    """Of resume and the worker's pausing one finds the request: the worker looks again later, and waits for nobody."""
    worker = ns.worker()
    id, other = sorted([held(ns, worker), held(ns, worker)])
    for one in (id, other):
        ns.one("select @.pause(%s)", str(one))
    slow = ns.session(autocommit=False)
    assert ns.one("select @.resume(%s)", str(id), on=slow) is True
    assert ns.rows("select * from @.heed(%s, %s)", worker, [id, other]) == [(other, "paused")]
    slow.commit()
    assert ns.rows("select * from @.heed(%s, %s)", worker, [id]) == [(id, "waiting")]


def test_a_worker_that_was_taken_over_pauses_nothing(ns: Namespace) -> None:
    dead = ns.dead_worker()
    id = held(ns, dead)
    with refused("PGD01", "no longer holds its lease"):
        ns.rows("select * from @.heed(%s, %s)", dead, [id])
    assert ns.one("select @.pause(%s)", str(id)) is True  # nobody writes it any more: at once
    assert status(ns, id) == "paused"


def test_what_was_asked_just_as_it_was_paused_is_settled(ns: Namespace) -> None:
    ended, by_hand, broken = (ns.instance(status="paused", started_at="2026-01-01") for _ in range(3))
    ns.rows("update @.instances set error = '{}' where id = %s", broken)
    for id, kind in ((ended, "terminate"), (by_hand, "cancel"), (broken, "cancel")):
        ns.rows("insert into @.events (instance_id, kind, payload) values (%s, %s, '{}')", id, kind)
    assert ns.one("select @.settle_requests(10)") == 2
    assert [status(ns, id) for id in (ended, by_hand, broken)] == ["cancelled", "pending", "paused"]


@pytest.mark.parametrize("operation", ["cancel", "terminate", "pause", "resume"])
def test_an_open_transaction_of_the_caller_does_not_hold_up_the_owner(ns: Namespace, operation: str) -> None:
    worker = ns.worker()
    id = held(ns, worker)
    caller = ns.session(autocommit=False)
    ns.one(f"select @.{operation}(%s)", str(id), on=caller)
    ns.rows("set statement_timeout = '5s'")
    ns.rows(
        "update @.instances set status = 'completed', owner = null, finished_at = now() where id = %s and owner = %s",
        id, worker,
    )  # fmt: skip
    caller.commit()
    assert status(ns, id) == "completed"


# -- retry


@pytest.mark.parametrize("state", ["failed", "timed_out"])
def test_retry_makes_it_due_again_and_says_so_in_its_history(ns: Namespace, state: str) -> None:
    id = ns.instance(status=state, finished_at="2026-01-01", started_at="2026-01-01", error=Jsonb({"type": "E"}))
    step_rows(ns, id, (1, 0, "a", False), (2, 1, "b", True))
    ns.rows("insert into @.events (instance_id, kind) values (%s, 'cancel'), (%s, 'signal')", id, id)
    assert ns.one("select @.retry(%s)", str(id)) is True
    row = ns.rows("select status, error, finished_at, wake_at <= now() from @.instances where id = %s", id)
    assert row == [("pending", None, None, True)]
    assert ns.rows("select event_id, kind from @.history order by 1 desc limit 1") == [(3, "retry")]
    assert events(ns, id) == ["signal"]
    assert ns.claim(ns.worker()) == [id]


def test_retry_sets_a_deadline_anew(ns: Namespace) -> None:
    id = ns.instance(status="timed_out", created_at="2026-01-01 00:00Z", deadline="2026-01-01 02:00Z")
    ns.one("select @.retry(%s)", str(id))
    assert ns.one("select deadline - wake_at from @.instances where id = %s", id).total_seconds() == 7200


@pytest.mark.parametrize("state", ["pending", "running", "waiting", "completed", "cancelled"])
def test_what_has_not_failed_is_not_retried(ns: Namespace, state: str) -> None:
    id = ns.instance(status=state)
    assert ns.one("select @.retry(%s)", str(id)) is False
    assert status(ns, id) == state


def test_undo_marks_only_what_a_retry_asks_for(ns: Namespace) -> None:
    worker = ns.worker()
    id, other = held(ns, worker), held(ns, worker)
    for one in (id, other):
        step_rows(ns, one, (1, 0, "a", False), (2, 1, "b", True))
    assert ns.one("select @.undo(%s, %s, %s)", worker, id, [2]) == 0
    ns.rows("insert into @.history (instance_id, event_id, kind) values (%s, 3, 'retry')", id)
    step_rows(ns, id, (4, 1, "b", False))
    assert ns.one("select @.undo(%s, %s, %s)", worker, id, [2, 3, 4]) == 1
    assert ns.one("select @.undo(%s, %s, %s)", worker, id, [2]) == 0
    kinds = ns.rows("select event_id, kind from @.history where instance_id = %s order by 1", id)
    assert kinds == [(1, "step"), (2, "undone step"), (3, "retry"), (4, "step")]
    assert ns.one("select @.undo(%s, %s, %s)", ns.worker(), other, [2]) == 0
    with refused("PGD01", "lease"):
        ns.one("select @.undo(%s, %s, %s)", ns.dead_worker(), id, [2])


# -- fork


def test_fork_copies_history_up_to_the_point_and_not_later(ns: Namespace) -> None:
    source = ns.instance(
        status="completed", input=Jsonb({"n": 1}), labels=Jsonb({"t": 1}), started_at="2026-01-01 00:00Z"
    )
    step_rows(ns, source, (1, 0, "a", False), (2, 1, "b", False), (3, 2, "c", False))
    copy = uuid.UUID(ns.one("select @.fork(%s, 3)", str(source)))
    row = ns.rows("select workflow, version, status, input, labels, owner from @.instances where id = %s", copy)
    assert row == [("w", "1", "pending", {"n": 1}, {"t": 1}, None)]
    columns = "event_id, seq, fingerprint, attempt, kind, name, payload, recorded_at"
    copied, original = (
        ns.rows(f"select {columns} from @.history where instance_id = %s and event_id between 1 and 2 order by 1", id)
        for id in (copy, source)
    )
    assert copied == original
    assert len(copied) == 2
    ((first, kind, name, payload), *_, (last, *_)) = ns.rows(
        "select event_id, kind, name, payload from @.history where instance_id = %s order by 1", copy
    )
    assert (first, kind, name, last) == (0, "forked", str(source), 2)
    assert payload["roots"] == [{"instance": str(source), "before": 3}]
    assert (payload["started_at"], payload["input_of"]) == ("2026-01-01T00:00:00.000000Z", str(source))
    assert ns.one("select status from @.instances where id = %s", source) == "completed"


def test_fork_of_a_fork_remembers_both(ns: Namespace) -> None:
    source = ns.instance(status="completed")
    step_rows(ns, source, (1, 0, "a", False), (2, 1, "b", False), (3, 2, "c", False))
    copy = uuid.UUID(ns.one("select @.fork(%s, 3)", str(source)))
    step_rows(ns, copy, (3, 2, "c", False), (4, 3, "d", False))

    def roots(place: int) -> list[tuple[str, int]]:
        id = uuid.UUID(ns.one("select @.fork(%s, %s)", str(copy), place))
        (payload,) = ns.rows("select payload from @.history where instance_id = %s and event_id = 0", id)[0]
        assert payload["input_of"] == str(source)
        return [(root["instance"], root["before"]) for root in payload["roots"]]

    assert roots(4) == [(str(source), 3), (str(copy), 4)]
    assert roots(2) == [(str(source), 2)]


def test_fork_with_another_version_input_queue_and_id(ns: Namespace) -> None:
    source = ns.instance(status="failed")
    step_rows(ns, source, (1, 0, "a", False), (2, 1, "b", True))
    for _ in range(2):
        text = "select @.fork(%s, 1, version => '2', input => '[5]', new_id => 'again', queue => 'slow')"
        assert ns.one(text, str(source)) == "again"
    rows = ns.rows("select version, input, queue from @.instances where id <> %s", source)
    assert rows == [("2", [5], "slow")]
    ((payload,),) = ns.rows("select payload from @.history where kind = 'forked'")
    assert payload["input_of"] is None


def test_fork_of_what_failed_goes_on_from_the_failed_step(ns: Namespace) -> None:
    source = ns.instance(status="failed", error=Jsonb({"type": "E"}))
    step_rows(ns, source, (1, 0, "a", False), (2, 1, "b", True))
    ns.rows("update @.history set kind = 'undone step' where event_id = 1")  # by an earlier retry
    copy = uuid.UUID(ns.one("select @.fork(%s)", str(source)))
    rows = ns.rows("select event_id, kind from @.history where instance_id = %s order by 1", copy)
    assert rows == [(0, "forked"), (2, "step"), (3, "retry")]
    # From event 3 on it is itself.
    assert ns.one("select payload -> 'roots' -> 0 ->> 'before' from @.history where kind = 'forked'") == "3"


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "match"),
    [
        ("0", "PGD05", "events are counted from 1: there is no event 0"),
        ("1, version => ''", "PGD05", "1 to 512 bytes"),
        ("1, input => '5'", "PGD05", "is a JSON number"),
        ("1, new_id => ''", "PGD05", "an id has 1 to 512 bytes"),
        ("1, new_id => 'theirs'", "PGD04", "taken by an instance of another workflow"),
    ],
)
def test_what_no_fork_can_be_is_refused(ns: Namespace, arguments: str, sqlstate: str, match: str) -> None:
    ns.one("select @.start('other', id => 'theirs')")
    source = ns.instance(status="completed")
    with refused(sqlstate, match):
        ns.one(f"select @.fork('{source}', {arguments})")
    assert ns.one("select count(*) from @.instances") == 2


# -- delete


def test_delete_leaves_nothing(ns: Namespace) -> None:
    id = ns.one("select @.start('w', id => 'mine')")
    target = ns.one("select @.find_instance(%s)", id)
    step_rows(ns, target, (1, 0, "a", False))
    ns.one("select @.signal('mine', 'go')")
    with refused("PGD09", "instance 'mine' is pending: only instances that have ended can be deleted"):
        ns.one("select @.delete('mine')")
    ns.one("select @.terminate('mine')")
    assert ns.one("select @.delete('mine')") is True
    for table in ("instances", "history", "events", "instance_keys"):
        assert ns.one(f"select count(*) from @.{table}") == 0, table
    with refused("PGD02", "no instance has the id 'mine'"):
        ns.one("select @.delete('mine')")
    assert ns.one("select @.start('w', id => 'mine')") == "mine"


@pytest.mark.parametrize("call", ["cancel", "terminate", "pause", "resume", "retry", "fork", "delete"])
def test_an_id_that_nobody_has(ns: Namespace, call: str) -> None:
    with refused("PGD02", "no instance has the id 'gone'"):
        ns.one(f"select @.{call}('gone')")


# -- many


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        ({}, 6),
        ({"workflow": "mail"}, 2),
        ({"version": "2"}, 1),
        ({"queue": "slow"}, 1),
        ({"status": ["waiting"]}, 1),
        ({"status": ["failed", "paused"]}, 2),
        ({"labels": {"tenant": 7}}, 1),
        ({"error": "Timeout"}, 1),
        ({"finished_before": "2026-02-01"}, 1),
        ({"workflow": "mail", "status": ["failed"]}, 0),
    ],
)
def test_filters(ns: Namespace, fits: dict, expected: int) -> None:
    for columns in (
        {"workflow": "mail"},
        {"workflow": "mail", "version": "2", "labels": Jsonb({"tenant": 7, "x": 1})},
        {"queue": "slow"},
        {"status": "waiting"},
        {"status": "paused"},
        {"status": "failed", "error": Jsonb({"type": "shop.Timeout"}), "finished_at": "2026-01-01"},
    ):
        ns.instance(**columns)
    copied = bulk(ns, "fork", fits, dry=True)
    assert copied[2] == expected
    assert ns.one("select count(*) from @.instances") == 6


def test_filters_by_ids(ns: Namespace) -> None:
    ns.one("select @.start('w', id => 'a')")
    other = ns.one("select @.start('w')")
    ns.one("select @.start('w')")
    assert bulk(ns, "cancel", {"ids": ["a", other, "nobody"]})[1:] == (2, 2, 0, 0)
    assert ns.one("select count(*) from @.instances where status = 'cancelled'") == 2


def test_bulk_goes_in_steps_and_ends(ns: Namespace) -> None:
    worker = ns.worker()
    for n in range(30):
        if n % 3:
            ns.one("select @.start('w')")
        else:
            held(ns, worker)
    done, steps, place = 0, 0, FIRST
    while True:
        last, _, n, _, _ = bulk(ns, "cancel", {}, since=place, most=4)
        if last is None:
            break
        done, steps, place = done + n, steps + 1, ns.one("select @.id_after(%s)", last)
    assert (done, steps) == (30, 8)
    assert ns.one("select count(*) from @.instances where status = 'cancelled'") == 20
    assert ns.one("select count(*) from @.events where kind = 'cancel'") == 10
    # Again: those at once ended have nothing to be done, those asked are asked already.
    assert bulk(ns, "cancel", {})[1:] == (30, 10, 20, 0)
    assert ns.one("select count(*) from @.events") == 10


def test_bulk_passes_over_what_somebody_holds(ns: Namespace) -> None:
    ids = sorted(ns.instance() for _ in range(3))
    other = ns.session(autocommit=False)
    ns.rows("select from @.instances where id = %s for update", ids[1], on=other)
    ns.rows("set statement_timeout = '5s'")
    assert bulk(ns, "terminate", {})[1:] == (3, 2, 0, 1)
    other.commit()
    assert bulk(ns, "terminate", {})[1:] == (3, 1, 2, 0)


@pytest.mark.parametrize(
    ("operation", "state", "after"),
    [
        ("cancel", "pending", "cancelled"), ("terminate", "waiting", "cancelled"), ("pause", "waiting", "paused"),
        ("resume", "paused", "pending"), ("retry", "failed", "pending"), ("delete", "completed", None),
    ],
)  # fmt: skip
def test_each_operation_on_many(ns: Namespace, operation: str, state: str, after: str | None) -> None:
    for _ in range(3):
        ns.instance(status=state)
    assert bulk(ns, operation, {"status": [state]})[2] == 3
    found = ns.rows("select distinct status from @.instances")
    assert found == ([] if after is None else [(after,)])


def test_forks_of_many_are_made_once(ns: Namespace) -> None:
    ns.instance(status="failed", id=(plain := ns.one("select @.new_id()")))
    ns.one("select @.start('w', id => 'mine')")
    ns.rows("update @.instances set status = 'failed'")
    for _ in range(2):
        assert bulk(ns, "fork", {"status": ["failed"]}, {"version": "2", "suffix": "/v2"})[2] == 2
    keys = {key for (key,) in ns.rows("select id from @.instance_keys")}
    assert keys == {"mine", "mine/v2", f"{plain}/v2"}
    assert ns.rows("select distinct version from @.instances where status = 'pending'") == [("2",)]


@pytest.mark.parametrize(
    ("operation", "fits", "match"),
    [("explode", {}, "no operation 'explode'"), ("cancel", {"colour": "red"}, "no filter 'colour'")],
)
def test_unknown_operations_and_filters(ns: Namespace, operation: str, fits: dict, match: str) -> None:
    with refused("PGD05", match):
        bulk(ns, operation, fits)


def test_bulk_from_sql_tells_how_many(ns: Namespace) -> None:
    for _ in range(450):
        ns.instance(workflow="mail")
    ns.instance()
    ns.rows("select pg_sleep(0.01)")
    assert ns.rows("call @.bulk('pause', '{\"workflow\": \"mail\"}')") == [(450, 0)]
    assert ns.one("select count(*) from @.instances where status = 'paused'") == 450
    assert ns.rows("call @.bulk('pause', '{}', older_than => '1 hour')") == [(0, 0)]
    with pytest.raises(psycopg.errors.InvalidTransactionTermination):
        with ns.main.transaction():
            ns.rows("call @.bulk('resume', '{}')")


def test_a_fork_is_of_the_first_run_only(ns: Namespace) -> None:
    source = ns.instance(status="completed")
    step_rows(ns, source, (1, 0, "a", False), (3, 0, "a", False))
    ns.rows("insert into @.history (instance_id, event_id, kind) values (%s, 2, 'continued')", source)
    with refused("PGD05", "continued as new at event 2"):
        ns.one("select @.fork(%s, 3)", str(source))
    assert ns.one("select @.fork(%s, 2)", str(source))
