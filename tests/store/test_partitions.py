"""History in partitions by time: made ahead, without a gap, without anybody waiting, and out of a table with data."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from pgdurable._store import migrations
from pgdurable._store.migrations import migrate

from .namespace import Namespace, refused

WEEK = timedelta(days=7)
LAST = uuid.UUID(int=(1 << 128) - 1)


def bounds(ns: Namespace) -> list[tuple[uuid.UUID | None, uuid.UUID]]:
    return ns.rows("select lower, upper from @.history_partitions order by lower nulls first")


def without_a_gap(ns: Namespace) -> None:
    """From the first id on, each partition begins where the one before ends."""
    edge = None
    for lower, upper in bounds(ns):
        assert lower == edge
        edge = upper


def leave_partitions_until(ns: Namespace, ago: str) -> None:
    """As if the last worker had been here so long ago."""
    for (name,) in ns.rows("select name from @.history_partitions"):
        ns.rows(f"drop table @.{name}")
    ns.rows("select @.make_partition(null, @.id_at(date_bin('7 days', now() - %s::interval, '2001-01-01Z')))", ago)


def write(ns: Namespace, id: uuid.UUID, event: int = 1) -> str:
    """One row of history; returns the partition it went to."""
    return ns.one(
        "insert into @.history (instance_id, event_id, kind) values (%s, %s, 'step')"
        " returning tableoid::regclass::text",
        id,
        event,
    ).rpartition(".")[2]


def id_of(at: datetime) -> uuid.UUID:
    return uuid.UUID(int=(int(at.timestamp() * 1000) << 80) | 7 << 76 | 2 << 62 | uuid.uuid4().int & ((1 << 62) - 1))


# -- a new schema


def test_a_new_schema_has_partitions_from_the_first_id_to_four_weeks_ahead(ns: Namespace) -> None:
    without_a_gap(ns)
    until = ns.one("select @.make_partitions()")
    now = datetime.now(timezone.utc)
    assert now + timedelta(days=28) <= until <= now + timedelta(days=35)
    assert len(bounds(ns)) == 5
    for at in (datetime(1970, 1, 1, tzinfo=timezone.utc), now - 100 * WEEK, now, now + timedelta(days=27)):
        write(ns, id_of(at))
    for name, options in ns.rows(
        "select p.name, c.reloptions from @.history_partitions p join pg_class c on c.relname = p.name"
        " where c.relnamespace = '@'::regnamespace"
    ):
        assert "autovacuum_vacuum_insert_scale_factor=0.1" in options, name
        assert "autovacuum_analyze_scale_factor=0.1" in options, name


def test_id_at_and_id_time_are_each_others_inverse_and_bound_new_ids(ns: Namespace) -> None:
    for at in ("1970-01-01Z", "2026-11-25 14:00:00.123Z", "10889-08-02 05:31:50.654Z"):
        assert ns.one("select @.id_time(@.id_at(%(at)s)) = %(at)s".replace("%(at)s", f"'{at}'::timestamptz"))
    assert ns.one(
        "select @.id_at(clock_timestamp()) <= x and x < @.id_at(clock_timestamp() + '2 ms') from @.new_id() x"
    )


def test_the_width_of_partitions_is_a_setting(ns: Namespace) -> None:
    ns.rows("update @.settings set value = '1 day' where name = 'partition_width'")
    ns.rows("update @.settings set value = '40 days' where name = 'partition_ahead'")
    before = len(bounds(ns))
    ns.one("select @.make_partitions()")
    without_a_gap(ns)
    assert 5 <= len(bounds(ns)) - before <= 14


# -- nobody was here for a while


def test_when_no_worker_ran_for_weeks_the_gap_is_filled_by_weeks(ns: Namespace) -> None:
    leave_partitions_until(ns, "70 days")
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        write(ns, ns.one("select @.new_id()"))

    ns.one("select @.make_partitions()")

    without_a_gap(ns)
    # One for the past, ten weeks up to this one, this one, and four ahead.
    assert len(bounds(ns)) == 1 + 10 + 5
    write(ns, ns.one("select @.new_id()"))
    write(ns, id_of(datetime.now(timezone.utc) - 5 * WEEK))


def test_years_without_a_worker_do_not_make_hundreds_of_partitions(ns: Namespace) -> None:
    leave_partitions_until(ns, "3650 days")
    ns.one("select @.make_partitions()")
    without_a_gap(ns)
    assert len(bounds(ns)) < 70


def test_a_hole_in_the_past_is_filled_by_one(ns: Namespace) -> None:
    leave_partitions_until(ns, "70 days")
    ns.one("select @.make_partitions()")
    names = [name for (name,) in ns.rows("select name from @.history_partitions order by lower nulls first")]
    for name in [*names[:2], *names[4:6]]:
        ns.rows(f"drop table @.{name}")
    ns.one("select @.make_partitions()")
    without_a_gap(ns)
    assert len(bounds(ns)) == len(names) - 2
    before = bounds(ns)
    ns.one("select @.make_partitions()")
    assert bounds(ns) == before


def test_several_workers_at_once(ns: Namespace) -> None:
    leave_partitions_until(ns, "70 days")
    sessions = [ns.session() for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda session: ns.one("select @.make_partitions()", on=session), sessions))
    without_a_gap(ns)
    assert len(bounds(ns)) == 16
    # Whoever came while another was at it got to know how far it was.
    assert max(done) == ns.one("select @.make_partitions()")


def test_a_partition_is_attached_past_open_transactions_that_read_and_write(ns: Namespace) -> None:
    leave_partitions_until(ns, "-7 days")
    writing, reading = ns.session(autocommit=False), ns.session(autocommit=False)
    id = ns.one("select @.new_id()")
    ns.rows("insert into @.history (instance_id, event_id, kind) values (%s, 1, 'step')", id, on=writing)
    ns.rows("select count(*) from @.history", on=reading)
    ns.rows("set statement_timeout = '5s'")

    ns.one("select @.make_partitions()")

    without_a_gap(ns)
    ns.rows("insert into @.history (instance_id, event_id, kind) values (%s, 2, 'step')", id, on=writing)
    writing.commit()
    assert ns.one("select count(*) from @.history", on=reading) == 2


def test_who_may_only_call_it_can_make_partitions(ns: Namespace) -> None:
    leave_partitions_until(ns, "14 days")
    role = f"pgdurable_test_{uuid.uuid4().hex[:12]}"
    ns.rows(f"create role {role}")
    try:
        ns.rows(f"grant usage on schema @ to {role}")
        ns.rows(f"grant execute on function @.make_partitions(uuid) to {role}")
        ns.rows(f"set role {role}")
        ns.one("select @.make_partitions()")
        ns.rows("reset role")
        without_a_gap(ns)
    finally:
        ns.rows("reset role")
        ns.rows(f"drop owned by {role}")
        ns.rows(f"drop role {role}")


# -- ids that lie ahead


def test_an_id_of_next_year_gets_a_partition_and_too_many_are_refused(ns: Namespace) -> None:
    now = datetime.now(timezone.utc)
    until = ns.one("select @.make_partitions()")
    for years in range(1, 21):
        id = id_of(now + years * timedelta(days=365))
        assert ns.one("select @.make_partitions(%s)", id) == until
        write(ns, id)
        assert len(bounds(ns)) == 5 + years
        ns.one("select @.make_partitions(%s)", id)  # it is there
    with refused("PGD07", "for which there is no partition"):
        ns.one("select @.make_partitions(%s)", id_of(now + 30 * timedelta(days=365)))
    assert len(bounds(ns)) == 25


def test_time_goes_on_past_a_partition_that_lay_ahead(ns: Namespace) -> None:
    id = id_of(datetime.now(timezone.utc) + timedelta(days=50))
    ns.one("select @.make_partitions(%s)", id)
    write(ns, id)
    ns.rows("update @.settings set value = '100 days' where name = 'partition_ahead'")
    ns.one("select @.make_partitions()")
    without_a_gap(ns)
    assert ns.one("select count(*) from @.history") == 1


# -- a schema of version 1


def version_1(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables as the first migration made them."""
    first = migrations._migrations()[:1]
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "_migrations", lambda: first)
        patched.setattr(migrations, "routines", list)
        patched.setattr(migrations, "_make_partitions", lambda cur, schema: None)
        migrate(dsn, schema)


def test_a_table_with_data_becomes_the_first_partition_as_it_is(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_1(dsn, schema, monkeypatch)
    role = f"pgdurable_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create role {role}")
        try:
            conn.execute(f"grant insert, select on {schema}.history to {role}")
            rows = [(id_of(datetime(year, 3, 4, tzinfo=timezone.utc)), n) for year in (1999, 2025) for n in (1, 2)]
            rows.append((id_of(datetime.now(timezone.utc)), 1))
            for id, event in rows:
                conn.execute(
                    f"insert into {schema}.history (instance_id, event_id, kind) values (%s, %s, 'step')", (id, event)
                )
            (file,) = conn.execute(f"select pg_relation_filenode('{schema}.history')").fetchone()

            report = migrate(dsn, schema)

            assert report.before == 1
            with ThreadPoolExecutor(1) as threads:
                ns = Namespace(dsn, schema, threads, [conn])
                without_a_gap(ns)
                assert ns.one("select pg_relation_filenode('@.history_past')") == file
                assert {name for (name,) in ns.rows("select tableoid::regclass::text from @.history")} == {
                    f"{schema}.history_past"
                }
                assert sorted(ns.rows("select instance_id, event_id from @.history")) == sorted(rows)
                assert len(ns.rows("select * from @.steps")) == len(rows)  # the view has followed
                # What is new goes there while it is this week, and to its own later.
                assert write(ns, ns.one("select @.new_id()")) == "history_past"
                assert write(ns, id_of(datetime.now(timezone.utc) + 2 * WEEK)) != "history_past"
                assert ns.one("select has_table_privilege(%s, '@.history', 'insert, select')", role)
                assert not ns.one("select has_table_privilege(%s, '@.history', 'update')", role)
                assert not ns.one("select has_table_privilege(%s, '@.history_past', 'select')", role)
        finally:
            conn.execute(f"drop owned by {role}")
            conn.execute(f"drop role {role}")


def test_instances_of_a_clock_years_ahead_do_not_make_the_first_partition_last_for_years(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_1(dsn, schema, monkeypatch)
    now = datetime.now(timezone.utc)
    ids = [id_of(now), id_of(now + 3 * WEEK), id_of(now + timedelta(days=4000)), id_of(now + timedelta(days=9000))]
    with psycopg.connect(dsn, autocommit=True) as conn, ThreadPoolExecutor(1) as threads:
        for id in ids:
            conn.execute(f"insert into {schema}.history (instance_id, event_id, kind) values (%s, 1, 'step')", (id,))
        migrate(dsn, schema)
        ns = Namespace(dsn, schema, threads, [conn])
        assert sorted(id for (id,) in ns.rows("select instance_id from @.history")) == sorted(ids)
        until = ns.one("select until from @.history_partitions where lower is null")
        assert now + 3 * WEEK < until <= now + 4 * WEEK
        assert bounds(ns)[-1][1] == LAST
        for id in ids:
            write(ns, id, 2)
