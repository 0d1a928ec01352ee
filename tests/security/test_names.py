"""Names and ids as hostile as people can make them: stored to the letter, or refused by an error of ours."""

# ruff: noqa: PT017 - whether it is refused depends on the example

from __future__ import annotations

import asyncio
import json
import unicodedata
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import pgdurable as pgd
from pgdurable._store.migrations import migrate, uninstall
from pgdurable._store.roles import Roles
from pgdurable._store.sql import channel_of, named_queries, quote_schema
from pgdurable.cli.app import app
from pgdurable.errors import PgDurableError

BAD = [
    "'; drop schema durable cascade; --", '"; select 1; --', "\\'; --", "$$; select 1; $$", "$1", "%s", "%(x)s", "%%",
    "{0}", "@extschema@", "a\nb", "\r", "\t", " ", "--", "/*", "\x00", "a\x00b", "\x1b[31mred\x1b[0m", "\x07", "\x7f",
    "\u202egnp.exe", "\u200b", "\ufeff", "\ud800", "e\u0301", "😀" * 30, "a" * 512, "a" * 513, "é" * 256, "é" * 257,
    "null", "NULL", "0", "-1", "--help", "[]", "{}", '{"a": 1}', "\uff41\uff42", "00000000-0000-0000-0000-000000000000",
]  # fmt: skip
names = st.one_of(st.sampled_from(BAD), st.text(max_size=40), st.text(st.characters(), max_size=300))
patient = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def storable(text: str) -> bool:
    return "\0" not in text and not any(unicodedata.category(c) == "Cs" for c in text)


@pytest.fixture
def at(dsn: str, schema: str) -> Any:
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


def intact(conn: psycopg.Connection[Any], schema: str) -> None:
    """Nothing of what was sent has been taken for SQL."""
    (count,) = conn.execute("select count(*) from pg_class where relnamespace = %s::regnamespace", (schema,)).fetchone()  # type: ignore[misc]
    assert count > 20


@patient
@given(workflow=names, id=names, queue=names, version=names, label=names, signal=names)
@example(*["a\x00b"] * 6)
@example(*["\ud800"] * 6)
@example(*["'; drop schema durable cascade; --"] * 6)
def test_python_stores_them_to_the_letter_or_refuses(
    at: psycopg.Connection[Any], dsn: str, schema: str,
    workflow: str, id: str, queue: str, version: str, label: str, signal: str,
) -> None:  # fmt: skip
    async def there() -> None:
        async with pgd.Client(dsn, schema=schema) as client:
            at.execute(f"truncate {schema}.instances, {schema}.instance_keys, {schema}.events")
            try:
                handle = await client.start(workflow, 1, id=id, queue=queue, version=version, labels={label: label})
            except PgDurableError as error:
                assert str(error)
                stored = all(map(storable, (workflow, id, queue, version, label))) and workflow and id and queue
                assert not stored or max(len(text.encode()) for text in (workflow, id, queue, version)) > 512
                handle = None
            if handle is not None:
                info = await handle.describe()
                assert (info.workflow, info.id, info.queue, info.labels) == (workflow, id, queue, {label: label})
                assert info.version == (version or None)
                assert (await client.get(id)).instance_id == handle.instance_id
                assert [i.id async for i in client.list(workflow=workflow)] == [id]
                try:
                    await handle.signal(signal, {"a": label})
                except PgDurableError:
                    assert not storable(signal) or not 1 <= len(signal.encode()) <= 512
                else:
                    assert at.execute(f"select name from {schema}.events").fetchall() == [(signal,)]
            try:
                many = await client.start_many(workflow, [1], queue=queue, version=version)
            except PgDurableError:
                assert handle is None or max(len(text.encode()) for text in (workflow, queue, version)) > 512
            else:
                assert (await many[0].describe()).queue == queue

    asyncio.run(there())
    intact(at, schema)


@patient
@given(workflow=names, id=names, queue=names, version=names, signal=names)
def test_sql_stores_them_to_the_letter_or_refuses(
    at: psycopg.Connection[Any], schema: str, workflow: str, id: str, queue: str, version: str, signal: str
) -> None:
    if not all(map(storable, (workflow, id, queue, version, signal))):
        return  # no text of PostgreSQL's
    at.execute(f"truncate {schema}.instances, {schema}.instance_keys, {schema}.events")
    try:
        at.execute(
            f"select {schema}.start(%s, '[1]', id => %s, queue => %s, version => %s)", (workflow, id, queue, version)
        )
    except psycopg.Error as error:
        assert error.sqlstate in ("PGD05",), error
        assert (
            not workflow
            or not 1 <= len(id.encode()) <= 512
            or any(len(text.encode()) > 512 for text in (workflow, queue, version))
        )
    else:
        found = at.execute(f"select workflow, queue, version from {schema}.instances").fetchall()
        assert found == [(workflow, queue, version)]
        assert at.execute(f"select {schema}.status(%s)", (id,)).fetchone() == ("pending",)
        try:
            at.execute(f"select {schema}.signal(%s, %s)", (id, signal))
        except psycopg.Error as error:
            assert error.sqlstate == "PGD05"
            assert not 1 <= len(signal.encode()) <= 512
        else:
            assert at.execute(f"select name from {schema}.events").fetchall() == [(signal,)]
    for call in ("status", "result", "resume", "need_instance"):
        with pytest.raises(psycopg.Error, match="no instance has the id"):
            at.execute(f"select {schema}.{call}(%s)", (id + "?",))
    intact(at, schema)


@patient
@given(workflow=names, id=names, queue=names, signal=names)
@example(*["\x1b[31mred"] * 4)
def test_the_command_line_stores_them_to_the_letter_or_refuses(
    at: psycopg.Connection[Any], dsn: str, schema: str, workflow: str, id: str, queue: str, signal: str
) -> None:
    def run(*words: str) -> Any:
        result = CliRunner().invoke(app, ["--dsn", dsn, "--schema", schema, *words], prog_name="pgdurable")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    at.execute(f"truncate {schema}.instances, {schema}.instance_keys, {schema}.events")
    result = run("start", f"--id={id}", f"--queue={queue}", "--", workflow, "[1]")
    if result.exit_code == 0:
        (found,) = [json.loads(line) for line in run("list", "--json").stdout.rstrip("\n").split("\n")]
        assert (found["workflow"], found["id"], found["queue"]) == (workflow, id, queue)
        sent = run("signal", "--", id, signal, "1")
        assert (sent.exit_code == 0) == (storable(signal) and 1 <= len(signal.encode()) <= 512), sent.output
        for words in (("list",), ("show", "--", id), ("show", "--full", "--", id)):
            told = run(*words)
            assert told.exit_code == 0
            # Nothing in a name moves the cursor or turns text round.
            assert not any(
                (unicodedata.category(c) == "Cc" and c not in "\n\t")
                or unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
                for c in told.stdout
            )
        assert json.loads(run("show", "--json", "--", id).stdout)["workflow"] == workflow
    else:
        assert result.stderr
        assert (
            not (workflow and id and queue and all(map(storable, (workflow, id, queue))))
            or max(len(text.encode()) for text in (workflow, id, queue)) > 512
        )
    intact(at, schema)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.sampled_from(BAD), st.text(max_size=70), st.from_regex(r"[a-z_][a-z0-9_]{0,60}", fullmatch=True)))
def test_a_schemas_name_needs_no_quotes_or_is_refused(name: str) -> None:
    """Names that would have to be quoted are not taken at all, so no place can forget to."""
    plain = name.isascii() and len(name) <= 50 and name.replace("_", "a").isalnum() and name == name.lower()
    if plain and not name[0].isdigit():
        assert quote_schema(name) == name
        assert channel_of(name) == f"pgdurable_{name}"
        assert len(channel_of(name)) < 63
        assert all(f"{name}." in text or "@" not in text for text in named_queries("flush", name).values())
        return
    for call in (quote_schema, channel_of, lambda n: named_queries("client", n), lambda n: pgd.Client("", schema=n)):
        with pytest.raises(ValueError, match="a schema name has"):
            call(name)
    for entry in (migrate, uninstall):
        with pytest.raises(ValueError, match="a schema name has"):
            entry("host=/nowhere", name)


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=70))
def test_a_roles_name_is_quoted_or_refused(prefix: str) -> None:
    try:
        roles = Roles(prefix)
    except ValueError:
        return
    text = roles.fill("grant @reader@ to @admin@, @client@, @worker@")
    parts = text.removeprefix("grant ").split('"')
    assert len(parts) % 2 == 1
    assert text.count('"') == 8 + 2 * 4 * prefix.count('"')
