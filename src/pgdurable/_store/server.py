"""A connection on which a schema is worked on, and the server's refusals as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pgdurable._secret import Dsn, read_dsn, server_said
from pgdurable.errors import ConnectionFailed, PgDurableError, SchemaError

__all__ = ["connected", "explained", "require_server"]

_OLDEST_SERVER = 140000


def require_server(conn: psycopg.Connection[Any]) -> None:
    """Raises SchemaError where the server is older than what we work with."""
    if conn.info.server_version < _OLDEST_SERVER:
        raise SchemaError(
            "the server is too old",
            detail=f"Expected PostgreSQL 14 or later, found {conn.info.server_version // 10000}.",
            hint="Upgrade the server.",
        )


@contextmanager
def connected(dsn_or_conn: str | psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """The connection given, or one of its own to the DSN. Raises ConnectionFailed."""
    if not isinstance(dsn_or_conn, str):
        yield dsn_or_conn
        return
    dsn_or_conn, _ = read_dsn(Dsn(dsn_or_conn))
    try:
        conn = psycopg.connect(dsn_or_conn, autocommit=True)
    except psycopg.Error as error:
        raise ConnectionFailed(
            f"connecting to the server failed: {server_said(error)}",
            hint="Check that the server runs, and the host, database, user and password of the DSN.",
        ) from None
    with conn:
        yield conn


@contextmanager
def explained(schema: str) -> Iterator[None]:
    """Turns the server's refusals into errors of ours."""
    try:
        yield
    except PgDurableError:
        raise
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise ConnectionFailed(
            f"changing schema {schema} failed: the server is read-only ({server_said(error)})",
            hint="Connect to the primary; for a DSN with several hosts add target_session_attrs=read-write.",
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"the role may not use schema {schema} so: {server_said(error)}",
            hint="To migrate, a role must own the schema, or be granted create on the database; "
            f"to run, usage on schema {schema} and its tables.",
        ) from None
    except psycopg.OperationalError as error:
        raise ConnectionFailed(
            f"the server failed while schema {schema} was worked on: {server_said(error)}",
            hint="Nothing was changed. Try again.",
        ) from None
    except psycopg.DatabaseError as error:
        raise SchemaError(
            f"the server refused a command for schema {schema}: {server_said(error)}",
            # Of what is wrong with data (a constraint that rows violate) the detail would be the data.
            detail=None if (error.sqlstate or "")[:2] in ("22", "23") else error.diag.message_detail,
            hint=error.diag.message_hint or "Nothing was changed.",
        ) from None
