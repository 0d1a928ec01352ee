"""Who may do what in the schema df, whose rights steps run with, and what goes when instances go."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from .df_database import df_database, one
from .df_harness import pumping

Conn = psycopg.Connection[Any]
As = Callable[[str], Conn]

CLOSED = set("http http_multipart metrics grant_usage revoke_usage".split())
INNER = set("_define _start_apart _status _output _list _list_limit _need _find _forget".split())
# They run with the rights of the owner, so each looks itself at who calls.
AS_OWNER = set(
    "_caller _sees _start _nodes _explain_instance wait_for_schedule setvar getvar unsetvar clearvars status result"
    " await_instance signal cancel version run list_instances instance_info instance_executions metrics"
    " _find _need _start_apart".split()
)


@pytest.fixture(scope="module")
def there(dsn: str) -> Iterator[str]:
    with df_database(dsn) as made, pumping(made, 1):
        yield made


@pytest.fixture(scope="module")
def owner(there: str) -> Iterator[Conn]:
    with psycopg.connect(there, autocommit=True) as conn:
        yield conn


@pytest.fixture
def users(dsn: str, there: str, owner: Conn) -> Iterator[As]:
    """Sessions of new roles with usage of df, by a name of theirs."""
    roles: dict[str, tuple[str, Conn]] = {}

    def session(name: str) -> Conn:
        if name not in roles:
            role = f"df_{name}_{uuid.uuid4().hex[:8]}"
            owner.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
            owner.execute("select df.grant_usage(%s)", (role,))
            conn = psycopg.connect(there, autocommit=True)
            conn.execute(sql.SQL("set session authorization {}").format(sql.Identifier(role)))
            roles[name] = (role, conn)
        return roles[name][1]

    yield session
    for role, conn in roles.values():
        conn.close()
        owner.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(role)))
        owner.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


@contextmanager
def refused(*states: str) -> Iterator[None]:
    with pytest.raises(psycopg.Error) as error:
        yield
    assert error.value.sqlstate in states, error.value


# -- what may be called


def test_what_runs_as_the_owner_and_what_is_closed(owner: Conn) -> None:
    rows = owner.execute(
        """select p.proname, p.prosecdef, p.proconfig, has_function_privilege('public', p.oid, 'execute')
             from pg_proc p where p.pronamespace = 'df'::regnamespace"""
    ).fetchall()
    assert {name for name, _, _, public in rows if not public} == CLOSED | INNER
    assert {name for name, definer, _, _ in rows if definer} == AS_OWNER
    free = {name for name, _, config, _ in rows if "search_path=pg_catalog, pg_temp" not in (config or [])}
    # The caller's path is what the first and the second are about; the third calls by full name.
    assert free == {"start", "explain", "wait_for_completion"}


def test_nobody_gets_in_without_usage(there: str, owner: Conn) -> None:
    role = f"df_stranger_{uuid.uuid4().hex[:8]}"
    owner.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    with psycopg.connect(there, autocommit=True) as conn:
        conn.execute(sql.SQL("set session authorization {}").format(sql.Identifier(role)))
        for call in ("df.sql('select 1')", "df.start('select 1')", "df.status('00000000')"):
            with refused("42501"):
                conn.execute(f"select {call}".encode())
    owner.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def test_each_sees_and_touches_its_own(users: As, owner: Conn) -> None:
    alice, bob = users("alice"), users("bob")
    id = one(alice, "select df.start(df.wait_for_signal('go'), 'hers')")
    for conn, seen in ((alice, 1), (bob, 0), (owner, 1)):
        for counted in (
            "df.instances where id = %s", "df.nodes where instance_id = %s", "df.instance_nodes(%s)",
            "df.instance_info(%s)", "df.list_instances() where instance_id = %s", "df.instance_executions(%s)",
        ):  # fmt: skip
            assert one(conn, f"select count(*) from {counted}", id) == seen, counted
    assert one(bob, "select df.status(%s)", id) is None
    assert one(bob, "select df.explain(%s)", id) == f"Instance '{id}' not found"
    for call in ("df.cancel(%s)", "df.signal(%s, 'go')", "df.await_instance(%s, 1)"):
        with refused("PGD02"):
            bob.execute(f"select {call}".encode(), (id,))
    assert one(alice, "select df.signal(%s, 'go')", id) == "OK"
    assert one(alice, "select df.await_instance(%s)", id) == "completed"


def test_tables_are_nobodys_to_write(users: As) -> None:
    alice = users("alice")
    id = one(alice, "select df.start('select 1')")
    for command in (
        "update df.instances set status = 'completed' where id = %s", "delete from df.instances where id = %s",
        "delete from df.nodes where instance_id = %s", "delete from df.runs where id = %s",
        "select * from df.graphs where version = %s", "select df._forget(array[md5(%s)::uuid])",
        "select df._define(%s, '{}', '{}', '{}')", "select df._list(%s, 1, null, null, null)",
    ):  # fmt: skip
        with refused("42501", "55000"):
            alice.execute(command.encode(), (id,))


def test_variables_are_their_owners(users: As, owner: Conn) -> None:
    alice, bob = users("alice"), users("bob")
    alice.execute("select df.setvar('color', 'red')")
    bob.execute("select df.setvar('color', 'blue')")
    assert [one(conn, "select df.getvar('color')") for conn in (alice, bob, owner)] == ["red", "blue", None]
    assert [one(conn, "select count(*) from df.vars") for conn in (alice, bob, owner)] == [1, 1, 2]
    ids = [one(conn, "select df.start('select ''{color}'' as c')") for conn in (alice, bob)]
    assert [one(owner, "select df.await_instance(%s)", id) for id in ids] == ["completed"] * 2
    results = [one(owner, "select df.result(%s)::jsonb #>> '{rows,0,c}'", id) for id in ids]
    assert results == ["red", "blue"]
    alice.execute("select df.clearvars()")
    assert [one(conn, "select df.getvar('color')") for conn in (alice, bob)] == [None, "blue"]


def test_steps_run_as_who_started_them(users: As, owner: Conn) -> None:
    alice = users("alice")
    role = one(alice, "select current_user")
    owner.execute("create table if not exists public.secret (word text)")
    id = one(alice, "select df.start('select current_user as who')")
    assert one(owner, "select df.await_instance(%s)", id) == "completed"
    assert one(owner, "select df.result(%s)::jsonb #>> '{rows,0,who}'", id) == role
    id = one(alice, "select df.start('select * from public.secret')")
    assert one(owner, "select df.await_instance(%s)", id) == "failed"
    assert "permission denied" in one(owner, "select output from df.instance_info(%s)", id)


def test_somebody_elses_function_starts_as_its_caller(users: As, owner: Conn) -> None:
    alice = users("alice")
    owner.execute(
        """create or replace function public.start_as_owner(step text) returns text language sql security definer
           as 'select df.start(step)'"""
    )
    id = one(alice, "select public.start_as_owner('select 1')")
    assert one(alice, "select count(*) from df.instances where id = %s", id) == 1
    assert one(owner, "select submitted_by::text from df.instances where id = %s", id) == one(
        alice, "select current_user"
    )


# -- grants


def test_grants_are_taken_back(users: As, owner: Conn) -> None:
    alice = users("alice")
    role = one(alice, "select current_user")

    def may(function: str) -> bool:
        return bool(one(owner, "select has_function_privilege(%s, %s, 'execute')", role, function))

    http, metrics = "df.http(text, text, text, jsonb, integer)", "df.metrics()"
    assert (may(http), may(metrics)) == (False, False)
    owner.execute("select df.grant_usage(%s, include_http => true, with_grant => true)", (role,))
    assert (may(http), may(metrics), may("df.grant_usage(text, boolean, boolean)")) == (True, True, True)
    owner.execute("select df.revoke_usage(%s)", (role,))
    assert (may(http), may(metrics), one(owner, "select has_schema_privilege(%s, 'df', 'usage')", role)) == (False,) * 3
    with refused("42501"):
        alice.execute("select df.start('select 1')")


def test_an_administrator_grants_on(users: As) -> None:
    admin, app = users("admin"), users("app")
    names = [one(conn, "select current_user") for conn in (admin, app)]
    with refused("42501"):
        admin.execute("select df.grant_usage(%s)", (names[1],))
    with psycopg.connect(admin.info.dsn, autocommit=True, user="postgres") as owner:
        owner.execute("select df.grant_usage(%s, with_grant => true)", (names[0],))
        owner.execute("select df.revoke_usage(%s)", (names[1],))
    with refused("42501"):
        app.execute("select df.sql('select 1')")
    admin.execute("select df.grant_usage(%s)", (names[1],))
    assert one(app, "select df.sql('select 1') is not null")
    with refused("42501"):
        admin.execute("select df.grant_usage(%s, include_http => true)", (names[1],))
    admin.execute("select df.revoke_usage(%s)", (names[1],))
    with refused("42501"):
        app.execute("select df.sql('select 1')")


# -- what is kept, and for how long

KEPT = """select (select count(*) from df.runs), (select count(*) from df.graphs),
                 (select count(*) from durable.workflows where name = 'df')"""


def test_a_graph_is_kept_once_and_goes_with_its_last_instance(dsn: str) -> None:
    with df_database(dsn) as made, psycopg.connect(made, autocommit=True) as conn:
        same = [one(conn, "select df.start('select 1')") for _ in range(3)]
        other = one(conn, "select df.start('select 2')")
        assert conn.execute(KEPT).fetchone() == (4, 2, 2)
        conn.execute("call durable.work('10 s')")
        assert [one(conn, "select df.status(%s)", id) for id in [*same, other]] == ["completed"] * 4
        conn.execute("select durable.delete(%s)", (same[0],))
        conn.execute("select durable.delete(%s)", (other,))
        assert conn.execute(KEPT).fetchone() == (2, 1, 1)
        conn.execute("call durable.prune('0 s')")
        assert conn.execute(KEPT).fetchone() == (0, 0, 0)
        assert one(conn, "select df.status(%s)", same[1]) is None


def test_a_graph_that_is_being_started_stays(dsn: str) -> None:
    with df_database(dsn) as made, psycopg.connect(made, autocommit=True) as conn, psycopg.connect(made) as slow:
        first = one(conn, "select df.start('select 1')")
        conn.execute("call durable.work('10 s')")
        second = one(slow, "select df.start('select 1')")
        conn.execute("select durable.delete(%s)", (first,))
        slow.commit()
        conn.execute("call durable.work('10 s')")
        assert one(conn, "select df.status(%s)", second) == "completed"


def test_a_start_holds_nobody_up(dsn: str) -> None:
    with df_database(dsn) as made, psycopg.connect(made, autocommit=True) as conn, psycopg.connect(made) as slow:
        conn.execute("set lock_timeout = '5 s'")
        undone = one(slow, "select df.start('select 1')")
        id = one(conn, "select df.start('select 1')")
        conn.execute("call durable.work('10 s')")
        assert one(conn, "select df.status(%s)", id) == "completed"
        slow.rollback()
        assert one(conn, "select df.status(%s)", undone) is None


def test_strangers_make_no_schema_df_for_us(dsn: str) -> None:
    """What the namespace calls when it removes instances is its owner's, or is not called."""
    with df_database(dsn) as made, psycopg.connect(made, autocommit=True) as conn:
        id = one(conn, "select durable.start('w')")
        conn.execute("select durable.cancel(%s)", (id,))
        assert one(conn, "select durable.has_df()")
        role = f"df_evil_{uuid.uuid4().hex[:8]}"
        conn.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
        conn.execute("drop schema df cascade")
        conn.execute(sql.SQL("create schema df authorization {}").format(sql.Identifier(role)))
        conn.execute(
            sql.SQL(
                """set role {0};
                   create function df._forget(ids uuid[]) returns void language plpgsql as
                   'begin raise exception ''called as %'', current_user; end'; reset role"""
            ).format(sql.Identifier(role))
        )
        assert not one(conn, "select durable.has_df()")
        conn.execute("select durable.delete(%s)", (id,))
        conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))
