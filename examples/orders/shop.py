"""The shop around the workflows: its tables, its customers, and the orders they place."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from .workflows import BIG_CENTS

MARK = "pgdurable demo shop"
ACCOUNTS = 250
STREETS = ("Mill Lane", "Station Road", "Quay Street", "Hill Rise")
PRICES = {f"sku-{n:02}": 900 + 370 * n for n in range(1, 41)}


class NotOurShop(Exception):
    """There is a schema `shop` that this demo has not made."""


@dataclass(frozen=True)
class Order:
    """One order, as a customer places it."""

    order_id: str
    account: int
    sku: str
    n: int
    cents: int
    address: str

    @property
    def big(self) -> bool:
        return self.cents >= BIG_CENTS

    @property
    def arguments(self) -> tuple[str, int, str, int, int, str]:
        """As the workflow `order` takes them."""
        return self.order_id, self.account, self.sku, self.n, self.cents, self.address


def place_orders(count: int, seed: int, run: int) -> list[Order]:
    """`count` orders, the same for the same seed. About one in ten is big enough to need a person's approval."""
    rng = random.Random(seed)
    orders = []
    for number in range(1, count + 1):
        sku = rng.choice(list(PRICES))
        n = -(-BIG_CENTS // PRICES[sku]) if rng.random() < 0.1 else rng.randint(1, 3)
        address = f"{rng.randint(1, 99)} {rng.choice(STREETS)}"
        orders.append(Order(f"{run}-{number:05}", rng.randint(1, ACCOUNTS), sku, n, n * PRICES[sku], address))
    return orders


def open_shop(conn: psycopg.Connection[Any]) -> int:
    """Makes the shop's tables where they are missing. Returns the number of this run, from 1.

    A shop that is there is kept, with its books: orders of an earlier run that are not finished yet go on, and the
    proof covers them too.
    """
    with conn.transaction():
        found = conn.execute(
            "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = 'shop'"
        ).fetchone()
        if found is not None and not str(found[0]).startswith(MARK):
            raise NotOurShop("This database has a schema 'shop' of its own. Give the demo another database.")
        run = 1 if found is None else int(str(found[0]).rpartition(" ")[2]) + 1
        conn.execute("create schema if not exists shop")
        conn.execute(f"comment on schema shop is '{MARK}, run {run}'")
        for statement in (Path(__file__).parent / "shop.sql").read_text(encoding="utf-8").split(";"):
            conn.execute(statement)
    return run


def stock_up(conn: psycopg.Connection[Any], orders: list[Order]) -> None:
    """Gives the accounts money and the shelves goods: nearly enough for these orders, not quite."""
    spent: Counter[int] = Counter()
    wanted: Counter[str] = Counter()
    for order in orders:
        spent[order.account] += order.cents
        wanted[order.sku] += order.n
    money = [(id, spent[id] // 2 if id % 20 == 0 else spent[id]) for id in range(1, ACCOUNTS + 1)]
    goods = [(sku, wanted[sku] * (60 if place % 10 == 0 else 100) // 100) for place, sku in enumerate(PRICES)]
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            "insert into shop.accounts as a values (%s, %s, %s) on conflict (id) do update"
            " set opening_cents = a.opening_cents + excluded.opening_cents, cents = a.cents + excluded.cents",
            [(id, cents, cents) for id, cents in money],
        )
        cursor.executemany(
            "insert into shop.stock as s values (%s, %s, %s) on conflict (sku) do update"
            " set opening = s.opening + excluded.opening, n = s.n + excluded.n",
            [(sku, n, n) for sku, n in goods],
        )
