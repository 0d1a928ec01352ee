"""`patched` and `deprecate_patch`: one answer per instance, recorded before anything follows from it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.errors import PgDurableError

from .namespace import Namespace, until

ran: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    ran.clear()


@pgd.step
async def do(name: str) -> str:
    ran.append(name)
    return name


def before() -> Any:
    @pgd.workflow(name="patch_flow")
    async def flow() -> list[str]:
        first = await do("first")
        await pgd.wait_signal("go")
        return [first, await do("old")]

    return flow


def during() -> Any:
    @pgd.workflow(name="patch_flow")
    async def flow() -> list[str]:
        if pgd.patched("faster"):
            first = await do("quick")
        else:
            first = await do("first")
        await pgd.wait_signal("go")
        return [first, await do("new" if pgd.patched("faster") else "old")]

    return flow


def after() -> Any:
    @pgd.workflow(name="patch_flow")
    async def flow() -> list[str]:
        pgd.deprecate_patch("faster")
        first = await do("quick")
        await pgd.wait_signal("go")
        return [first, await do("new")]

    return flow


def without() -> Any:
    @pgd.workflow(name="patch_flow")
    async def flow() -> list[str]:
        first = await do("quick")
        await pgd.wait_signal("go")
        return [first, await do("new")]

    return flow


OLD, NEW = ["first", "old"], ["quick", "new"]


@pytest.mark.parametrize(
    ("code", "next_code", "expected"),
    [
        (before, during, OLD), (during, during, NEW), (during, after, NEW), (after, during, NEW), (after, after, NEW),
        (during, without, NEW), (after, without, NEW),
    ],
)  # fmt: skip
async def test_an_instance_goes_on_along_the_branch_it_began(
    ns: Namespace, code: Any, next_code: Any, expected: list[str]
) -> None:
    flow = code()
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(lambda: ("step", "do", 1) in ns.history(handle), "it waits for the signal")
    changed = next_code()
    async with ns.engine(changed) as engine:
        again = await engine.get(handle.id)
        await again.signal("go")
        assert await again.result(30) == expected
    patches = ns.sql("select name from @.history where kind = 'patch'")
    assert patches == ([] if expected == OLD else [("faster",)])


async def test_an_old_instance_that_reaches_the_patch_only_now_takes_the_new_branch(ns: Namespace) -> None:
    flow = before()
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(lambda: ns.history(handle), "it waits for the signal")

    @pgd.workflow(name="patch_flow")
    async def later() -> list[str]:
        first = await do("first")
        await pgd.wait_signal("go")
        return [first, await do("new" if pgd.patched("end") else "old")]

    async with ns.engine(later) as engine:
        again = await engine.get(handle.id)
        await again.signal("go")
        assert await again.result(30) == ["first", "new"]


async def test_what_follows_from_a_patch_begins_when_it_is_committed(ns: Namespace) -> None:
    seen: list[Any] = []

    @pgd.step
    async def look() -> None:
        seen.extend(ns.sql("select kind, name from @.history"))

    @pgd.workflow(name="patch_order")
    async def flow() -> None:
        if pgd.patched("p"):
            await look()

    async with ns.engine(flow) as engine:
        await (await engine.start(flow)).result(30)
    assert seen == [("patch", "p")]


async def test_an_instance_that_a_client_started_takes_the_new_branch(ns: Namespace) -> None:
    """Claimed, it has no history to be replayed; nor has one whose worker died before it recorded anything."""
    flow = during()
    async with ns.client() as client:
        handles = [await client.start(flow) for _ in range(2)]
    ns.sql("update @.instances set started_at = now(), version = '1', status = 'waiting' where id = %s",
           handles[1].instance_id)  # fmt: skip
    async with ns.engine(flow) as engine:
        for handle in handles:
            again = await engine.get(handle.id)
            await again.signal("go")
            assert await again.result(30) == NEW


async def test_many_patches_and_other_commands_in_one_burst(ns: Namespace) -> None:
    @pgd.workflow(name="patch_many")
    async def flow() -> list[Any]:
        one = asyncio.ensure_future(do("one"))
        answers = [pgd.patched("a"), pgd.patched("b"), pgd.patched("a")]
        sleeping = asyncio.create_task(asyncio.sleep(0.01))
        two = asyncio.ensure_future(do("two"))
        await pgd.wait_signal("go")
        await sleeping
        return [*answers, await one, await two]

    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(lambda: len(ns.history(handle)) == 5, "all has been done")
    async with ns.engine(flow) as engine:
        again = await engine.get(handle.id)
        await again.signal("go")
        assert await again.result(30) == [True, True, True, "one", "two"]
    assert [name for _, name, _ in ns.history(handle) if name in ("a", "b")] == ["a", "b"]
    assert sorted(ran) == ["one", "two"]


def test_patched_in_a_def_workflow(ns: Namespace) -> None:
    @pgd.workflow(name="patch_def")
    def flow() -> Any:
        found = do("new") if pgd.patched("p") else do("old")
        pgd.wait_signal("go")
        return found

    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[flow]) as engine:
        handle = engine.start(flow)
        handle.signal("go")
        assert handle.result(30) == "new"


@pytest.mark.parametrize("id", ["", "x" * 513, "a\0b", 5])
async def test_an_id_that_is_none(ns: Namespace, id: Any) -> None:
    @pgd.workflow(name="patch_bad_id")
    async def flow() -> str:
        try:
            pgd.patched(id)
        except ValueError as error:
            return str(error)
        return "taken"

    async with ns.engine(flow) as engine:
        assert "1 to 512 bytes without NUL" in await (await engine.start(flow)).result(30)


def test_outside_workflow_code() -> None:
    with pytest.raises(PgDurableError, match="patched was called outside workflow code"):
        pgd.patched("x")
