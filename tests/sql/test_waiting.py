"""`wait`, `wait_for_end` and `stop_overdue`: waiting for an end in SQL, and ending statements that take too long."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from store.namespace import Namespace, refused

Eventually = Callable[..., None]


def end(ns: Namespace, instance: uuid.UUID, status: str = "completed") -> None:
    ns.rows("update @.instances set status = %s, finished_at = now() where id = %s", status, instance)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out"])
def test_wait_gives_the_status_at_the_end(ns: Namespace, eventually: Eventually, status: str) -> None:
    instance, other = ns.instance(), ns.session()
    waited = ns.in_thread("select @.wait(%s)", str(instance), on=other)
    eventually(lambda: sleeping(ns, other), "it waits")
    end(ns, instance, status)
    assert waited.result(30) == status


def sleeping(ns: Namespace, conn: psycopg.Connection) -> bool:
    return bool(ns.one("select coalesce(wait_event = 'PgSleep', false) from pg_stat_activity where pid = %s",
                       conn.info.backend_pid))  # fmt: skip


def test_wait_in_the_callers_transaction_and_when_the_time_is_over(ns: Namespace) -> None:
    instance = ns.instance(status="waiting")
    with ns.session(autocommit=False) as conn:
        began = time.monotonic()
        assert ns.one("select @.wait(%s, '50 milliseconds')", str(instance), on=conn) == "waiting"
        assert ns.one("select @.wait(%s, '0')", str(instance), on=conn) == "waiting"
        assert time.monotonic() - began >= 0.05
        end(ns, instance)
        assert ns.one("select @.wait(%s, null)", str(instance), on=conn) == "completed"
    with refused("PGD02", "no instance has the id 'nobody'"):
        ns.one("select @.wait('nobody')")


def test_a_wait_that_would_be_in_vain_is_refused(ns: Namespace) -> None:
    with ns.session(autocommit=False) as conn:
        id = ns.one("select @.start('w')", on=conn)
        with pytest.raises(psycopg.Error, match=r"would wait for the end of instance .* in vain") as error:
            ns.one("select @.wait(%s)", id, on=conn)
        assert error.value.sqlstate == "PGD05"
        assert error.value.diag.message_detail == "It has started the instance, and not committed yet."
        conn.rollback()
        id = ns.one("select @.start('w')")
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.Error, match="in vain") as error:
            ns.one("select @.wait(%s)", id, on=conn)
        assert "repeatable read, and sees nothing" in (error.value.diag.message_detail or "")
        conn.rollback()
        # What has ended needs no wait.
        end(ns, uuid.UUID(id), "failed")
        assert ns.one("select @.wait(%s)", id, on=conn) == "failed"


def test_wait_sees_starts_of_a_savepoint_that_was_released(ns: Namespace) -> None:
    with ns.session(autocommit=False) as conn:
        ns.rows("create temp table t (n int)", on=conn)
        with conn.transaction():
            id = ns.one("select @.start('w')", on=conn)
        with refused("PGD05", "in vain"):
            ns.one("select @.wait(%s)", id, on=conn)


def test_wait_for_end_holds_nothing_while_it_waits(ns: Namespace, eventually: Eventually) -> None:
    instance, other = ns.instance(), ns.session()
    waited = ns.in_thread("call @.wait_for_end(%s, '1 hour', null)", str(instance), on=other)
    eventually(lambda: sleeping(ns, other), "it waits")

    def looked_since(xid: Any) -> bool:
        # The oldest transaction it could still see is not older than that.
        text = "select coalesce(age(backend_xmin) <= age(%s::text::xid), true) from pg_stat_activity where pid = %s"
        return bool(ns.one(text, str(xid), other.info.backend_pid))

    ns.rows("create table @.t (n int)")
    for _ in range(3):
        xid = ns.one("insert into @.t values (1) returning xmin::text")
        eventually(lambda xid=xid: looked_since(xid), "it has a new snapshot")
    end(ns, instance)
    assert waited.result(30) == "completed"
    assert ns.one("call @.wait_for_end(%s, null, null)", str(instance)) == "completed"
    assert ns.one("call @.wait_for_end(%s, '0', null)", str(ns.instance())) == "pending"
    with ns.session(autocommit=False) as conn, pytest.raises(psycopg.errors.InvalidTransactionTermination):
        ns.one("call @.wait_for_end(%s, '1 s', null)", str(ns.instance()), on=conn)


def base36(number: int) -> str:
    digits = ""
    while number:
        number, place = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[place] + digits
    return digits or "0"


def runs(ns: Namespace, due_s: float | None, instance: uuid.UUID) -> tuple[psycopg.Connection, Any]:
    """A session that says it runs a step of the instance, due in so many seconds."""
    conn = ns.session()
    due = "0" if due_s is None else base36(round((time.time() + due_s) * 1000))
    conn.execute("select set_config('application_name', %s, false)", [f"pgd:{due}:{instance}"])
    return conn, ns.threads.submit(conn.execute, "select pg_sleep(60)")


def test_a_statement_that_is_overdue_is_cancelled_and_no_other(ns: Namespace, eventually: Eventually) -> None:
    instance = ns.instance()
    _, late = runs(ns, -0.01, instance)
    others = [runs(ns, 30.0, instance), runs(ns, None, instance), runs(ns, -1.0, uuid.uuid4())]
    for conn, _ in others:
        eventually(lambda conn=conn: sleeping(ns, conn), "it runs")
    stopped = 0

    def stop() -> bool:
        nonlocal stopped
        stopped += ns.one("select @.stop_overdue()")
        return late.done()

    eventually(stop, "the overdue one is stopped")
    assert stopped >= 1
    with pytest.raises(psycopg.errors.QueryCanceled):
        late.result()
    assert ns.one("select @.stop_overdue()") == 0
    # Asked to cancel: whatever runs for that instance.
    ns.rows("update @.instances set status = 'running', started_at = now() where id = %s", instance)
    ns.one("select @.cancel(%s)", str(instance))
    eventually(lambda: ns.one("select @.stop_overdue()") >= 0 and all(r.done() for _, r in others[:2]), "both stop")
    conn, running = others[2]  # of an instance of somebody else's
    assert not running.done()
    conn.cancel()
    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result(30)


def test_names_that_only_look_like_a_pumps_are_left_alone(ns: Namespace, eventually: Eventually) -> None:
    for name in ("pgd:", "pgd:zz:not-a-uuid", "pgd:!:" + str(ns.instance()), "psql"):
        conn = ns.session()
        conn.execute("select set_config('application_name', %s, false)", [name])
        running = ns.threads.submit(conn.execute, "select pg_sleep(60)")
        eventually(lambda conn=conn: sleeping(ns, conn), "it runs")
        assert ns.one("select @.stop_overdue()") == 0
        conn.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(30)


def test_watch_stops_what_is_overdue_until_its_time_is_over(ns: Namespace, eventually: Eventually) -> None:
    instance, watcher = ns.instance(), ns.session()
    watching = ns.threads.submit(watcher.execute, f"call {ns.schema}.watch('1 hour')")
    _, late = runs(ns, 0.3, instance)
    eventually(late.done, "it is stopped")
    with pytest.raises(psycopg.errors.QueryCanceled):
        late.result()
    assert not watching.done()
    watcher.cancel()
    with pytest.raises(psycopg.errors.QueryCanceled):
        watching.result(30)
    ns.rows("call @.watch('0')")  # a look, and no more
