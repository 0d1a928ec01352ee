"""`prune`: what workers do hour by hour, at once: ended instances and old history leave."""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import timedelta
from typing import Annotated

import psycopg
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pgdurable._engine.connections import close_pool, connect_failed, is_passing, make_pool, probe
from pgdurable._engine.sweeper import Sweeper, Swept
from pgdurable._secret import server_said
from pgdurable._store import migrations
from pgdurable.cli.options import Dsn, Schema, Target, duration, target
from pgdurable.cli.text import count, screen
from pgdurable.errors import PgDurableError, SchemaError

__all__ = ["prune"]


def prune(
    ctx: typer.Context,
    older_than: Annotated[
        timedelta | None,
        typer.Option(
            "--older-than",
            parser=duration,
            metavar="DURATION",
            help="Remove what ended longer ago than this (30d, 12h, ...), whatever the retentions say; "
            "workflows that are kept for ever are kept. Default: what the retentions say.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many would leave.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Remove ended instances that are past their retention, and the history of removed ones."""
    where = target(ctx, dsn, schema, application="pgdurable prune")
    with where.session() as session:
        migrations.check(session.conn, where.schema)
    swept = asyncio.run(_sweep(where, older_than, dry_run))
    out = screen()
    if not swept.complete:
        raise PgDurableError(
            f"somebody else keeps removing instances from schema {where.schema} just now",
            detail=f"So far removed here: {count(swept.removed, 'instance')}.",
            hint="A worker does what `prune` does. Try again in a while.",
        )
    if dry_run:
        out.print(f"{count(swept.removed, 'instance')} of {swept.looked:,} old enough to look at would be removed")
        return
    out.print(f"removed {count(swept.removed, 'instance')}")
    out.print(f"dropped {count(swept.partitions, 'partition')} of history, and {count(swept.history, 'row')} of others")
    if swept.undroppable:
        screen(stderr=True).print(
            f"{count(swept.undroppable, 'partition')} of history can be dropped, and somebody is reading history. "
            "Try again, or as the owner of the tables, who need not wait."
        )


async def _sweep(where: Target, older_than: timedelta | None, dry_run: bool) -> Swept:
    await probe(where.dsn)
    pool = await make_pool(where.dsn, max_size=1)
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
            console=screen(stderr=True), disable=not sys.stderr.isatty(), transient=True,
        ) as bar:  # fmt: skip
            task = bar.add_task("looking", total=None)
            first: list[int] = []

            def tell(swept: Swept, place: uuid.UUID, before: uuid.UUID) -> None:
                # Ids are time: how far along the ids is how far along the time.
                if not first and place.int:
                    first.append(place.int >> 80)
                done, total = (place.int >> 80) - first[0], max((before.int >> 80) - first[0], 1)
                bar.update(task, description=f"{swept.removed:,} removed", completed=done, total=total)

            return await Sweeper(pool, where.schema, hurry=True, on_step=tell).sweep(older_than, dry=dry_run)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"the role may not remove instances from schema {where.schema}: {error.diag.message_primary}",
            hint="Use the role that migrated the schema, or grant delete on instances, instance_keys, history, events.",
        ) from None
    except psycopg.Error as error:
        if is_passing(error):
            raise connect_failed(where.dsn, error) from None
        raise PgDurableError(f"PostgreSQL refused: {server_said(error)}") from None
    finally:
        await close_pool(pool)
