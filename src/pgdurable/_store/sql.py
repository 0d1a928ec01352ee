"""Loads the SQL that lives in `sql/` and fits it to a namespace.

A file of named queries holds blocks headed ``-- name: some_name``. `@extschema@` stands for the schema.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

__all__ = ["channel_of", "named_queries", "quote_schema", "split_commands", "sql_files", "substitute"]

_NAME = re.compile(r"^--\s*name:\s*(\w+)\s*$", re.MULTILINE)


def quote_schema(schema: str) -> str:
    """The schema as an SQL identifier; raises ValueError for a name PostgreSQL cannot hold."""
    if not isinstance(schema, str) or not re.fullmatch(r"[a-z_][a-z0-9_]*", schema):
        raise ValueError(f"a schema name has lower-case letters, digits and underscores, found {schema!r:.80}")
    if len(schema) > 50:
        raise ValueError(f"a schema name has 1 to 50 bytes, found {schema!r:.80}")
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


@lru_cache(maxsize=1024)
def split_commands(text: str) -> tuple[str, ...]:
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
    return tuple(commands)


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
