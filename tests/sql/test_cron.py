"""cron_next: the times of cron expressions in SQL are those of schedules, and right where the clocks change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import psycopg
import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgdurable._engine.ticks import Times
from pgdurable._store.migrations import migrate
from pgdurable._store.sql import quote_schema
from pgdurable.errors import InvalidInput

UTC = timezone.utc
Next = Callable[[str, str, datetime], "datetime | None"]


@pytest.fixture(scope="module")
def cron(dsn: str) -> Iterator[Next]:
    schema = "test_sql_cron"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set client_min_messages = warning")
        conn.execute(f"drop schema if exists {schema} cascade")
        migrate(dsn, schema)
        call = f"select {quote_schema(schema)}.cron_next(%s, %s, %s)"

        def ask(expr: str, tz: str, after: datetime) -> datetime | None:
            row = conn.execute(call, (expr, tz, after)).fetchone()
            assert row is not None
            found: datetime | None = row[0]
            return found

        yield ask
        conn.execute(f"drop schema {schema} cascade")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- the same as a schedule's

_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
_DAYS = "sun mon tue wed thu fri sat".split()


def field(low: int, high: int, names: list[str] | None = None, more: list[str] | None = None) -> st.SearchStrategy[str]:
    """The text of a field: a star, numbers, ranges, steps, lists."""
    number = st.integers(low, high).map(str)
    one = st.one_of(number, st.sampled_from(names)) if names else number
    ends = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda e: f"{min(e)}-{max(e)}")
    step = st.integers(1, high)
    term = st.one_of(
        one,
        ends,
        st.builds("{}/{}".format, st.one_of(st.just("*"), ends, number), step),
        *([st.sampled_from(more)] if more else []),
    )
    return st.one_of(st.just("*"), term, st.lists(term, min_size=2, max_size=3).map(",".join))


EXPRESSIONS = st.one_of(
    st.tuples(
        field(0, 59),
        field(0, 23),
        st.one_of(st.just("*"), field(1, 31, more=["L", "LW"])),
        st.one_of(st.just("*"), field(1, 12, _MONTHS)),
        st.one_of(st.just("*"), field(0, 7, _DAYS, ["5L", "1#2", "tue#5", "0L"])),
    ).map(" ".join),
    st.sampled_from(["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"]),
    st.builds("{} {} {} * * *".format, field(0, 59), field(0, 59), field(0, 23)),
)
# Their clocks change by an hour, at a whole hour that is not midnight: where they do not, cronsim skips what follows.
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Sydney", "Pacific/Chatham"]
CHANGES = [utc("2026-03-29T01:00"), utc("2026-10-25T01:00"), utc("2026-03-08T07:00"), utc("2026-11-01T06:00")]
MOMENTS = st.one_of(
    st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    st.builds(lambda at, s: at + timedelta(seconds=s), st.sampled_from(CHANGES), st.floats(-7200, 7200)),
)


@settings(max_examples=300)
@example(expr="0 0 29 2 *", tz="UTC", after=utc("2096-03-01T00:00"))
@example(expr="0 0 30 2 *", tz="UTC", after=utc("2026-03-01T00:00"))
@example(expr="0 0 30 2 mon", tz="UTC", after=utc("2026-03-01T00:00"))
@example(expr="30 2 * * *", tz="Europe/Berlin", after=utc("2026-03-28T12:00"))
@example(expr="30 2 * * *", tz="Europe/Berlin", after=utc("2026-10-25T00:45"))
@example(expr="0 3 1-5/2 * 0", tz="Europe/Berlin", after=utc("2026-10-25T00:45"))
@given(expr=EXPRESSIONS, tz=st.sampled_from(ZONES), after=MOMENTS)
def test_the_same_times_as_a_schedule(cron: Next, expr: str, tz: str, after: datetime) -> None:
    try:
        expected = Times({"cron": expr, "tz": tz}, "s").next(after)
    except InvalidInput:
        with pytest.raises(psycopg.Error) as refused:
            cron(expr, tz, after)
        assert refused.value.sqlstate == "PGD05"
        return
    assert cron(expr, tz, after) == expected


# -- what an expression means, told another way: the clock on the wall, minute by minute


def by_minutes(expr: str, tz: str, after: datetime) -> datetime:
    """The first minute after that time whose clock shows what the expression says."""
    zone = ZoneInfo(tz)
    sim = CronSim(expr, datetime(2026, 1, 1))
    at = after.replace(second=0, microsecond=0)
    while True:
        at += timedelta(minutes=1)
        wall = at.astimezone(zone)
        if (
            wall.minute in sim.minutes
            and wall.hour in sim.hours
            and wall.month in sim.months
            and sim.match_day(wall.date())
        ):
            return at


@pytest.mark.parametrize(
    ("tz", "change"),
    [
        ("Australia/Lord_Howe", "2026-10-03T15:30"),  # half an hour forward
        ("Australia/Lord_Howe", "2026-04-04T15:00"),  # and back
        ("Asia/Beirut", "2026-03-28T22:00"),  # at midnight, which is skipped
        ("America/St_Johns", "2005-04-03T03:31"),  # at a minute past midnight
        ("Europe/Berlin", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T01:00"),
        ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day is skipped
    ],
)
@pytest.mark.parametrize(
    "expr", ["* * * * *", "*/20 * * * *", "0 * * * *", "45 */3 * * *", "* 1 * * *", "*/7 0,2 * * *"]
)
def test_elapsed_time_around_a_change_of_the_clocks(cron: Next, expr: str, tz: str, change: str) -> None:
    for minutes in range(-181, 181, 9):
        after = utc(change) + timedelta(minutes=minutes, seconds=30)
        assert cron(expr, tz, after) == by_minutes(expr, tz, after), after


@pytest.mark.parametrize(
    ("expr", "tz", "after", "expected"),
    [
        ("30 0 * * *", "Asia/Beirut", "2026-03-28T12:00", "2026-03-28T22:00"),  # midnight to one is skipped
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T10:00", "2026-10-03T15:30"),  # two to half past
        ("30 0 * * *", "Pacific/Apia", "2011-12-29T12:00", "2011-12-30T10:00"),  # a whole day
    ],
)
def test_a_skipped_time_runs_right_after(cron: Next, expr: str, tz: str, after: str, expected: str) -> None:
    assert cron(expr, tz, utc(after)) == utc(expected)


def test_sunday_is_0_and_7_and_monday_is_1(cron: Next) -> None:
    wednesday = utc("2026-11-25T00:00")
    found = [cron(f"0 0 * * {day}", "UTC", wednesday) for day in range(8)]
    assert [at.strftime("%a") for at in found if at] == ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    assert cron("0 0 * * 1-5", "UTC", utc("2026-11-27T12:00")) == utc("2026-11-30T00:00")


def test_either_day_field_will_do_when_both_say_something(cron: Next) -> None:
    assert cron("0 0 13 * 5", "UTC", utc("2026-11-14T00:00")) == utc("2026-11-20T00:00")
    assert cron("0 0 13 * *", "UTC", utc("2026-11-14T00:00")) == utc("2026-12-13T00:00")


def test_nothing_for_nothing(cron: Next) -> None:
    assert cron("0 0 29 2 mon#5", "UTC", utc("2026-01-01T00:00")) is not None
    assert cron("0 0 LW 2 */7", "UTC", utc("2026-01-01T00:00")) is None  # the last working day is no Sunday
    assert cron(None, "UTC", utc("2026-01-01T00:00")) is None  # type: ignore[arg-type]


# -- what is none


@pytest.mark.parametrize(
    ("expr", "says"),
    [
        ("", "it has 0 fields"),
        ("* * * *", "it has 4 fields"),
        ("* * * * * * *", "it has 7 fields"),
        ("60 * * * *", "'60' is no minute"),
        ("* 24 * * *", "'24' is no hour"),
        ("* * 0 * *", "'0' is no day of the month"),
        ("* * 32 * *", "'32' is no day of the month"),
        ("* * * 13 *", "'13' is no month"),
        ("* * * * 8", "'8' is no day of the week"),
        ("* * * * moon", "'moon' is no day of the week"),
        ("5-1 * * * *", "'5-1' is no minute"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("1--2 * * * *", "'1--2' is no minute"),
        ("99999999999999999999 * * * *", "is no minute"),
        ("* * * * 1#6", "'1#6' is no day of the week"),
        ("0 0 31 4,6 *", "no such day in these months"),
    ],
)
def test_what_is_no_expression_is_refused(cron: Next, expr: str, says: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        cron(expr, "UTC", utc("2026-01-01T00:00"))
    assert refused.value.sqlstate == "PGD05"
    assert says in str(refused.value).lower()
    assert refused.value.diag.message_hint


def test_no_such_zone(cron: Next) -> None:
    with pytest.raises(psycopg.Error, match="there is no time zone 'Mars/Olympus'") as refused:
        cron("* * * * *", "Mars/Olympus", utc("2026-01-01T00:00"))
    assert refused.value.sqlstate == "PGD05"
