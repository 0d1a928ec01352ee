"""Passwords are shown nowhere; the values that workflows work on are in no log and no error of ours."""

# ruff: noqa: PT017 - the same is asked of many that may fail in different ways

from __future__ import annotations

import asyncio
import enum
import inspect
import io
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pydantic
import pytest
from e2e.namespace import Namespace, status_is, until
from typer.testing import CliRunner

import pgdurable as pgd
from pgdurable import sync
from pgdurable._engine.connections import resolve_dsn
from pgdurable._store.migrations import migrate, uninstall
from pgdurable.cli.app import app
from pgdurable.cli.options import Target
from pgdurable.codec import decode, encode
from pgdurable.errors import CodecError, ConnectionFailed, InvalidInput, PgDurableError

MARK = "Zwiebelfisch"
PASSWORD = "Sesam-4711"


class Ear(logging.Handler):
    """Hears everything that anybody logs, formatted with its traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        self.text.write(logging.Formatter("%(name)s %(message)s").format(record) + "\n")


@pytest.fixture
def heard() -> Iterator[Callable[[], str]]:
    ear, root = Ear(), logging.getLogger()
    level = root.level
    root.addHandler(ear)
    root.setLevel(logging.DEBUG)
    for name in ("pgdurable", "psycopg", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield ear.text.getvalue
    root.removeHandler(ear)
    root.setLevel(level)
    for name in ("pgdurable", "psycopg", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def everything_of(error: BaseException) -> str:
    """All that a log, a terminal or a crash reporter would show of it, local variables of our frames included."""
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    ours = os.path.dirname(pgd.__file__)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(ours):
            told += "".join(f"{name}={value!r}\n" for name, value in frame.f_locals.items() if value is not error)
    return told


# -- passwords


def bad_dsns(dsn: str) -> dict[str, str]:
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    return {
        "nobody there": f"host=/nowhere user=ann password={PASSWORD}",
        "nobody there, URI": f"postgresql://ann:{PASSWORD}@127.0.0.1:1/db?connect_timeout=2",
        "no such database": psycopg.conninfo.make_conninfo(dsn, dbname="no_such_database", password=PASSWORD),
        "no such role": psycopg.conninfo.make_conninfo(dsn, user="no_such_role", password=PASSWORD),
        "a bad key": f"host={info['host']} pasword={PASSWORD}",
        "no key": f"host={info['host']} password = x {PASSWORD}",
        "an open quote": f"host={info['host']} password='{PASSWORD}",
        "an @ in the password": f"postgresql://ann:{PASSWORD}@{PASSWORD}@localhost/db",
        "a / in the password": f"postgresql://ann:a/{PASSWORD}@localhost/db",
        "a : in the password": f"postgresql://ann:a:{PASSWORD}/b@localhost/db",
        "a # in the password": f"postgresql://ann:a#{PASSWORD}@localhost/db",
        "a ? in the password": f"postgresql://ann:a?{PASSWORD}@localhost/db",
        "a % in the password": f"postgresql://ann:%zz{PASSWORD}@localhost/db",
        "a bad port": f"postgresql://ann:{PASSWORD}@localhost:{PASSWORD}/db",
        "NUL": f"host=x password={PASSWORD}\0",
        "a bad value": f"host={info['host']} port=-1 password={PASSWORD} sslmode={PASSWORD}",
    }


async def open_engine(dsn: str) -> None:
    async with pgd.Engine(dsn, workflows=[]):
        pass


async def migrating_engine(dsn: str) -> None:
    async with pgd.Engine(dsn, workflows=[], migrate=True):
        pass


async def open_client(dsn: str) -> None:
    async with pgd.Client(dsn):
        pass


def open_sync(face: Any) -> Callable[[str], None]:
    def enter(dsn: str) -> None:
        with face(dsn):
            pass

    return enter


ENTRIES: dict[str, Callable[[str], Any]] = {
    "Engine": open_engine, "Engine, migrating": migrating_engine, "Client": open_client,
    "sync.Engine": open_sync(sync.Engine), "sync.Client": open_sync(sync.Client),
    "migrate": migrate, "uninstall": uninstall, "resolve_dsn": lambda dsn: resolve_dsn(dsn, application="x"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(bad_dsns("host=x")))
def test_no_error_and_no_log_shows_a_password(dsn: str, what: str, heard: Callable[[], str]) -> None:
    bad = bad_dsns(dsn)[what]
    failed = 0
    for name, entry in ENTRIES.items():
        try:
            outcome = entry(bad)
            if inspect.isawaitable(outcome):
                asyncio.run(outcome)  # type: ignore[arg-type]
        except PgDurableError as error:
            failed += 1
            assert isinstance(error, ConnectionFailed), name
            assert PASSWORD not in everything_of(error), f"{name}: {everything_of(error)}"
    assert failed >= len(ENTRIES) - 1  # resolve_dsn connects to nothing
    assert PASSWORD not in heard()


COMMANDS = [
    ["migrate"], ["migrate", "--roles", "--rls"],
    ["list"], ["show", "x"], ["start", "x"], ["signal", "x", "y"], ["resume", "x"],
    ["doctor"], ["uninstall", "--yes"], ["worker", "tests.nothing_to_run"], ["bench"],
]  # fmt: skip


@pytest.mark.parametrize("what", ["nobody there, URI", "no such role", "an @ in the password", "a bad key"])
def test_no_command_shows_a_password(dsn: str, what: str, heard: Callable[[], str]) -> None:
    bad = bad_dsns(dsn)[what]
    for words in COMMANDS:
        for arguments, env in ((["--dsn", bad], {}), ([], {"PGDURABLE_DSN": bad})):
            result = CliRunner().invoke(app, [*arguments, *words], prog_name="pgdurable", env=env)
            assert result.exit_code in (1, 2), words
            assert PASSWORD not in result.output, result.output
    assert PASSWORD not in heard()


def test_nothing_that_works_shows_a_password(dsn: str, schema: str, heard: Callable[[], str]) -> None:
    """Logs at debug level, names of sessions, metrics, what is stored, what doctor and worker print."""
    good = psycopg.conninfo.make_conninfo(dsn, password=PASSWORD)
    migrate(good, schema)

    @pgd.workflow(name="security_quiet")
    async def quiet() -> int:
        return 1

    async def run() -> None:
        async with pgd.Engine(good, schema=schema, workflows=[quiet]) as engine:
            assert await (await engine.start(quiet)).result(timeout=30) == 1
            with psycopg.connect(dsn, autocommit=True) as conn:
                told = conn.execute("select application_name, query from pg_stat_activity").fetchall()
                told += conn.execute(f"select to_jsonb(w)::text, '' from {schema}.workers w").fetchall()
            assert PASSWORD not in repr(told) + repr(engine.metrics()) + repr(engine) + repr(vars(engine))
            assert PASSWORD not in repr(vars(engine._database))

    asyncio.run(run())
    result = CliRunner().invoke(app, ["--dsn", good, "--schema", schema, "doctor"])
    assert result.exit_code in (0, 1)
    assert PASSWORD not in result.output + heard()
    assert PASSWORD not in repr(Target(good, schema, good, schema))


def test_a_percent_encoded_password_is_taken_as_it_is_meant() -> None:
    given = resolve_dsn("postgresql://ann:a%40%2F%3A%23%3F%25@h/db", application="x")
    params = psycopg.conninfo.conninfo_to_dict(given)
    assert (params["password"], params["host"]) == ("a@/:#?%", "h")


# -- values


class Colour(enum.Enum):
    RED = "red"


class Person(pydantic.BaseModel):
    name: str
    age: int

    @pydantic.field_validator("name")
    @classmethod
    def no_fish(cls, name: str) -> str:
        if MARK in name:
            raise ValueError(f"{name} is no name")
        return name


class Picky(str):
    def __new__(cls, text: str) -> Picky:
        if MARK in text:
            raise ValueError(f"not {text}")
        return super().__new__(cls, text)


class Undumpable(pydantic.BaseModel):
    name: str

    @pydantic.field_serializer("name")
    def refuse(self, name: str) -> str:
        raise RuntimeError(f"cannot dump {name}")


class Odd:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<Odd {self.text}>"


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (MARK, int), (MARK, Colour), (MARK, bool), ([1, MARK], list[int]), ({"name": MARK, "age": 1}, Person),
        ({"name": "ann", "age": MARK}, Person), (MARK, Picky), ({"a": {"b": MARK}}, dict[str, dict[str, float]]),
        ({"name": MARK}, Person), (MARK, list[Person]),
    ],
)  # fmt: skip
def test_an_error_of_decoding_tells_place_and_type_not_the_value(value: Any, type: Any) -> None:
    with pytest.raises(CodecError) as refused:
        decode(encode(value), type)
    told = everything_of(refused.value)
    assert MARK not in told.split("\n--")[0].replace(repr(encode(value)), "")
    assert MARK not in "".join(traceback.format_exception(refused.value))
    assert "$" in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [Odd(MARK), [Odd(MARK)], {"a": Odd(MARK)}, Undumpable(name=MARK), MARK + "\0", MARK + "\ud800", {1: MARK, "1": 2}],
)
def test_an_error_of_encoding_tells_place_and_type_not_the_value(value: Any) -> None:
    with pytest.raises(CodecError) as refused:
        encode(value)
    assert MARK not in "".join(traceback.format_exception(refused.value))


@pgd.workflow(name="security_paint")
async def paint(colour: Colour, person: Person | None = None) -> str:
    return colour.value


@pgd.step
async def whisper(text: str) -> str:
    return text


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def wrong_type() -> int:
    return MARK  # type: ignore[return-value]


@pgd.transaction
async def note(tx: Any, text: str) -> str:
    await tx.execute("select %s::text", (text,))
    return text


@pgd.workflow(name="security_whispers")
async def whispers(text: str) -> str:
    for step in (whisper, note):
        await step(text)
    heard = await pgd.wait_signal("more", type=str)
    try:
        await wrong_type()
    except Exception:
        pass
    return text + heard


@pytest.fixture
def ns(dsn: str, schema: str) -> Iterator[Namespace]:
    with Namespace(dsn, schema) as namespace:
        yield namespace


def not_shown(call: Callable[[], Any], *kinds: type[BaseException]) -> Any:
    async def run() -> str:
        try:
            await call()
        except kinds as error:
            told = "".join(traceback.format_exception(error)) + repr(error)
            assert MARK not in told, told
            return str(error)
        raise AssertionError("nothing was raised")

    return run()


async def test_arguments_that_do_not_fit_are_not_shown(ns: Namespace) -> None:
    async with ns.engine(paint) as engine:
        for call in (
            lambda: engine.start(paint, MARK),
            lambda: engine.start(paint, Colour.RED, {"name": MARK, "age": 3}),
            lambda: engine.start(paint, Colour.RED, {"name": "ann", "age": MARK}),
            lambda: engine.start_many(paint, [MARK]),
            lambda: engine.start(paint, Odd(MARK)),
        ):
            told = await not_shown(call, InvalidInput, CodecError)
            assert "colour" in told or "person" in told


async def test_what_runs_well_is_not_logged(ns: Namespace, heard: Callable[[], str]) -> None:
    """At debug level, of all libraries; nor in the queries and session names that the server shows."""
    seen: set[str] = set()

    async def look() -> None:
        while True:
            seen.update(q for (q,) in ns.sql("select query || application_name from pg_stat_activity"))
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look())
    async with ns.engine(whispers, park_after=0.0) as engine, ns.client() as client:
        handles = [await engine.start(whispers, MARK, id=f"a{n}") for n in range(3)]
        handles += await client.start_many(whispers, [MARK] * 3)
        handles.append(await client.start("security_whispers", MARK, labels={"l": MARK}))
        for handle in handles:
            await handle.signal("more", MARK)
        assert [await handle.result(timeout=30) for handle in handles] == [MARK + MARK] * 7
        told = repr(engine.metrics()) + repr(ns.sql("select stats::text from @.workers"))
    looking.cancel()
    assert seen
    assert MARK not in heard() + told + "".join(seen)


async def test_rows_that_the_server_refuses_are_not_shown(ns: Namespace, heard: Callable[[], str]) -> None:
    """Its DETAIL would be the failing row, its CONTEXT the line of COPY."""
    ns.sql(f"alter table @.instances add check (input::text not like '%{MARK[:5]}' || '{MARK[5:]}%')")
    ns.sql(f"alter table @.events add check (payload::text not like '%{MARK[:5]}' || '{MARK[5:]}%')")
    async with ns.engine(whispers) as engine, ns.client() as client:
        for call in (
            lambda: client.start("security_whispers", MARK),
            lambda: client.start("security_whispers", MARK, id="a"),
            lambda: client.start_many("security_whispers", [MARK]),
            lambda: engine.start(whispers, MARK),
            lambda: engine.start(whispers, MARK, id="b"),
            lambda: engine.start(whispers, MARK, priority=1),
            lambda: engine.start_many(whispers, [MARK]),
        ):
            told = await not_shown(call, PgDurableError, psycopg.Error)
            assert "violates check constraint" in told
        handle = await client.start("security_whispers", "calm")
        told = await not_shown(lambda: handle.signal("more", MARK), PgDurableError)
        assert "violates check constraint" in told
    assert MARK not in heard()


async def test_checkpoints_that_the_server_refuses_are_not_shown(ns: Namespace, heard: Callable[[], str]) -> None:
    ns.sql(f"alter table @.history add check (payload::text not like '%{MARK[:5]}' || '{MARK[5:]}%')")
    async with ns.engine(whispers) as engine:
        handle = await engine.start(whispers, MARK)
        told = await not_shown(lambda: handle.result(timeout=30), pgd.InstanceFailed)
        assert "violates check constraint" in told
    assert MARK not in heard()
    assert MARK not in str(ns.one("select error::text from @.instances"))


async def test_history_that_no_longer_fits_is_not_shown(ns: Namespace, heard: Callable[[], str]) -> None:
    async def text() -> str:
        return MARK

    async def colour() -> Colour:
        return Colour.RED

    ask = pgd.step(name="security_ask")(text)

    @pgd.workflow(name="security_asks")
    async def asks() -> str:
        answer = await ask()
        await pgd.wait_signal("go")
        return answer

    async with ns.engine(asks) as engine:
        handle = await engine.start(asks)
        await until(lambda: ns.one("select count(*) from @.history") == 1, "the step is recorded")

    ask = pgd.step(name="security_ask")(colour)

    async with ns.engine(asks), ns.client() as client:
        handle = await client.get(handle.instance_id)
        await handle.signal("go")  # what only waits is replayed when something comes
        await status_is(handle, "paused")
        told = await not_shown(lambda: handle.result(timeout=30), pgd.InstancePaused)
        assert "Colour" in told
    assert "cannot be replayed" in heard()
    assert MARK not in heard()
    assert MARK not in str(ns.one("select error::text from @.instances"))


async def test_a_steps_error_is_kept_as_it_is_and_holds_no_local_variables(ns: Namespace) -> None:
    """It is the user's own text, and what they need to find out; so it is in history, and said by `result`."""

    @pgd.step(name="security_stumble", retry=pgd.Retry(max_attempts=1))
    async def stumble(secret: str) -> None:
        hidden = secret * 2
        assert hidden
        raise LookupError("the user's own words")

    @pgd.workflow(name="security_stumbles")
    async def stumbles(secret: str) -> None:
        await stumble(secret)

    async with ns.engine(stumbles) as engine:
        handle = await engine.start(stumbles, MARK)
        with pytest.raises(pgd.InstanceFailed, match="the user's own words"):
            await handle.result(timeout=30)
    (error,) = ns.sql("select error::text from @.history where kind = 'step'")[0]
    assert "the user's own words" in error
    assert MARK not in error


def test_values_are_shown_where_the_environment_says_so() -> None:
    code = (
        "import enum\nfrom pgdurable.codec import decode\n"
        "class Colour(enum.Enum):\n    RED = 'red'\n"
        f"try:\n    decode(b'\"{MARK}\"', Colour)\nexcept Exception as error:\n    print(error)\n"
    )
    for value, shown in (("1", True), ("0", False), ("", False)):
        env = {**os.environ, "PGDURABLE_SHOW_VALUES": value}
        told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        assert (MARK in told) is shown
