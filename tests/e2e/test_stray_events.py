"""Signals that were committed just after their instance had ended leave the event queue again."""

from __future__ import annotations

import psycopg

import pgdurable as pgd


@pgd.workflow(name="ends_at_once")
async def ends_at_once() -> None:
    pass


async def test_signal_of_an_ended_instance_is_dropped(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, migrate=True, workflows=[ends_at_once], poll_interval=0.05) as engine:
        handle = await engine.start(ends_at_once)
        await handle.result(timeout=20)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            insert = f"insert into {schema}.events (instance_id, kind, name, payload) values (%s, 'signal', 's', '1')"
            await conn.execute(insert, (handle.instance_id,))
            engine._worker.poller._tidied = 0.0  # its time has come
            while True:
                cursor = await conn.execute(f"select count(*) from {schema}.events")
                row = await cursor.fetchone()
                if row == (0,):
                    break
