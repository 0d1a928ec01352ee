"""`signal_with_start`: one transaction, one instance, every signal once and in order."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, until


@pgd.workflow
async def cart(size: int) -> list:
    return [await pgd.wait_signal("add") for _ in range(size)]


@pgd.workflow
async def another(size: int) -> int:
    return size


async def test_it_starts_what_is_absent_and_signals_in_any_case(ns: Namespace) -> None:
    async with ns.engine(cart) as engine:
        handles = [
            await engine.signal_with_start(cart, 3, id="cart/7", signal="add", payload=n, labels={"shop": 1})
            for n in range(3)
        ]
        assert len({h.instance_id for h in handles}) == 1
        assert await handles[0].result(timeout=20) == [0, 1, 2]
    assert ns.one("select count(*) from @.instances") == 1
    assert ns.history(handles[0], "kind, payload") == [("signal", 0), ("signal", 1), ("signal", 2)]


async def test_two_at_once_make_one_instance_that_gets_both(ns: Namespace) -> None:
    async with ns.engine(cart) as engine, ns.client(max_connections=10) as client:
        for round in range(10):
            handles = await asyncio.gather(
                *(client.signal_with_start("cart", 8, id=f"c{round}", signal="add", payload=n) for n in range(8))
            )
            assert len({h.instance_id for h in handles}) == 1
            got = await (await engine.get(f"c{round}")).result(timeout=20)
            assert sorted(got) == list(range(8))
    assert ns.one("select count(*) from @.instances") == 10


async def test_signals_of_two_senders_arrive_in_the_order_of_their_commits(ns: Namespace) -> None:
    """The second waits for the first, which is still open; its signal comes second."""
    arguments = "'cart', '[2]', id => 'c', signal => 'add', payload => to_jsonb(%s::int)"
    call = f"select {ns.schema}.signal_with_start({arguments})"
    with psycopg.connect(ns.dsn) as first:
        one = first.execute(call, (1,)).fetchone()
        async with await psycopg.AsyncConnection.connect(ns.dsn, autocommit=True) as second:
            later = asyncio.ensure_future(second.execute(call, (2,)))
            await until(
                lambda: ns.one("select count(*) from pg_stat_activity where wait_event_type = 'Lock'") > 0,
                "the second waits",
            )
            first.commit()
            two = await (await later).fetchone()
    assert one == two
    async with ns.engine(cart) as engine:
        assert await (await engine.get("c")).result(timeout=20) == [1, 2]


async def test_sent_again_with_its_key_it_signals_once(ns: Namespace) -> None:
    key = uuid.uuid4()
    async with ns.engine(cart) as engine:
        for _ in range(3):
            await engine.signal_with_start(cart, 2, id="c", signal="add", payload="once", key=key)
        h = await engine.signal_with_start(cart, 2, id="c", signal="add", payload="end")
        assert await h.result(timeout=20) == ["once", "end"]
        # Also when the instance has ended meanwhile.
        assert (await engine.signal_with_start(cart, 2, id="c", signal="add", key=key)).instance_id == h.instance_id
        with pytest.raises(pgd.InstanceFinished, match="has ended"):
            await engine.signal_with_start(cart, 2, id="c", signal="add")


async def test_it_happens_with_the_caller_s_transaction_or_not_at_all(ns: Namespace) -> None:
    async with ns.client() as client, await psycopg.AsyncConnection.connect(ns.dsn) as conn:
        await client.signal_with_start("cart", 1, id="c", signal="add", payload=1, connection=conn)
        await conn.rollback()
        assert ns.one("select count(*) from @.instances") == 0
        assert ns.one("select count(*) from @.events") == 0
        h = await client.signal_with_start("cart", 1, id="c", signal="add", payload=2, connection=conn)
        await conn.commit()
        async with ns.engine(cart):
            assert await h.result(timeout=20) == [2]


async def test_a_signal_that_cannot_be_sent_starts_nothing(ns: Namespace) -> None:
    async with ns.engine(cart, another) as engine:
        await (await engine.start(another, 1, id="taken")).result(timeout=20)
        wrong: list[tuple[type[Exception], dict[str, Any]]] = [
            (pgd.InvalidInput, {"signal": "", "id": "c"}),
            (pgd.CodecError, {"signal": "add", "payload": float("nan"), "id": "c"}),
            (pgd.InvalidId, {"signal": "add", "id": ""}),
            (pgd.InvalidId, {"signal": "add", "id": "taken"}),
        ]
        for kind, options in wrong:
            with pytest.raises(kind):
                await engine.signal_with_start(cart, 1, **options)
    assert ns.one("select count(*) from @.instances") == 1
    for arguments in ("'w', '{}', signal => 'go'", "'w', '{}', id => 'c'", "'w', '{}', id => 'c', signal => ''"):
        with pytest.raises(psycopg.Error) as refused:
            ns.sql(f"select @.signal_with_start({arguments})")
        assert refused.value.sqlstate == "PGD05"
    assert ns.one("select count(*) from @.instances") == 1


async def test_encrypted_it_is_sealed_for_the_instance_that_is_there(ns: Namespace) -> None:
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()}, plain="refuse")
    async with ns.engine(cart, encryption=encryption) as engine, ns.client(encryption=encryption) as client:
        handles = await asyncio.gather(
            *(client.signal_with_start("cart", 5, id="c", signal="add", payload=f"secret {n}") for n in range(4))
        )
        handles.append(await client.signal_with_start("cart", 5, id="c", signal="add", payload="secret 4"))
        assert len({h.instance_id for h in handles}) == 1
        assert sorted(await (await engine.get("c")).result(timeout=20)) == [f"secret {n}" for n in range(5)]
        assert not ns.sql("select 1 from @.history where payload::text like '%secret%'")


def test_blocking_code_has_it_too(ns: Namespace) -> None:
    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[cart]) as engine:
        engine.signal_with_start(cart, 2, id="c", signal="add", payload=1)
        assert engine.signal_with_start("cart", 2, id="c", signal="add", payload=2).result(20) == [1, 2]
