"""Faults built into the library on purpose, one at a time, to show that a run finds them.

Nothing in the library knows of this: the SQL texts are changed in the run's worker processes, the SQL functions in the
run's schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from pgdurable._store.sql import named_queries

__all__ = ["MUTATIONS", "apply", "install"]

_NO_FENCE = """
create or replace function @.fence(worker bigint) returns timestamptz language sql volatile as 'select now()'
"""

_LOOK_BEFORE_LOCK = """
create or replace function @.fence(worker bigint) returns timestamptz
language plpgsql volatile
as $$
begin
    perform from @.workers w where w.id = worker and w.state in ('alive', 'draining');
    if not found then
        raise exception using errcode = 'PGD01', message = format('worker %s no longer holds its lease', worker);
    end if;
    perform pg_advisory_xact_lock_shared(@.lock_class(0), worker::int);
    return now();
end
$$
"""


def _no_fence(flush: dict[str, str], schema: str) -> None:
    flush["fence_lock"] = "select now(), $1::bigint"
    flush["fence_look"] = "select now() where $1::bigint is not null"
    flush["insert_history_fenced"] = _unfenced(flush)


def _look_before_lock(flush: dict[str, str], schema: str) -> None:
    # One statement, one snapshot: the row is looked at as it was before the lock was waited for.
    flush["fence_lock"] = f"select {schema}.fence($1::bigint), null"
    flush["fence_look"] = "select now() where $1::bigint is not null"
    flush["insert_history_fenced"] = _unfenced(flush)


def _unfenced(flush: dict[str, str]) -> str:
    text = flush["insert_history_fenced"]
    return text[: text.index(" where coalesce(")] + " where $1::bigint is not null"


def _no_idempotent_resend(flush: dict[str, str], schema: str) -> None:
    for name in ("insert_history_again", "insert_instances_again"):
        assert "on conflict do nothing" in flush[name]
        flush[name] = flush[name].replace("on conflict do nothing", "")


def _no_change(flush: dict[str, str], schema: str) -> None:
    pass


_QUEUE_LOCK = "pg_try_advisory_xact_lock("


def _no_queue_lock(conn: psycopg.Connection[Any], schema: str) -> str:
    """claim_queue without the lock by which one session at a time lets instances of a queue go."""
    return _changed(conn, schema, "claim_queue", f"not {_QUEUE_LOCK}", f"false and not {_QUEUE_LOCK}")


def _no_fence_of_pumps(conn: psycopg.Connection[Any], schema: str) -> str:
    """run_batch without the fence of the pump whose instances it runs."""
    return _changed(conn, schema, "run_batch", f"perform {schema}.fence(worker);", "")


def _changed(conn: psycopg.Connection[Any], schema: str, function: str, old: str, new: str) -> str:
    row = conn.execute(
        "select pg_get_functiondef(p.oid) from pg_proc p where p.proname = %s and p.pronamespace = %s::regnamespace",
        (function, schema),
    ).fetchone()
    assert row is not None
    text = str(row[0])
    assert text.count(old) == 1
    return text.replace(old, new)


Text = str | Callable[[psycopg.Connection[Any], str], str] | None

MUTATIONS: dict[str, tuple[Text, Callable[[dict[str, str], str], None]]] = {
    "no fence": (_NO_FENCE, _no_fence),
    "no idempotent resend": (None, _no_idempotent_resend),
    "look before the lock": (_LOOK_BEFORE_LOCK, _look_before_lock),
    "no lock of a queue": (_no_queue_lock, _no_change),
    "no fence of pumps": (_no_fence_of_pumps, _no_change),
}


def apply(name: str | None, schema: str) -> None:
    """Changes the SQL texts of this process, before its engine is made."""
    if name is not None:
        MUTATIONS[name][1](named_queries("flush", schema), schema)


def install(name: str | None, conn: psycopg.Connection[Any], schema: str) -> None:
    """Changes the SQL functions of the run's schema."""
    text = None if name is None else MUTATIONS[name][0]
    if callable(text):
        conn.execute(text(conn, schema))  # type: ignore[arg-type]
    elif text is not None:
        conn.execute(text.replace("@", schema))
