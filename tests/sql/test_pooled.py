"""Pumps, Python steps and requests through a pooler in transaction mode, where nothing of a session is relied on."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.namespace import until
from e2e.pgbouncer import PgBouncer
from e2e.test_pooler import KINDS, SHARED, Pooled, bouncer_program
from psycopg.types.json import Jsonb

import pgdurable as pgd


@pgd.step(name="pooled double")
async def double(n: int) -> int:
    return 2 * n


@pytest.mark.parametrize("prepared", KINDS)
async def test_workflows_in_sql_through_a_pooler(dsn: str, schema: str, prepared: bool) -> None:
    graph: list[Any] = [
        {"op": "sql", "query": "select $n + 1 as m", "into": "row"},
        {"op": "python", "step": "pooled double", "args": ["$row.m"], "into": "twice"},
        {"op": "sleep", "seconds": 0.05},
        {"op": "value", "value": "$twice"},
    ]
    with PgBouncer(bouncer_program(prepared), dsn, **{**SHARED, "default_pool_size": 8}) as bouncer:
        with Pooled(bouncer, dsn, schema) as space:
            space.sql("select @.define('pooled', %s)", Jsonb(graph))
            async with space.engine(pumps=2, poll_interval=0.1) as engine:
                for n in range(20):
                    space.sql("select @.start('pooled', %s)", Jsonb({"n": n}))
                done = "select count(*) from @.instances where status = 'completed'"
                await until(lambda: space.one(done) == 20, "all have run", 60)
                assert engine.metrics()["trouble"] is None
            outputs = sorted(value for (value,) in space.sql("select output from @.instances"))
            assert outputs == [2 * (n + 1) for n in range(20)]
            slow = {"op": "sql", "query": "select pg_sleep(600)", "timeout": 0.3, "retry": {"max_attempts": 1}}
            space.sql("select @.define('slow', %s)", Jsonb(slow))
            async with space.engine(pumps=1, poll_interval=0.1):
                space.sql("select @.start('slow', id => 'slow')")
                await until(lambda: space.one("select @.status('slow')") == "failed", "it is stopped", 60)
