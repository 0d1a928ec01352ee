"""The options every command has, and the database they lead to."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, NoReturn

import psycopg
import typer
from psycopg.rows import dict_row

from pgdurable import sync
from pgdurable._engine.answers import BlockingConnection
from pgdurable._engine.connections import connect_failed, resolve_dsn
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries, quote_schema
from pgdurable.errors import InvalidInput, PgDurableError, SchemaError

__all__ = ["Dsn", "Schema", "Target", "duration", "json_argument", "remember", "target"]

DEFAULT_SCHEMA = "durable"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _schema_name(value: str | None) -> str | None:
    try:
        return None if value is None else quote_schema(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Dsn = Annotated[
    str | None,
    typer.Option("--dsn", help="libpq connection string or URI. Default: PGDURABLE_DSN, else libpq's own variables."),
]
Schema = Annotated[
    str | None,
    typer.Option("--schema", callback=_schema_name, help="The namespace. Default: PGDURABLE_SCHEMA, else durable."),
]


@dataclass(frozen=True)
class Target:
    """The namespace a command works on.

    Attributes:
        dsn: what libpq connects to, with our defaults.
        schema: the namespace's name.
        given_dsn, given_schema: what the command line said, or None.
    """

    dsn: str = field(repr=False)
    schema: str
    given_dsn: str | None = field(repr=False)
    given_schema: str | None

    def client(self) -> sync.Client:
        """A client of the namespace, to be used in a `with` block."""
        return sync.Client(self.dsn, schema=self.schema, max_connections=1)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A read-only look at what the client does not tell. Raises ConnectionFailed."""
        try:
            # There may be a pooler.
            conn = BlockingConnection.connect(self.dsn, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise connect_failed(self.dsn, error) from None
        with conn:
            yield Session(conn, self)

    def command(self, *words: str) -> str:
        """A command for people to copy, with the options that lead to the same namespace."""
        options = [] if self.schema == DEFAULT_SCHEMA else ["--schema", self.schema]
        return shlex.join(["pgdurable", words[0], *options, *words[1:]])


class Session:
    """One connection, and the named queries that commands ask on it."""

    def __init__(self, conn: psycopg.Connection[Any], where: Target) -> None:
        self.conn = conn
        self._where = where

    def rows(self, query: str, *params: Any, file: str = "doctor") -> list[dict[str, Any]]:
        """The rows of `sql/queries/<file>.sql`'s query of that name, as dicts."""
        try:
            with self.conn.cursor(row_factory=dict_row) as cursor:
                return cursor.execute(named_queries(file, self._where.schema)[query], params or None).fetchall()
        except psycopg.OperationalError as error:
            raise connect_failed(self._where.dsn, error) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaError(
                f"the role may not look at schema {self._where.schema}: {error.diag.message_primary}",
                hint=f"Grant it usage on schema {self._where.schema}, and select on the tables in it.",
            ) from None
        except psycopg.Error as error:
            raise PgDurableError(f"PostgreSQL refused: {server_said(error)}") from None

    def row(self, query: str, *params: Any, file: str = "doctor") -> dict[str, Any]:
        """The one row of such a query."""
        (row,) = self.rows(query, *params, file=file)
        return row


def remember(ctx: typer.Context, dsn: str | None, schema: str | None) -> None:
    """Keeps the options given before the sub-command."""
    ctx.obj = (dsn, schema)


def target(ctx: typer.Context, dsn: str | None, schema: str | None, *, application: str = "pgdurable cli") -> Target:
    """The namespace meant by the options, the ones after the sub-command first, else by the environment."""
    before: tuple[str | None, str | None] = ctx.obj or (None, None)
    dsn = dsn if dsn is not None else before[0]
    schema = schema if schema is not None else before[1]
    try:
        chosen = quote_schema(schema or os.environ.get("PGDURABLE_SCHEMA") or DEFAULT_SCHEMA)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PGDURABLE_SCHEMA") from None
    return Target(resolve_dsn(dsn, application=application), chosen, dsn, schema)


def duration(text: str) -> timedelta:
    """The time that `30d`, `12h`, `45m` and the like spell."""
    match = re.fullmatch(r"(\d{1,6})\s*([smhdw])", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 30d, 12h, 2w, 45m or 10s")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def json_argument(text: str, what: str) -> Any:
    """The value a JSON argument spells. Raises InvalidInput that points at the first wrong character."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        first, _, _ = text[error.pos :].partition("\n")
        found = f"found {first[:20]!r}" if first else "found its end"
        raise InvalidInput(
            f"{what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            detail=f"At character {error.pos} of {len(text)}: {found}.",
            hint="""In a shell, put JSON in single quotes: '{"order": "o-1"}'. A text is '"text"'.""",
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not valid JSON: {error}", hint="Use null, a number or a text.") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
