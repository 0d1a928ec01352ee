"""Writes that are seldom: they ride in a flush with the rows they belong to, or not at all."""

from __future__ import annotations

import json
import uuid

import pytest

from pgdurable._core import Flusher

from .test_flusher import PATHS, House, answer, flush, house, send_and_wait, step

__all__ = ["house"]


def event(flusher: Flusher, id: bytes, name: str, *, joined: bool, key: uuid.UUID | None = None) -> None:
    body = {"key": str(key or uuid.uuid4()), "kind": "signal", "name": name, "payload": {"n": 1}}
    flusher.add_write(id, "event", 0, json.dumps(body).encode(), name, joined)


@PATHS
def test_a_write_commits_with_its_row(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    (mine,) = house.owned(1)
    step(flusher, "a", id=mine)
    event(flusher, mine, "told", joined=True)
    batch = flusher.take()
    assert (len(batch), batch.writes) == (2, 1)
    assert send_and_wait(flusher, batch)[0] == "committed"
    assert house.names() == ["a"]
    assert house.rows("select kind, name, payload from @.events") == [("signal", "told", {"n": 1})]


@PATHS
def test_a_write_that_is_sent_again_changes_nothing(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    (mine,) = house.owned(1)
    step(flusher, "a", id=mine)
    event(flusher, mine, "told", joined=True)
    batch = flusher.take()
    assert send_and_wait(flusher, batch)[0] == "committed"
    batch.again = True
    kind, _, at_us, times = send_and_wait(flusher, batch)
    assert (kind, len(times)) == ("committed", 2)
    assert (times[0] < at_us, times[1]) == (True, at_us)
    assert house.one("select count(*) from @.events") == 1


@PATHS
def test_a_refused_write_takes_its_row_along_and_nothing_else(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    mine, other = house.owned(2)
    for n in range(5):
        step(flusher, f"{n}", id=mine, event_id=n)
        if n == 2:
            flusher.add_write(mine, "no such kind", 0, b"null", "wrong", True)
            flusher.add_write(mine, "event", 0, b'{"key": "5b3a6d4e-0000-4000-8000-000000000000"}', "fine", True)
        if n == 3:
            event(flusher, other, "told", joined=True)
    work, refused = [flusher.take()], []
    while work:
        flusher.send(work.pop(0))
        kind, batch, *rest = answer(flusher)
        parts = batch.split()
        if kind == "refused" and len(parts) > 1:
            work += parts
        elif kind == "refused":
            refused.append((batch.tags, rest[0]))
    assert refused == [(["2", "wrong", "fine"], "PGD08")]
    assert house.names() == ["0", "1", "3", "4"]
    assert house.rows("select name from @.events") == [("told",)]


def test_what_has_ended_gets_no_event(house: House) -> None:
    flusher = house.flusher()
    (mine,) = house.owned(1)
    house.rows("update @.instances set status = 'completed'")
    event(flusher, mine, "late", joined=False)
    assert flush(flusher)[0] == "committed"
    assert house.one("select count(*) from @.events") == 0


def test_a_write_joins_a_row_that_is_there(house: House) -> None:
    flusher = house.flusher()
    with pytest.raises(ValueError, match="no row that this write could join"):
        event(flusher, bytes(16), "alone", joined=True)
    assert flusher.waiting == 0


@PATHS
def test_a_large_payload_is_kept_apart_in_the_same_commit(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    flusher.aside_over = 100
    (mine,) = house.owned(1)
    large, small = json.dumps("x" * 200).encode(), json.dumps("y" * 90).encode()
    for n, payload in enumerate((large, small, large, None), 1):
        flusher.add_history(mine, n, n, None, None, 1, "step", "s", payload, None, f"tag {n}")
    flusher.add_release(mine, "completed", large, None, None, "end")
    batch = flusher.take()
    assert (len(batch), batch.writes) == (8, 3)
    assert send_and_wait(flusher, batch)[0] == "committed"
    ((hash, data),) = house.rows("select hash, data from @.payloads")  # three times the same: kept once
    assert data == "x" * 200
    marker = {"$pgdurable:aside": {"hash": hash, "size": len(large)}}
    rows = house.rows("select payload from @.history order by event_id")
    assert [payload for (payload,) in rows] == [marker, "y" * 90, marker, None]
    assert house.rows("select output, @.whole(id, output) from @.instances") == [(marker, "x" * 200)]
    batch.again = True
    assert send_and_wait(flusher, batch)[0] == "committed"
    assert house.one("select count(*) from @.payloads") == 1


@PATHS
def test_a_new_instance_with_a_large_input(house: House, copy_from: int) -> None:
    flusher = house.flusher(copy_from)
    flusher.aside_over = 100
    id = uuid.uuid4().bytes
    flusher.add_instance(id, "w", "1", "pending", "default", None, json.dumps({"a": "x" * 200}).encode(), "tag")
    assert send_and_wait(flusher, flusher.take())[0] == "committed"
    assert house.rows("select input ? '$pgdurable:aside', @.whole(id, input) from @.instances") == [
        (True, {"a": "x" * 200})
    ]
