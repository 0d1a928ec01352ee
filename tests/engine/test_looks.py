"""Where looks begin: never past what may still come in, save for the full ones, which come often enough."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from pgdurable._engine.looks import Looks

AT = datetime(2026, 11, 25, 12, 0, tzinfo=timezone.utc)
AT_US = int(AT.timestamp() * 1_000_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def look(looks: Looks, clock: list[float], took: float) -> bool:
    full = looks.begin()
    with looks.counted():
        clock[0] += took
    looks.end()
    return full


def test_full_looks_come_often_while_they_are_cheap_and_every_ten_seconds_at_the_least(clock: list[float]) -> None:
    for took, pause in ((0.001, 0.25), (0.05, 1.0), (3.0, 10.0)):
        looks = Looks()
        assert look(looks, clock, took)
        clock[0] += pause - 0.01
        assert not look(looks, clock, 0.0)
        clock[0] += 0.02
        assert look(looks, clock, took)


def test_a_look_that_failed_is_done_again(clock: list[float]) -> None:
    looks = Looks()
    assert look(looks, clock, 1.0)
    clock[0] += 20
    assert looks.begin()
    assert looks.begin()  # it did not end


def test_due_instances_are_looked_for_from_where_the_last_claim_left_off(clock: list[float]) -> None:
    looks = Looks()
    looks.begin()
    assert looks.since(["a", "b"]) == [None, None]
    later = AT + timedelta(seconds=1)
    looks.learn(["a", "b"], [("a", AT), ("a", later), ("b", None)], False, AT_US)
    assert looks.since(["a", "b", "a"]) == [later, None, later]
    looks.learn(["a", "b"], [("a", AT)], False, AT_US)  # never back
    assert looks.since(["a"]) == [later]
    # With room left there was nothing else, save what a transaction has not committed yet.
    looks.learn(["a", "b"], [], True, AT_US + 60_000_000)
    assert looks.since(["a", "b"]) == [AT + timedelta(seconds=55)] * 2
    looks.end()
    clock[0] += 20
    looks.begin()
    assert looks.since(["a", "b"]) == [None, None]
    looks.learn(["a"], [], True, 0)  # the database's time is not known
    assert looks.since(["a"]) == [None]


def test_events_are_looked_for_after_those_of_ten_seconds_ago(clock: list[float]) -> None:
    looks = Looks()
    for place in (10, 20, 30):
        assert looks.begin()
        looks.last_event(place)
        assert looks.after_event == 0
        looks.end()
        clock[0] += 6
    looks._next_full = clock[0] + 100
    looks.begin()
    assert looks.after_event == 20
    clock[0] += 30
    looks.begin()
    assert looks.after_event == 30
