"""Schedules on a server: once per tick over all workers, overlaps, suspensions, and what people do to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from schedules import age

import pgdurable as pgd
from pgdurable.errors import InvalidInput, ScheduleNotFound

from .namespace import Namespace, until

UTC = timezone.utc


@pgd.workflow(name="scheduled_report")
async def report(who: str, scheduled_at: datetime) -> str:
    return f"{who} at {scheduled_at.isoformat()}"


@pgd.workflow(name="scheduled_plain")
async def plain() -> None:
    return None


@pgd.workflow(name="scheduled_wait")
async def waits() -> Any:
    return await pgd.wait_signal("go")


@pgd.workflow(name="scheduled_fails")
async def fails() -> None:
    raise ValueError("no report today")


def ticks(ns: Namespace, name: str) -> list[str]:
    """The ids of a schedule's instances, in order."""
    return [
        id for (id,) in ns.sql("select id from @.instance_keys where split_part(id, chr(64), 1) = %s order by id", name)
    ]


async def row(ns: Namespace, name: str, column: str, wanted: Any) -> None:
    await until(lambda: ns.one(f"select {column} from @.schedules where name = %s", name) == wanted,
                f"{column} of {name} is {wanted!r}")  # fmt: skip


# -- ticks


async def test_once_per_tick_over_all_workers(ns: Namespace) -> None:
    async with ns.engine(plain) as one, ns.engine(plain), ns.engine(plain):
        made = await one.schedule("beat", plain, every=0.2, overlap="allow", catch_up=60)
        assert (made.state, made.every, made.overlap) == ("active", timedelta(seconds=0.2), "allow")
        await until(lambda: len(ticks(ns, "beat")) >= 12, "twelve ticks")
    assert made.anchor is not None
    rows = ns.sql(
        "select k.id, i.created_at, i.labels ->> 'scheduled_at' from @.instances i"
        " join @.instance_keys k on k.instance_id = i.id order by 3"
    )
    for n, (id, created, tick) in enumerate(rows, 1):
        at = made.anchor + n * timedelta(seconds=0.2)
        assert id == f"beat@{at.replace(tzinfo=None).isoformat()}Z"
        assert datetime.fromisoformat(tick) == at
        assert at <= created  # never early, by the server's clock
    assert ns.sql("select started, missed, skipped from @.schedules") == [(len(rows), 0, 0)]


async def test_no_burst_after_a_suspension(ns: Namespace) -> None:
    """Nobody is there for an hour: of what was missed the last is started, or what the window says."""
    every, week = timedelta(minutes=1), timedelta(days=7)
    async with ns.engine(plain) as engine:
        await engine.schedule("last", plain, every=every, overlap="allow")
        await engine.schedule("none", plain, every=every, overlap="allow", catch_up=0)
        await engine.schedule("some", plain, every=every, overlap="allow", catch_up=timedelta(minutes=10))
        await engine.schedule("week", plain, every=every, overlap="skip", catch_up=week)
        await row(ns, "week", "tick_at is not null", True)
    for name in ("last", "none", "some", "week"):
        age(ns.sql, name, "1 hour 30 seconds")
    async with ns.engine(plain, poll_interval=0.1) as engine:
        for name in ("last", "none", "some", "week"):
            await row(ns, name, "next_at > now()", True)
        found = {name: await engine.schedules.get(name) for name in ("last", "none", "some", "week")}
    assert {name: s.started for name, s in found.items()} == {"last": 1, "none": 0, "some": 10, "week": 1}
    assert {name: len(ticks(ns, name)) for name in found} == {"last": 1, "none": 0, "some": 10, "week": 1}
    assert found["last"].missed == 59
    assert found["none"].missed == 60
    assert found["some"].missed == 50
    assert found["week"].skipped == 59  # they would have overlapped


async def test_once(ns: Namespace) -> None:
    async with ns.engine(report) as engine:
        at = datetime.now(UTC) + timedelta(seconds=0.3)
        await engine.schedule("once", report, "ann", at=at)
        await until(lambda: ticks(ns, "once"), "the tick")
        handle = await engine.get(ticks(ns, "once")[0])
        assert await handle.result(10) == f"ann at {at.isoformat()}"
        assert (await engine.schedules.get("once")).state == "over"
        assert await engine.schedules.next("once") == []
        # The same again starts nothing; a local time is one of the zone.
        await engine.schedule("once", report, "ann", at=at)
        later = await engine.schedule("later", report, "ann", at=datetime(2099, 7, 1, 8), tz="Europe/Berlin")
        assert later.next_at == datetime(2099, 7, 1, 6, tzinfo=UTC)
        assert len(ticks(ns, "once")) == 1


async def test_the_workflow_is_told_its_tick_in_the_zone_of_the_schedule(ns: Namespace) -> None:
    async with ns.engine(report) as engine:
        await engine.schedule("nightly", report, "ann", cron="0 3 * * *", tz="Europe/Berlin", labels={"team": "a"})
        await row(ns, "nightly", "tick_at is not null", True)
        age(ns.sql, "nightly", "1 day")
        await until(lambda: ticks(ns, "nightly"), "yesterday's tick")
        handle = await engine.get(ticks(ns, "nightly")[0])
        told = await handle.result(10)
        info = await handle.describe()
    at = datetime.fromisoformat(told.removeprefix("ann at "))
    assert (at.hour, at.utcoffset()) in ((3, timedelta(hours=1)), (3, timedelta(hours=2)))
    assert info.id == f"nightly@{at.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
    assert info.labels == {"team": "a", "schedule": "nightly", "scheduled_at": at.isoformat()}
    assert info.input == {"who": "ann", "scheduled_at": at.isoformat()}


async def test_a_worker_without_the_workflow_leaves_it_alone(ns: Namespace) -> None:
    async with ns.engine(plain, poll_interval=0.05) as engine:
        await engine.schedule("theirs", "scheduled_wait", every=0.1)
        await engine.schedule("ours", plain, every=0.1)
        await until(lambda: len(ticks(ns, "ours")) >= 3, "three of ours")
        assert ticks(ns, "theirs") == []
    async with ns.engine(waits):
        await until(lambda: len(ticks(ns, "theirs")) == 1, "one of theirs")


async def test_a_busy_worker_ticks_too(ns: Namespace) -> None:
    """One that always claims never asks when the next is due."""
    async with ns.client() as client, ns.engine(plain, poll_interval=0.05) as engine:
        await client.schedule("beat", plain, every=0.2)
        stop = asyncio.Event()

        async def flood() -> None:
            while not stop.is_set():
                await client.start_many("scheduled_plain", [()] * 200)

        flooding = asyncio.ensure_future(flood())
        await until(lambda: len(ticks(ns, "beat")) >= 3, "ticks beside the flood")
        stop.set()
        await flooding
        assert engine.metrics()["ended"] > 0


# -- overlap


@pytest.mark.parametrize("overlap", ["skip", "buffer_one", "buffer_all", "allow"])
async def test_overlaps(ns: Namespace, overlap: Any) -> None:
    async with ns.engine(waits, poll_interval=0.1) as engine:
        await engine.schedule("s", waits, every=0.2, overlap=overlap)
        if overlap == "allow":
            await until(lambda: len(ticks(ns, "s")) >= 4, "four that run side by side")
        else:
            wanted = {"skip": "skipped >= 3", "buffer_one": "skipped >= 2", "buffer_all": "cardinality(buffered) >= 3"}
            await row(ns, "s", wanted[overlap], True)
            assert len(ticks(ns, "s")) == 1
            await engine.schedules.edit("s", every=3600)  # no further ticks of its own
            first = await engine.get(ticks(ns, "s")[0])
            waiting = ns.one("select cardinality(buffered) from @.schedules where name = 's'")
            assert waiting == {"skip": 0, "buffer_one": 1}.get(overlap, waiting)
            await first.signal("go")
            for n in range(waiting):
                await until(lambda n=n: len(ticks(ns, "s")) == 2 + n, "the next")  # type: ignore[misc]
                after = await engine.get(ticks(ns, "s")[1 + n])
                await after.signal("go")
            await row(ns, "s", "cardinality(buffered)", 0)
        running = Counter(status for (status,) in ns.sql("select status from @.instances"))
        if overlap == "allow":
            assert running["running"] + running["pending"] >= 3


async def test_the_next_tick_cancels_what_runs_and_begins_after_it(ns: Namespace) -> None:
    async with ns.engine(waits, poll_interval=0.1) as engine:
        await engine.schedule("s", waits, every=0.3, overlap="cancel_other")
        await until(lambda: len(ticks(ns, "s")) >= 3, "three that took each other's place")
        await engine.schedules.pause("s")
        rows = ns.sql("select status, created_at, finished_at from @.instances order by created_at")
    assert {status for status, *_ in rows[:-1]} == {"cancelled"}
    for (_, _, ended), (_, begun, _) in pairwise(rows):
        assert ended <= begun


async def test_pause_on_failure(ns: Namespace) -> None:
    async with ns.engine(fails, poll_interval=0.1) as engine:
        await engine.schedule("s", fails, every=0.5, pause_on_failure=True)
        await row(ns, "s", "paused", True)
        found = await engine.schedules.get("s")
        assert (found.state, found.next_at) == ("paused", None)
        assert found.note is not None
        assert "ended failed" in found.note
        started = found.started
        assert started <= 2
        assert await engine.schedules.resume("s") is True
        await row(ns, "s", "paused", True)
        assert (await engine.schedules.get("s")).started > started


# -- what people do to them


async def test_pause_and_resume(ns: Namespace) -> None:
    async with ns.engine(plain, poll_interval=0.05) as engine:
        await engine.schedule("s", plain, every=0.1)
        await until(lambda: ticks(ns, "s"), "a tick")
        assert await engine.schedules.pause("s", "we move house") is True
        assert await engine.schedules.pause("s") is False
        there = ticks(ns, "s")
        found = await engine.schedules.get("s")
        assert (found.state, found.note, found.next_at) == ("paused", "we move house", None)
        age(ns.sql, "s", "1 hour")
        await engine.schedule("other", plain, every=0.1)
        await until(lambda: len(ticks(ns, "other")) >= 3, "ticks of another")
        assert ticks(ns, "s") == there
        assert await engine.schedules.resume("s") is True
        assert await engine.schedules.resume("s") is False
        await until(lambda: len(ticks(ns, "s")) >= len(there) + 2, "ticks again")
        assert (await engine.schedules.get("s")).missed < 100  # what came while it was paused is nobody's


async def test_trigger(ns: Namespace) -> None:
    async with ns.engine(report), ns.client() as client:
        await client.schedule("nightly", report, "ann", cron="0 3 * * *")
        await client.schedules.pause("nightly")
        handle = await client.schedules.trigger("nightly")
        assert handle.id.startswith("nightly@")
        assert (await handle.result(10)).startswith("ann at ")
        assert (await client.schedules.get("nightly")).started == 1
        with pytest.raises(ScheduleNotFound, match="no schedule 'x'"):
            await client.schedules.trigger("x")
    async with ns.client() as client:
        with pytest.raises(TimeoutError, match="no worker has started"):
            await client.schedules.trigger("nightly", timeout=0.05)
    async with ns.engine(report):
        await until(lambda: len(ticks(ns, "nightly")) == 2, "what was asked for while nobody was there")


@pytest.mark.parametrize("overlap", ["allow", None])
async def test_backfill(ns: Namespace, overlap: Any) -> None:
    async with ns.engine(report) as engine:
        await engine.schedule("hourly", report, "ann", cron="@hourly")
        since = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
        await engine.schedules.backfill("hourly", since, since + timedelta(hours=5), overlap=overlap)
        await until(lambda: len(ticks(ns, "hourly")) == 5, "five ticks")
        # Those that are there already are not started again.
        await engine.schedules.backfill("hourly", since, since + timedelta(hours=7), overlap=overlap)
        await until(lambda: len(ticks(ns, "hourly")) == 7, "two more")
        await row(ns, "hourly", "requests", [])
        assert ticks(ns, "hourly") == [f"hourly@2026-03-01T{hour}:00:00Z" for hour in range(13, 20)]
        assert (await engine.schedules.get("hourly")).started == 7
        with pytest.raises(InvalidInput, match="a later one that is past"):
            await engine.schedules.backfill("hourly", since, datetime(2099, 1, 1, tzinfo=UTC))
        with pytest.raises(InvalidInput, match="no time zone"):
            await engine.schedules.backfill("hourly", datetime(2026, 3, 1))


async def test_edit(ns: Namespace) -> None:
    async with ns.engine(report) as engine:
        await engine.schedule("s", report, "ann", cron="0 3 * * *", tz="Europe/Berlin", jitter=60)
        assert await engine.schedules.edit("s", overlap="allow", kwargs={"who": "bob"}) is True
        found = await engine.schedules.get("s")
        assert (found.overlap, found.cron, found.tz, found.jitter) == (
            "allow", "0 3 * * *", "Europe/Berlin", timedelta(minutes=1),
        )  # fmt: skip
        assert found.input == {"who": "bob"}
        assert await engine.schedules.edit("s", overlap="allow") is False
        await engine.schedules.edit("s", every=timedelta(minutes=5), jitter=None)
        found = await engine.schedules.get("s")
        assert (found.cron, found.tz, found.every, found.jitter) == (None, None, timedelta(minutes=5), None)
        await engine.schedules.edit("s", cron="0 4 * * *", tz="America/New_York")
        found = await engine.schedules.get("s")
        assert (found.cron, found.tz, found.every, found.anchor) == ("0 4 * * *", "America/New_York", None, None)
        await engine.schedules.edit("s", tz="Europe/Berlin")
        assert (await engine.schedules.get("s")).tz == "Europe/Berlin"
        for wrong in ({"cron": "x"}, {"overlap": "x"}, {"tz": "x"}, {"colour": 1}):
            with pytest.raises(InvalidInput, match="schedule 's'"):
                await engine.schedules.edit("s", **wrong)


async def test_the_same_again_changes_nothing(ns: Namespace) -> None:
    async with ns.engine(plain) as engine:
        for overlap in ("skip", "skip", "allow"):
            await engine.schedule("s", plain, every=timedelta(hours=1), overlap=overlap)
        assert ns.one("select count(*) from @.schedules") == 1
        before = ns.one("select anchor from (select definition ->> 'anchor' as anchor from @.schedules) a")
        await row(ns, "s", "tick_at is not null", True)
        revision = ns.one("select revision from @.schedules")
        await engine.schedule("s", plain, every=timedelta(hours=1), overlap="allow")
        assert ns.sql("select revision, definition ->> 'anchor' from @.schedules") == [(revision, before)]


async def test_a_change_at_the_moment_of_a_tick_does_not_lose_it(ns: Namespace) -> None:
    async with ns.client() as client:
        await client.schedule("s", plain, cron="* * * * *")
        ns.sql("update @.schedules set tick_at = date_trunc('minute', now()), next_at = now() - interval '1 s'")
        await client.schedules.edit("s", overlap="allow")
    async with ns.engine(plain):
        await until(lambda: ticks(ns, "s"), "the tick")


async def test_delete(ns: Namespace) -> None:
    async with ns.engine(waits) as engine:
        await engine.schedule("s", waits, every=0.1)
        await until(lambda: ticks(ns, "s"), "a tick")
        assert await engine.schedules.delete("s") is True
        assert await engine.schedules.delete("s") is False
        assert await engine.schedules.list() == []
        handle = await engine.get(ticks(ns, "s")[0])
        await handle.signal("go", 7)
        assert await handle.result(10) == 7
        with pytest.raises(ScheduleNotFound):
            await engine.schedules.get("s")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "needs one of cron, every and at, found none"),
        ({"cron": "@daily", "every": 5}, "found cron and every"),
        ({"cron": "0 3 * *"}, "is no cron expression"),
        ({"cron": "@daily", "tz": "Mars"}, "no time zone 'Mars'"),
        ({"cron": "@daily", "overlap": "maybe"}, "no overlap 'maybe'"),
        ({"every": 0.01}, "every is at least 0.1 s"),
        ({"every": 1, "jitter": -1}, "at least 0"),
    ],
)
async def test_what_is_no_schedule_is_refused(ns: Namespace, wrong: dict[str, Any], message: str) -> None:
    async with ns.client() as client:
        with pytest.raises(InvalidInput, match=message):
            await client.schedule("s", plain, **wrong)
        with pytest.raises(InvalidInput, match="does not fit its parameters"):
            await client.schedule("s", report, "ann", 1, 2, 3, cron="@daily")
        assert await client.schedules.list() == []


# -- SQL


async def test_from_sql(ns: Namespace) -> None:
    async with ns.engine(report) as engine:
        made = "select @.schedule('s', 'scheduled_report', '[\"ann\"]', every => '0.2 s', anchor => '2026-01-01Z')"
        assert ns.one(made) is True
        assert ns.one(made) is False
        await until(lambda: len(ticks(ns, "s")) >= 2, "two ticks")
        assert (await (await engine.get(ticks(ns, "s")[0])).result(10)).startswith("ann at ")
        assert ns.one("select @.pause_schedule('s', 'why not')") is True
        assert ns.one("select @.resume_schedule('s')") is True
        assert ns.one("""select @.edit_schedule('s', '{"cron": "0 3 * * *", "tz": "Europe/Berlin"}')""") is True
        assert ns.one("select definition - 'overlap' from @.schedules") == {"cron": "0 3 * * *", "tz": "Europe/Berlin"}
        id = ns.one("select @.trigger_schedule('s')")
        await until(lambda: ns.one("select @.find_instance(%s)", id), "the instance asked for")
        ns.sql("select @.backfill_schedule('s', '2026-03-01Z', '2026-03-02Z')")
        await until(lambda: "s@2026-03-01T02:00:00Z" in ticks(ns, "s"), "the tick of the past")
        assert ns.one("select @.drop_schedule('s')") is True
    for text, code in (
        ("select @.schedule('s', 'w', every => '1 month')", "PGD05"),
        ("select @.schedule('s', 'w')", "PGD05"),
        ("select @.schedule('s', 'w', '1', cron => '@daily')", "PGD05"),
        ("select @.schedule('', 'w', cron => '@daily')", "PGD05"),
        ("select @.schedule('s', '', cron => '@daily')", "PGD05"),
        ("select @.schedule('s', 'w', cron => '@daily', tz => 'Mars')", "PGD05"),
        ("select @.pause_schedule('s')", "PGD10"),
        ("select @.trigger_schedule('s')", "PGD10"),
        ("select @.edit_schedule('s', '{}')", "PGD10"),
        ("select @.backfill_schedule('s', '2026-03-01Z')", "PGD10"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            ns.sql(text)
        assert refused.value.sqlstate == code, text


async def test_a_cron_of_sql_that_is_none_is_set_aside_and_the_others_go_on(
    ns: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    ns.sql("select @.schedule('bad', 'scheduled_plain', cron => 'every now and then')")
    ns.sql("select @.schedule('input', 'scheduled_plain', every => '0.1 s', labels => '1')")
    async with ns.engine(plain, poll_interval=0.05) as engine:
        await engine.schedule("good", plain, every=0.1)
        await row(ns, "bad", "paused", True)
        await row(ns, "input", "paused", True)
        await until(lambda: len(ticks(ns, "good")) >= 3, "ticks of the good one")
        note = (await engine.schedules.get("bad")).note
        assert note is not None
        assert "is no cron expression" in note
        assert caplog.text.count("schedule 'bad' is paused") == 1
        # Mended, it goes on.
        await engine.schedules.edit("bad", cron="* * * * * *")
        await engine.schedules.resume("bad")
        await until(lambda: ticks(ns, "bad"), "a tick of what was mended")


async def test_one_that_cannot_be_written_is_set_aside(ns: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    ns.sql("alter table @.instances add constraint picky check (queue <> 'nowhere')")
    async with ns.engine(plain, poll_interval=0.05) as engine:
        await engine.schedule("bad", plain, every=0.1, queue="nowhere")
        await engine.schedule("good", plain, every=0.1)
        await row(ns, "bad", "paused", True)
        await until(lambda: len(ticks(ns, "good")) >= 3, "ticks of the good one")
    assert caplog.text.count("schedule 'bad' is paused") == 1
    assert ticks(ns, "bad") == []


# -- what it costs


async def test_an_idle_worker_asks_nothing_more_for_schedules(ns: Namespace) -> None:
    async with ns.engine(plain, poll_interval=0.05) as engine:
        await engine.schedule("yearly", plain, cron="@yearly")
        await row(ns, "yearly", "tick_at is not null", True)
        asked: list[str] = []
        poller = engine._worker.poller  # type: ignore[union-attr]
        original = psycopg.AsyncConnection.execute

        async def execute(conn: Any, query: Any, *args: Any, **options: Any) -> Any:
            asked.append(str(query))
            return await original(conn, query, *args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psycopg.AsyncConnection, "execute", execute)
            polls = poller.polls
            await until(lambda: poller.polls >= polls + 5, "five looks")
        assert any("schedules" in query for query in asked)
        assert not any("tick_schedules" in query or "s.revision" in query for query in asked)


# -- encryption


async def test_with_encryption_the_database_sees_ciphertext(ns: Namespace) -> None:
    keys = pgd.Encryption({"k": pgd.Encryption.new_key()})
    async with ns.engine(report, encryption=keys) as engine:
        for _ in range(2):
            made = await engine.schedule("s", report, "a secret", cron="0 3 * * *")
        assert made.input == {"who": "a secret"}
        revision = ns.one("select revision from @.schedules")
        await engine.schedule("s", report, "a secret", cron="0 3 * * *")
        assert ns.one("select revision from @.schedules") == revision
        handle = await engine.schedules.trigger("s")
        assert (await handle.result(10)).startswith("a secret at ")
        for table in ("schedules", "instances"):
            assert "a secret" not in str(ns.sql(f"select * from @.{table}"))
    async with ns.engine(report) as engine:
        assert (await engine.schedules.get("s")).input != {"who": "a secret"}
