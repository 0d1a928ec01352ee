"""What messages, logs and tracebacks must not show: passwords, and the values that workflows work on.

The environment variable PGDURABLE_SHOW_VALUES=1 lets errors show values all the same, for a developer's machine. It
never shows a password.
"""

from __future__ import annotations

import os
import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgdurable.errors import ConnectionFailed

__all__ = ["SHOW_VALUES", "Dsn", "read_dsn", "server_said"]

SHOW_VALUES = os.environ.get("PGDURABLE_SHOW_VALUES", "") not in ("", "0")
"""Read once, when the process begins."""


class Dsn(str):
    """A connection string, whose repr, as in a traceback with local variables, does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a connection string>"


def server_said(error: BaseException) -> str:
    """What PostgreSQL said, without what it had before it when it said so.

    DETAIL (`Failing row contains ...`, `Key (id)=...`) and CONTEXT (`COPY instances, line 1, column input: ...`) hold
    rows, and so payloads. The message itself names tables, columns, constraints and types.
    """
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    if primary is None or SHOW_VALUES:
        return str(error).strip()  # libpq's own, or psycopg's: about connections
    return primary.strip()


_SHAPE = "It looks like postgresql://user@host:5432/database, or 'host=... dbname=...'."
_SIGNS = "In a URI, a password's own / @ : ? # and % are written %2F %40 %3A %3F %23 and %25."


def read_dsn(dsn: Dsn) -> tuple[Dsn, frozenset[str]]:
    """The connection string and the names of the parameters it has.

    Raises ConnectionFailed, without the parts that libpq would repeat: they may be a password's.
    """
    try:
        params = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        said = re.sub(r'"[^"]*"?|\'[^\']*\'?', '"..."', str(error).strip())
        raise ConnectionFailed(f"the DSN cannot be read: {said}", hint=f"{_SHAPE} {_SIGNS}") from None
    wrong = [key for key in ("host", "port", "dbname") if not _may_be(key, str(params.get(key, "")))]
    there = frozenset(params)
    params.clear()
    if wrong:
        # Looked up, and shown in messages, it would be part of a password that was not written as it should be.
        raise ConnectionFailed(f"the DSN cannot be read: its {wrong[0]} cannot be one", hint=_SIGNS)
    return dsn, there


def _may_be(key: str, value: str) -> bool:
    return not re.search("[@?#]", value) and (key != "port" or re.fullmatch(r"[\d,]*", value) is not None)
