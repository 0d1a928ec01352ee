"""Bad input gets a clear error, harms only itself, and nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable._engine.clock import DatabaseClock
from pgdurable._engine.journal import Journal
from pgdurable._store.sql import named_queries

from .namespace import Namespace, status_is, until

ONCE = pgd.Retry(max_attempts=1)


# --- unknown workflows --------------------------------------------------------------------------------------------


@pgd.step
async def add(a: int, b: int) -> int:
    return a + b


async def test_an_unknown_workflow_stays_pending_until_a_worker_knows_it(ns: Namespace) -> None:
    @pgd.workflow
    async def known() -> str:
        return "known"

    @pgd.workflow(name="new_one")
    async def new_one(n: int) -> int:
        return await add(n, 1)

    async with ns.engine(known) as engine, ns.client() as client:
        h = await engine.start("new_one", 1)
        also = await client.start("new_one", kwargs={"n": 2})
        for _ in range(3):  # the worker looks, and leaves them alone
            polls = engine.metrics()["polls"]
            assert await (await engine.start(known)).result(timeout=20) == "known"
            await client.signal(also.id, "hint")
            await until(lambda polls=polls: engine.metrics()["polls"] > polls, "it has looked for work")
        assert [await h.status(), await also.status()] == ["pending", "pending"]
        async with ns.engine(known, new_one):
            assert [await h.result(timeout=20), await also.result(timeout=20)] == [2, 3]


# --- results that are no JSON -------------------------------------------------------------------------------------


def _cycle() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    return cycle


def _deep() -> Any:
    value: Any = 1
    for _ in range(10_000):
        value = [value]
    return value


NO_JSON: dict[str, tuple[Callable[[], Any], str]] = {
    "nan": (lambda: {"rates": [1.5, float("nan")]}, "$.rates[1]"),
    "infinity": (lambda: {"a": {"b": float("-inf")}}, "$.a.b"),
    "nul": (lambda: ["fine", "not\0fine"], "$[1]"),
    "nul_key": (lambda: {"a": {"x\0": 1}}, "$.a"),
    "surrogate": (lambda: {"name": "\ud800"}, "$.name"),
    "socket": (lambda: {"conn": [socket.socket.__new__(socket.socket)]}, "$.conn[0]"),
    "lock": (lambda: threading.Lock(), "$"),
    "huge_int": (lambda: {"n": 10**400}, "$.n"),
    "cycle": (_cycle, "$[1].again"),
    "deep": (_deep, "$[0][0]"),
}


@pgd.step(retry=ONCE)
async def makes(what: str) -> Any:
    return NO_JSON[what][0]()


@pgd.workflow
async def stores(what: str) -> list[str]:
    try:
        await makes(what)
    except pgd.CodecError as error:
        return [error.path, str(error)]
    return []


@pgd.workflow
async def healthy(n: int) -> int:
    total = 0
    for _ in range(n):
        total = await add(total, 1)
    return total


@pytest.mark.parametrize("what", NO_JSON)
async def test_a_result_that_is_no_json_fails_the_step_and_nothing_else(ns: Namespace, what: str) -> None:
    async with ns.engine(stores, healthy) as engine:
        fine = await engine.start_many(healthy, [10] * 20)
        h = await engine.start(stores, what)
        path, text = await h.result(timeout=20)
        assert path.startswith(NO_JSON[what][1])
        assert text.startswith(f"instance {h.id}: the result of step makes cannot be stored: ")
        assert path in text
        # Recorded as the step's failure, once: trying again could not help.
        assert ns.history(h, "kind, attempt, error ->> 'path'")[0][:2] == ("step", 1)
        assert [await one.result(timeout=20) for one in fine] == [10] * 20
        assert engine.metrics()["reconnects"] == 0


async def test_all_of_them_at_once_in_one_batch_with_healthy_ones(ns: Namespace) -> None:
    async with ns.engine(stores, healthy) as engine:
        handles = {}
        fine = []
        for what in NO_JSON:
            handles[what] = asyncio.ensure_future(engine.start(stores, what))
            fine.append(asyncio.ensure_future(engine.start(healthy, 3)))
        for what, starting in handles.items():
            path, _ = await (await starting).result(timeout=20)
            assert path.startswith(NO_JSON[what][1])
        for starting in fine:
            assert await (await starting).result(timeout=20) == 3


@pytest.mark.parametrize("what", NO_JSON)
async def test_a_workflow_s_own_result_that_is_no_json_fails_it(ns: Namespace, what: str) -> None:
    @pgd.workflow
    async def ends_badly(what: str) -> Any:
        return NO_JSON[what][0]()

    async with ns.engine(ends_badly) as engine:
        h = await engine.start(ends_badly, what)
        with pytest.raises(pgd.InstanceFailed) as failed:
            await h.result(timeout=20)
    assert failed.value.type == "pgdurable.errors.CodecError"
    assert f"instance {h.id}: the workflow's result cannot be stored: " in str(failed.value)


@pytest.mark.parametrize("what", NO_JSON)
async def test_an_argument_that_is_no_json_is_refused_at_the_start(ns: Namespace, what: str) -> None:
    @pgd.workflow
    async def takes(value: Any) -> None:
        pass

    async with ns.engine(takes) as engine, ns.client() as client:
        for face in (engine, client):
            for workflow in (takes, "takes"):
                with pytest.raises(pgd.CodecError) as refused:
                    await face.start(workflow, NO_JSON[what][0]())
                assert "value" in refused.value.path or "[0]" in refused.value.path
        h = await engine.start("elsewhere")
        with pytest.raises(pgd.CodecError, match="payload of signal 'x'"):
            await h.signal("x", NO_JSON[what][0]())
    assert ns.one("select count(*) from @.instances") == 1
    assert ns.one("select count(*) from @.events") == 0


async def test_a_result_of_another_type_than_annotated_is_the_step_s_failure(ns: Namespace) -> None:
    @pgd.step(retry=ONCE)
    async def lies() -> int:
        return "seven"  # type: ignore[return-value]

    @pgd.workflow
    async def believes() -> str:
        try:
            await lies()
        except pgd.CodecError as error:
            return str(error)
        return ""

    async with ns.engine(believes) as engine:
        assert "the result of step lies" in await (await engine.start(believes)).result(timeout=20)


# --- what PostgreSQL itself refuses -------------------------------------------------------------------------------


class Tag:
    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log = name, log

    def committed(self, at_us: int) -> None:
        self.log.append((self.name, "committed"))

    def refused(self, error: pgd.PgDurableError) -> None:
        self.log.append((self.name, f"refused {error}"))


REFUSED = {
    "nul in jsonb": b'"a\\u0000b"',
    "lone surrogate": b'"\\ud800"',
    "no json": b'{"a": ',
    "not utf-8": b'"\xff"',
    "a huge number": b"1e999999",
    "deep": b"[" * 10_000 + b"]" * 10_000,
}


@pytest.mark.parametrize("rows", [9, 300], ids=["pipeline", "copy"])
async def test_a_row_that_postgresql_refuses_is_isolated_and_the_others_commit(ns: Namespace, rows: int) -> None:
    log: list[tuple[str, str]] = []
    journal = Journal(
        ns.dsn, named_queries("flush", ns.schema), on_fenced=lambda: None, on_notice=lambda _: None,
        clock=DatabaseClock(),
    )  # fmt: skip
    # Deep nesting is refused by the parser's stack check, at a depth that this setting makes small.
    await journal.open(None, ["set max_stack_depth = '100kB'"])
    try:
        names = []
        bad = dict(zip(range(3, rows, max(rows // 7, 1)), REFUSED.items(), strict=False))
        for n in range(rows):
            name, payload = bad.get(n, (f"row {n}", b'{"n": 1}'))
            names.append(name)
            journal.flusher.add_history(
                n.to_bytes(16, "big"), 1, 0, None, None, 1, "step", name, payload, None, Tag(name, log)
            )
        journal.kick()
        await journal.drain()
    finally:
        await journal.close()
    assert sorted(name for name, _ in log) == sorted(names)
    refused = {name for name, fate in log if fate.startswith("refused PostgreSQL refused a transition")}
    assert refused == {name for name, _ in bad.values()}
    there = {name for (name,) in ns.sql("select name from @.history")}
    assert there == set(names) - refused
    assert len(refused) >= (6 if rows > 9 else 5)


async def test_a_step_whose_checkpoint_postgresql_refuses_fails_and_the_others_commit(ns: Namespace) -> None:
    # A table that the user constrained: the codec can know nothing of it.
    ns.sql("alter table @.history add check (payload is distinct from '\"unlucky\"')")

    @pgd.step
    async def draws(n: int) -> str:
        return "unlucky" if n == 7 else "fine"

    @pgd.workflow
    async def lottery(n: int) -> str:
        try:
            return await draws(n)
        except Exception as error:
            return str(error)

    async with ns.engine(lottery) as engine:
        handles = await engine.start_many(lottery, range(20))
        results = [await h.result(timeout=20) for h in handles]
    assert results[:7] + results[8:] == ["fine"] * 19
    assert "the result of step draws: PostgreSQL refused a transition: " in results[7]
    assert "history_payload_check" in results[7]


async def test_a_result_that_postgresql_refuses_fails_its_instance(ns: Namespace) -> None:
    ns.sql("alter table @.instances add check (output is distinct from '\"unlucky\"')")

    @pgd.workflow
    async def ends(n: int) -> str:
        return "unlucky" if n == 7 else "fine"

    async with ns.engine(ends) as engine:
        handles = await engine.start_many(ends, range(20))
        for n, h in enumerate(handles):
            if n == 7:
                with pytest.raises(pgd.InstanceFailed, match="the workflow's result cannot be stored"):
                    await h.result(timeout=20)
            else:
                assert await h.result(timeout=20) == "fine"


# --- size ---------------------------------------------------------------------------------------------------------


@pgd.step(retry=ONCE)
async def big(size: int) -> str:
    return "x" * size


@pgd.workflow
async def sized(size: int, own: int = 0, padding: str = "") -> Any:
    try:
        await big(size)
    except pgd.PayloadTooLarge as error:
        return str(error)
    return "y" * own


async def test_a_payload_over_the_limit_is_refused_wherever_it_appears(ns: Namespace) -> None:
    limit = 1024 * 1024
    async with ns.engine(sized) as engine, ns.client() as client:
        text = await (await engine.start(sized, limit)).result(timeout=20)
        assert "the result of step big cannot be stored" in text
        assert "1,048,576" in text or "1048576" in text or "1 MiB" in text
        assert await (await engine.start(sized, limit - 2)).result(timeout=20) == ""
        with pytest.raises(pgd.InstanceFailed, match="the workflow's result cannot be stored"):
            await (await engine.start(sized, 1, limit)).result(timeout=20)
        for face in (engine, client):
            with pytest.raises(pgd.PayloadTooLarge):
                await face.start(sized, 1, 0, "x" * limit)
            with pytest.raises(pgd.PayloadTooLarge):
                await face.start("sized", 1, 0, "x" * limit)
        h = await engine.start("elsewhere")
        with pytest.raises(pgd.PayloadTooLarge):
            await h.signal("s", "x" * limit)


async def test_the_payload_limit_is_configurable(ns: Namespace) -> None:
    async with ns.engine(sized, payload_limit=100) as engine:
        assert await (await engine.start(sized, 50)).result(timeout=20) == ""
        h = await engine.start(sized, 100, 0)
        with pytest.raises(pgd.InstanceFailed):  # the text of the refusal is over this limit too
            await h.result(timeout=20)
        ((error,),) = ns.history(h, "error ->> 'message'")
        assert "the result of step big cannot be stored" in error
        assert "at most 100 bytes" in error
    async with ns.engine(sized, payload_limit=4 * 1024 * 1024) as engine:
        assert await (await engine.start(sized, 3 * 1024 * 1024)).result(timeout=20) == ""


# --- real I/O -----------------------------------------------------------------------------------------------------


async def _open_connection() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


async def _to_thread() -> None:
    await asyncio.to_thread(print)


async def _getaddrinfo() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 1)


async def _blocking(call: Callable[[], Any]) -> None:
    call()


TOUCHES = {
    "create_connection": _open_connection,
    "subprocess_exec": _subprocess,
    "run_in_executor": _to_thread,
    "getaddrinfo": _getaddrinfo,
    "socket.connect": lambda: _blocking(lambda: socket.create_connection(("127.0.0.1", 1))),
    "urllib.Request": lambda: _blocking(lambda: urllib.request.urlopen("http://127.0.0.1:1")),
    "subprocess.Popen": lambda: _blocking(lambda: subprocess.run(["true"])),
    "time.sleep": lambda: _blocking(lambda: time.sleep(0.01)),
}


@pytest.mark.parametrize("what", TOUCHES)
async def test_real_io_in_workflow_code_is_refused_with_what_to_do(ns: Namespace, what: str) -> None:
    @pgd.workflow
    async def touches() -> None:
        await TOUCHES[what]()

    async with ns.engine(touches, healthy) as engine:
        h = await engine.start(touches)
        with pytest.raises(pgd.InstanceFailed) as failed:
            await h.result(timeout=20)
        assert failed.value.type == "pgdurable.errors.WorkflowIoError"
        assert f"instance {h.id}: workflow code called " in str(failed.value)
        info = await h.describe()
        assert "in a step" in info.error["message"] + info.error["traceback"]
        assert await (await engine.start(healthy, 2)).result(timeout=20) == 2


async def test_the_same_in_a_step_is_what_steps_are_for(ns: Namespace) -> None:
    @pgd.step
    async def in_loop() -> str:
        await asyncio.to_thread(time.sleep, 0.001)
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        return "ok"

    @pgd.step
    def in_thread() -> str:
        time.sleep(0.001)
        subprocess.run(["true"], check=True)
        socket.getaddrinfo("127.0.0.1", 1)
        return "ok"

    @pgd.workflow
    async def does_it_right() -> list[str]:
        return [await in_loop(), await in_thread()]

    async with ns.engine(does_it_right) as engine:
        assert await (await engine.start(does_it_right)).result(timeout=20) == ["ok", "ok"]
        subprocess.run(["true"], check=True)  # noqa: ASYNC221  # outside workflow code nothing is refused


# --- changed workflows --------------------------------------------------------------------------------------------


def _deploy(*steps: str, arguments: int = 1, wait: bool = True) -> Any:
    """One deploy of workflow `evolving`: these steps, then a wait, then one more."""

    async def evolving() -> list[str]:
        done = []
        for name in steps:
            done.append(await add.options(name=name)(1, arguments) and name)
        if wait:
            await pgd.wait_signal("go")
            await add(5, 5)
        return done

    return pgd.Workflow(evolving, name="evolving")


@pytest.mark.parametrize(
    ("changed", "history", "code"),
    [
        (_deploy("a", "x", "c"), "step 'b', arguments #", "step 'x', arguments #"),
        (_deploy("b", "a", "c"), "step 'a', arguments #", "step 'b', arguments #"),
        (_deploy("a", "b", "c", arguments=2), "step 'a', arguments #", "step 'a', arguments #"),
        (_deploy("a", "b"), "step 'c', arguments #", "nothing; it waits for a signal"),
        (_deploy("a", "b", wait=False), "step 'c', arguments #", "nothing: the workflow has ended (completed)"),
    ],
    ids=["renamed", "reordered", "other arguments", "removed", "ends early"],
)
async def test_a_changed_workflow_pauses_with_the_first_divergence_and_a_fixed_deploy_goes_on(
    ns: Namespace, changed: Any, history: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = _deploy("a", "b", "c")
    async with ns.engine(right) as engine:
        h = await engine.start(right, id="evolves")
        await until(lambda: len(ns.history(h)) == 3, "its steps are done")
    async with ns.engine(changed, healthy) as engine:
        h = await engine.get("evolves")
        await status_is(h, "paused")
        with pytest.raises(pgd.InstancePaused, match="evolves is paused") as paused:
            await h.result(timeout=20)
        error = (await h.describe()).error
        assert error["type"] == "pgdurable.errors.NonDeterminismError"
        for text in (error["message"], str(paused.value)):
            assert "instance evolves (workflow evolving v1) does not replay its history" in text
            assert "first difference: event " in text
            assert f"history:  {history}" in text
            assert f"code now: {code}" in text
            assert "pgdurable resume" in text
        assert await (await engine.start(healthy, 2)).result(timeout=20) == 2
        assert ns.one("select status from @.failures") == "paused"
        # The same code again comes to the same end.
        assert await h.resume() is True
        await until(lambda: sum("does not replay" in r.getMessage() for r in caplog.records) == 2, "paused again")
        await status_is(h, "paused")
    async with ns.engine(right) as engine:
        h = await engine.get("evolves")
        assert await h.status() == "paused"
        await h.signal("go")
        assert await h.resume() is True
        assert await h.result(timeout=20) == ["a", "b", "c"]
        assert await h.resume() is False
    assert len(ns.history(h)) == 5
    assert [r.levelno for r in caplog.records if "does not replay" in r.getMessage()] == [logging.ERROR] * 2


async def test_a_change_after_what_has_run_is_no_divergence(ns: Namespace) -> None:
    async with ns.engine(_deploy("a")) as engine:
        h = await engine.start("evolving")
        await until(lambda: ns.history(h), "its step is done")
    longer = _deploy("a", "b", wait=False)
    async with ns.engine(longer) as engine:
        assert await (await engine.get(h.id)).result(timeout=20) == ["a", "b"]


async def test_a_checkpoint_that_no_longer_fits_its_type_pauses(ns: Namespace) -> None:
    def deploy(returns: Any) -> Any:
        async def give() -> Any:
            return "text"

        give.__annotations__ = {"return": returns}
        step = pgd.step(give)

        async def retyped() -> Any:
            value = await step()
            await pgd.wait_signal("go")
            return value

        return pgd.Workflow(retyped)

    async with ns.engine(deploy(str)) as engine:
        h = await engine.start("retyped")
        await until(lambda: ns.history(h), "its step is done")
    async with ns.engine(deploy(int)) as engine:
        h = await engine.get(h.id)
        await status_is(h, "paused")
        with pytest.raises(pgd.InstancePaused, match="checkpoint of step give"):
            await h.result(timeout=20)
    async with ns.engine(deploy(str)) as engine:
        h = await engine.get(h.id)
        await h.resume()
        await h.signal("go")
        assert await h.result(timeout=20) == "text"


# --- calls that do not fit ----------------------------------------------------------------------------------------


async def test_arguments_that_do_not_fit_are_refused_before_anything_is_stored(ns: Namespace) -> None:
    async with ns.engine(healthy) as engine, ns.client() as client:
        for face in (engine, client):
            for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"n": 1}), ((), {"m": 1})):
                with pytest.raises(pgd.PgDurableError, match="healthy"):
                    await face.start(healthy, *args, kwargs=kwargs)
    assert ns.one("select count(*) from @.instances") == 0


async def test_an_argument_of_another_type_is_refused_or_fails_the_instance_before_its_code_runs(ns: Namespace) -> None:
    async with ns.engine(healthy) as engine, ns.client() as client:
        for face in (engine, client):
            with pytest.raises(pgd.InvalidInput, match="`int`, got `str`"):
                await face.start(healthy, "x")
        assert ns.one("select count(*) from @.instances") == 0
        # Without the code at hand the worker is the first to know.
        h = await client.start("healthy", "x")
        with pytest.raises(pgd.InstanceFailed, match=r"Expected `int`, got `str` at \$\.n") as failed:
            await h.result(timeout=20)
        assert failed.value.type == "pgdurable.errors.InvalidInput"
        assert ns.history(h) == []


async def test_options_that_make_no_sense_are_refused_at_once() -> None:
    for make in (
        lambda: pgd.Retry(max_attempts=0),
        lambda: pgd.Retry(initial=-1),
        lambda: pgd.Retry(multiplier=0.5),
        lambda: pgd.Retry(jitter=2),
        lambda: pgd.step(timeout=0)(add.fn),
        lambda: pgd.step(name="a\0b")(add.fn),
        lambda: pgd.workflow(name="x" * 513)(add.fn),
        lambda: pgd.workflow(version="\0")(add.fn),
        lambda: pgd.Engine("dbname=x", schema="Robert'); drop table students"),
        lambda: pgd.Client("dbname=x", schema=""),
    ):
        with pytest.raises(ValueError, match="found"):
            make()
