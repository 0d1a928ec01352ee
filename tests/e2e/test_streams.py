"""Streams: items from workflows and steps, read from anywhere, each once, whatever runs again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until

tries: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    tries.clear()


async def read(h: Any, name: str = "s", offset: int = 0) -> list[Any]:
    return [item async for item in h.stream(name, offset)]


@pgd.step
async def writes(n: int) -> int:
    stream = pgd.stream("s")
    for k in range(n):
        stream.write(f"item {k}")
        await asyncio.sleep(0)
    return n


@pgd.step
async def nothing() -> None:
    pass


@pgd.workflow(name="talk_streams")
async def streams(n: int) -> int:
    stream = pgd.stream("s")
    stream.write("begin")
    stream.write({"n": n})
    await writes(n)
    stream.write("end")
    return n


async def test_readers_anywhere_get_every_item_once_and_in_order(ns: Namespace) -> None:
    async with ns.engine(streams) as engine, ns.client() as client:
        h = await engine.start(streams, 5)
        wanted = ["begin", {"n": 5}, *(f"item {k}" for k in range(5)), "end"]
        other = await client.get(h.id)
        assert await asyncio.gather(read(h), read(other), read(other, offset=3)) == [wanted, wanted, wanted[3:]]
        assert await read(other) == wanted  # afterwards too
        assert await read(other, "never written") == []
        items = [item async for item in other.stream("s", 2).items()]
        assert [item.offset for item in items] == [2, 3, 4, 5, 6, 7]
        assert [item.attempt for item in items] == [1, 1, 1, 1, 1, None]
    # What the workflow wrote between two events is one row of history; what steps write is none.
    assert ns.history(h, "kind, payload") == [
        ("stream", {"ends": False, "items": 2}), ("step", 5), ("stream", {"ends": False, "items": 1}),
    ]  # fmt: skip


async def test_a_reader_follows_and_ends_where_the_stream_is_closed(ns: Namespace) -> None:
    @pgd.workflow
    async def closes() -> None:
        stream = pgd.stream("s")
        for n in range(3):
            await pgd.wait_signal("go")
            stream.write(n)
        stream.close()
        stream.write("nobody reads this")
        await pgd.wait_signal("go")

    async with ns.engine(closes) as engine, ns.client() as client:
        h = await client.get((await engine.start(closes)).id)
        got: list[int] = []

        async def follow() -> None:
            async for item in h.stream("s"):
                got.append(item)

        reader = asyncio.ensure_future(follow())
        for n in range(3):
            assert got == list(range(n))
            await h.signal("go")
            await until(lambda n=n: len(got) == n + 1, "the item has come")
        await asyncio.wait_for(reader, 20)
        assert await h.status() == "running"
        assert [item async for item in h.stream("s", follow=False)] == [0, 1, 2]


async def test_a_replay_writes_nothing_again(ns: Namespace) -> None:
    @pgd.workflow
    async def parks() -> None:
        stream = pgd.stream("s")
        stream.write("a")
        await writes(2)
        stream.write("b")
        await pgd.wait_signal("go")
        stream.write("c")

    async with ns.engine(parks, park_after=0.05) as engine:
        h = await engine.start(parks)
        await status_is(h, "waiting")
        before = ns.sql("select *, xmin from @.stream_items order by position")
        await h.signal("go")
        assert await read(h) == ["a", "item 0", "item 1", "b", "c"]
        assert ns.sql("select *, xmin from @.stream_items order by position")[:4] == before


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=0.3, multiplier=1.0))
async def flaky(lengths: list[int]) -> int:
    attempt = tries["flaky"] = tries.get("flaky", 0) + 1
    length = lengths[attempt - 1]
    for k in range(length):
        await pgd.stream("s").write(f"{k} of attempt {attempt}")
    if attempt < len(lengths):
        raise RuntimeError("once more")
    return attempt


@pytest.mark.parametrize("lengths", [[3, 5], [5, 3], [4, 0, 2], [2, 2], [3, 1, 3]])
async def test_an_attempt_replaces_what_the_one_before_it_wrote(ns: Namespace, lengths: list[int]) -> None:
    @pgd.workflow
    async def around() -> int:
        pgd.stream("s").write("before")
        attempt = await flaky(lengths)
        pgd.stream("s").write("after")
        return attempt

    async with ns.engine(around) as engine:
        h = await engine.start(around)
        live = await read(h)
        last = len(lengths)
        assert await read(h) == ["before", *(f"{k} of attempt {last}" for k in range(lengths[-1])), "after"]
        # Who read along met each place once, at most.
        places = [item.split()[0] for item in live]
        assert len(places) == len(set(places))
        # And missed none that stayed, though the reader looked between the attempts.
        assert {str(k) for k in range(lengths[-1])} <= set(places)
        assert (places[0], places[-1]) == ("before", "after")


@pgd.step
def in_a_thread(n: int) -> None:
    for k in range(n):
        pgd.stream("s").write(k)
    pgd.stream("s").close()


@pgd.transaction
async def in_a_transaction(tx: Any, n: int) -> None:
    for k in range(n):
        pgd.stream("s").write(k)
    await tx.execute("select 1")


@pgd.step(executor="process")
def in_a_process(n: int) -> None:
    for k in range(n):
        pgd.stream("s").write(k)


@pytest.mark.parametrize("step", [in_a_thread, in_a_transaction, in_a_process], ids=lambda step: step.name)
async def test_every_kind_of_step_writes(ns: Namespace, step: Any) -> None:
    @pgd.workflow
    async def one() -> None:
        await step(3000 if step is in_a_thread else 30)

    async with ns.engine(one) as engine:
        h = await engine.start(one)
        assert await read(h) == list(range(3000 if step is in_a_thread else 30))


def test_a_blocking_workflow_and_a_blocking_reader(ns: Namespace) -> None:
    @pgd.workflow
    def blocking() -> None:
        pgd.stream("s").write(1)
        pgd.sleep(0.01)
        pgd.stream("s").write(2)

    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[blocking]) as engine:
        h = engine.start(blocking)
        assert list(h.stream("s")) == [1, 2]
        assert [item.offset for item in h.stream_items("s", 1)] == [1]


async def test_two_steps_at_once_share_a_stream(ns: Namespace) -> None:
    @pgd.step
    async def numbered(name: str) -> None:
        for k in range(50):
            await pgd.stream("s").write([name, k])

    @pgd.workflow
    async def both() -> None:
        await asyncio.gather(numbered("a"), numbered("b"))

    async with ns.engine(both) as engine:
        h = await engine.start(both)
        items = await read(h)
    assert len(items) == 100
    for name in "ab":
        assert [k for who, k in items if who == name] == list(range(50))


async def test_many_items_go_fast_and_bad_ones_harm_only_their_step(ns: Namespace) -> None:
    @pgd.step(retry=pgd.Retry(max_attempts=1))
    async def many(n: int, bad: bool) -> None:
        stream = pgd.stream("s")
        for k in range(n):
            stream.write(k)
        if bad:
            stream.write(float("nan"))

    @pgd.workflow
    async def bulk(bad: bool) -> None:
        await many(20_000, bad)

    async with ns.engine(bulk) as engine:
        begun = time.perf_counter()
        h = await engine.start(bulk, False)
        assert await read(h) == list(range(20_000))
        assert time.perf_counter() - begun < 30
        with pytest.raises(pgd.InstanceFailed, match="an item of stream 's' cannot be stored as JSON: NaN"):
            await (await engine.start(bulk, True)).result(timeout=20)
    with pytest.raises(pgd.PgDurableError, match="outside a workflow and outside a step"):
        pgd.stream("s")


async def test_an_instance_that_continues_as_new_writes_on(ns: Namespace) -> None:
    @pgd.workflow
    async def again(n: int) -> None:
        pgd.set_state("run", n)
        pgd.stream("s").write(n)
        await writes(1)
        if n < 3:
            pgd.continue_as_new(n + 1)

    async with ns.engine(again) as engine:
        h = await engine.start(again, 1)
        assert await read(h) == [1, "item 0", 2, "item 0", 3, "item 0"]
        assert await h.state("run") == 3


async def test_a_fork_has_what_was_there_up_to_its_place(ns: Namespace) -> None:
    @pgd.workflow
    async def forked() -> None:
        pgd.set_state("phase", 1)
        pgd.stream("s").write("a")
        await writes(1)
        pgd.set_state("phase", 2)
        pgd.stream("s").write("b")
        await pgd.wait_signal("go")

    async with ns.engine(forked) as engine, ns.client() as client:
        h = await engine.start(forked)
        await until(lambda: len(ns.history(h)) == 5, "all is recorded")
        copy = await h.fork(from_event=4)
        await copy.wait_state("phase", 2, timeout=20)
        await copy.signal("go")
        assert await read(await client.get(copy.id)) == ["a", "item 0", "b"]
        assert await h.state("phase") == 2


@pytest.mark.parametrize("forks", [1, 2])
async def test_encrypted_a_fork_reads_what_was_copied_to_it(ns: Namespace, forks: int) -> None:
    """It is encrypted for the instance that wrote it: state, streams, and what a query's replay reads."""
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()})

    @pgd.workflow
    async def forked(word: str) -> None:
        drawn = [pgd.random()]

        @pgd.on_query
        def words() -> list[Any]:
            return [word, *drawn]

        pgd.set_state("phase", f"{word} 1")
        pgd.stream("s").write(word)
        await writes(1)
        await pgd.wait_signal("go")
        drawn.append(pgd.random())
        pgd.set_state("late", f"{word} 2")
        pgd.stream("s").write("its own")

    async with ns.engine(forked, encryption=encryption) as engine, ns.client(encryption=encryption) as client:
        h = copy = await engine.start(forked, "swordfish")
        await until(lambda: len(ns.history(h)) == 3, "all is recorded")
        for _ in range(forks):
            copy = await copy.fork(from_event=4)
        there = await client.get(copy.id)
        assert await there.wait_state("phase", "swordfish 1", timeout=20) == "swordfish 1"
        await copy.signal("go")
        assert await read(there) == ["swordfish", "item 0", "its own"]
        assert await there.states() == {"phase": "swordfish 1", "late": "swordfish 2"}
        await copy.result(timeout=20)
        word, first, second = await there.query("words")
        assert (word, first) == ("swordfish", (await h.query("words"))[1])
        assert first != second
    assert not ns.sql("select 1 from @.stream_items t where t::text like '%swordfish%'")


async def test_another_s_ciphertext_is_not_taken_for_a_copy(ns: Namespace) -> None:
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()})

    @pgd.workflow
    async def secretive(word: str) -> None:
        pgd.set_state("word", word)
        await writes(0)

    async with ns.engine(secretive, encryption=encryption) as engine:
        one, other = await engine.start(secretive, "one"), await engine.start(secretive, "other")
        await asyncio.gather(one.result(timeout=20), other.result(timeout=20))
        copy = await one.fork(from_event=2)
        await copy.result(timeout=20)
        ns.sql("update @.states s set value = o.value from @.states o where s.instance_id = %s and o.instance_id = %s",
               copy.instance_id, other.instance_id)  # fmt: skip
        with pytest.raises(pgd.PayloadSealed):
            await copy.state("word")


async def test_encrypted_it_is_ciphertext_in_the_database(ns: Namespace) -> None:
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()})

    @pgd.step
    async def whispers() -> None:
        pgd.stream("s").write("swordfish 1")

    @pgd.workflow
    async def secretive() -> None:
        await whispers()
        pgd.stream("s").write("swordfish 2")

    async with ns.engine(secretive, encryption=encryption) as engine, ns.client(encryption=encryption) as client:
        h = await engine.start(secretive)
        assert await read(await client.get(h.id)) == ["swordfish 1", "swordfish 2"]
    for table in ("history", "stream_items"):
        assert not ns.sql(f"select 1 from @.{table} t where t::text like '%swordfish%'")
