"""`export` and `replay`: recorded histories as a file, and whether the code of today still follows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.text import Text

from pgdurable._store.sql import named_queries
from pgdurable.cli.loading import load_module, load_options
from pgdurable.cli.options import Dsn, Schema, target
from pgdurable.cli.text import clean, count, screen
from pgdurable.errors import InvalidInput, NonDeterminismError, PgDurableError

__all__ = ["export", "replay"]


def export(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="The instances' ids.", show_default=False)
    ] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="The newest of this workflow.", show_default=False)
    ] = None,
    status: Annotated[str | None, typer.Option("--status", help="Of these, only such.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many of a workflow.")] = 100,
    redact: Annotated[
        bool, typer.Option("--redact", help="Replace texts and numbers in payloads by others of the same shape.")
    ] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Write the histories of instances as JSON lines, for `pgdurable replay` and `pgdurable.testing.replay`."""
    if bool(ids) == bool(workflow):
        raise typer.BadParameter("name instances by their ids, or a workflow by --workflow", param_hint="ID...")
    where = target(ctx, dsn, schema)
    with where.client() as client:
        if workflow is not None:
            found = [info.instance_id for info in client.list(status=status, workflow=workflow, limit=limit)]
            if not found:
                raise PgDurableError(f"there is no such instance of workflow {workflow}", hint=where.command("list"))
        else:
            found = [client.get(id).instance_id for id in ids or ()]
    from pgdurable.testing._export import write_history

    queries = named_queries("export", where.schema)
    with where.session() as session:
        for id in found:
            instance = session.conn.execute(queries["instance"], (id,)).fetchone()
            if instance is None:
                raise PgDurableError(f"no instance has the id {id}", hint=where.command("list"))
            for line in write_history(instance, _rows(session.conn, queries["history"], id), redact=redact):
                typer.echo(line)


def _rows(conn: psycopg.Connection[Any], query: str, id: Any) -> Iterator[tuple[Any, ...]]:
    last = 0
    while rows := conn.execute(query, (id, last)).fetchall():
        yield from rows
        last = rows[-1][0]


def replay(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="What `export` wrote.", exists=True, dir_okay=False, show_default=False),
    ],
    module: Annotated[
        str,
        typer.Option(
            "--import",
            metavar="MODULE[:VARIABLE]",
            help="The module whose import registers the workflows; VARIABLE names a dict of Engine options in it, of "
            "which `encryption` counts here.",
            show_default=False,
        ),
    ],
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Try the current code on histories of other versions too.")
    ] = False,
) -> None:
    """Check the code of today against recorded histories. Exits with 1 when one does not replay. Needs no database."""
    name, colon, variable = module.partition(":")
    loaded = load_module(name)
    encryption = load_options(loaded, variable).get("encryption") if colon else None
    from pgdurable.testing._export import read_histories
    from pgdurable.testing._replay import replay_recorded
    from pgdurable.workflow import registry

    out, bad, good = screen(), 0, 0
    for file in files:
        for recorded in read_histories(file):
            definition = registry.get(recorded.workflow, None if any_version else recorded.version)
            label = f"{clean(recorded.id)}  {clean(recorded.workflow)} v{clean(recorded.version or '?')}"
            try:
                replayed = replay_recorded(recorded, definition, encryption)
            except NonDeterminismError as error:
                bad += 1
                out.print(Text(f"differs  {label}", style="red"))
                out.print(Text(clean(str(error))))
            except InvalidInput as error:
                bad += 1
                out.print(Text(f"unfit    {label}", style="red"))
                out.print(Text(clean(str(error))))
            else:
                good += 1
                out.print(Text(f"follows  {label}, {count(replayed.events, 'event')}"))
    if bad:
        raise PgDurableError(
            f"{bad} of {bad + good} histories are not followed by the code of today",
            hint="Change the code, or give it a version= of its own, so that running instances end on the old one.",
        )
