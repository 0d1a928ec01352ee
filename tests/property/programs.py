"""Random workflows: little programs made of what asyncio and pgdurable offer, as JSON, and the workflow that runs one.

A `timed` program may show who won a race and what time it was; the others give the same result whatever the timing
is, so that a run on a real server can be held against one without. Each node has a label of its own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from hypothesis import strategies as st

import pgdurable as pgd

Node = dict[str, Any]

executions: list[tuple[Any, int]] = []
"""Each run of a step, as (tag of the instance, label of the node)."""

listeners: list[Callable[[], None]] = []
"""Called after each."""


class Boom(Exception):
    """The one failure programs know. It carries the label of its node."""

    def __str__(self) -> str:
        return "boom"


# -- steps ---------------------------------------------------------------------------------------------------------


def _executed(tag: Any, label: int) -> int:
    """How often this step has run now."""
    executions.append((tag, label))
    for listener in listeners:
        listener()
    return executions.count((tag, label))


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def work(tag: Any, label: int, value: Any) -> Any:
    _executed(tag, label)
    return value


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def slow_work(tag: Any, label: int, value: Any) -> Any:
    _executed(tag, label)
    for _ in range(label % 7):
        await asyncio.sleep(0)
    return value


@pgd.step(retry=pgd.Retry(max_attempts=1))
def thread_work(tag: Any, label: int, value: Any) -> Any:
    _executed(tag, label)
    return value


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def failing_work(tag: Any, label: int, value: Any) -> Any:
    _executed(tag, label)
    raise Boom("boom", label)


@pgd.step(retry=pgd.Retry(max_attempts=6, initial=0.002, jitter=0))
async def flaky_work(tag: Any, label: int, value: Any) -> Any:
    if _executed(tag, label) < 3:
        raise OSError("not yet")
    return value


STEPS = {
    "plain": work,
    "slow": slow_work,
    "thread": thread_work,
    "failing": failing_work,
    "flaky": flaky_work,
}


# -- programs --------------------------------------------------------------------------------------------------------


@st.composite
def programs(draw: st.DrawFn, *, timed: bool, blocking: bool = False, most_nodes: int = 24) -> Node:
    """Random programs. `blocking`: only what a `def` workflow can do, which is one thing after another."""
    kinds = ["plain", "plain", "failing"] if timed else list(STEPS)
    seconds = st.sampled_from([0, 0.001, 1, 5, 60] if timed else [0, 0.001, 0.01, 0.03])
    leaves = ["step", "step", "step", "step", "sleep", "signal", "chance"]
    branches = ["sequence", "sequence", "cleanup"]
    if not blocking:
        branches += "gather gather collect group group completed slots pages race race race limit limit".split()

    def leaf() -> Node:
        kind = draw(st.sampled_from(leaves))
        if kind == "step":
            # An uncaught failure ends most of a program, so it is rare.
            return {"do": kind, "kind": draw(st.sampled_from(kinds)), "caught": draw(st.integers(0, 5)) > 0}
        if kind == "sleep":
            return {"do": kind, "seconds": draw(seconds)}
        if kind == "signal" and timed:
            return {
                "do": kind,
                "timeout": draw(st.sampled_from([None, 0.5, 10])),
                "name": draw(st.sampled_from(["p", "q"])),
            }
        return {"do": kind, "timeout": None}

    def tree(size: int) -> Node:
        if size <= 1:
            return leaf()
        kind = draw(st.sampled_from(branches))
        if kind == "cleanup":
            return {"do": kind, "body": tree(size - 1)}
        if kind == "limit":
            late = draw(st.booleans())
            if timed and late:
                return {"do": kind, "body": tree(size - 1), "seconds": draw(seconds)}
            body = {"do": "cleanup", "body": {"do": "never"}} if late else tree(size - 1)
            return {"do": kind, "body": body, "seconds": draw(seconds) if late else 3600}
        bodies = []
        left = size - 1
        while left > 0:
            share = draw(st.integers(1, left))
            bodies.append(tree(share))
            left -= share
        if kind == "race" and draw(st.booleans()):
            bodies.append({"do": "cleanup", "body": {"do": "never"}})
        return {"do": kind, "bodies": bodies}

    return labelled(tree(draw(st.integers(1, most_nodes))), timed)


def labelled(node: Node, timed: bool) -> Node:
    """The program with a number on every node, so that what happened can be told apart."""
    labels = iter(range(1_000_000))

    def label(node: Node) -> Node:
        found = {**node, "label": next(labels), "timed": timed}
        if "body" in node:
            found["body"] = label(node["body"])
        if "bodies" in node:
            found["bodies"] = [label(body) for body in node["bodies"]]
        return found

    return label(node)


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for body in [*node.get("bodies", []), *([node["body"]] if "body" in node else [])]:
        yield from nodes(body)


# -- running one -------------------------------------------------------------------------------------------------------


async def run_program(node: Node, tag: Any = 0) -> Any:
    label, timed = node["label"], node["timed"]

    def each() -> list[Awaitable[Any]]:
        return [run_program(body, tag) for body in node["bodies"]]

    match node["do"]:
        case "step":
            try:
                return await STEPS[node["kind"]](tag, label, ["did", label])
            except Boom as error:
                if not node["caught"]:
                    raise
                return str(error)
        case "sleep":
            before = pgd.now()
            await asyncio.sleep(node["seconds"])
            return pgd.now().isoformat() if timed else (pgd.now() - before).total_seconds() >= node["seconds"]
        case "chance":
            drawn = [str(pgd.uuid4()), pgd.random(), pgd.now().isoformat(), label]
            echoed = await work(tag, label, drawn)
            return drawn if timed else echoed == drawn
        case "signal":
            try:
                return await pgd.wait_signal(node.get("name", f"s{label}"), timeout=node["timeout"])
            except TimeoutError:
                return "no signal"
        case "never":
            await pgd.wait_signal("never")
        case "sequence":
            return [await run_program(body, tag) for body in node["bodies"]]
        case "cleanup":
            try:
                return await run_program(node["body"], tag)
            finally:
                await work(tag, label, ["cleaned", label])
        case "gather":
            return await asyncio.gather(*each())
        case "collect":
            return [_shown(found) for found in await asyncio.gather(*each(), return_exceptions=True)]
        case "group":
            return await _group(each())
        case "completed":
            found = []
            for future in asyncio.as_completed(each()):
                try:
                    found.append(await future)
                except Boom as error:
                    found.append(str(error))
            return found if timed else sorted(found, key=repr)
        case "slots":
            slots = asyncio.Semaphore(2)

            async def within(body: Node) -> Any:
                async with slots:
                    return await run_program(body, tag)

            return await asyncio.gather(*[within(body) for body in node["bodies"]])
        case "pages":
            return [page async for page in _pages(node["bodies"], tag, label)]
        case "race":
            tasks = {asyncio.ensure_future(body) for body in each()}
            try:
                done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            won = [_shown(task.exception() or task.result()) for task in done if not task.cancelled()]
            lost = [task.cancelled() for task in pending]
            return [won, lost] if timed else "raced"
        case "limit":
            try:
                return await asyncio.wait_for(run_program(node["body"], tag), node["seconds"])
            except asyncio.TimeoutError:
                return "too late"
    raise AssertionError(node)


def _shown(found: Any) -> Any:
    return f"{type(found).__name__}: {found}" if isinstance(found, BaseException) else found


async def _group(bodies: list[Awaitable[Any]]) -> Any:
    if sys.version_info < (3, 11):
        return await asyncio.gather(*bodies)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(body) for body in bodies]  # type: ignore[arg-type]
    except Exception as error:
        return type(error).__name__
    return [task.result() for task in tasks]


async def _pages(bodies: list[Node], tag: Any, label: int) -> AsyncIterator[Any]:
    try:
        for body in bodies:
            yield await run_program(body, tag)
    finally:
        await work(tag, label, ["closed", label])


def run_blocking(node: Node, tag: Any = 0) -> Any:
    """The same for a `def` workflow."""
    label, timed = node["label"], node["timed"]
    match node["do"]:
        case "step":
            try:
                return STEPS[node["kind"]](tag, label, ["did", label])
            except Boom as error:
                if not node["caught"]:
                    raise
                return str(error)
        case "sleep":
            before = pgd.now()
            pgd.sleep(node["seconds"])
            return pgd.now().isoformat() if timed else (pgd.now() - before).total_seconds() >= node["seconds"]
        case "chance":
            drawn = [str(pgd.uuid4()), pgd.random(), pgd.now().isoformat(), label]
            echoed = work(tag, label, drawn)
            return drawn if timed else echoed == drawn
        case "signal":
            try:
                return pgd.wait_signal(node.get("name", f"s{label}"), timeout=node["timeout"])
            except TimeoutError:
                return "no signal"
        case "sequence":
            return [run_blocking(body, tag) for body in node["bodies"]]
        case "cleanup":
            try:
                return run_blocking(node["body"], tag)
            finally:
                work(tag, label, ["cleaned", label])
    raise AssertionError(node)
