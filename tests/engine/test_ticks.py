"""When schedules tick, and what is done about ticks: values in and out, no database and no clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdurable._engine.ticks import AT_ONCE, MOST_BUFFERED, Due, Times, iso, key_of, plan
from pgdurable.errors import InvalidInput

UTC = timezone.utc


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(cron: str, tz: str, since: str, n: int) -> list[str]:
    """The next n ticks after a time of UTC, on the wall clock of the zone."""
    times = Times({"cron": cron, "tz": tz}, "s")
    found = []
    for tick in times.after(utc(since)):
        found.append(tick.astimezone(times.zone).isoformat(timespec="minutes"))
        if len(found) == n:
            return found
    return found


# -- changes of the clocks


@pytest.mark.parametrize(
    ("tz", "since", "cron", "expected"),
    [
        # 2026-03-29 02:00 is 03:00 in Berlin, 2026-03-08 02:00 is 03:00 in New York.
        ("Europe/Berlin", "2026-03-28T12:00", "30 2 * * *", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("America/New_York", "2026-03-07T12:00", "30 2 * * *", ["2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"]),
        # Two ticks of the skipped hour become one.
        ("Europe/Berlin", "2026-03-28T12:00", "0,30 2 * * *", ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]),
        ("Europe/Berlin", "2026-03-28T23:30", "0 * * * *",
         ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"]),
        # 2026-10-25 03:00 is 02:00 again in Berlin, 2026-11-01 02:00 is 01:00 again in New York.
        ("Europe/Berlin", "2026-10-24T12:00", "30 2 * * *", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("America/New_York", "2026-10-31T12:00", "30 1 * * *", ["2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"]),
        # Asked between the two halves of the doubled hour: it has run.
        ("Europe/Berlin", "2026-10-25T00:45", "30 2 * * *", ["2026-10-26T02:30+01:00"]),
        ("America/New_York", "2026-11-01T06:10", "30 1 * * *", ["2026-11-02T01:30-05:00"]),
        # What runs every hour goes by elapsed time.
        ("Europe/Berlin", "2026-10-24T23:30", "0 * * * *",
         ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"]),
        ("America/New_York", "2026-11-01T04:30", "*/30 * * * *",
         ["2026-11-01T01:00-04:00", "2026-11-01T01:30-04:00", "2026-11-01T01:00-05:00", "2026-11-01T01:30-05:00"]),
        ("Europe/Berlin", "2026-03-27T12:00", "0 3 * * 1-5", ["2026-03-30T03:00+02:00", "2026-03-31T03:00+02:00"]),
    ],
)  # fmt: skip
def test_changes_of_the_clocks(tz: str, since: str, cron: str, expected: list[str]) -> None:
    assert local(cron, tz, since, len(expected)) == expected


@given(
    st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 30)),
    st.sampled_from(["30 2 * * *", "*/20 1-3 * * *", "0 * * * *", "30 2 29 3 *", "15,45 2 * * 0", "*/7 * * * *"]),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
)
def test_ticks_ascend_and_do_not_depend_on_where_one_asks(at: datetime, cron: str, tz: str) -> None:
    times = Times({"cron": cron, "tz": tz}, "s")
    since = at.replace(tzinfo=UTC)
    walk = times.after(since)
    ticks = [next(walk) for _ in range(40)]
    assert all(one < other for one, other in zip([since, *ticks], ticks, strict=False))
    for n in (0, 3, 17, 38):
        assert times.next(ticks[n]) == ticks[n + 1]


def test_an_interval_counts_from_its_anchor_whatever_the_clocks_do() -> None:
    times = Times({"every_s": 3600.0, "anchor": "2026-03-28T23:10:00+00:00", "tz": "Europe/Berlin"}, "s")
    assert times.next(utc("2026-03-29T00:30")) == utc("2026-03-29T01:10")
    assert times.next(utc("2026-03-29T01:10")) == utc("2026-03-29T02:10")
    assert times.next(utc("2026-03-28T20:00")) == utc("2026-03-28T20:10")


@pytest.mark.parametrize("cron", ["", "x", "0 3 * *", "61 * * * *", "* * * * * * *", "0 0 31 2"])
def test_what_is_no_cron_is_refused_by_name(cron: str) -> None:
    with pytest.raises(InvalidInput, match=r"schedule 'nightly': .* is no cron expression"):
        Times({"cron": cron}, "nightly")


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", "", "/etc/localtime"])
def test_what_is_no_zone_is_refused_by_name(zone: str) -> None:
    with pytest.raises(InvalidInput, match="schedule 'nightly': there is no time zone"):
        Times({"cron": "0 3 * * *", "tz": zone}, "nightly")


def test_a_date_that_never_comes_has_no_tick() -> None:
    assert Times({"cron": "0 0 */20 * 1L"}, "s").next(utc("2026-01-01")) is None


@pytest.mark.parametrize("word", ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"])
def test_names_for_common_crons(word: str) -> None:
    assert Times({"cron": word}, "s").next(utc("2026-01-01T00:30")) is not None


# -- jitter


def test_jitter_is_the_same_for_all_and_never_passes_the_next_tick() -> None:
    times = Times({"cron": "* * * * *", "jitter_s": 3600}, "s")
    delays = set()
    for n, tick in enumerate(times.after(utc("2026-01-01"))):
        delay = times.fires(tick) - tick
        assert timedelta(0) <= delay < timedelta(minutes=1)
        assert Times({"cron": "* * * * *", "jitter_s": 3600}, "s").fires(tick) == tick + delay
        delays.add(delay)
        if n == 20:
            break
    assert len(delays) > 15


# -- what is done about them


def due(now: str, tick: str | None = None, **options: Any) -> Due:
    definition = {"cron": "* * * * *", **options.pop("definition", {})}
    given: dict[str, Any] = {
        "since": utc("2026-01-01"), "paused": False, "buffered": [], "requests": [], "last_at": None, "running": {},
        **options,
    }  # fmt: skip
    return Due("s", "w", definition, "{}", 1, tick_at=None if tick is None else utc(tick), now=utc(now), **given)


def at(*times: str) -> list[datetime]:
    return [utc(f"2026-01-01T{time}") for time in times]


def test_one_tick_is_started_and_the_next_is_known() -> None:
    done = plan(due("2026-01-01T10:00:00.500", "2026-01-01T10:00"))
    assert (done.starts, done.missed, done.skipped) == (at("10:00"), 0, 0)
    assert [done.tick_at] == [done.next_at] == at("10:01")


def test_nothing_is_done_before_its_time() -> None:
    done = plan(due("2026-01-01T09:59:59.999", "2026-01-01T10:00"))
    assert done.starts == []
    assert [done.next_at] == at("10:00")


@pytest.mark.parametrize(
    ("catch_up", "started", "missed"),
    [
        (None, ["12:34"], 154),  # the last one, however old
        (0.0, [], 155),  # 12:34 is 30 s old
        (120.0, ["12:33", "12:34"], 153),
        (300.0, ["12:30", "12:31", "12:32", "12:33", "12:34"], 150),
    ],
)
def test_after_a_suspension_the_window_decides(catch_up: float | None, started: list[str], missed: int) -> None:
    definition = {"overlap": "allow"} | ({} if catch_up is None else {"catch_up_s": catch_up})
    done = plan(due("2026-01-01T12:34:30", "2026-01-01T10:00", definition=definition))
    assert done.starts == at(*started)
    assert done.missed == missed
    assert [done.next_at] == at("12:35")


def test_without_a_window_a_tick_is_on_time_for_a_while() -> None:
    done = plan(due("2026-01-01T12:34:12", "2026-01-01T10:00", definition={"catch_up_s": 0}))
    assert done.starts == at("12:34")


def test_years_of_missed_seconds_are_jumped_over() -> None:
    every: dict[str, Any] = {"every_s": 1.0, "anchor": "2020-01-01T00:00:00+00:00"}
    for definition in ({"cron": "* * * * * *"}, every):
        asked = due("2026-01-01T12:00:00.500", definition=definition, since=utc("2020-01-01"))
        asked.definition = definition
        done = plan(asked)
        assert done.starts == at("12:00")
        assert [done.next_at] == at("12:00:01")
        assert done.missed >= 1000


def test_a_yearly_tick_that_was_missed_is_found() -> None:
    done = plan(due("2031-05-05T00:00", "2026-03-03T03:03", definition={"cron": "3 3 3 3 *"}))
    assert done.starts == [utc("2031-03-03T03:03")]
    assert done.missed == 5


def test_a_long_window_is_worked_off_in_parts() -> None:
    asked = due("2026-01-01T10:00", "2026-01-01T00:00", definition={"overlap": "allow", "catch_up_s": 86400})
    seen: list[datetime] = []
    while True:
        done = plan(asked)
        assert len(done.starts) <= AT_ONCE
        seen += done.starts
        asked.tick_at = done.tick_at
        if done.next_at is None or done.next_at > asked.now:
            break
    assert len(seen) == len(set(seen)) == 601


BUSY = {"11111111-1111-1111-1111-111111111111": "running"}


@pytest.mark.parametrize(
    ("overlap", "starts", "buffered", "skipped", "cancelled"),
    [
        ("skip", [], [], 3, 0),
        ("buffer_one", [], ["10:00"], 2, 0),
        ("buffer_all", [], ["10:00", "10:01", "10:02"], 0, 0),
        ("cancel_other", [], ["10:02"], 2, 1),
        ("allow", ["10:00", "10:01", "10:02"], [], 0, 0),
    ],
)
def test_overlap_while_one_runs(
    overlap: str, starts: list[str], buffered: list[str], skipped: int, cancelled: int
) -> None:
    definition = {"overlap": overlap, "catch_up_s": 600}
    done = plan(due("2026-01-01T10:02:01", "2026-01-01T10:00", definition=definition, running=BUSY))
    assert (done.starts, done.buffered) == (at(*starts), at(*buffered))
    assert (done.skipped, len(done.cancel)) == (skipped, cancelled)
    assert done.keep == list(BUSY)


def test_a_tick_that_waits_begins_when_the_one_before_has_ended() -> None:
    waiting = due("2026-01-01T10:02:01", "2026-01-01T10:03", buffered=at("10:01", "10:02"), running=BUSY)
    assert plan(waiting).starts == []
    first_look = plan(waiting).next_at
    assert first_look is not None
    assert first_look < utc("2026-01-01T10:02:02")
    waiting.running = dict.fromkeys(BUSY, "completed")
    done = plan(waiting)
    assert (done.starts, done.buffered, done.keep) == (at("10:01"), at("10:02"), [])


def test_one_whose_instance_is_gone_is_free() -> None:
    assert plan(due("2026-01-01T10:00:01", "2026-01-01T10:00", running={})).starts == at("10:00")


@pytest.mark.parametrize("status", ["failed", "timed_out"])
def test_pause_on_failure(status: str) -> None:
    running = dict.fromkeys(BUSY, status)
    definition = {"pause_on_failure": True}
    done = plan(due("2026-01-01T10:00:01", "2026-01-01T10:00", definition=definition, running=running))
    assert done.starts == []
    assert done.next_at is None
    assert done.note is not None
    assert f"ended {status}" in done.note
    assert plan(due("2026-01-01T10:00:01", "2026-01-01T10:00", running=running)).starts == at("10:00")
    fine = dict.fromkeys(BUSY, "cancelled")
    assert plan(due("2026-01-01T10:00:01", "2026-01-01T10:00", definition=definition, running=fine)).note is None


def test_what_pauses_on_failure_is_looked_at_before_its_next_tick() -> None:
    done = plan(due("2026-01-01T10:00:01", "2026-01-01T10:00", definition={"pause_on_failure": True, "cron": "@daily"}))
    assert done.starts
    assert done.next_at is not None
    assert done.next_at < utc("2026-01-01T10:00:12")


def test_a_trigger_starts_whatever_runs_and_also_while_it_is_paused() -> None:
    asked = [{"trigger": "2026-01-01T09:59:30.123456+00:00"}]
    for paused in (False, True):
        done = plan(due("2026-01-01T09:59:31", "2026-01-01T10:00", running=BUSY, requests=asked, paused=paused))
        assert done.starts == [utc("2026-01-01T09:59:30.123456")]
        assert done.requests == []
        assert (done.next_at is None) == paused


def test_a_backfill_waits_its_turn_or_runs_at_once_and_skips_what_is_there() -> None:
    range_ = {"since": "2026-01-01T08:00:00+00:00", "until": "2026-01-01T08:03:00+00:00"}
    there = frozenset({key_of("s", at("08:02")[0])})
    done = plan(due("2026-01-01T09:59:31", "2026-01-01T10:00", requests=[range_]), there)
    assert (done.starts, done.buffered, done.requests) == (at("08:01"), at("08:03"), [])
    asked = [{**range_, "overlap": "allow"}]
    done = plan(due("2026-01-01T09:59:31", "2026-01-01T10:00", requests=asked, running=BUSY), there)
    assert (done.starts, done.buffered) == (at("08:01", "08:03"), [])
    done = plan(due("2026-01-01T09:59:31", "2026-01-01T10:00", requests=[range_], paused=True), there)
    assert (done.starts, done.requests) == ([], [range_])


@pytest.mark.parametrize("overlap", ["allow", "buffer_all"])
def test_a_long_backfill_is_worked_off_in_parts(overlap: str) -> None:
    asked = due("2026-01-10T00:00:01", "2026-01-10T00:01", requests=[
        {"since": "2026-01-01T00:00:00+00:00", "until": "2026-01-03T00:00:00+00:00", "overlap": overlap}
    ])  # fmt: skip
    seen: list[datetime] = []
    for _ in range(5000):
        done = plan(asked)
        seen += done.starts
        assert len(done.starts) <= AT_ONCE
        assert len(done.buffered) <= MOST_BUFFERED
        asked.requests, asked.buffered = done.requests, done.buffered
        if not done.requests and not done.buffered:
            break
    assert len(seen) == len(set(seen)) == 2 * 24 * 60
    assert seen == sorted(seen)


def test_once_at_a_time_is_once() -> None:
    definition = {"cron": None, "at": "2026-01-01T10:00:00+00:00"}
    first = due("2026-01-01T10:00:01", definition=definition, since=utc("2026-01-01T10:00:00.900"))
    first.definition = {"at": definition["at"]}
    done = plan(first)
    assert done.starts == at("10:00")  # also when it was made a moment too late
    assert (done.tick_at, done.next_at) == (None, None)
    first.last_at = utc("2026-01-01T10:00")
    assert plan(first).starts == []


def test_ids_tell_the_schedule_and_the_time() -> None:
    assert key_of("nightly", utc("2026-01-01T03:00")) == "nightly@2026-01-01T03:00:00Z"
    assert key_of("nightly", utc("2026-01-01T03:00:00.250")) == "nightly@2026-01-01T03:00:00.250000Z"
    assert iso(datetime.fromisoformat("2026-01-01T04:00:00+01:00")) == "2026-01-01T03:00:00+00:00"
