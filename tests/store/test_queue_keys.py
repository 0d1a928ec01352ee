"""Keys of queues: one living instance each; what gathers for debounced starts and batches."""

from __future__ import annotations

from typing import Any

import pytest

from .namespace import Namespace, refused

ENDS = ("completed", "failed", "cancelled", "timed_out")


def test_while_one_lives_a_second_start_with_its_key_gives_it(ns: Namespace) -> None:
    start = "select @.start('w', queue => %s, dedup => %s)"
    first = ns.one(start, "mail", "k")
    assert ns.one(start, "mail", "k") == first
    assert ns.one(start, "sms", "k") != first
    assert ns.one(start, "mail", "l") != first
    assert ns.one("select count(*) from @.instances") == 3
    with refused("PGD04", "held by an instance of workflow 'w'"):
        ns.one("select @.start('v', queue => 'mail', dedup => 'k')")
    for text in ("dedup => 'k', id => 'x'", "dedup => ''", f"dedup => '{'x' * 513}'"):
        with refused("PGD05", "dedup takes a key"):
            ns.one(f"select @.start('w', {text})")


@pytest.mark.parametrize("status", [*ENDS, "paused", "waiting", "running"])
def test_every_end_frees_the_key_and_nothing_else_does(ns: Namespace, status: str) -> None:
    start = "select @.start('w', queue => 'mail', dedup => 'k')"
    first = ns.one(start)
    ns.rows("update @.instances set status = %s", status)
    second = ns.one(start)
    assert (second != first) == (status in ENDS)
    assert ns.one(start) == second


def test_two_starts_with_one_key_at_once_make_one(ns: Namespace, eventually: Any) -> None:
    start = "select @.start('w', queue => 'mail', dedup => 'k')"
    one, two = ns.session(autocommit=False), ns.session()
    first = ns.one(start, on=one)
    second = ns.in_thread(start, on=two)
    eventually(ns.waits(two, on=one), "the second waits for the first's commit")
    one.commit()
    assert second.result(10) == first
    # And a first one that is rolled back leaves the key to the second.
    ns.rows("update @.instances set status = 'failed'")
    first = ns.one(start, on=one)
    third = ns.in_thread(start, on=two)
    eventually(ns.waits(two, on=one), "the second waits for the first's end")
    one.rollback()
    assert third.result(10) != first


def test_a_start_that_is_sent_again_is_one_start(ns: Namespace) -> None:
    id = ns.one("select @.new_id()")
    start = "select @.start('w', queue => 'mail', dedup => 'k', instance => %s)"
    assert ns.one(start, id) == ns.one(start, id) == str(id)
    ns.rows("update @.instances set status = 'completed'")
    assert ns.one(start, id) == str(id)
    assert ns.one("select count(*) from @.instances") == 1


def test_a_failed_instance_that_is_retried_has_lost_its_key(ns: Namespace) -> None:
    start = "select @.start('w', queue => 'mail', dedup => 'k')"
    first = ns.one(start)
    ns.rows("update @.instances set status = 'failed'")
    second = ns.one(start)
    assert ns.one("select @.retry(%s)", first)
    assert ns.rows("select status, count(*) from @.instances group by 1") == [("pending", 2)]
    assert ns.one(start) == second


def test_what_gathers_goes_on_gathering_while_it_is_paused(ns: Namespace) -> None:
    debounced = "select @.start_debounced('w', %s, 'k', '1 minute')"
    first = ns.one(debounced, '{"n": 1}')
    batched = "select array(select @.start_batched('b', 'names', array[@.new_id()], array['1'], 5, '1 minute'))"
    (batch,) = ns.one(batched)
    ns.rows("select @.pause(id::text) from @.instances")
    assert ns.one(debounced, '{"n": 2}') == first
    assert ns.one(batched) == [batch]
    assert ns.rows("select status, input, gathered from @.instances order by workflow desc") == [
        ("paused", {"n": 2}, None), ("paused", {"names": []}, 2)
    ]  # fmt: skip
    ns.rows("update @.instances set status = 'cancelled'")
    assert ns.one(debounced, '{"n": 3}') != first
