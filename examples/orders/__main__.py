"""The demo: `python -m examples.orders`. See the package's docstring."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg

import pgdurable as pgd

from . import proof, shop
from .chaos import DemoFailed, Run
from .display import Display
from .processes import Workers

NEXT = """\
[bold]Where to look next[/]
  examples/orders/workflows.py  all it takes: some two hundred lines of plain Python
  examples/README.md            on your own PostgreSQL; looking into the tables
  README.md                     how to write your own\
"""
KEPT = "The database is kept in {path}: --keep with it goes on there, --check besides only counts again."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.orders", description="A shop whose orders survive kill -9 of worker and database."
    )
    parser.add_argument("--orders", type=int, default=4000, help="how many orders come in (default 4000)")
    parser.add_argument("--seed", type=int, default=1, help="decides what is ordered and what fails (default 1)")
    parser.add_argument("--quiet", action="store_true", help="print the table only")
    parser.add_argument("--keep", metavar="PATH", help="keep the database in this folder, or go on with the one there")
    parser.add_argument("--check", action="store_true", help="only count again what a kept database holds")
    parser.add_argument(
        "--dsn", default=os.environ.get("PGDURABLE_DSN") or None,
        help="use this server (which is not crashed) instead of an embedded one; default $PGDURABLE_DSN",
    )  # fmt: skip
    given = parser.parse_args()
    if given.orders < 20:
        parser.error("--orders is at least 20: fewer would be done before anything can be killed")
    if given.dsn and given.keep:
        parser.error("--keep is for the embedded server; with --dsn the data is on that server anyway")
    if given.check and not (given.dsn or given.keep):
        parser.error("--check needs --keep PATH or --dsn DSN: something to look at")
    return given


def main() -> int:
    given = arguments()
    show = Display(quiet=given.quiet)
    # A polite kill ends like Ctrl-C: through every `finally`, so that nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with database(given) as (dsn, server):
            return check(dsn, show) if given.check else demo(given, dsn, server, show)
    except (DemoFailed, shop.NotOurShop, pgd.PgDurableError) as error:
        show.fails(str(error))
        return 1
    except KeyboardInterrupt:
        show.end()
        show.console.print("\nInterrupted; every process this demo started is gone.")
        return 130


@contextlib.contextmanager
def database(given: argparse.Namespace) -> Iterator[tuple[str, pgd.EmbeddedServer | None]]:
    if given.dsn:
        yield given.dsn, None
        return
    with pgd.EmbeddedServer(given.keep) as server:
        yield server.dsn, server


def demo(given: argparse.Namespace, dsn: str, server: pgd.EmbeddedServer | None, show: Display) -> int:
    show.intro(given.orders, crash=server is not None)
    asyncio.run(migrate(dsn))
    with psycopg.connect(dsn, autocommit=True) as conn:
        number = shop.open_shop(conn)
        orders = shop.place_orders(given.orders, given.seed, number)
        shop.stock_up(conn, orders)
    show.begin(len(orders))
    try:
        with Workers(dsn, number, given.seed) as workers:
            deadline_s = 100 + given.orders / 200
            run = Run(dsn, server, workers, orders, show, seed=given.seed, deadline_s=deadline_s)
            asyncio.run(run.go())
            time.sleep(1.2)  # the last worker's figures come with its next beat
    finally:
        show.end()
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = proof.check(conn, run.told)
        show.table(figures(conn, run, orders), found)
    wrong = sum(map(len, found.values()))
    if wrong:
        show.console.print(f"[bold red]The sums do not match: {wrong} findings.[/] Seed {given.seed}.")
    elif not given.quiet:
        show.console.print(NEXT)
        if given.keep:
            show.console.print(KEPT.format(path=given.keep))
    return 1 if wrong else 0


def check(dsn: str, show: Display) -> int:
    """The proof alone, over whatever the database holds."""
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            found = proof.check(conn, proof.Told())
            orders = conn.execute("select count(*) from durable.instances where workflow = 'order'").fetchone()
    except psycopg.errors.UndefinedTable:
        raise DemoFailed("this database has no shop to check; run the demo on it first") from None
    show.table([("orders", f"{orders[0] if orders else 0:,}")], found)
    return 1 if any(found.values()) else 0


async def migrate(dsn: str) -> None:
    """Makes pgdurable's tables, or brings them up to date. The same as `pgdurable migrate`."""
    async with pgd.Engine(dsn, workflows=[], migrate=True):
        pass


def figures(conn: psycopg.Connection[Any], run: Run, orders: list[shop.Order]) -> list[tuple[str, str]]:
    """The table's upper half, all of it asked from the database by SQL that anybody could ask."""

    def one(query: str) -> tuple[Any, ...]:
        return conn.execute(query, {"began": run.began_at}).fetchall()[0]  # type: ignore[no-any-return]

    ends = conn.execute(
        "select coalesce(output ->> 'end', status), count(*) from durable.instances"
        " where workflow = 'order' and created_at >= %s and status in ('completed', 'cancelled')"
        " group by 1 order by 2 desc",
        (run.began_at,),
    ).fetchall()
    (steps, retried) = one(
        "select count(*) filter (where status <> 'retried'), count(*) filter (where status = 'retried')"
        " from durable.steps where recorded_at >= %(began)s"
    )
    (best,) = one(
        "select max(n) from (select count(*) as n from durable.steps where recorded_at >= %(began)s"
        " and status <> 'retried' group by date_trunc('second', recorded_at)) s"
    )
    (signals, timers) = one(
        "select count(*) filter (where kind = 'signal'), count(*) filter (where kind = 'timer')"
        " from durable.history where recorded_at >= %(began)s"
    )
    p50, p99 = one(
        "select string_agg(to_char((stats ->> 'p50_ms')::float8, 'FM999990.0'), ' / ' order by id),"
        " string_agg(to_char((stats ->> 'p99_ms')::float8, 'FM999990.0'), ' / ' order by id)"
        " from durable.workers where started_at >= %(began)s and stats ->> 'p50_ms' is not null"
    )
    packings, closings, updates, places = one(
        "select (select count(*) from durable.instances where workflow = 'packing' and created_at >= %(began)s),"
        " (select count(*) from durable.instances where workflow = 'closing' and created_at >= %(began)s),"
        " (select count(*) from durable.updates where requested_at >= %(began)s),"
        " (select count(*) from durable.stream_items where written_at >= %(began)s)"
    )
    ended = sum(count for _, count in ends)
    rows = [
        ("orders at their end", f"{ended:,} of {len(orders):,}"),
        ("", ", ".join(f"{count:,} {end}" for end, count in ends)),
        ("durable steps", f"{steps:,}"),
        ("failed attempts, tried again", f"{retried:,}"),
        ("signals, timers, updates", f"{signals:,}, {timers:,}, {updates:,}"),
        ("packed in their depot's line", f"{packings:,}"),
        ("stream items, closings by schedule", f"{places:,}, {closings:,}"),
        ("steps/s, crashes included", f"{steps / run.seconds:,.0f} over {run.seconds:.1f} s"),
        ("steps/s, best second", f"{best:,}"),
        ("transition latency p50, per worker", f"{p50} ms"),
        ("transition latency p99, per worker", f"{p99} ms"),
    ]
    return rows + run.recoveries


if __name__ == "__main__":
    sys.exit(main())
