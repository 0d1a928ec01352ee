"""Who may do what: the four group roles of a namespace, their grants, row-level security. The SQL is in `sql/roles`.

Roles belong to the whole cluster, schemas to one database: so a role's name begins with its namespace's. Which roles a
schema was set up for is read from its own access list, so nothing has to be remembered elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from pgdurable._store.sql import named_queries, quote_schema, split_commands, substitute
from pgdurable.errors import SchemaError

__all__ = [
    "Roles",
    "close_to_public",
    "drop",
    "ensure",
    "grant",
    "revoke",
    "row_security",
    "set_row_security",
    "setup_of",
    "statements",
]

_KINDS = ("reader", "client", "worker", "admin")
_LONGEST = 63  # bytes of an identifier; what is longer the server cuts off
_VIEWS_AS_INVOKER = 150000


@dataclass(frozen=True)
class Roles:
    """The group roles of a namespace: `<prefix>_reader`, `_client`, `_worker` and `_admin`.

    Raises ValueError for a prefix that no role's name can begin with.
    """

    prefix: str

    def __post_init__(self) -> None:
        longest = max(len(name.encode(errors="surrogatepass")) for name in self.names)
        if not self.prefix or "\0" in self.prefix or longest > _LONGEST or not _encodable(self.prefix):
            raise ValueError(
                f"a role prefix is text of 1 to {_LONGEST - len('_reader')} bytes without NUL, found {self.prefix!r}"
            )
        if self.prefix.startswith("pg_"):
            raise ValueError(f"names of roles that begin with pg_ are PostgreSQL's own, found {self.prefix!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The four names, as they are."""
        return tuple(f"{self.prefix}_{kind}" for kind in _KINDS)

    def fill(self, text: str) -> str:
        """The SQL text with `@reader@` and so on replaced by the quoted names, `@prefix@` by a literal."""
        quoted = {kind: sql.Identifier(name).as_string(None) for kind, name in zip(_KINDS, self.names, strict=True)}
        quoted["prefix"] = sql.Literal(self.prefix).as_string(None)
        return re.sub("@(reader|client|worker|admin|prefix)@", lambda match: quoted[match[1]], text)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _commands(file: str, schema: str, roles: Roles | None) -> list[str]:
    text = substitute((files("pgdurable") / "_sql" / "roles" / f"{file}.sql").read_text(encoding="utf-8"), schema)
    # Cut before the names go in: they may hold anything.
    return [command if roles is None else roles.fill(command) for command in split_commands(text)]


def _run(cur: psycopg.Cursor[Any], file: str, schema: str, roles: Roles | None = None) -> None:
    for command in _commands(file, schema, roles):
        cur.execute(command.encode())


def statements(schema: str, prefix: str | None = None, *, row_security: bool = False) -> list[str]:
    """What an administrator runs where the migrating role may not create roles: SQL commands, in order."""
    roles = Roles(prefix or quote_schema(schema))
    found = [c for file in ("create", "grants") for c in _commands(file, schema, roles)]
    found += [f"-- PostgreSQL 15 and later only.\n{c}" for c in _commands("views_for_clients", schema, roles)]
    if row_security:
        found += _commands("row_security_off", schema, roles) + _commands("row_security_on", schema, roles)
    return found


def close_to_public(cur: psycopg.Cursor[Any], schema: str) -> None:
    """Takes from PUBLIC what it has by default. To be called whenever functions or views were created."""
    _run(cur, "public", schema)
    if cur.connection.info.server_version >= _VIEWS_AS_INVOKER:
        _run(cur, "views_as_invoker", schema)


def setup_of(cur: psycopg.Cursor[Any], schema: str) -> Roles | None:
    """The roles the schema was set up for, or None."""
    cur.execute(named_queries("roles", schema)["admitted"], (schema,), prepare=False)
    admitted = {row[0] for row in cur.fetchall()}
    for name in sorted(admitted):
        prefix = name.removesuffix("_reader")
        if prefix != name and admitted.issuperset(f"{prefix}_{kind}" for kind in _KINDS):
            return Roles(prefix)
    return None


def ensure(cur: psycopg.Cursor[Any], schema: str, prefix: str | None) -> Roles:
    """The schema's roles; creates those that are missing.

    Raises SchemaError: the role may not create roles, or the schema was set up for others.
    """
    there = setup_of(cur, schema)
    roles = Roles(prefix) if prefix is not None else there or Roles(schema)
    if there is not None and there != roles:
        raise SchemaError(
            f"schema {schema} is set up for the roles {there.prefix}_...",
            detail=f"Expected the prefix {there.prefix!r}, found {prefix!r}.",
            hint=f"Leave the prefix out, or first revoke all that {', '.join(there.names)} have in schema {schema}.",
        )
    cur.execute(named_queries("roles", schema)["missing"], (list(roles.names),), prepare=False)
    missing = {row[0] for row in cur.fetchall()}
    try:
        for name, command in zip(roles.names, _commands("create", schema, roles), strict=True):
            if name in missing:
                cur.execute(command.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"this role may not create roles, and there is no {', '.join(sorted(missing))}",
            detail=error.diag.message_primary,
            hint="Let a role with CREATEROLE create them (pgdurable migrate --roles --print shows the SQL), "
            "then run this again.",
        ) from error
    return roles


def grant(cur: psycopg.Cursor[Any], schema: str, roles: Roles) -> None:
    """Gives the roles their rights, and takes away any others they have in the schema."""
    _run(cur, "grants", schema, roles)
    if cur.connection.info.server_version >= _VIEWS_AS_INVOKER:
        _run(cur, "views_for_clients", schema, roles)


def revoke(cur: psycopg.Cursor[Any], schema: str, roles: Roles) -> None:
    """Takes from the roles every right they have in the schema."""
    _run(cur, "revoke", schema, roles)


def drop(cur: psycopg.Cursor[Any], roles: Roles) -> list[str]:
    """Drops the roles, but not those on which something else depends, or that are not ours to drop; returns these."""
    left = []
    for name in roles.names:
        try:
            with cur.connection.transaction():
                cur.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(name)))
        except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.InsufficientPrivilege):
            left.append(name)
    return left


def row_security(cur: psycopg.Cursor[Any], schema: str) -> bool:
    """Whether row-level security is on."""
    cur.execute(named_queries("roles", schema)["row_security"], (schema,), prepare=False)
    row = cur.fetchone()
    return row is not None and bool(row[0])


def set_row_security(cur: psycopg.Cursor[Any], schema: str, roles: Roles | None, on: bool) -> None:
    """Switches row-level security by submitter on or off. Locks the tables for a moment; waits 5 s for them at most.

    Raises SchemaError: it is to be switched on, and the schema has no roles.
    """
    if on and roles is None:
        raise SchemaError(
            f"schema {schema} has no roles that row-level security could tell apart",
            hint="Make them: pgdurable migrate --roles --rls",
        )
    cur.execute("set local lock_timeout = '5s'")
    _run(cur, "row_security_off", schema, roles)
    if on:
        _run(cur, "row_security_on", schema, roles)
