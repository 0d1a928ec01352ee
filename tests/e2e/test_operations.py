"""Operations on instances with engines that run them: paused, terminated, retried, forked, deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.errors import InstanceFailed, InstanceNotFinished, InstanceNotFound, InstancePaused, InvalidInput

from .namespace import Namespace, until

ran: list[str] = []
gate: dict[str, asyncio.Event] = {}
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _clean() -> None:
    ran.clear()
    gate.clear()
    broken.clear()


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def work(name: str) -> str:
    ran.append(name)
    if name in gate:
        await gate[name].wait()
    if name in broken:
        raise ValueError(f"{name} is broken")
    return name.upper()


@pgd.workflow(name="ops_line")
async def line(n: int = 3) -> list[str]:
    return [await work(f"s{i}") for i in range(n)]


@pgd.workflow(name="ops_wait")
async def wait() -> str:
    first = await work("before")
    got = await pgd.wait_signal("go", type=str)
    return f"{first} {got} {await work('after')}"


@pgd.workflow(name="ops_side")
async def side() -> list[str]:
    return await asyncio.gather(work("a"), work("b"), work("c"))


@pgd.workflow(name="ops_random")
async def rolls(n: int = 4) -> list[str]:
    found = []
    for _ in range(n):
        found.append(await note(str(pgd.uuid4()), pgd.now().isoformat()))
    return found


@pgd.step
async def note(text: str, at: str) -> str:
    return text


ALL = (line, wait, side, rolls)


# -- pause and resume


async def test_a_paused_instance_finishes_what_runs_and_begins_nothing_more(ns: Namespace) -> None:
    gate["s0"] = asyncio.Event()
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        await until(lambda: ran == ["s0"], "the first step runs")
        assert await handle.pause() is True
        assert await handle.pause() is True  # asked again, it is on its way
        gate["s0"].set()
        await until(lambda: ns.instance(handle, "status") == "paused", "it is paused")
        assert ran == ["s0"]
        assert ns.history(handle) == [("step", "work", 1)]
        assert await handle.pause() is False
        with pytest.raises(InstancePaused):
            await handle.result(5)
        assert await handle.resume() is True
        assert await handle.result(30) == ["S0", "S1", "S2"]
    assert ran == ["s0", "s1", "s2"]


async def test_a_paused_instance_keeps_its_signals(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(wait)
        await until(lambda: ns.history(handle), "it waits")
        await handle.pause()
        await until(lambda: ns.instance(handle, "status") == "paused", "it is paused")
        await handle.signal("go", "now")
        assert ns.sql("select kind from @.events") == [("signal",)]
        await handle.resume()
        assert await handle.result(30) == "BEFORE now AFTER"


async def test_a_pause_that_is_called_off_while_a_step_runs(ns: Namespace) -> None:
    gate["s0"] = asyncio.Event()
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        await until(lambda: ran == ["s0"], "the first step runs")
        assert await handle.pause() is True
        assert await handle.resume() is True
        gate["s0"].set()
        assert await handle.result(30) == ["S0", "S1", "S2"]
    assert ran == ["s0", "s1", "s2"]


async def test_whoever_takes_over_pauses_before_it_begins_anything(ns: Namespace) -> None:
    """The worker is gone with the request unanswered; its step does not run again before somebody resumes."""
    gate["s1"] = asyncio.Event()
    first = ns.engine(*ALL, lease=1)
    await first.open()
    handle = await first.start(line)
    await until(lambda: ran == ["s0", "s1"], "the second step runs")
    first._worker.host.requests.pause = lambda hosted: None  # type: ignore[union-attr]  # it hangs: hears nothing
    async with ns.client() as client:
        hanging = await client.get(handle.id)
        with pytest.raises(TimeoutError, match="the request stands"):
            await hanging.pause(0.2)
    first._worker.membership._on_fenced()  # type: ignore[union-attr]
    await first.stop(drain=0)
    await first.close()
    ns.sql("select @.leave_worker(id) from @.workers where state = 'alive'")
    gate["s1"].set()
    async with ns.engine(*ALL) as second:
        await until(lambda: ns.instance(handle, "status") == "paused", "it is paused by the next worker")
        assert ran == ["s0", "s1"]
        again = await second.get(handle.id)
        await again.resume()
        assert await again.result(30) == ["S0", "S1", "S2"]
    assert ran == ["s0", "s1", "s1", "s2"]


# -- terminate


async def test_terminate_ends_what_runs(ns: Namespace) -> None:
    gate["s1"] = asyncio.Event()
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        await until(lambda: ran == ["s0", "s1"], "the second step runs")
        assert await handle.terminate("wrong order") is True
        with pytest.raises(InstanceFailed, match="it was terminated: wrong order") as failed:
            await handle.result(30)
        assert (failed.value.status, failed.value.type) == ("cancelled", "pgdurable.errors.Terminated")
        assert await handle.terminate() is False
        assert engine.running_steps() == []
    assert ran == ["s0", "s1"]


async def test_terminate_while_its_last_step_commits_is_one_or_the_other(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        handles = [await engine.start(line, 1) for _ in range(50)]
        await asyncio.gather(*(handle.terminate() for handle in handles))
        ends = await asyncio.gather(*(handle.result(30) for handle in handles), return_exceptions=True)
    rows = ns.sql("select status, output is not null, error is not null, count(*) from @.instances group by 1, 2, 3")
    assert {row[:3] for row in rows} <= {("completed", True, False), ("cancelled", False, True)}
    assert sum(row[3] for row in rows) == 50
    assert sum(isinstance(end, InstanceFailed) for end in ends) == sum(r[3] for r in rows if r[0] == "cancelled")


# -- retry


async def test_retry_goes_on_from_the_failed_step(ns: Namespace) -> None:
    broken.add("s1")
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        with pytest.raises(InstanceFailed, match="s1 is broken"):
            await handle.result(30)
        broken.clear()
        assert await handle.retry() is True
        assert await handle.result(30) == ["S0", "S1", "S2"]
        assert await handle.retry() is False
    assert ran == ["s0", "s1", "s1", "s2"]
    kinds = [row[:2] for row in ns.history(handle, "event_id, kind")]
    assert kinds == [(1, "step"), (2, "undone step"), (3, "retry"), (4, "step"), (5, "step")]


async def test_retry_of_what_fails_again_has_all_its_attempts_again(ns: Namespace) -> None:
    tries = []

    @pgd.step(retry=pgd.Retry(max_attempts=2, initial=0.01))
    async def shaky() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise ValueError("not yet")
        return "done"

    @pgd.workflow(name="ops_shaky")
    async def flow() -> str:
        return await shaky()

    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(InstanceFailed):
            await handle.result(30)
        assert len(tries) == 2
        await handle.retry()
        assert await handle.result(30) == "done"
    assert len(tries) == 4
    kinds = [kind for kind, *_ in ns.history(handle)]
    assert kinds == ["undone attempt", "undone step", "retry", "attempt", "step"]


async def test_retry_keeps_what_ran_beside_the_failed_step(ns: Namespace) -> None:
    broken.add("b")
    gate["b"] = asyncio.Event()
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(side)
        await until(lambda: len(ns.history(handle)) == 2, "a and c are done")
        gate["b"].set()
        with pytest.raises(InstanceFailed):
            await handle.result(30)
        broken.clear()
        await handle.retry()
        assert await handle.result(30) == ["A", "B", "C"]
    assert sorted(ran) == ["a", "b", "b", "c"]


async def test_retry_undoes_what_the_failure_led_to_and_keeps_signals(ns: Namespace) -> None:
    @pgd.workflow(name="ops_clean_up")
    async def flow() -> str:
        try:
            first = await work("main")
        except ValueError as error:
            await work("clean")
            got = await pgd.wait_signal("seen", type=str)
            raise RuntimeError(f"gave up, {got}") from error
        return f"{first} {await pgd.wait_signal('seen', type=str)}"

    broken.add("main")
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(lambda: len(ns.history(handle)) == 2, "it has cleaned up")
        await handle.signal("seen", "ok")
        with pytest.raises(InstanceFailed, match="gave up, ok"):
            await handle.result(30)
        broken.clear()
        await handle.retry()
        assert await handle.result(30) == "MAIN ok"
    assert ran == ["main", "clean", "main"]
    kinds = [kind for kind, *_ in ns.history(handle)]
    assert kinds == ["undone step", "undone step", "signal", "retry", "step"]


async def test_retry_of_handled_failures_undoes_only_what_ended_it(ns: Namespace) -> None:
    @pgd.workflow(name="ops_optional")
    async def flow() -> list[str]:
        found = []
        for name in ("first", "second", "third"):
            try:
                found.append(await work(name))
            except ValueError:
                if name == "third":
                    raise
        return found

    broken.update(("first", "third"))
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(InstanceFailed, match="third is broken"):
            await handle.result(30)
        broken.clear()
        await handle.retry()
        assert await handle.result(30) == ["SECOND", "THIRD"]
    assert ran == ["first", "second", "third", "third"]


async def test_retry_after_mending_the_code_goes_on_where_it_raised(ns: Namespace) -> None:
    @pgd.workflow(name="ops_bug")
    async def flow() -> str:
        name = await work("one")
        raise KeyError(name)

    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(InstanceFailed, match="KeyError"):
            await handle.result(30)
        await handle.retry()
        with pytest.raises(InstanceFailed, match="KeyError"):
            await handle.result(30)

    @pgd.workflow(name="ops_bug")
    async def mended() -> str:
        return await work("one") + await work("two")

    async with ns.engine(mended) as engine:
        again = await engine.get(handle.id)
        await again.retry()
        assert await again.result(30) == "ONETWO"
    assert ran == ["one", "two"]


async def test_retry_with_code_that_goes_another_way_after_the_failure(ns: Namespace) -> None:
    @pgd.workflow(name="ops_other_way")
    async def flow() -> str:
        try:
            return await work("one")
        except ValueError:
            await work("clean")
            raise

    broken.add("one")
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(InstanceFailed):
            await handle.result(30)
    broken.clear()

    @pgd.workflow(name="ops_other_way")
    async def mended() -> str:
        try:
            return await work("one")
        except ValueError:
            return await work("two")

    async with ns.engine(mended) as engine:
        again = await engine.get(handle.id)
        await again.retry()
        assert await again.result(30) == "ONE"
    assert ran == ["one", "clean", "one"]


def test_retry_of_a_def_workflow(ns: Namespace) -> None:
    @pgd.workflow(name="ops_thread")
    def flow() -> str:
        return work("one") + work("two")  # type: ignore[operator, return-value]

    broken.add("two")

    async def run() -> None:
        async with ns.engine(flow) as engine:
            handle = await engine.start(flow)
            with pytest.raises(InstanceFailed):
                await handle.result(30)
            broken.clear()
            await handle.retry()
            assert await handle.result(30) == "ONETWO"

    asyncio.run(run())
    assert ran == ["one", "two", "two"]


async def test_a_retry_whose_worker_dies_is_taken_up_by_the_next(ns: Namespace) -> None:
    broken.add("s1")
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        with pytest.raises(InstanceFailed):
            await handle.result(30)
    broken.clear()
    async with ns.client() as client:
        await (await client.get(handle.id)).retry()
    gate["s1"] = asyncio.Event()
    ran.clear()
    dying = ns.engine(*ALL)
    await dying.open()
    await until(lambda: ran == ["s1"], "the step is tried again")
    dying._worker.host.fenced = True  # type: ignore[union-attr]  # it writes nothing more
    await dying.stop(drain=0)
    await dying.close()
    ns.sql("select @.leave_worker(id) from @.workers where state = 'alive'")
    gate.clear()
    async with ns.engine(*ALL) as engine:
        assert await (await engine.get(handle.id)).result(30) == ["S0", "S1", "S2"]
    assert ran == ["s1", "s1", "s2"]


# -- fork


async def test_fork_goes_on_from_any_event(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        await handle.result(30)
        ran.clear()
        for place, expected in ((1, ["s0", "s1", "s2"]), (2, ["s1", "s2"]), (3, ["s2"]), (4, [])):
            copy = await handle.fork(from_event=place)
            assert await copy.result(30) == ["S0", "S1", "S2"]
            assert ran == expected
            ran.clear()
        assert ns.history(handle, "kind") == [("step",)] * 3  # the original is as it was


async def test_fork_keeps_chance_and_time_up_to_the_point_and_draws_anew_from_there(ns: Namespace) -> None:
    async with ns.engine(*ALL, park_after=0.05) as engine:
        handle = await engine.start(rolls)
        original = await handle.result(30)
        copy = await handle.fork(from_event=3)
        found = await copy.result(30)
        # The second's burst drew the third before the copied history ended.
        assert found[:3] == original[:3]
        assert found[3] != original[3]
        second = await copy.fork(from_event=4)
        both = await second.result(30)
        assert both[:4] == found[:4]


async def test_a_fork_is_replayed_like_any_other(ns: Namespace) -> None:
    @pgd.workflow(name="ops_fork_waits")
    async def flow() -> list[str]:
        found = [await note(str(pgd.uuid4()), pgd.now().isoformat()) for _ in range(2)]
        await pgd.wait_signal("go")
        return [*found, await note(str(pgd.uuid4()), pgd.now().isoformat())]

    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        await until(lambda: len(ns.history(handle)) == 2, "it waits")
        copy = await handle.fork(from_event=2)
        await until(lambda: len(ns.history(copy)) == 3, "the copy waits")
    async with ns.engine(flow) as engine:
        copy = await engine.get(copy.id)
        await copy.signal("go")
        assert len(set(await copy.result(30))) == 3
        with pytest.raises(TimeoutError):
            await (await engine.get(handle.id)).result(0.05)


async def test_fork_with_other_code_and_input(ns: Namespace) -> None:
    @pgd.workflow(name="ops_line", version="2")
    async def longer(n: int = 3) -> list[str]:
        return [await work(f"s{i}") for i in range(n)] + [await work("end")]

    async with ns.engine(line, longer) as engine:
        handle = await engine.start(line, version="1")
        assert await handle.result(30) == ["S0", "S1", "S2"]
        copy = await handle.fork(from_event=4, version="2", id="copy")
        assert copy.id == "copy"
        assert await copy.result(30) == ["S0", "S1", "S2", "END"]
        assert await (await handle.fork(id="copy")).result(5) == ["S0", "S1", "S2", "END"]
        shorter = await handle.fork(1)
        assert await shorter.result(30) == ["S0"]


async def test_fork_of_what_failed_is_a_retry_of_the_copy(ns: Namespace) -> None:
    broken.add("s1")
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(line)
        with pytest.raises(InstanceFailed):
            await handle.result(30)
        broken.clear()
        copy = await handle.fork()
        assert await copy.result(30) == ["S0", "S1", "S2"]
        assert await handle.status() == "failed"
    assert ran == ["s0", "s1", "s1", "s2"]


async def test_a_fork_of_an_encrypted_instance(ns: Namespace) -> None:
    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()}, plain="refuse")
    broken.add("s1")
    async with ns.engine(*ALL, encryption=encryption) as engine:
        handle = await engine.start(line, 2)
        with pytest.raises(InstanceFailed):
            await handle.result(30)
        broken.clear()
        copy = await handle.fork()
        assert await copy.result(30) == ["S0", "S1"]
        assert [entry.value for entry in [e async for e in copy.history()] if entry.kind == "step"] == ["S0", "S1"]
        assert await (await copy.fork(3, from_event=2)).result(30) == ["S0", "S1", "S2"]
    assert not ns.sql("select 1 from @.history where payload::text like '%S0%'")


# -- delete, and many


async def test_delete(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        handle = await engine.start(wait, id="mine")
        with pytest.raises(InstanceNotFinished, match="only instances that have ended"):
            await handle.delete()
        await handle.terminate()
        with pytest.raises(InstanceFailed):
            await handle.result(30)
        await handle.delete()
        with pytest.raises(InstanceNotFound):
            await handle.status()
        assert ns.one("select count(*) from @.history") == 0
        assert await (await engine.start(line, 1, id="again")).result(30) == ["S0"]


async def test_many_by_filter(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        running = [await engine.start(wait) for _ in range(300)]
        other = await engine.start(line)
        await other.result(30)
        await until(lambda: ns.one("select count(*) from @.history") == 303, "all wait")
        told: list[Any] = []
        done = await engine.pause(workflow=wait, on_step=lambda progress: told.append(progress.done))
        assert (done.done, done.idle, done.busy) == (300, 0, 0)
        assert told == sorted(told)
        assert len(told) >= 2
        await until(lambda: ns.one("select count(*) from @.instances where status = 'paused'") == 300, "paused")
        assert (await engine.pause(workflow=wait, dry_run=True)).done == 0
        assert (await engine.resume(status="paused")).done == 300
        assert (await engine.terminate(running[0].id, running[1].id)).done == 2
        await until(lambda: ns.one("select count(*) from @.instances where status = 'cancelled'") == 2, "two ended")
        assert (await engine.terminate(workflow="ops_wait", status=["waiting", "running", "pending"])).done == 298
        await until(lambda: ns.one("select count(*) from @.instances where status = 'cancelled'") == 300, "ended")
        assert (await engine.delete(status="cancelled")).done == 300
        assert ns.sql("select workflow from @.instances") == [("ops_line",)]


@pytest.mark.parametrize(
    ("fits", "error", "match"),
    [
        ({}, InvalidInput, "neither ids nor a filter"), ({"status": "broken"}, InvalidInput, "no status 'broken'"),
        ({"colour": 1}, TypeError, "no filter 'colour'"), ({"queue": ""}, InvalidInput, "queue"),
    ],
)  # fmt: skip
async def test_filters_that_are_none(ns: Namespace, fits: dict[str, Any], error: type, match: str) -> None:
    async with ns.client() as client:
        with pytest.raises(error, match=match):
            await client.cancel(**fits)


def test_the_blocking_face_has_them_all(ns: Namespace) -> None:
    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=ALL) as engine:
        handle = engine.start(wait)
        assert handle.pause() is True
        assert engine.resume(handle.id).done == 1
        assert handle.terminate() is True
        with pytest.raises(InstanceFailed):
            handle.result(30)
        assert handle.retry() is False
        copy = handle.fork()
        copy.signal("go", "x")
        assert copy.result(30) == "BEFORE x AFTER"
        handle.delete()
        assert engine.delete(workflow=wait).done == 1


async def test_retry_of_what_timed_out_gets_the_same_span_again(ns: Namespace) -> None:
    @pgd.workflow(name="ops_slow", timeout=1.0)
    async def flow() -> str:
        try:
            first = await work("quick")
            return first + await work("slow")
        except asyncio.CancelledError:
            await work("clean")
            raise

    gate["slow"] = asyncio.Event()
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow)
        with pytest.raises(InstanceFailed, match="timed_out") as failed:
            await handle.result(30)
        assert failed.value.status == "timed_out"
        gate["slow"].set()
        assert await handle.retry() is True
        assert await handle.result(30) == "QUICKSLOW"
    assert ran == ["quick", "slow", "clean", "slow"]
    kinds = [kind for kind, *_ in ns.history(handle)]
    assert kinds == ["step", "undone deadline", "undone step", "retry", "step"]


@pgd.workflow(name="ops_published")
async def published() -> str:
    for name in ("a", "b", "c"):
        pgd.set_state("at", name)
        for n in range(2):
            await pgd.stream("words").write(f"{name}{n}")
        await work(name)
    return "done"


async def test_fork_copies_state_and_streams_up_to_the_point_and_not_later(ns: Namespace) -> None:
    async with ns.engine(published) as engine:
        handle = await engine.start(published)
        await handle.result(30)
        ((place,),) = ns.sql("select min(event_id) from @.history where kind = 'state' and payload = '\"b\"'")
        async with ns.client() as client:  # nobody may run it yet
            await engine.stop()
            copy = await (await client.get(handle.id)).fork(from_event=place)
            words = "select item from @.stream_items where instance_id = %s order by position"
            assert ns.sql(words, copy.instance_id) == [("a0",), ("a1",)]
            assert ns.sql("select key, value from @.states where instance_id = %s", copy.instance_id) == [("at", "a")]
    async with ns.engine(published) as engine:
        assert await (await engine.get(copy.id)).result(30) == "done"
    assert ns.sql(words, copy.instance_id) == [(f"{name}{n}",) for name in "abc" for n in range(2)]
    assert ns.sql("select value from @.states where instance_id = %s", copy.instance_id) == [("c",)]


@pgd.workflow(name="ops_child")
async def small(name: str) -> str:
    return await work(name)


@pgd.workflow(name="ops_parent")
async def family() -> list[str]:
    child = await pgd.start_child(small, "child")
    first = await work("beside")
    return [first, await child.result(), await work("end")]


async def test_fork_links_the_children_that_were_started_before_the_point(ns: Namespace) -> None:
    gate["child"] = asyncio.Event()
    async with ns.engine(family, small) as engine:
        handle = await engine.start(family)
        await until(lambda: len(ns.history(handle)) == 2, "the child runs, the step beside it is done")
        with pytest.raises(
            InvalidInput, match=r"child .* \(event 1\) of the instance to be forked still runs: running"
        ):
            await handle.fork(from_event=2)
        gate["child"].set()
        assert await handle.result(30) == ["BESIDE", "CHILD", "END"]
        for place, again in ((2, ["beside", "end"]), (3, ["end"]), (1, ["child", "beside", "end"])):
            ran.clear()
            copy = await handle.fork(from_event=place)
            assert await copy.result(30) == ["BESIDE", "CHILD", "END"]
            assert sorted(ran) == sorted(again)
    assert ns.one("select count(*) from @.instances where workflow = 'ops_child'") == 2


# -- cancel, and being responsive


async def test_cancel_during_the_last_step_stays_cancelled_or_it_has_completed(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        handles = [await engine.start(line, 1) for _ in range(60)]
        asked = await asyncio.gather(*(handle.cancel("too late?") for handle in handles))
        ends = await asyncio.gather(*(handle.result(30) for handle in handles), return_exceptions=True)
        for handle, was_there, end in zip(handles, asked, ends, strict=True):
            status = ns.instance(handle, "status")
            assert status == ("cancelled" if isinstance(end, InstanceFailed) else "completed")
            assert was_there or status == "completed"
            assert await handle.cancel() is False
            assert ns.instance(handle, "status") == status
    rows = ns.sql("select status, output is not null, error is not null from @.instances")
    assert set(rows) <= {("completed", True, False), ("cancelled", False, True)}


async def test_cancel_survives_the_worker_that_was_asked(ns: Namespace) -> None:
    """It dies with the request in the queue; the next one's code meets it, and cleans up."""
    cleaned: list[str] = []

    @pgd.workflow(name="ops_cleans")
    async def flow() -> str:
        try:
            return await work("long")
        finally:
            cleaned.append(await work("clean"))

    gate["long"] = asyncio.Event()
    first = ns.engine(flow)
    await first.open()
    handle = await first.start(flow)
    await until(lambda: ran == ["long"], "the step runs")
    first._worker.host.fenced = True  # type: ignore[union-attr]  # it hangs: it writes nothing more
    await first.stop(drain=0)
    await first.close()
    async with ns.client() as client:
        assert await (await client.get(handle.id)).cancel("enough") is True
    ns.sql("select @.leave_worker(id) from @.workers where state = 'alive'")
    async with ns.engine(flow) as second:
        with pytest.raises(InstanceFailed, match="enough") as failed:
            await (await second.get(handle.id)).result(30)
    assert failed.value.status == "cancelled"
    assert cleaned == ["CLEAN"]


async def test_a_storm_of_polling_leaves_start_and_cancel_responsive(ns: Namespace) -> None:
    """200 callers ask for results and states without a pause; starts and cancels are answered within a second."""
    async with ns.engine(*ALL) as engine, ns.client() as client:
        waiting = [await engine.start(wait) for _ in range(20)]
        over = asyncio.Event()

        async def poll(n: int) -> None:
            handle = await client.get(waiting[n % 20].id)
            while not over.is_set():
                await handle.status()

        storm = [asyncio.create_task(poll(n)) for n in range(200)]
        loop = asyncio.get_running_loop()
        took = []
        try:
            for n in range(20):
                began = loop.time()
                handle = await engine.start(line, 1)
                await handle.result(30)
                await waiting[n].cancel()
                took.append(loop.time() - began)
        finally:
            over.set()
            await asyncio.gather(*storm)
        ends = await asyncio.gather(*(handle.result(30) for handle in waiting), return_exceptions=True)
    assert all(isinstance(end, InstanceFailed) for end in ends)
    assert sorted(took)[len(took) // 2] < 1.0
