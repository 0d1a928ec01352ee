"""Published state: what a workflow says of itself, durable, read and waited for from anywhere."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is


@pgd.step
async def work(n: int) -> int:
    return n


@pgd.workflow(name="talk_progress")
async def progress(n: int) -> str:
    pgd.set_state("phase", "begun")
    for done in range(n):
        pgd.set_state("done", done)
        pgd.set_state("done", done)  # no change
        await work(done)
    pgd.set_state("phase", {"waits": True})
    await pgd.wait_signal("go")
    pgd.set_state("phase", "ended")
    return "end"


async def test_the_current_value_is_there_for_everybody(ns: Namespace) -> None:
    async with ns.engine(progress) as engine, ns.client() as client:
        h = await client.get((await engine.start(progress, 3)).id)
        assert await h.wait_state("phase", {"waits": True}, timeout=20) == {"waits": True}
        assert await h.states() == {"done": 2, "phase": {"waits": True}}
        assert await h.state("done") == 2
        assert await h.state("absent", "nothing") == "nothing"
        assert ns.one("select @.state(%s, 'done')", h.id) == 2
        await h.signal("go")
        assert await h.wait_state("phase", lambda value: value == "ended", timeout=20) == "ended"
        assert await h.result(timeout=20) == "end"
        assert await h.state("phase") == "ended"
        with pytest.raises(pgd.InstanceFinished, match="state 'phase' is not what was waited for"):
            await h.wait_state("phase", "never", timeout=20)
        with pytest.raises(pgd.InstanceFinished, match="never published"):
            await h.wait_state("absent", 1, timeout=20)
    states = [(name, payload) for kind, name, payload in ns.history(h, "kind, name, payload") if kind == "state"]
    assert states == [
        ("phase", "begun"), ("done", 0), ("done", 1), ("done", 2), ("phase", {"waits": True}), ("phase", "ended"),
    ]  # fmt: skip


async def test_a_replay_publishes_nothing_again(ns: Namespace) -> None:
    async with ns.engine(progress, park_after=0.05) as engine:
        h = await engine.start(progress, 2)
        await status_is(h, "waiting")
        before = ns.sql("select *, xmin from @.states order by key")
        rows = len(ns.history(h))
        ns.sql("update @.instances set wake_at = now()")  # replayed, and parked again
        await asyncio.sleep(0)
        await h.signal("other")
        async with ns.client() as client:
            assert await (await client.get(h.id)).wait_state("phase", {"waits": True}, timeout=20)
        await status_is(h, "waiting")
        assert ns.sql("select *, xmin from @.states order by key") == before
        assert [kind for (kind,) in ns.history(h, "kind")][rows:] == ["signal"]
        await h.signal("go")
        await h.result(timeout=20)


async def test_what_is_published_is_durable_before_what_follows(ns: Namespace) -> None:
    seen = []

    @pgd.step
    async def look(id: str) -> None:
        seen.append(ns.one("select @.state(%s, 'n')", id))

    @pgd.workflow
    async def counts(id: str) -> None:
        for n in range(5):
            pgd.set_state("n", n)
            await work(n)
            await look(id)

    async with ns.engine(counts) as engine:
        h = await engine.start(counts, "me", id="me")
        await h.result(timeout=20)
    assert seen == [0, 1, 2, 3, 4]


def test_a_blocking_workflow_publishes_too(ns: Namespace) -> None:
    @pgd.workflow
    def publishes() -> None:
        pgd.set_state("a", 1)
        pgd.sleep(0.01)
        pgd.set_state("a", 2)

    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[publishes]) as engine:
        h = engine.start(publishes)
        h.result(20)
        assert h.state("a") == 2
        assert h.states() == {"a": 2}
        assert h.wait_state("a", 2, timeout=5) == 2


@dataclasses.dataclass
class Place:
    street: str
    number: int


async def test_values_have_types_and_bad_ones_end_only_their_instance(ns: Namespace) -> None:
    @pgd.workflow
    async def typed() -> None:
        with pytest.raises(ValueError, match="a state's key"):
            pgd.set_state("", 1)
        pgd.set_state("place", Place("Elm", 3))
        pgd.set_state("bad", float("nan"))

    async with ns.engine(typed) as engine:
        h = await engine.start(typed)
        with pytest.raises(pgd.InstanceFailed, match="state 'bad' cannot be stored as JSON: NaN"):
            await h.result(timeout=20)
        assert await h.state("place", type=Place) == Place("Elm", 3)
    with pytest.raises(pgd.PgDurableError, match="set_state was called outside workflow code"):
        pgd.set_state("x", 1)


async def test_encrypted_it_is_ciphertext_in_the_database(ns: Namespace) -> None:
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()})

    @pgd.workflow
    async def secretive() -> None:
        pgd.set_state("secret", "swordfish")
        await pgd.wait_signal("end")

    async with ns.engine(secretive, encryption=encryption, park_after=0.05) as engine:
        h = await engine.start(secretive)
        assert await h.wait_state("secret", "swordfish", timeout=20) == "swordfish"
        await status_is(h, "waiting")
        await h.signal("end")
        await h.result(timeout=20)
        assert await h.state("secret") == "swordfish"
    for table in ("history", "states"):
        assert not ns.sql(f"select 1 from @.{table} t where t::text like '%swordfish%'")


async def test_code_that_publishes_something_else_is_noticed(ns: Namespace) -> None:
    def make(value: str) -> pgd.Workflow:
        @pgd.workflow(name="talk_changes")
        async def changes() -> None:
            pgd.set_state("a", value)
            await work(1)
            await pgd.wait_signal("go")

        return changes

    async with ns.engine(make("old"), park_after=0.05) as engine:
        h = await engine.start("talk_changes")
        await status_is(h, "waiting")
    async with ns.engine(make("new")):
        await h.signal("go") if False else ns.sql("select @.signal(%s, 'go')", h.id)
        async with ns.client() as client:
            with pytest.raises(pgd.InstancePaused, match="history:  state 'a'"):
                await (await client.get(h.id)).result(timeout=20)
