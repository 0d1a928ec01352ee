"""Graphs of df go on where they stood when the server is killed, and nothing of them runs twice."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from databases import database

from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer

from .df_database import one

ROUNDS = 120


@pytest.mark.parametrize("kills", [1, 3])
def test_a_loop_over_crashes(private_server: EmbeddedServer, kills: int, eventually: Callable[..., None]) -> None:
    with database(private_server.dsn) as there:
        migrate(there, df=True)
        with psycopg.connect(there, autocommit=True) as conn:
            conn.execute("create table rounds (n int)")
            id = one(
                conn,
                """select df.start('select 7 as seven' |=> 'kept' ~> df.loop(
                     'insert into rounds select count(*) + 1 from rounds' ~> ('select 1' & 'select 2') ~> df.sleep(0),
                     format('select count(*) < %%s from rounds', %s::int))
                     ~> 'select $kept as k, count(*) as n from rounds')""",
                ROUNDS,
            )
        for kill in range(1, kills + 1):
            _pump_until(there, kill * ROUNDS // (kills + 2), private_server)
        with psycopg.connect(there, autocommit=True) as conn:
            conn.execute("call durable.work('60 s')")
            eventually(lambda: one(conn, "select df.status(%s)", id) == "completed", "it completes")
            assert one(conn, "select df.result(%s)::jsonb #> '{rows,0}'", id) == {"k": 7, "n": ROUNDS}
            assert one(conn, "select array_agg(n order by n) from rounds") == list(range(1, ROUNDS + 1))


def _pump_until(dsn: str, rounds: int, server: EmbeddedServer) -> None:
    """Runs a pump until so many rounds are there, and kills the server under it."""
    pump, looks = (psycopg.connect(dsn, autocommit=True) for _ in range(2))
    pump.pgconn.send_query(b"call durable.work('60 s', wait => true)")
    while one(looks, "select count(*) from rounds") < rounds:
        pass
    server.crash()
    for conn in (pump, looks):
        conn.close()
    server.start()
