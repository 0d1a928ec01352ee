"""Loads the SQL that lives in `sql/` and fits it to a namespace.

A file of named queries holds blocks headed ``-- name: some_name``. `@extschema@` stands for the schema.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

__all__ = ["channel_of", "named_queries", "quote_schema", "sql_files", "substitute"]

_NAME = re.compile(r"^--\s*name:\s*(\w+)\s*$", re.MULTILINE)


def quote_schema(schema: str) -> str:
    """The schema as an SQL identifier; raises ValueError for a name PostgreSQL cannot hold."""
    if not schema or "\0" in schema or len(schema.encode()) > 50:
        raise ValueError(f"a schema name has 1 to 50 bytes and no NUL, found {schema!r}")
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", schema):
        raise ValueError(f"a schema name has lower-case letters, digits and underscores, found {schema!r}")
    return schema


def channel_of(schema: str) -> str:
    """The namespace's NOTIFY channel, the same as its SQL function `channel()` gives."""
    return f"pgdurable_{quote_schema(schema)}"


def substitute(text: str, schema: str) -> str:
    """The SQL text with `@extschema@` replaced by the schema."""
    return text.replace("@extschema@", quote_schema(schema))


def sql_files(folder: str) -> list[tuple[str, str]]:
    """(file name, text) of every SQL file in a folder of `sql/`, in order of name."""
    root = files("pgdurable") / "_sql" / folder
    return sorted(
        (entry.name, entry.read_text(encoding="utf-8")) for entry in root.iterdir() if entry.name.endswith(".sql")
    )


@lru_cache(maxsize=64)
def named_queries(file: str, schema: str) -> dict[str, str]:
    """The named queries of `sql/queries/<file>.sql`, by name, for this schema."""
    text = (files("pgdurable") / "_sql" / "queries" / f"{file}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(substitute(text, schema))
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
