"""Brings a schema to this library's version, and tells whether it is there.

Here live the version table, and the lock that lets any number of processes migrate at once. The SQL itself lives in
`sql/migrations`, `sql/functions` and `sql/views`.

A migration is numbered and applied once. Functions and views are created again whenever their text differs
from what was last installed, so a release that changes them adds a migration too, if only one that holds a
comment: else an older library of the same version would put its own text back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pgdurable._secret import Dsn
from pgdurable._store import df as df_schema
from pgdurable._store import extension
from pgdurable._store import roles as rights
from pgdurable._store.server import connected, explained, require_server
from pgdurable._store.sql import quote_schema, split_commands, sql_files, substitute
from pgdurable.errors import SchemaError

__all__ = [
    "LOCK",
    "VERSION_TABLE",
    "MigrationReport",
    "adopt",
    "check",
    "check_async",
    "current_version",
    "digest",
    "group_roles",
    "latest_version",
    "library_version",
    "migrate",
    "numbered",
    "routines",
    "split_commands",
    "uninstall",
]

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
LOCK = "select pg_advisory_xact_lock((hashtext('pgdurable:' || %s::text) & 2147483644) + 2, 0)"

_OTHERS = """
select o.name
  from (select c.relname, c.relnamespace from pg_catalog.pg_class c where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        union all select p.proname, p.pronamespace from pg_catalog.pg_proc p
        union all select o.oprname, o.oprnamespace from pg_catalog.pg_operator o
        union all select t.typname, t.typnamespace from pg_catalog.pg_type t where t.typtype in ('d', 'e', 'r')
       ) as o (name, namespace)
  join pg_catalog.pg_namespace n on n.oid = o.namespace
 where n.nspname = %s
 order by 1 limit 1
"""

VERSION_TABLE = (
    """
create table @extschema@.migrations (
    version     int primary key,
    applied_at  timestamptz not null default now(),
    library     text not null,
    routines    text
)
""",
    """
comment on table @extschema@.migrations is
    'pgdurable: the migrations applied here. routines is the digest of the functions and views installed last.'
""",
)


@dataclass(frozen=True)
class MigrationReport:
    """What one call of `migrate` did.

    Attributes:
        schema: the schema's name.
        before: its version before, None when it was not migrated.
        after: its version now.
        applied: the file names of the migrations applied, in order.
        routines: whether functions and views were created again.
        roles: the group roles the schema is set up for; none when it is not.
        row_security: whether row-level security by submitter is on.
        df: whether the schema `df` of this database is over this namespace.
        df_renewed: whether it was made, or made again.
        extension: whether the schema is the extension `pgdurable`, which was updated by the server's own scripts.
    """

    schema: str
    before: int | None
    after: int
    applied: tuple[str, ...]
    routines: bool
    roles: tuple[str, ...] = ()
    row_security: bool = False
    df: bool = False
    df_renewed: bool = False
    extension: bool = False

    @property
    def changed(self) -> bool:
        """Whether the call changed anything."""
        return bool(self.applied) or self.routines or self.df_renewed


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


def routines() -> list[str]:
    """The text of every function and view."""
    return [text for folder in ("functions", "views") for _, text in sql_files(folder)]


def digest(texts: list[str]) -> str:
    """What tells these functions and views from others: `migrations.routines`."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def numbered() -> tuple[tuple[int, str, str], ...]:
    """(number, file name, text) of every migration."""
    return _migrations()


def latest_version() -> int:
    """The schema version this library works with."""
    return _migrations()[-1][0]


def current_version(conn: psycopg.Connection[Any], schema: str = "durable") -> int | None:
    """The version of a migrated schema; None when there is none, or the schema is not ours.

    Raises:
        SchemaError: the role may not look.
    """
    schema = quote_schema(schema)
    with explained(schema), conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
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
    with explained(schema):
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


def migrate(
    dsn_or_conn: str | psycopg.Connection[Any],
    schema: str = "durable",
    *,
    roles: bool = False,
    role_prefix: str | None = None,
    row_security: bool | None = None,
    df: bool = False,
) -> MigrationReport:
    """Brings the schema to `latest_version()`, or leaves it as it was: all of it is one transaction.

    Safe to call from any number of processes at once (one works, the others wait and find it done) and to
    call again. Needs no superuser: a role that may create schemas in the database, or create tables in an
    empty schema that is already there, and later the same role.

    Args:
        dsn_or_conn: where; a connection that is inside a transaction is migrated within it.
        schema: the namespace, 1 to 50 lower-case letters, digits and underscores. Created when it is missing.
        roles: make the group roles `<schema>_reader`, `_client`, `_worker` and `_admin` where they are missing, and
            grant them their rights. A schema that has them gets the grants anew with every migration, unasked.
        role_prefix: what stands in the roles' names instead of the schema's.
        row_security: switch row-level security by submitter on or off. None: leave it as it is.
        df: make the schema `df` (docs/df.md) over this namespace. One that is there is renewed unasked.

    Returns:
        What was done; `changed` is False when there was nothing to do.

    Raises:
        ValueError: no name for a schema, or no prefix for roles.
        SchemaError: the schema is newer than this library or holds something else; the server is too old;
            the role may not do it.
        ConnectionFailed: no connection, or the server is read-only. Safe to try again.
    """
    schema = quote_schema(schema)
    dsn_or_conn = Dsn(dsn_or_conn) if isinstance(dsn_or_conn, str) else dsn_or_conn
    with connected(dsn_or_conn) as conn, explained(schema):
        require_server(conn)
        if role_prefix is not None:
            rights.Roles(role_prefix)
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cur, _pinned_path(cur):
            cur.execute(LOCK, (schema,), prepare=False)
            report = _migrate_locked(conn, cur, schema)
            report = _settle_rights(cur, report, roles, role_prefix, row_security)
            return _settle_df(cur, report, df)


@contextmanager
def _pinned_path(cur: psycopg.Cursor[Any]) -> Iterator[None]:
    """What stands in views, defaults and checks is resolved when they are made: by the server's own names only."""
    cur.execute("select pg_catalog.current_setting('search_path')", prepare=False)
    path = _only(cur.fetchone())
    pin = "select pg_catalog.set_config('search_path', %s, true)"
    cur.execute(pin, ("pg_catalog, pg_temp",), prepare=False)
    yield
    cur.execute(pin, (path,), prepare=False)


def _settle_rights(
    cur: psycopg.Cursor[Any], report: MigrationReport, wanted: bool, prefix: str | None, on: bool | None
) -> MigrationReport:
    schema = report.schema
    if report.changed:
        rights.close_to_public(cur, schema)
    roles = rights.ensure(cur, schema, prefix) if wanted else rights.setup_of(cur, schema)
    if roles is not None and (wanted or report.changed):
        rights.grant(cur, schema, roles)
    was_on = rights.row_security(cur, schema)
    if on is not None or (was_on and report.changed):
        rights.set_row_security(cur, schema, roles, was_on if on is None else on)
    names = () if roles is None else roles.names
    return replace(report, roles=names, row_security=was_on if on is None else on)


def _settle_df(cur: psycopg.Cursor[Any], report: MigrationReport, wanted: bool) -> MigrationReport:
    if not wanted and df_schema.namespace_of(cur) != report.schema:
        return report
    return replace(report, df=True, df_renewed=df_schema.install(cur, report.schema))


def _migrate_locked(conn: psycopg.Connection[Any], cur: psycopg.Cursor[Any], schema: str) -> MigrationReport:
    before = current_version(conn, schema)
    member_of = extension.installed(cur, schema)
    if member_of is not None and before is not None and before < latest_version():
        extension.update(cur, schema, member_of, latest_version())
    if before is None:
        _prepare_schema(cur, schema)
    elif before > latest_version():
        _judge(before, schema)
    applied = []
    with _in_one_go(cur):
        for number, name, text in _migrations():
            if number > (before or 0) and member_of is None:
                _run(cur, schema, text)
                cur.execute(
                    _sql("insert into @extschema@.migrations (version, library) values (%s, %s)", schema),
                    (number, library_version()),
                    prepare=False,
                )
            if number > (before or 0):
                applied.append(name)
    renewed = _install_routines(cur, schema)
    if member_of is not None and renewed:
        extension.take_in(cur, schema)
    _make_partitions(cur, schema)
    done = tuple(applied)
    return MigrationReport(schema, before, latest_version(), done, renewed, extension=member_of is not None)


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
    for command in VERSION_TABLE:
        _run(cur, schema, command)


def _make_partitions(cur: psycopg.Cursor[Any], schema: str) -> None:
    cur.execute(_sql("select @extschema@.make_partitions()", schema), prepare=False)


def _install_routines(cur: psycopg.Cursor[Any], schema: str) -> bool:
    texts = routines()
    mark = digest(texts)
    cur.execute(
        _sql("select routines from @extschema@.migrations where version = %s", schema),
        (latest_version(),),
        prepare=False,
    )
    if _only(cur.fetchone()) == mark:
        return False
    # Bodies are checked when run, not when created: functions may name one another in any order.
    cur.execute("select current_setting('check_function_bodies')")
    setting = _only(cur.fetchone())
    cur.execute("set local check_function_bodies = off")
    with _in_one_go(cur):
        for text in texts:
            _run(cur, schema, text)
    cur.execute("select set_config('check_function_bodies', %s, true)", (setting,))
    cur.execute(
        _sql("update @extschema@.migrations set routines = %s where version = %s", schema),
        (mark, latest_version()),
        prepare=False,
    )
    return True


@contextmanager
def _alone(
    dsn_or_conn: str | psycopg.Connection[Any], schema: str
) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Cursor[Any]]]:
    """A transaction in which nobody else migrates the schema; failures of the server are explained."""
    with connected(dsn_or_conn) as conn, explained(schema):
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
            cur.execute(LOCK, (schema,), prepare=False)
            yield conn, cur


def uninstall(dsn_or_conn: str | psycopg.Connection[Any], schema: str = "durable", *, roles: bool = False) -> bool:
    """Drops the schema with everything in it, instances and their history included, and the schema `df` over it.

    A schema that is an extension goes as `drop extension` takes it. Nothing of ours is left in the database then. The
    group roles are the whole cluster's; with `roles` they are dropped too, unless something else depends on them.

    Returns:
        Whether there was one; False when the schema does not exist.

    Raises:
        SchemaError: the schema is not one that `migrate` made, or the role may not drop it.
        ConnectionFailed: no connection, or the server is read-only.
    """
    schema = quote_schema(schema)
    dsn_or_conn = Dsn(dsn_or_conn) if isinstance(dsn_or_conn, str) else dsn_or_conn  # no traceback shows a password
    with _alone(dsn_or_conn, schema) as (conn, cur):
        cur.execute("select to_regnamespace(%s) is not null", (schema,), prepare=False)
        if not _only(cur.fetchone()):
            return False
        if current_version(conn, schema) is None:
            raise SchemaError(
                f"schema {schema} was not made by pgdurable, so it is not dropped",
                detail=f"Expected the table {schema}.migrations, found none like ours.",
                hint="Drop it by hand if that is what you want.",
            )
        df_schema.drop(cur, schema)
        group = rights.setup_of(cur, schema)
        if extension.installed(cur, schema) is not None:
            cur.execute("drop extension pgdurable cascade")
        cur.execute(_sql("drop schema if exists @extschema@ cascade", schema))
        if roles and group is not None:
            rights.drop(cur, group)
        return True


def group_roles(conn: psycopg.Connection[Any], schema: str = "durable") -> tuple[str, ...]:
    """The group roles that the schema is set up for; none when it is not."""
    with conn.transaction(), conn.cursor(row_factory=tuple_row) as cur:
        roles = rights.setup_of(cur, quote_schema(schema))
        return () if roles is None else roles.names


def adopt(dsn_or_conn: str | psycopg.Connection[Any], schema: str = "durable") -> None:
    """Makes a migrated schema an extension of the server, with all it holds; the server must have its files.

    Raises:
        SchemaError: the schema is not at this library's version or is an extension already; the server lacks the files.
        ConnectionFailed: no connection, or the server is read-only.
    """
    schema = quote_schema(schema)
    dsn_or_conn = Dsn(dsn_or_conn) if isinstance(dsn_or_conn, str) else dsn_or_conn  # no traceback shows a password
    with _alone(dsn_or_conn, schema) as (conn, cur):
        _judge(current_version(conn, schema), schema)
        if extension.installed(cur, schema) is not None:
            raise SchemaError(f"schema {schema} is an extension already", hint="There is nothing to do.")
        extension.adopt(cur, schema, latest_version())


@contextmanager
def _in_one_go(cur: psycopg.Cursor[Any]) -> Iterator[None]:
    """The commands within do not wait for one another's answers: some hundreds of them, each a round trip otherwise."""
    if not psycopg.Pipeline.is_supported():
        yield
        return
    with cur.connection.pipeline():
        yield


def _run(cur: psycopg.Cursor[Any], schema: str, text: str) -> None:
    for command in split_commands(text):
        cur.execute(_sql(command, schema), prepare=False)


def _sql(text: str, schema: str) -> bytes:
    return substitute(text, schema).encode()


def _only(row: tuple[Any, ...] | None) -> Any:
    return None if row is None else row[0]


@lru_cache(maxsize=1)
def library_version() -> str:
    """The version of the package."""
    try:
        return metadata.version("pgdurable")
    except metadata.PackageNotFoundError:
        return "unknown"
