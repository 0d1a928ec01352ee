"""A namespace with roles: its tables belong to a role that is no superuser, and people of each kind log in to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import pgdurable as pgd
from pgdurable._store.migrations import migrate

PASSWORD = "a word to pass by"
PEOPLE = {"ann": "client", "bob": "client", "wes": "worker", "ada": "admin", "rex": "reader", "eve": None}


class House:
    """A schema, its owner and its people. `@` in a statement is the schema, `@ann` the name of Ann's role."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.open: dict[str, psycopg.Connection[Any]] = {}
        self.root = psycopg.connect(dsn, autocommit=True)
        self.made: list[str] = []

    def name(self, who: str) -> str:
        """The name of a person's or group's role."""
        return f"{self.schema}_{who}"

    def login(self, who: str, options: str = "nosuperuser") -> None:
        """Makes a role that can log in."""
        text = sql.SQL("create role {} login password {} " + options)
        self.root.execute(text.format(sql.Identifier(self.name(who)), sql.Literal(PASSWORD)))
        self.made.append(who)

    def dsn_of(self, who: str) -> str:
        return make_conninfo(self.dsn, user=self.name(who), password=PASSWORD)

    def of(self, who: str) -> psycopg.Connection[Any]:
        """A session of that person's."""
        if who not in self.open:
            self.open[who] = psycopg.connect(self.dsn_of(who), autocommit=True)
        return self.open[who]

    def rows(self, who: str, text: str, *args: Any) -> list[tuple[Any, ...]]:
        cursor = self.of(who).execute(self.text(text), args or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, who: str, text: str, *args: Any) -> Any:
        ((value,),) = self.rows(who, text, *args)
        return value

    def text(self, text: str) -> str:
        for who in (*PEOPLE, *(kind for kind in PEOPLE.values() if kind), "owner"):
            text = text.replace(f"@{who}", self.name(who))
        return text.replace("@", self.schema)

    def admit(self) -> None:
        """Everybody gets a role and their group's rights."""
        for who, kind in PEOPLE.items():
            self.login(who)
            if kind is not None:
                self.root.execute(self.text(f"grant @{kind} to @{who}"))

    def engine(self, who: str, *workflows: Any, **options: Any) -> pgd.Engine:
        return pgd.Engine(self.dsn_of(who), schema=self.schema, workflows=workflows, **options)

    def client(self, who: str, **options: Any) -> pgd.Client:
        return pgd.Client(self.dsn_of(who), schema=self.schema, **options)

    def tidy(self) -> None:
        """Roles belong to the cluster: they go with the test."""
        for conn in self.open.values():
            conn.close()
        self.root.execute("set client_min_messages = warning")
        self.root.execute("set lock_timeout = '10s'")
        self.root.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(self.schema)))
        names = self.root.execute("select rolname from pg_roles where starts_with(rolname, %s)", (self.schema,))
        for (name,) in names.fetchall():
            self.root.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(name)))
            self.root.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
        self.root.close()


@pytest.fixture
def lot(dsn: str, schema: str) -> Iterator[House]:
    """A house to be built: there is an owner, who may create roles, and nothing else."""
    house = House(dsn, schema)
    try:
        house.login("owner", "nosuperuser createrole")
        database = house.root.info.dbname
        house.root.execute(
            sql.SQL("grant create on database {} to {}").format(
                sql.Identifier(database), sql.Identifier(house.name("owner"))
            )
        )
        yield house
    finally:
        house.tidy()


@pytest.fixture
def house(lot: House) -> House:
    """A migrated schema with roles and people in them; row-level security is off."""
    migrate(lot.dsn_of("owner"), lot.schema, roles=True)
    lot.admit()
    return lot


@pytest.fixture
def guarded(house: House) -> House:
    """The same with row-level security on."""
    migrate(house.dsn_of("owner"), house.schema, row_security=True)
    return house
