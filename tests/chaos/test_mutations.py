"""The mutations do change what they are meant to change. That each is found is for `make chaos` to show (`hunt.py`)."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest

from pgdurable._store.migrations import migrate
from pgdurable._store.sql import named_queries

from .hunt import TARGETS
from .mutations import MUTATIONS, apply, install

CHANGED = {
    "no fence": {"fence_lock", "fence_look", "insert_history_fenced"},
    "look before the lock": {"fence_lock", "fence_look", "insert_history_fenced"},
    "no lock of a queue": set(),
    "no fence of pumps": set(),
    "no idempotent resend": {"insert_history_again", "insert_instances_again"},
}


def test_every_mutation_is_hunted() -> None:
    assert set(TARGETS) == set(MUTATIONS) == set(CHANGED)


# The function whose text differs afterwards.
FUNCTION = {
    "no fence": "fence", "look before the lock": "fence", "no lock of a queue": "claim_queue",
    "no idempotent resend": None, "no fence of pumps": "run_batch",
}  # fmt: skip


def functions_of(conn: psycopg.Connection[Any], schema: str) -> list[tuple[int, str, str]]:
    """(oid, name, text) of each; several may have one name."""
    query = (
        "select p.oid, p.proname, pg_get_functiondef(p.oid) from pg_proc p"
        " where p.pronamespace = %s::regnamespace and p.prokind in ('f', 'p')"
    )
    return conn.execute(query, (schema,)).fetchall()


@pytest.mark.parametrize("name", MUTATIONS)
def test_texts_are_changed_and_still_accepted(dsn: str, schema: str, name: str) -> None:
    before = dict(named_queries("flush", schema))
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        functions = {oid: text for oid, _, text in functions_of(conn, schema)}
        apply(name, schema)
        install(name, conn, schema)
        after = named_queries("flush", schema)
        assert {text for text in after if after[text] != before[text]} == CHANGED[name]
        for number, text in enumerate(CHANGED[name]):
            conn.pgconn.prepare(f"mutated {number}".encode(), after[text].encode())
            done = conn.execute("select count(*) from pg_prepared_statements where name = %s", (f"mutated {number}",))
            assert done.fetchone() == (1,), f"{text}: {after[text]}"
        changed = {function for oid, function, text in functions_of(conn, schema) if functions[oid] != text}
        assert changed == {FUNCTION[name]} - {None}


def test_without_a_mutation_nothing_is_changed() -> None:
    schema = f"test_{uuid.uuid4().hex[:12]}"
    before = dict(named_queries("flush", schema))
    apply(None, schema)
    assert named_queries("flush", schema) == before
