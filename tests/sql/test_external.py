"""External steps: claimed, kept alive, completed and failed from SQL, each in the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from store.namespace import Namespace, refused

Eventually = Callable[..., None]


def waiting(ns: Namespace, **columns: Any) -> uuid.UUID:
    """An instance that waits for an external step `approve` with the number 3."""
    given = {"name": "approve", "seq": 3, "request": Jsonb({"input": {"n": 1}}), **columns}
    instance = given.pop("instance", None) or ns.instance(status="waiting", wake_at=None)
    task = {"instance_id": instance, "kind": "external", "submitted_by": ns.one("select current_user"), **given}
    names = ", ".join(task)
    ns.rows(f"insert into @.tasks ({names}) values ({', '.join(['%s'] * len(task))})", *task.values())
    return instance


def claim(ns: Namespace, *args: Any, on: psycopg.Connection | None = None, **named: Any) -> list[tuple[Any, ...]]:
    places = ["%s"] * len(args) + [f"{name} => %s" for name in named]
    text = f"select id, step, attempt, seq, input, details from @.claim_external({', '.join(places)})"
    return ns.rows(text, *args, *named.values(), on=on)


def events(ns: Namespace, instance: uuid.UUID) -> list[Any]:
    return [
        row[0]
        for row in ns.rows(
            "select payload from @.events where instance_id = %s and kind = 'task' order by seq", instance
        )
    ]


def lapse(ns: Namespace) -> None:
    """All leases have run out."""
    ns.rows("update @.tasks set lease_until = now() - interval '1 s', run_at = now() - interval '1 s'")


def test_an_end_and_what_the_caller_wrote_are_one_commit(ns: Namespace) -> None:
    instance = waiting(ns)
    ns.rows("create table @.ledger (n int)")
    with ns.session(autocommit=False) as other:
        ns.rows("insert into @.ledger values (1)", on=other)
        assert ns.one("select @.complete_step(%s, 'approve', '{\"by\": \"ann\"}')", str(instance), on=other)
        assert events(ns, instance) == []
        assert ns.one("select count(*) from @.tasks") == 1
        other.rollback()
        assert events(ns, instance) == []
        assert ns.one("select count(*) from @.tasks") == 1
        ns.rows("insert into @.ledger values (1)", on=other)
        assert ns.one("select @.complete_step(%s, 'approve', '{\"by\": \"ann\"}')", str(instance), on=other)
    assert events(ns, instance) == [{"seq": 3, "attempt": 1, "output": {"by": "ann"}}]
    assert ns.one("select count(*) from @.ledger") == 1
    assert ns.one("select count(*) from @.tasks") == 0


def test_an_end_is_told_to_the_pumps_when_it_commits(ns: Namespace) -> None:
    instance = waiting(ns)
    listener = ns.session()
    listener.execute(f'listen "pgdurable_{ns.schema}"')
    ns.one("select @.complete_step(%s, 'approve')", str(instance))
    assert [note.payload for note in listener.notifies(timeout=5, stop_after=1)] == ["event"]


def test_the_same_end_again_does_nothing_and_says_so(ns: Namespace) -> None:
    instance = waiting(ns)
    assert ns.one("select @.complete_step(%s, 'approve', '1')", str(instance))
    assert not ns.one("select @.complete_step(%s, 'approve', '2')", str(instance))
    assert not ns.one("select @.fail_step(%s, 'approve', 'no')", str(instance))
    assert events(ns, instance) == [{"seq": 3, "attempt": 1, "output": 1}]
    # Also when the instance has taken it in, and ended.
    ns.rows("delete from @.events")
    ns.rows(
        "insert into @.history (instance_id, event_id, kind, seq, name, attempt)"
        " values (%s, 1, 'step', 3, 'approve', 1)",
        instance,
    )
    ns.rows("update @.instances set status = 'completed', finished_at = now()")
    assert not ns.one("select @.complete_step(%s, 'approve', attempt => 1, seq => 3)", str(instance))


def test_what_is_not_waiting_is_refused_with_what_is(ns: Namespace) -> None:
    instance = waiting(ns)
    with refused("PGD11", "no step 'pay' of instance .* waits for its end"):
        ns.one("select @.complete_step(%s, 'pay')", str(instance))
    with pytest.raises(psycopg.Error) as error:
        ns.one("select @.complete_step(%s, 'pay')", str(instance))
    assert error.value.diag.message_detail == "These do: 'approve' (3)."
    with refused("PGD05", "which step of instance"):
        ns.one("select @.complete_step(%s, null)", str(instance))
    with refused("PGD02", "no instance has the id 'nobody'"):
        ns.one("select @.complete_step('nobody', 'approve')")
    ns.rows("update @.instances set status = 'cancelled', finished_at = now()")
    with refused("PGD03", "has ended \\(cancelled\\); nobody waits for step 'approve'"):
        ns.one("select @.complete_step(%s, 'approve')", str(instance))


def test_a_step_that_the_instance_has_given_up_is_nobodys(ns: Namespace) -> None:
    instance = waiting(ns)
    ns.rows("insert into @.sql_runs (instance_id, open, state) values (%s, '{4}', '{}')", instance)
    assert claim(ns) == []
    assert not ns.one("select @.heartbeat(%s, 'approve')", str(instance))
    with refused("PGD11", "no step 'approve'"):
        ns.one("select @.complete_step(%s, 'approve')", str(instance))
    ns.rows("select @.drop_stale_tasks()")
    assert ns.one("select count(*) from @.tasks") == 0
    ns.rows("update @.sql_runs set open = '{3}'")
    waiting(ns, instance=instance)
    ns.rows("select @.drop_stale_tasks()")
    assert [row[1] for row in claim(ns)] == ["approve"]


def test_of_several_steps_of_one_name_the_number_says_which(ns: Namespace) -> None:
    instance = waiting(ns)
    waiting(ns, instance=instance, seq=5)
    with refused("PGD05", "2 steps of instance .* are named 'approve'"):
        ns.one("select @.complete_step(%s, 'approve')", str(instance))
    with refused("PGD05", "several steps of instance .* are named 'approve'"):
        ns.one("select @.heartbeat(%s, 'approve')", str(instance))
    assert ns.one("select @.heartbeat(%s, 'approve', '{\"at\": 7}', seq => 5)", str(instance))
    assert ns.one("select @.complete_step(%s, 'approve', seq => 5)", str(instance))
    assert ns.one("select @.complete_step(%s, 'approve', seq => 3)", str(instance))
    assert [event["seq"] for event in events(ns, instance)] == [5, 3]


def test_a_failure_says_what_the_retry_policy_has_to_know(ns: Namespace) -> None:
    instance = waiting(ns)
    ns.one("select @.fail_step(%s, 'approve', 'declined', 'CardDeclined', retryable => false)", str(instance))
    assert events(ns, instance) == [
        {"seq": 3, "attempt": 1, "error": {"type": "CardDeclined", "message": "declined", "retryable": False}}
    ]
    again = waiting(ns)
    ns.one("select @.fail_step(%s, 'approve', 'busy', retry_in => '90 seconds')", str(again))
    assert events(ns, again)[0]["error"] == {"type": "ExternalError", "message": "busy", "retry_in": 90.0}


def test_a_claim_gives_what_the_calls_take(ns: Namespace) -> None:
    id = ns.one("select @.start('w', '{}', id => 'order/1')")
    waiting(ns, instance=ns.one("select @.find_instance(%s)", id))
    ((id, step, attempt, seq, input, details),) = claim(ns, holder="me")
    assert (id, step, attempt, seq, input, details) == ("order/1", "approve", 1, 3, {"n": 1}, None)
    assert ns.rows("select holder, taken_at <= now(), lease_until > now() from @.tasks") == [("me", True, True)]
    assert claim(ns) == []  # nobody else's while the lease holds
    assert ns.one("select @.complete_step(%s, %s, '7', attempt => %s, seq => %s)", id, step, attempt, seq)


def test_a_claim_that_rolls_back_has_claimed_nothing(ns: Namespace) -> None:
    waiting(ns)
    with ns.session(autocommit=False) as other:
        assert len(claim(ns, on=other)) == 1
        assert claim(ns) == []  # passed over, not waited for
        other.rollback()
    assert [row[2] for row in claim(ns)] == [1]


def test_a_dead_holders_step_is_claimed_again_and_counted(ns: Namespace) -> None:
    instance = waiting(ns)
    claim(ns)
    assert ns.one("select @.heartbeat(%s, 'approve', '{\"page\": 9}', attempt => 1, seq => 3)", str(instance))
    lapse(ns)
    ((_, _, attempt, _, _, details),) = claim(ns, holder="two")
    assert (attempt, details) == (2, {"page": 9})
    # The first one was only slow.
    assert not ns.one("select @.heartbeat(%s, 'approve', attempt => 1)", str(instance))
    with pytest.raises(psycopg.Error, match=r"attempt 1 of step 'approve' of instance .* is over") as error:
        ns.one("select @.complete_step(%s, 'approve', '1', attempt => 1)", str(instance))
    assert error.value.sqlstate == "PGD12"
    assert error.value.diag.message_detail == "Attempt 2 is under way at two."
    assert ns.one("select @.complete_step(%s, 'approve', '2', attempt => 2)", str(instance))
    # Too late even now: it must not take what it did for done.
    with refused("PGD12", "attempt 1 of step 'approve'"):
        ns.one("select @.complete_step(%s, 'approve', '1', attempt => 1)", str(instance))
    assert events(ns, instance) == [{"seq": 3, "attempt": 2, "output": 2}]


def test_heartbeats_renew_the_lease(ns: Namespace) -> None:
    instance = waiting(ns)
    claim(ns, lease="1 hour")
    ns.rows("update @.tasks set lease_until = now() + interval '1 s', run_at = now() + interval '1 s'")
    assert ns.one("select @.heartbeat(%s, 'approve')", str(instance))
    assert ns.rows("select lease_until > now() + interval '59 min', run_at = lease_until from @.tasks") == [
        (True, True)
    ]


@pytest.mark.parametrize("request_", [{"max_attempts": 2}, {"at_most_once": True}])
def test_a_lost_step_that_may_not_be_tried_again_fails(ns: Namespace, request_: dict[str, Any]) -> None:
    instance = waiting(ns, request=Jsonb(request_), attempt=request_.get("max_attempts", 1))
    claim(ns, holder="mailer")
    lapse(ns)
    assert claim(ns) == []
    ((event),) = events(ns, instance)
    assert event["error"]["type"] == "pgdurable.errors.StepInterrupted"
    assert not event["error"]["retryable"]
    assert " at mailer) when its lease was lost; " in event["error"]["message"]
    assert ns.one("select count(*) from @.tasks") == 0


def test_claims_are_by_queue_and_name_in_order_of_time(ns: Namespace) -> None:
    for n, (name, queue) in enumerate([("a", "mail"), ("b", "mail"), ("a", "print"), ("c", "mail"), ("a", "mail")]):
        waiting(ns, name=name, queue=queue, request=Jsonb({"input": n}))
    assert [row[4] for row in claim(ns, "mail", 10, steps=["a", "c"])] == [0, 3, 4]
    assert [row[4] for row in claim(ns, "mail", 10)] == [1]
    assert claim(ns) == []
    assert [row[4] for row in claim(ns, "print", 10, steps=["b", "a"])] == [2]
    later = waiting(ns)
    ns.rows("update @.tasks set run_at = now() + interval '1 h' where instance_id = %s", later)
    assert claim(ns) == []
    paused = waiting(ns, instance=ns.instance(status="paused"))
    assert claim(ns) == []
    ns.rows("update @.instances set status = 'waiting' where id = %s", paused)
    assert len(claim(ns)) == 1


@pytest.mark.parametrize("bad", ["n => 0", "n => null", "lease => '0'", "lease => null"])
def test_a_claim_of_nothing_is_refused(ns: Namespace, bad: str) -> None:
    with refused("PGD05", "claim_external takes n from 1 to 10000 and a positive lease"):
        ns.rows(f"select * from @.claim_external({bad})")


def test_two_who_end_the_same_step_wait_for_one_another_and_one_wins(ns: Namespace, eventually: Eventually) -> None:
    instance = waiting(ns)
    first, second = ns.session(autocommit=False), ns.session()
    assert ns.one("select @.complete_step(%s, 'approve', '1')", str(instance), on=first)
    late = ns.in_thread("select @.complete_step(%s, 'approve', '2')", str(instance), on=second)
    eventually(ns.waits(second, on=first), "the second waits for the first")
    first.commit()
    assert late.result(30) is False
    assert events(ns, instance) == [{"seq": 3, "attempt": 1, "output": 1}]
