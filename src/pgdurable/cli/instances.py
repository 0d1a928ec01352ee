"""`start`, `list` and `signal`: what a client does, from a shell. Operations on instances are in operations.py."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from enum import Enum
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pgdurable.cli.options import Dsn, Schema, Target, json_argument, target
from pgdurable.cli.reasons import capable_workers
from pgdurable.cli.text import clean, one_line_json, print_block, screen, short_clock, span, styled_status
from pgdurable.client import InstanceInfo
from pgdurable.errors import InvalidInput, PgDurableError

__all__ = ["Status", "list_", "signal", "start", "warn_if_nobody"]


class Status(str, Enum):
    """What an instance can be."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


def start(
    ctx: typer.Context,
    workflow: Annotated[str, typer.Argument(help="The workflow's name.", show_default=False)],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT_JSON | ARG...]",
            help="One JSON object (arguments by name) or array (by position); or the arguments one by one: "
            "what reads as JSON is that value, anything else is a text.",
            show_default=False,
        ),
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", help="Your own id: the same id again starts nothing.", show_default=False)
    ] = None,
    queue: Annotated[str, typer.Option("--queue", help="Where it waits for a worker.")] = "default",
    priority: Annotated[int, typer.Option("--priority", help="In its queue the lower goes first.")] = 0,
    partition: Annotated[
        str | None, typer.Option("--partition", help="Whose share of the queue it takes.", show_default=False)
    ] = None,
    dedup: Annotated[
        str | None,
        typer.Option(
            "--dedup", help="While one with this key lives, starts nothing and prints its id.", show_default=False
        ),
    ] = None,
    delay: Annotated[float, typer.Option("--delay", min=0, help="Seconds before it may run.")] = 0.0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and print its result as JSON.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds to --wait. Default: for ever.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Start an instance and print its id."""
    if timeout is not None and not wait:
        raise typer.BadParameter("goes with --wait", param_hint="--timeout")
    args, kwargs = arguments_of(arguments or [])
    where = target(ctx, dsn, schema)
    with where.client() as client:
        handle = client.start(
            workflow, *args, kwargs=kwargs, id=id, queue=queue, priority=priority, partition=partition, dedup=dedup,
            delay=delay or None,
        )  # fmt: skip
        typer.echo(handle.id, err=wait)
        warn_if_nobody(where, workflow, None)
        if not wait:
            return
        try:
            result = handle.result(timeout)
        except TimeoutError as error:
            raise PgDurableError(
                str(error), hint=f"It goes on. See what it waits for: {where.command('show', handle.id)}"
            ) from None
    typer.echo(one_line_json(result))


def arguments_of(arguments: list[str]) -> tuple[list[Any], dict[str, Any] | None]:
    """Positional and keyword arguments for the workflow."""
    if len(arguments) == 1 and arguments[0].lstrip()[:1] in ("{", "["):
        value = json_argument(arguments[0], "INPUT_JSON")
        return (value, None) if isinstance(value, list) else ([], value)
    return [_argument(place, text) for place, text in enumerate(arguments, 1)], None


def _argument(place: int, text: str) -> Any:
    try:
        return json_argument(text, f"argument {place}")
    except InvalidInput:
        if text.lstrip()[:1] in ("{", "[", '"'):  # meant as JSON: a slip in it must not become a text
            raise
        return text


def warn_if_nobody(where: Target, workflow: str, version: str | None) -> None:
    with where.session() as session:
        if not capable_workers(session, workflow, version):
            screen(stderr=True).print(
                Text(
                    f"no living worker has workflow {clean(workflow)}: it stays pending until one comes. "
                    f"Start one: {where.command('worker', 'MODULE')}",
                    style="yellow",
                )
            )


def list_(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option("--status", help="Only these.", show_default=False)] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="Only of this workflow.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, the newest first.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """List instances, the newest first."""
    where = target(ctx, dsn, schema)
    wanted = None if status is None else status.value
    with where.client() as client:
        found = client.list(status=wanted, workflow=workflow, limit=limit)
        if json:
            for info in found:
                typer.echo(one_line_json(_state(info)))
            return
        instances = list(found)
    if not instances:
        screen().print("no instances" + (" like that" if wanted or workflow else ""))
        return
    with where.session() as session:
        now = session.row("clock")["now"]
    print_block(screen(wide=True), _table(instances, now))


_NOT_LOADED = ("input", "output", "error", "labels", "running_steps")


def _state(info: InstanceInfo) -> dict[str, Any]:
    return {f.name: getattr(info, f.name) for f in dataclasses.fields(info) if f.name not in _NOT_LOADED}


def _table(instances: list[InstanceInfo], now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ID", "WORKFLOW", "VERSION", "STATUS", "STARTED"):
        table.add_column(title, no_wrap=True)
    table.add_column("DURATION", no_wrap=True, justify="right")
    for info in instances:
        began = info.started_at or (info.created_at if info.owner is not None or info.finished_at else None)
        ends = info.finished_at or now
        table.add_row(
            clean(info.id),
            clean(info.workflow),
            clean(info.version or ""),
            styled_status(info.status),
            short_clock(began, now),
            "" if began is None else span(max((ends - began).total_seconds(), 0.0)),
        )
    return table


def signal(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The instance's id.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The name the workflow waits for.", show_default=False)],
    payload: Annotated[
        str, typer.Argument(metavar="[PAYLOAD_JSON]", help="What wait_signal returns.", show_default=False)
    ] = "null",
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Send a signal to an instance. It is durable when this returns."""
    value = json_argument(payload, "PAYLOAD_JSON")
    where = target(ctx, dsn, schema)
    with where.client() as client:
        client.signal(id, name, value)
    screen().print(f"sent signal {clean(name)} to instance {clean(id)}")
