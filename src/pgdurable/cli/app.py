"""The `pgdurable` command: its sub-commands, its common options, and how errors look."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import psycopg
import typer
from typer.core import TyperGroup

from pgdurable._store.migrations import latest_version
from pgdurable.cli import (
    bench,
    doctor,
    extension,
    histories,
    instances,
    operations,
    prune,
    queues,
    schedules,
    show,
    tables,
    talk,
    worker,
)
from pgdurable.cli.options import Dsn, Schema, remember
from pgdurable.cli.text import print_error
from pgdurable.errors import PgDurableError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Turns errors of ours into a message and an exit code; a traceback is for bugs only."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PgDurableError as error:
            print_error(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


app = typer.Typer(
    name="pgdurable",
    cls=_Commands,
    help="Durable execution for PostgreSQL.",
    epilog="Where the database is: --dsn, else PGDURABLE_DSN, else libpq's own variables (PGHOST, PGDATABASE, ...).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(
            f"pgdurable {metadata.version('pgdurable')} (schema version {latest_version()}, "
            f"Python {platform.python_version()}, libpq {psycopg.pq.version_pretty(psycopg.pq.version())})"
        )
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
    dsn: Dsn = None,
    schema: Schema = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    remember(ctx, dsn, schema)


for command in (
    tables.migrate,
    extension.extension,
    worker.worker,
    instances.start,
    instances.list_,
    show.show,
    instances.signal,
    talk.update,
    talk.query,
    talk.state,
    talk.stream,
    operations.cancel,
    operations.terminate,
    operations.pause,
    operations.resume,
    operations.retry,
    operations.fork,
    operations.delete,
    histories.export,
    histories.replay,
    schedules.schedules,
    doctor.doctor,
    prune.prune,
    bench.bench,
    tables.uninstall,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(queues.app, name="queues")
app.add_typer(schedules.schedule, name="schedule")


def main() -> None:
    """What the `pgdurable` command runs."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign must not break a command
    app(prog_name="pgdurable")
