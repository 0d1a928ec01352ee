"""Brings a schema to this library's version, and tells whether it is there.

Here live the version table, the lock that lets any number of processes migrate at once, and the cutting of
SQL files into commands. The SQL itself lives in `sql/migrations`, `sql/functions` and `sql/views`.

A migration is numbered and applied once. Functions and views are created again whenever their text differs
from what was last installed, so a release that changes them adds a migration too, if only one that holds a
comment: else an older library of the same version would put its own text back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgdurable._store.sql import quote_schema, sql_files, substitute
from pgdurable.errors import ConnectionFailed, PgDurableError, SchemaError

__all__ = [
    "MigrationReport",
    "check",
    "check_async",
    "current_version",
    "latest_version",
    "migrate",
    "split_commands",
    "uninstall",
]

_OLDEST_SERVER = 140000

# The version table is known by its columns: a table of this name in somebody's own schema is not ours.
_IS_OURS = """
select count(*) = 4
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_class c on c.oid = a.attrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = 'migrations' and c.relkind in ('r', 'p')
   and not a.attisdropped and a.attname in ('version', 'applied_at', 'library', 'routines')
"""

_VERSION = "select max(version) from @extschema@.migrations"

# The same two keys as lock_class(2), which does not exist before the first migration.
_LOCK = "select pg_advisory_xact_lock((hashtext('pgdurable:' || %s::text) & 2147483644) + 2, 0)"

_OTHERS = """
select c.relname
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
 order by 1 limit 1
"""

_VERSION_TABLE = """
create table @extschema@.migrations (
    version     int primary key,
    applied_at  timestamptz not null default now(),
    library     text not null,
    routines    text
)
"""
_VERSION_COMMENT = """
comment on table @extschema@.migrations is
    'pgdurable: the migrations applied here. routines is the digest of the functions and views installed last.'
"""


@dataclass(frozen=True)
class MigrationReport:
    """What one call of `migrate` did.

    Attributes:
        schema: the schema's name.
        before: its version before, None when it was not migrated.
        after: its version now.
        applied: the file names of the migrations applied, in order.
        routines: whether functions and views were created again.
    """

    schema: str
    before: int | None
    after: int
    applied: tuple[str, ...]
    routines: bool

    @property
    def changed(self) -> bool:
        """Whether the call changed anything."""
        return bool(self.applied) or self.routines


@lru_cache(maxsize=1)
def _migrations() -> tuple[tuple[int, str, str], ...]:
    """(number, file name, text) of every migration, numbered from 1 without gaps."""
    found = []
    for name, text in sql_files("migrations"):
        head = re.match(r"(\d{4})_\w+\.sql$", name)
        if head is None:
            raise SchemaError(f"{name} is no migration's name", hint="Name it 0007_what_it_does.sql.")
        found.append((int(head[1]), name, text))
    if [number for number, _, _ in found] != list(range(1, len(found) + 1)):
        raise SchemaError(
            "the migrations are not numbered 1, 2, 3 without gaps",
            detail="Found: " + ", ".join(name for _, name, _ in found),
            hint="The installation of pgdurable is damaged: install it again.",
        )
    return tuple(found)


def _routines() -> list[str]:
    return [text for folder in ("functions", "views") for _, text in sql_files(folder)]


def latest_version() -> int:
    """The schema version this library works with."""
    return _migrations()[-1][0]


def split_commands(text: str) -> list[str]:
    """The single commands of an SQL script, without their semicolons, in order.

    Knows quoted strings and names, escape strings, dollar quotes, line comments and nested block comments.
    Does not know `begin atomic` bodies and the parentheses of `create rule`: do not write those.

    Raises:
        ValueError: a quote or comment is not closed.
    """
    commands: list[str] = []
    start = at = 0
    blank = True  # nothing but space and comments since `start`
    while at < len(text):
        token = _TOKEN.match(text, at)
        kind = token.lastgroup if token else "other"
        end = token.end() if token else at + 1
        if kind == "end":
            if not blank:
                commands.append(text[start:at].strip())
            start, blank = end, True
        elif kind == "block":
            end = _after_block(text, at)
        elif kind not in ("space", "line"):
            blank = False
            if token and kind in ("string", "name", "escape", "dollar"):
                end = _after_quote(text, token)
        at = end
    if not blank:
        commands.append(text[start:].strip())
    return commands


# An identifier is one token, so that neither the e of `type'...'` nor the $ of `a$b$` opens anything.
_TOKEN = re.compile(
    r"""
      (?P<end>;) | (?P<space>\s+) | (?P<line>--[^\n]*) | (?P<block>/\*)
    | (?P<escape>[eE]') | (?P<string>') | (?P<name>") | (?P<dollar>\$(?:[^\W\d]\w*)?\$)
    | (?P<word>[^\W\d][\w$]*|\d[\w.]*)
    """,
    re.VERBOSE,
)
# A doubled quote is two strings in a row, which cuts the same; not so where a backslash can follow it.
_REST = {
    "string": re.compile(r"[^']*'"),
    "name": re.compile(r'[^"]*"'),
    "escape": re.compile(r"(?:[^\\']|\\.|'')*'", re.DOTALL),
}


def _after_quote(text: str, opening: re.Match[str]) -> int:
    if opening.lastgroup == "dollar":
        end = text.find(opening[0], opening.end())
        if end >= 0:
            return end + len(opening[0])
    elif rest := _REST[str(opening.lastgroup)].match(text, opening.end()):
        return rest.end()
    raise ValueError(f"a quote is not closed: {text[opening.start() :][:40]!r}")


def _after_block(text: str, at: int) -> int:
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(text, at):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    raise ValueError(f"a comment is not closed: {text[at:][:40]!r}")


def current_version(conn: psycopg.Connection[Any], schema: str = "durable") -> int | None:
    """The version of a migrated schema; None when there is none, or the schema is not ours.

    Raises:
        SchemaError: the role may not look.
    """
    schema = quote_schema(schema)
    with _explained(schema), conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
        cur.execute(_IS_OURS, (schema,), prepare=False)
        if not _only(cur.fetchone()):
            return None
        cur.execute(_sql(_VERSION, schema), prepare=False)
        version: int | None = _only(cur.fetchone())
        return version


def check(conn: psycopg.Connection[Any], schema: str = "durable") -> None:
    """Returns only when this library can work with the schema. Changes nothing.

    Raises:
        SchemaError: the schema is not migrated, older or newer; the hint holds the command to run.
    """
    _judge(current_version(conn, schema), schema)


async def check_async(conn: psycopg.AsyncConnection[Any], schema: str = "durable") -> None:
    """As `check`, on an async connection."""
    schema = quote_schema(schema)
    version = None
    with _explained(schema):
        async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
            await cur.execute(_IS_OURS, (schema,), prepare=False)
            if _only(await cur.fetchone()):
                await cur.execute(_sql(_VERSION, schema), prepare=False)
                version = _only(await cur.fetchone())
    _judge(version, schema)


def _judge(version: int | None, schema: str) -> None:
    latest = latest_version()
    if version is None:
        raise SchemaError(
            f"schema {schema} is not migrated",
            detail=f"Expected version {latest}, found none.",
            hint=f"Run: pgdurable migrate --schema {schema}",
        )
    if version < latest:
        raise SchemaError(
            f"schema {schema} is at version {version}, older than this library needs",
            detail=f"Expected version {latest}, found {version}.",
            hint=f"Run: pgdurable migrate --schema {schema}",
        )
    if version > latest:
        raise SchemaError(
            f"schema {schema} is at version {version}, newer than this library knows",
            detail=f"Expected version {latest}, found {version}.",
            hint="Upgrade the library: pip install --upgrade pgdurable",
        )


def migrate(dsn_or_conn: str | psycopg.Connection[Any], schema: str = "durable") -> MigrationReport:
    """Brings the schema to `latest_version()`, or leaves it as it was: all of it is one transaction.

    Safe to call from any number of processes at once (one works, the others wait and find it done) and to
    call again. Needs no superuser: a role that may create schemas in the database, or create tables in an
    empty schema that is already there, and later the same role.

    Args:
        dsn_or_conn: where; a connection that is inside a transaction is migrated within it.
        schema: the namespace, 1 to 50 lower-case letters, digits and underscores. Created when it is missing.

    Returns:
        What was done; `changed` is False when there was nothing to do.

    Raises:
        ValueError: no name for a schema.
        SchemaError: the schema is newer than this library or holds something else; the server is too old;
            the role may not do it.
        ConnectionFailed: no connection, or the server is read-only. Safe to try again.
    """
    schema = quote_schema(schema)
    with _connected(dsn_or_conn) as conn, _explained(schema):
        _require_server(conn)
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
            cur.execute(_LOCK, (schema,), prepare=False)
            return _migrate_locked(conn, cur, schema)


def _migrate_locked(conn: psycopg.Connection[Any], cur: psycopg.Cursor[Any], schema: str) -> MigrationReport:
    before = current_version(conn, schema)
    if before is None:
        _prepare_schema(cur, schema)
    elif before > latest_version():
        _judge(before, schema)
    applied = []
    for number, name, text in _migrations():
        if number > (before or 0):
            _run(cur, schema, text)
            cur.execute(
                _sql("insert into @extschema@.migrations (version, library) values (%s, %s)", schema),
                (number, _library()),
                prepare=False,
            )
            applied.append(name)
    routines = _install_routines(cur, schema)
    if applied:  # workers make those of later
        _make_partitions(cur, schema)
    return MigrationReport(schema, before, latest_version(), tuple(applied), routines)


def _prepare_schema(cur: psycopg.Cursor[Any], schema: str) -> None:
    cur.execute("select quote_ident(%s), to_regnamespace(%s) is not null", (schema, schema))
    quoted, there = cur.fetchone() or (None, False)
    if quoted != schema:
        raise SchemaError(
            f"{schema} is a reserved word of SQL, which no schema here can be called",
            hint="Choose another name.",
        )
    if not there:  # `if not exists` alone would ask for the right to create schemas all the same
        cur.execute(_sql("create schema if not exists @extschema@", schema))
    cur.execute(_OTHERS, (schema,), prepare=False)
    if other := cur.fetchone():
        raise SchemaError(
            f"schema {schema} is in use for something else",
            detail=f"Expected an empty schema, found {schema}.{other[0]}.",
            hint="Choose a schema of its own for pgdurable.",
        )
    _run(cur, schema, _VERSION_TABLE + ";" + _VERSION_COMMENT)


def _make_partitions(cur: psycopg.Cursor[Any], schema: str) -> None:
    cur.execute(_sql("select @extschema@.make_partitions()", schema), prepare=False)


def _install_routines(cur: psycopg.Cursor[Any], schema: str) -> bool:
    texts = _routines()
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    cur.execute(
        _sql("select routines from @extschema@.migrations where version = %s", schema),
        (latest_version(),),
        prepare=False,
    )
    if _only(cur.fetchone()) == digest:
        return False
    # Bodies are checked when run, not when created: functions may name one another in any order.
    cur.execute("select current_setting('check_function_bodies')")
    setting = _only(cur.fetchone())
    cur.execute("set local check_function_bodies = off")
    for text in texts:
        _run(cur, schema, text)
    cur.execute("select set_config('check_function_bodies', %s, true)", (setting,))
    cur.execute(
        _sql("update @extschema@.migrations set routines = %s where version = %s", schema),
        (digest, latest_version()),
        prepare=False,
    )
    return True


def uninstall(dsn_or_conn: str | psycopg.Connection[Any], schema: str = "durable") -> bool:
    """Drops the schema with everything in it, instances and their history included.

    Returns:
        Whether there was one; False when the schema does not exist.

    Raises:
        SchemaError: the schema is not one that `migrate` made, or the role may not drop it.
        ConnectionFailed: no connection, or the server is read-only.
    """
    schema = quote_schema(schema)
    with _connected(dsn_or_conn) as conn, _explained(schema):
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
            cur.execute(_LOCK, (schema,), prepare=False)
            cur.execute("select to_regnamespace(%s) is not null", (schema,), prepare=False)
            if not _only(cur.fetchone()):
                return False
            if current_version(conn, schema) is None:
                raise SchemaError(
                    f"schema {schema} was not made by pgdurable, so it is not dropped",
                    detail=f"Expected the table {schema}.migrations, found none like ours.",
                    hint="Drop it by hand if that is what you want.",
                )
            cur.execute(_sql("drop schema @extschema@ cascade", schema))
            return True


def _run(cur: psycopg.Cursor[Any], schema: str, text: str) -> None:
    for command in split_commands(text):
        cur.execute(_sql(command, schema))


def _sql(text: str, schema: str) -> bytes:
    return substitute(text, schema).encode()


def _only(row: tuple[Any, ...] | None) -> Any:
    return None if row is None else row[0]


def _library() -> str:
    try:
        return metadata.version("pgdurable")
    except metadata.PackageNotFoundError:
        return "unknown"


def _require_server(conn: psycopg.Connection[Any]) -> None:
    if conn.info.server_version < _OLDEST_SERVER:
        raise SchemaError(
            "the server is too old",
            detail=f"Expected PostgreSQL 14 or later, found {conn.info.server_version // 10000}.",
            hint="Upgrade the server.",
        )


@contextmanager
def _connected(dsn_or_conn: str | psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    if not isinstance(dsn_or_conn, str):
        yield dsn_or_conn
        return
    try:
        conn = psycopg.connect(dsn_or_conn, autocommit=True)
    except psycopg.Error as error:
        raise ConnectionFailed(
            f"connecting to the server failed: {_text(error)}",
            hint="Check that the server runs, and the host, database, user and password of the DSN.",
        ) from error
    with conn:
        yield conn


@contextmanager
def _explained(schema: str) -> Iterator[None]:
    """Turns the server's refusals into errors of ours."""
    try:
        yield
    except PgDurableError:
        raise
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ConnectionFailed(
            f"changing schema {schema} failed: the server is read-only ({_text(error)})",
            hint="Connect to the primary; for a DSN with several hosts add target_session_attrs=read-write.",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"the role may not use schema {schema} so: {_text(error)}",
            hint="To migrate, a role must own the schema, or be granted create on the database; "
            f"to run, usage on schema {schema} and its tables.",
        ) from error
    except psycopg.OperationalError as error:
        raise ConnectionFailed(
            f"the server failed while schema {schema} was worked on: {_text(error)}",
            hint="Nothing was changed. Try again.",
        ) from error
    except psycopg.DatabaseError as error:
        raise SchemaError(
            f"the server refused a command for schema {schema}: {_text(error)}",
            detail=error.diag.message_detail,
            hint=error.diag.message_hint or "Nothing was changed.",
        ) from error


def _text(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip()
