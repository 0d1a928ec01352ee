"""Python steps that workflows in SQL ask for: run by whichever engine has them, once each, and told as events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from e2e.namespace import Namespace, until

import pgdurable as pgd
from pgdurable._step_names import StepNames
from pgdurable.errors import StepTimeout
from pgdurable.steps import Step

from .asked import all_of, ask, ending, ends, owned

ran: list[Any] = []
hold = threading.Event()


@pytest.fixture
def space(dsn: str, schema: str) -> Iterator[Namespace]:
    ran.clear()
    hold.clear()
    with Namespace(dsn, schema) as namespace:
        yield namespace
    hold.set()


@pgd.step(name="tasks add")
async def add(left: int, right: int = 10) -> int:
    ran.append((left, right))
    return left + right


@pgd.step(name="tasks thread")
def in_a_thread(text: str) -> list[str]:
    return [text, threading.current_thread().name]


@pgd.step(name="tasks process", executor="process")
def in_a_process(n: int) -> int:
    pgd.heartbeat({"n": n})
    return n * n


@pgd.step(name="tasks fails")
async def fails(how: str) -> int:
    match how:
        case "never":
            raise pgd.NonRetryable("never again")
        case "after":
            raise pgd.RetryAfter(7.5, "busy")
        case "value":
            raise ValueError("no good")
        case _:
            return {how}  # type: ignore[return-value]  # no JSON


@pgd.step(name="tasks long")
async def long(beats: bool = False) -> str:
    ran.append(pgd.heartbeat_details())
    if beats:
        pgd.heartbeat({"page": 7})
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        ran.append("cancelled")
        raise
    return "done"


@pgd.step(name="tasks held")
async def held() -> str:
    ran.append("began")
    await until(hold.is_set, "the test lets go")
    return "held"


@pgd.step(name="tasks silent", heartbeat_timeout=0.2, timeout=30)
async def silent() -> None:
    await asyncio.sleep(60)


@pgd.step(name="tasks many", max_concurrency=None)
async def many(n: int) -> int:
    ran.append(n)
    return n


@pgd.transaction(name="tasks transaction")
async def in_a_transaction(tx: Any) -> None: ...


async def test_a_step_of_this_process_is_run_and_its_result_told(space: Namespace) -> None:
    async with space.engine():
        first = ask(space, "python", "tasks add", {"args": [1], "kwargs": {"right": 2}})
        assert await ending(space, first) == {"seq": 1, "attempt": 1, "output": 3}
        by_full_name = ask(space, "python", f"{__name__}.add", {"args": [5]})
        assert (await ending(space, by_full_name))["output"] == 15
        thread, name = (await ending(space, ask(space, "python", "tasks thread", {"args": ["x"]})))["output"]
        assert thread == "x"
        assert name.startswith("pgdurable")
    assert ran == [(1, 2), (5, 10)]


async def test_a_step_in_a_process_of_its_own(space: Namespace) -> None:
    async with space.engine():
        assert (await ending(space, ask(space, "python", "tasks process", {"args": [9]})))["output"] == 81


async def test_what_waited_before_the_engine_came_is_run(space: Namespace) -> None:
    instance = ask(space, "python", "tasks add", {"args": [1]})
    later = ask(space, "python", "tasks add", {"args": [2]})
    space.sql("update @.tasks set run_at = now() + interval '0.4 s' where instance_id = %s", later)
    async with space.engine():
        assert (await ending(space, instance))["output"] == 11
        assert (await ending(space, later))["output"] == 12


async def test_steps_that_nobody_here_has_wait(space: Namespace) -> None:
    nobodys = ask(space, "python", "tasks of another process")
    async with space.engine():
        await ending(space, ask(space, "python", "tasks add", {"args": [1]}))
        assert ends(space, nobodys) == []
        assert space.one("select owner is null from @.tasks")


async def test_failures_say_what_the_retry_policy_has_to_know(space: Namespace) -> None:
    async with space.engine():
        never, after, value, no_json, misuse, transaction = await all_of(
            *(ending(space, ask(space, "python", "tasks fails", {"args": [how]}, attempt=2)) for how in
              ("never", "after", "value", "json")),
            ending(space, ask(space, "python", "tasks add", {"args": [1, 2, 3]})),
            ending(space, ask(space, "python", "tasks transaction")),
        )  # fmt: skip
    assert never["error"]["retryable"] is False
    assert never["attempt"] == 2
    assert (after["error"]["retry_in"], after["error"]["message"]) == (7.5, "busy")
    assert value["error"]["type"] == "builtins.ValueError"
    assert value["error"]["message"] == "no good"
    assert "ValueError: no good" in value["error"]["traceback"]
    assert "retryable" not in value["error"]
    assert no_json["error"]["retryable"] is False
    assert "the result of step tasks fails" in no_json["error"]["message"]
    assert misuse["error"]["retryable"] is False
    assert "op sql or call" in transaction["error"]["hint"]


async def test_timeouts_of_the_node_and_of_the_step(space: Namespace) -> None:
    async with space.engine():
        slow, quiet = await all_of(
            ending(space, ask(space, "python", "tasks long", timeout_s=0.2)),
            ending(space, ask(space, "python", "tasks silent")),
        )
    assert slow["error"]["timed_out"] is True
    assert slow["error"]["type"] == f"{StepTimeout.__module__}.StepTimeout"
    assert "took longer than its timeout of 0.2 s" in slow["error"]["message"]
    assert "gave no heartbeat for its heartbeat_timeout of 0.2 s" in quiet["error"]["message"]
    assert ran == [None, "cancelled"]


async def test_details_of_heartbeats_reach_the_next_attempt(space: Namespace) -> None:
    async with space.engine():
        instance = ask(space, "python", "tasks long", {"kwargs": {"beats": True}})
        await until(lambda: space.one("select details from @.tasks") == {"page": 7}, "the details are kept")
        # Its worker dies: others see that by its row.
        space.sql("update @.workers set state = 'dead'")
        space.sql("delete from @.fences")
        await until(lambda: len(ran) >= 2, "somebody runs it again")
        assert ran[0] is None
        await until(lambda: {"page": 7} in ran, "the next attempt gets the details")
        assert space.one("select attempt from @.tasks") == 2
        assert ends(space, instance) == []


async def test_a_task_that_was_cancelled_is_stopped_and_its_end_told_to_nobody(space: Namespace) -> None:
    async with space.engine() as engine:
        instance = ask(space, "python", "tasks long")
        await owned(space, instance)
        await until(lambda: ran == [None], "it runs")
        assert [run["step"] for run in engine.running_steps()] == ["tasks long"]
        space.sql("insert into @.sql_runs (instance_id, open, state) values (%s, '{}', '{}')", instance)
        await until(lambda: ran == [None, "cancelled"], "it is stopped")
        await until(lambda: not engine.running_steps(), "it is gone")
    assert ends(space, instance) == []


async def test_a_stopping_engine_finishes_what_runs(space: Namespace) -> None:
    engine = space.engine()
    await engine.open()
    instance = ask(space, "python", "tasks held")
    await until(lambda: ran == ["began"], "it runs")
    stopping = asyncio.create_task(engine.stop(drain=30))
    await until(lambda: space.one("select state from @.workers") == "draining", "it drains")
    await until(lambda: not engine._worker.sql_tasks.looking, "what it looked for before it has")  # type: ignore[union-attr]
    late = ask(space, "python", "tasks add", {"args": [1]})
    hold.set()
    assert await stopping
    await engine.close()
    assert ends(space, instance) == [{"seq": 1, "attempt": 1, "output": "held"}]
    assert ends(space, late) == []


async def test_what_a_stop_gives_up_is_run_by_another_as_the_same_attempt(space: Namespace) -> None:
    engine = space.engine()
    await engine.open()
    instance = ask(space, "python", "tasks held")
    await until(lambda: ran == ["began"], "it runs")
    assert not await engine.stop(drain=0.05)
    await engine.close()
    assert space.sql("select owner, attempt from @.tasks") == [(None, 1)]
    hold.set()
    async with space.engine():
        assert await ending(space, instance) == {"seq": 1, "attempt": 1, "output": "held"}


async def test_two_engines_share_what_there_is_and_run_nothing_twice(space: Namespace) -> None:
    first = ask(space, "python", "tasks many", {"args": [0]})
    for n in range(1, 400):
        ask(space, "python", "tasks many", {"args": [n]}, instance=first, seq=n + 1)
    async with space.engine(), space.engine():
        await until(lambda: len(ends(space, first)) == 400, "all have ended")
    assert sorted(ran) == list(range(400))
    assert {end["output"] for end in ends(space, first)} == set(range(400))


async def test_queues_are_listened_to(space: Namespace) -> None:
    other = ask(space, "python", "tasks add", {"args": [1]}, queue="other")
    async with space.engine(queues=["mail"]):
        mail = ask(space, "python", "tasks add", {"args": [2]}, queue="mail")
        assert (await ending(space, mail))["output"] == 12
        assert ends(space, other) == []


async def test_a_server_that_restarts_gets_the_ends_afterwards(private_server: Any, private_schema: str) -> None:
    ran.clear()
    hold.clear()
    with Namespace(private_server.dsn, private_schema) as space:
        async with space.engine():
            instance = ask(space, "python", "tasks held")
            await until(lambda: ran == ["began"], "it runs")
            await asyncio.to_thread(private_server.stop)
            hold.set()
            await asyncio.sleep(0)
            await asyncio.to_thread(private_server.start)
            found = await ending(space, instance)
            # Once, or again as the next attempt, where the others took its worker for dead.
            assert found["output"] == "held"


def test_names_that_mean_two_steps_mean_neither() -> None:
    names = StepNames()

    def make(module: str) -> Any:
        async def fetch() -> None: ...

        fetch.__module__, fetch.__qualname__ = module, "fetch"
        return Step(fetch)

    one, other = make("shop.a"), make("shop.b")
    names.add(one)
    assert names.usable() == {"fetch": one, "shop.a.fetch": one}
    names.add(other)
    assert names.usable() == {"shop.a.fetch": one, "shop.b.fetch": other}
    assert names.doubtful() == {"fetch": ["shop.a.fetch", "shop.b.fetch"]}
    again = make("shop.b")  # its module was reloaded
    names.add(again)
    assert names.usable()["shop.b.fetch"] is again
