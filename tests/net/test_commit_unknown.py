"""The connection breaks at a commit: before the server has it, or after, with the answer lost. For every kind of write.

Whoever wrote does not know which it was. Either way the write takes effect once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from e2e.namespace import Namespace, until
from e2e.proxy import Proxy

import pgdurable as pgd

ran: Counter[str] = Counter()
LEDGER = ""


@pgd.step(name="unknown_plain")
async def plain(entry: str) -> str:
    ran[entry] += 1
    return entry


@pgd.transaction(name="unknown_enter")
async def enter(tx: psycopg.AsyncConnection, entry: str) -> str:
    await tx.execute(f"insert into {LEDGER} values (%s)", (entry,))
    return entry


@pgd.transaction(name="unknown_enter_blocking")
def enter_blocking(tx: psycopg.Connection, entry: str) -> str:
    tx.execute(f"insert into {LEDGER} values (%s)", (entry,))
    return entry


@pgd.workflow(name="unknown_trivial")
async def unknown_trivial(n: int = 0) -> int:
    return n


@pgd.workflow(name="unknown_one_step")
async def one_step(entry: str) -> str:
    return await plain(entry)


@pgd.workflow(name="unknown_one_entry")
async def one_entry(entry: str) -> str:
    return await enter(entry)


@pgd.workflow(name="unknown_one_blocking_entry")
async def one_blocking_entry(entry: str) -> str:
    return await enter_blocking(entry)


@pgd.workflow(name="unknown_listens")
async def listens() -> list[str]:
    heard = []
    while (said := await pgd.wait_signal("say")) != "end":
        heard.append(said)
    return heard


WORKFLOWS = [unknown_trivial, one_step, one_entry, one_blocking_entry, listens]


class Lab:
    """An engine and a client behind a proxy that breaks connections, and the tables beside it.

    Attributes:
        where: "before" or "after" the commit gets to the server.
    """

    def __init__(self, ns: Namespace, proxy: Proxy, where: str) -> None:
        self.ns = ns
        self.proxy = proxy
        self.where = where

    def arm(self, marker: bytes) -> None:
        """The next message with these bytes is the one at which it breaks."""
        assert self.proxy.cuts == 0
        if self.where == "after":
            self.proxy.cut_after(marker)
        else:
            self.proxy.drop_at(marker)

    async def broke(self) -> None:
        await until(lambda: self.proxy.cuts == 1, "the connection broke there")

    @asynccontextmanager
    async def engine(self, **options: Any) -> AsyncIterator[pgd.Engine]:
        async with pgd.Engine(
            self.proxy.dsn, schema=self.ns.schema, workflows=WORKFLOWS, lease=20, **options
        ) as engine:
            yield engine

    @asynccontextmanager
    async def client(self) -> AsyncIterator[pgd.Client]:
        async with pgd.Client(self.proxy.dsn, schema=self.ns.schema) as client:
            yield client

    def instances(self) -> int:
        return int(self.ns.one("select count(*) from @.instances"))

    async def once(self, *handles: Any, results: list[Any]) -> None:
        """These have ended with these results, and there are no other instances."""
        assert [await handle.result(timeout=30) for handle in handles] == results
        assert self.instances() == len(handles)


# --- starts --------------------------------------------------------------------------------------------------------


async def engine_start(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b"pgd_insert_instances")
        h = await engine.start(unknown_trivial, 1)
        await lab.broke()
        await lab.once(h, results=[1])


async def engine_start_keyed(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b".start_keyed(")
        h = await engine.start(unknown_trivial, 1, id="mine")
        await lab.broke()
        await lab.once(h, results=[1])


async def engine_start_many(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b"pgd_insert_instances")
        handles = await engine.start_many(unknown_trivial, [(n,) for n in range(20)])
        await lab.broke()
        await lab.once(*handles, results=list(range(20)))


async def client_start(lab: Lab) -> None:
    async with lab.client() as client:
        lab.arm(b".start(")
        h = await client.start(unknown_trivial, 1, labels={"a": 1})
        await lab.broke()
        async with lab.engine():
            await lab.once(h, results=[1])


async def client_start_keyed(lab: Lab) -> None:
    async with lab.client() as client:
        lab.arm(b".start(")
        h = await client.start(unknown_trivial, 1, id="mine")
        await lab.broke()
        async with lab.engine():
            await lab.once(h, results=[1])


async def client_start_many(lab: Lab) -> None:
    async with lab.client() as client:
        lab.arm(b"c\0\0\0\4")  # the end of the rows: before it the server speaks, too
        handles = await client.start_many(unknown_trivial, [(n,) for n in range(20)])
        await lab.broke()
        async with lab.engine():
            await lab.once(*handles, results=list(range(20)))


async def blocking_client_start(lab: Lab) -> None:
    def start() -> str:
        with pgd.sync.Client(lab.proxy.dsn, schema=lab.ns.schema) as client:
            lab.arm(b".start(")
            return str(client.start("unknown_trivial", 1).id)

    id = await asyncio.to_thread(start)
    await lab.broke()
    async with lab.engine() as engine:
        await lab.once(await engine.get(id), results=[1])


# --- what an instance does ------------------------------------------------------------------------------------------


async def checkpoint(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b"pgd_insert_history")
        h = await engine.start(one_step, lab.ns.schema)
        await lab.broke()
        await lab.once(h, results=[lab.ns.schema])
        assert ran[lab.ns.schema] == 1  # the result was kept
        assert lab.ns.history(h) == [("step", plain.name, 1)]


async def completion(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b"pgd_release_instances")
        h = await engine.start(unknown_trivial, 1)
        await lab.broke()
        await lab.once(h, results=[1])


async def transaction_step(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b"COMMIT")
        h = await engine.start(one_entry, "a")
        await lab.broke()
        await lab.once(h, results=["a"])
        assert lab.ns.entries() == ["a"]


async def blocking_transaction_step(lab: Lab) -> None:
    async with lab.engine() as engine:
        lab.arm(b"COMMIT")
        h = await engine.start(one_blocking_entry, "a")
        await lab.broke()
        await lab.once(h, results=["a"])
        assert lab.ns.entries() == ["a"]


async def parking(lab: Lab) -> None:
    async with lab.engine(park_after=0.05) as engine:
        h = await engine.start(listens)
        lab.arm(b"pgd_release_instances")
        await lab.broke()
        await until(lambda: lab.ns.instance(h, "status") == "waiting", "it is parked")
        await h.signal("say", "end")
        await lab.once(h, results=[[]])


# --- signals, resuming ----------------------------------------------------------------------------------------------


async def signal(lab: Lab) -> None:
    async with lab.engine() as engine, lab.client() as client:
        h = await engine.start(listens)
        handle = await client.get(h.id)
        await handle.signal("say", "a")
        lab.arm(b".signal(")
        await handle.signal("say", "b")
        await lab.broke()
        for payload in ("c", "end"):
            await handle.signal("say", payload)
        await lab.once(h, results=[["a", "b", "c"]])


async def engine_signal(lab: Lab) -> None:
    async with lab.engine() as engine:
        h = await engine.start(listens)
        lab.arm(b".signal(")
        await engine.signal(h.id, "say", "a")
        await lab.broke()
        await h.signal("say", "end")
        await lab.once(h, results=[["a"]])


async def last_signal(lab: Lab) -> None:
    """By the time it is sent again the instance has consumed it and ended."""
    async with lab.engine() as engine, lab.client() as client:
        h = await engine.start(listens)
        lab.arm(b".signal(")
        await client.signal(h.id, "say", "end")
        await lab.broke()
        await lab.once(h, results=[[]])
    assert lab.ns.sql("select 1 from @.events") == []


async def consumption(lab: Lab) -> None:
    async with lab.engine() as engine:
        h = await engine.start(listens)
        lab.arm(b"pgd_delete_events")
        await h.signal("say", "a")
        await lab.broke()
        await h.signal("say", "end")
        await lab.once(h, results=[["a"]])


async def resuming(lab: Lab) -> None:
    async with lab.client() as client:
        h = await client.start(unknown_trivial, 1)
        lab.ns.sql("update @.instances set status = 'paused'")
        lab.arm(b".resume(")
        assert await h.resume()
        await lab.broke()
        assert not await h.resume()
        async with lab.engine():
            await lab.once(h, results=[1])


# --- workers --------------------------------------------------------------------------------------------------------


async def claim(lab: Lab) -> None:
    async with lab.client() as client:
        handles = await client.start_many(unknown_trivial, [(n,) for n in range(20)])
    lab.arm(b".claim(")
    async with lab.engine():
        await lab.broke()
        async with lab.client() as client:
            await lab.once(*[await client.get(h.id) for h in handles], results=list(range(20)))
    assert lab.ns.sql("select distinct takeovers from @.instances") == [(0,)]


async def take_over(lab: Lab) -> None:
    dead = lab.ns.one("select @.join_worker('dead', '[]', interval '0')")
    async with lab.client() as client:
        h = await client.start(unknown_trivial, 1)
    lab.ns.sql("update @.instances set status = 'running', owner = %s, version = '1'", dead)
    lab.arm(b".take_over(")
    async with lab.engine():
        await lab.broke()
        async with lab.client() as client:
            await lab.once(await client.get(h.id), results=[1])
    assert lab.ns.one("select state from @.workers where id = %s", dead) == "dead"
    assert lab.ns.one("select takeovers from @.instances") == 1


async def join(lab: Lab) -> None:
    lab.arm(b".join_worker(")
    with pytest.raises(pgd.ConnectionFailed):
        async with lab.engine():
            pass
    await lab.broke()
    async with lab.engine() as engine:
        await lab.once(await engine.start(unknown_trivial, 1), results=[1])


async def rejoin(lab: Lab) -> None:
    async with lab.engine() as engine:
        h = await engine.start(listens)
        lab.arm(b".join_worker(")
        await until(lambda: lab.ns.one("select @.take_over(id, beat, null) from @.workers"), "it was taken over")
        await lab.broke()
        await h.signal("say", "end")
        await lab.once(h, results=[[]])


async def leave(lab: Lab) -> None:
    async with lab.engine() as engine:
        await lab.once(await engine.start(unknown_trivial, 1), results=[1])
        lab.arm(b".leave_worker(")
    await lab.broke()
    assert lab.ns.one("select state from @.workers") == ("stopped" if lab.where == "after" else "alive")


WRITES: list[Callable[[Lab], Awaitable[None]]] = [
    engine_start, engine_start_keyed, engine_start_many, client_start, client_start_keyed, client_start_many,
    blocking_client_start, checkpoint, completion, transaction_step, blocking_transaction_step, parking, signal,
    engine_signal, last_signal, consumption, resuming, claim, take_over, join, rejoin, leave,
]  # fmt: skip


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
async def test_a_write_whose_commit_breaks_takes_effect_once(
    ns: Namespace, where: str, write: Callable[[Lab], Awaitable[None]]
) -> None:
    global LEDGER
    LEDGER = f"{ns.schema}.ledger"
    ns.ledger()
    async with Proxy(ns.dsn) as proxy:
        lab = Lab(ns, proxy, where)
        await asyncio.wait_for(write(lab), 60)
        assert proxy.cuts == 1


# --- a key of the sender's ----------------------------------------------------------------------------------------


async def test_a_signal_with_a_key_is_sent_once_whoever_sends_it(ns: Namespace) -> None:
    async with ns.engine(*WORKFLOWS) as engine, ns.client() as client:
        h = await engine.start(listens)
        key = uuid.uuid4()
        await client.signal(h.id, "say", "a", key=key)
        await until(lambda: ns.one("select count(*) from @.history") == 1, "it is consumed")
        await h.signal("say", "a", key=key)
        assert ns.sql("select @.signal(%s, 'say', '\"a\"', %s)", h.id, key) == [(None,)]
        with pytest.raises(pgd.InstanceNotFound):
            await client.signal("nobody", "say", "a", key=key)
        await asyncio.gather(*(client.signal(h.id, "say", "b", key=uuid.UUID(int=7)) for _ in range(5)))
        await h.signal("say", "end")
        assert await h.result(timeout=20) == ["a", "b"]
        await client.signal(h.id, "say", "a", key=key)  # it has ended, and had it
        with pytest.raises(pgd.InstanceFinished):
            await client.signal(h.id, "say", "c")
        fresh = uuid.uuid4()
        with pytest.raises(pgd.InstanceFinished):
            await client.signal(h.id, "say", "c", key=fresh)
        assert ns.sql("select 1 from @.signal_keys where key = %s", fresh) == []  # refused, so not sent


async def test_a_second_sender_waits_for_what_becomes_of_the_first(ns: Namespace) -> None:
    """The first may be a session that nobody hears of any more, and still commit."""
    async with ns.engine(*WORKFLOWS) as engine:
        h = await engine.start(listens)
        for outcome, said in (("commit", "a"), ("rollback", "b")):
            key = uuid.uuid4()
            with psycopg.connect(ns.dsn) as first:
                first.execute(f"select {ns.schema}.signal(%s, 'say', %s::jsonb, %s)", (h.id, f'"{said}"', key))
                again = asyncio.ensure_future(h.signal("say", said, key=key))
                await until(
                    lambda: ns.sql("select 1 from pg_stat_activity where wait_event = 'transactionid'"
                                   " and query like %s", f"%{ns.schema}.signal%"),
                    "the second waits",
                )  # fmt: skip
                first.commit() if outcome == "commit" else first.rollback()
            await again
        await h.signal("say", "end")
        assert await h.result(timeout=20) == ["a", "b"]


async def test_keys_are_forgotten_after_an_hour(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgdurable._engine.poller._TIDY_EVERY_S", 0.1)
    ns.sql(
        "insert into @.signal_keys select gen_random_uuid(), now() - interval '61 minutes' from generate_series(1, 9)"
    )
    ns.sql(
        "insert into @.signal_keys select gen_random_uuid(), now() - interval '59 minutes' from generate_series(1, 4)"
    )
    async with ns.engine(*WORKFLOWS, poll_interval=0.05):
        await until(lambda: ns.one("select count(*) from @.signal_keys") == 4, "the old ones are gone")
