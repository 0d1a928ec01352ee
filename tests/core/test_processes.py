"""Forks, signals and the end of the interpreter: a clear error, no hang, no crash, and the parent goes on unharmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgdurable._store import migrations

TESTS = Path(__file__).resolve().parents[1]
PRELUDE = """
import asyncio, faulthandler, multiprocessing, os, select, signal, sys, threading, time, warnings
faulthandler.enable()
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
import pgdurable as pgd
from pgdurable import sync
from pgdurable._core import Flusher
from pgdurable._store.sql import named_queries

dsn, schema = sys.argv[1:]

def step(flusher, name="s", payload=b"1"):
    flusher.add_history(bytes(6) + os.urandom(10), 1, 0, 7, 0.5, 1, "step", name, payload, None, name)

def connected():
    flusher = Flusher(named_queries("flush", schema))
    flusher.connect(dsn, None, [])
    return flusher

def flush(flusher):
    step(flusher)
    flusher.send(flusher.take())
    while True:
        writing = [flusher.fileno] if flusher.wants_write else []
        assert any(select.select([flusher.fileno], writing, [], 20))
        done = flusher.ready()
        if done is not None:
            assert done[0] == "committed", done
            return

def refused(call, error, text):
    try:
        call()
    except error as found:
        assert text in str(found), found
    else:
        raise AssertionError(f"not refused: {text}")

def in_child(call, exit=os._exit):
    child = os.fork()
    if child == 0:
        try:
            call()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

@pgd.step
async def one(n: int) -> int:
    return n + 1

@pgd.workflow
async def adds(n: int) -> int:
    return await one(n)

@pgd.workflow
async def waits() -> None:
    await pgd.wait_signal("never")
"""


@pytest.fixture
def ready(dsn: str, schema: str) -> tuple[str, str]:
    migrations.migrate(dsn, schema)
    return dsn, schema


def start(ready: tuple[str, str], code: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if preload := os.environ.get("PGDURABLE_TEST_PRELOAD"):
        environment["LD_PRELOAD"] = preload
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PRELUDE + code, *ready],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def run(ready: tuple[str, str], code: str, *, exit: int = 0) -> tuple[str, str]:
    """What a process of its own says, once it has ended by itself with that code."""
    process = start(ready, code)
    try:
        out, err = process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        pytest.fail(f"it hangs:\n{process.communicate()[1]}")
    assert process.returncode == exit, err
    assert "Fatal Python error" not in err
    return out, err


# --- forks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit", ["os._exit", "sys.exit", "the end of the code"])
def test_a_child_cannot_touch_the_parent_s_flusher_nor_end_its_session(ready: tuple[str, str], exit: str) -> None:
    # In a child of fork(), the last two run the interpreter's whole shut-down, with all that is finalised there.
    leave = {"os._exit": "os._exit", "sys.exit": "sys.exit", "the end of the code": "sys.exit"}[exit]
    close = "flusher.close()" if exit == "the end of the code" else "pass"
    run(ready, f"""
flusher = connected()
flush(flusher)
step(flusher)
session = flusher.backend_pid
def child():
    text = "belongs to the parent process"
    refused(lambda: step(flusher), RuntimeError, text)
    refused(flusher.take, RuntimeError, text)
    refused(flusher.ready, RuntimeError, text)
    refused(flusher.notified, RuntimeError, text)
    refused(lambda: flusher.connect(dsn, None, []), RuntimeError, text)
    {close}
    mine = connected()
    flush(mine)
    mine.close()
parent = os.getpid()
for _ in range(2):
    in_child(child, {leave})
assert os.getpid() == parent
flush(flusher)
assert flusher.backend_pid == session
flusher.close()
""")  # fmt: skip


def test_a_child_forked_in_mid_flight_leaves_the_answer_to_the_parent(ready: tuple[str, str]) -> None:
    run(ready, """
flusher = connected()
for n in range(50):
    for _ in range(n + 1):
        step(flusher)
    flusher.send(flusher.take())
    in_child(lambda: refused(flusher.ready, RuntimeError, "parent"), sys.exit if n % 5 == 0 else os._exit)
    while flusher.ready() is None:
        assert select.select([flusher.fileno], [], [], 20)[0]
""")  # fmt: skip


def test_the_server_sees_the_parent_die_though_a_child_that_closed_its_copy_lives_on(ready: tuple[str, str]) -> None:
    out, _ = run(ready, """
flusher = connected()
print(flusher.backend_pid)
child = os.fork()
if child == 0:
    flusher.close()
    os.close(1); os.close(2)
    time.sleep(15)
    os._exit(0)
print(child)
os._exit(0)
""")  # fmt: skip
    session, child = map(int, out.split())
    try:
        with psycopg.connect(ready[0], autocommit=True) as conn:
            for _ in range(200):
                if not conn.execute("select 1 from pg_stat_activity where pid = %s", (session,)).fetchall():
                    break
                conn.execute("select pg_sleep(0.05)")
            else:
                pytest.fail("the session of a dead process is held open by its child")
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_cannot_use_the_parent_s_engine_and_client_and_they_go_on(ready: tuple[str, str]) -> None:
    run(ready, """
async def main():
    async with pgd.Engine(dsn, schema=schema, workflows=[adds]) as engine, pgd.Client(dsn, schema=schema) as client:
        handle = await engine.start(adds, 1)
        assert await handle.result(timeout=20) == 2
        def child():
            text = f"belongs to process {os.getppid()}, from which this one was forked"
            async def all():
                for call in (lambda: engine.start(adds, 1), lambda: engine.start(adds, 1, id="x"), engine.open,
                             lambda: client.start("adds", 1), lambda: client.get("x"), handle.status, handle.result,
                             lambda: handle.signal("s")):
                    try:
                        await call()
                    except pgd.PgDurableError as error:
                        assert text in str(error), error
                    else:
                        raise AssertionError(call)
                await engine.close()
                await client.close()
            def other_loop():
                asyncio.set_event_loop(None)
                asyncio.run(all())
            thread = threading.Thread(target=other_loop)
            thread.start()
            thread.join()
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        while process.is_alive():
            await asyncio.sleep(0.01)
        assert process.exitcode == 0
        assert await (await engine.start(adds, 2)).result(timeout=20) == 3
        assert await (await client.start("adds", 3)).result(timeout=20) == 4
        assert engine.metrics()["reconnects"] == 0
asyncio.run(main())
""")  # fmt: skip


def test_a_child_cannot_use_the_parent_s_blocking_engine(ready: tuple[str, str]) -> None:
    run(ready, """
with sync.Engine(dsn, schema=schema, workflows=[adds]) as engine:
    handle = engine.start(adds, 1)
    def child():
        refused(lambda: engine.start(adds, 1), pgd.PgDurableError, "from which this one was forked")
        refused(handle.result, pgd.PgDurableError, "from which this one was forked")
        engine.close()
        with sync.Client(dsn, schema=schema) as mine:
            assert mine.start("adds", 5).result(timeout=20) == 6
    for exit in (os._exit, sys.exit):
        in_child(child, exit)
    assert handle.result(timeout=20) == 2
""")  # fmt: skip


# --- signals ------------------------------------------------------------------------------------------------------


def test_signals_during_flushes_lose_nothing(ready: tuple[str, str]) -> None:
    # Two hundred interruptions a second, of the flusher's own thread, some while it sends more than the socket holds.
    run(ready, """
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
end = time.monotonic() + 1.5
flushes = 0
flusher = connected()
while time.monotonic() < end:
    if flushes % 10 == 0:
        flusher.close()
        flusher.connect(dsn, None, [])
    for _ in range(4):
        step(flusher, payload=b'"' + b"x" * 400_000 + b'"' if flushes % 3 == 0 else b"1")
    flush(flusher)
    flushes += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(hits) > 20 and flusher.stats()["transitions"] == 5 * flushes
""")  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_busy_engine(ready: tuple[str, str], number: signal.Signals) -> None:
    process = start(ready, """
async def main():
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    async with pgd.Engine(dsn, schema=schema, workflows=[adds]) as engine:
        n = 0
        while True:
            handles = [await engine.start(adds, n) for n in range(20)]
            for handle in handles:
                await handle.result(timeout=20)
            if n == 0:
                print("busy")
            n += 1
try:
    asyncio.run(main())
except (KeyboardInterrupt, asyncio.CancelledError):
    sys.exit(3)
""")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=40)
    assert process.returncode == 3, err
    with psycopg.connect(ready[0]) as conn:
        left = conn.execute(f"select count(*) from {ready[1]}.workers where state = 'alive'").fetchone()
        assert left == (0,)


# --- the end of the interpreter -----------------------------------------------------------------------------------

ENDINGS = {
    "a flying batch": "flusher = connected(); step(flusher); flusher.send(flusher.take())",
    "a flying batch in a cycle": (
        "class Tag: pass\ntag = Tag(); tag.flusher = flusher = connected()\n"
        "flusher.add_history(bytes(6) + os.urandom(10), 1, 0, 7, 0.5, 1, 'step', 's', b'1', None, tag)\n"
        "tag.batch = flusher.take(); flusher.send(tag.batch); del flusher, tag"
    ),
    "a batch in a daemon thread": (
        "flusher = connected()\nbusy = threading.Event()\ndef work():\n    while True:\n"
        "        flush(flusher); busy.set()\n"
        "threading.Thread(target=work, daemon=True).start(); assert busy.wait(20)"
    ),
    "an open blocking engine": (
        "engine = sync.Engine(dsn, schema=schema, workflows=[adds, waits]); engine.open()\n"
        "engine.start(waits); assert engine.start(adds, 1).result(timeout=20) == 2"
    ),
    "an open blocking client": "client = sync.Client(dsn, schema=schema); client.open(); client.start('adds', 1)",
    "an engine whose loop is gone": (
        "async def main():\n    engine = pgd.Engine(dsn, schema=schema, workflows=[adds, waits])\n"
        "    await engine.open()\n    await engine.start(waits)\n    keep.append(engine)\n"
        "keep = []\nwarnings.simplefilter('ignore', ResourceWarning)\nasyncio.run(main())"
    ),
}


@pytest.mark.parametrize("what", ENDINGS)
def test_the_process_ends_with(ready: tuple[str, str], what: str) -> None:
    run(ready, ENDINGS[what] + "\nprint('end')\nsys.exit(5)", exit=5)
