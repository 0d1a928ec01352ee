"""`queues`: what stands in them and what their limits are; `queues set`, `pause` and `resume`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pgdurable._client.queues import PartitionInfo, QueueInfo
from pgdurable.cli.options import Dsn, Schema, Target, target
from pgdurable.cli.text import clean, one_line_json, screen, short_clock

__all__ = ["app"]

app = typer.Typer(
    help="Show queues and their limits; set, pause and resume them.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.", show_default=False)]
Partition = Annotated[
    str | None, typer.Option("--partition", help="Only this partition of it.", show_default=False)
]  # fmt: skip


def _limit(text: str, is_rate: bool) -> Any:
    """What an option says: a number, `COUNT/SECONDS` for a rate, or `none`."""
    if text.lower() == "none":
        return None
    try:
        if not is_rate:
            return int(text)
        count, _, window = text.partition("/")
        return int(count), float(window)
    except ValueError:
        expected = "COUNT/SECONDS, for example 100/60" if is_rate else "a whole number"
        raise typer.BadParameter(f"expected {expected}, or none; found {text!r}") from None


@app.callback()
def queues(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Show queues and their limits; set, pause and resume them."""
    if ctx.invoked_subcommand is not None:
        if dsn is not None or schema is not None:
            before = ctx.obj or (None, None)
            ctx.obj = (dsn if dsn is not None else before[0], schema if schema is not None else before[1])
        return
    where = target(ctx, dsn, schema)
    with where.client() as client:
        found = client.queues.list()
    if json:
        for info in found:
            typer.echo(one_line_json(_plain(info)))
        return
    _print(found, where)


@app.command("set")
def set_(
    ctx: typer.Context,
    name: Name,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", metavar="N", help="Held by all workers at once; none: no limit.")
    ] = None,
    worker_concurrency: Annotated[
        str | None, typer.Option("--worker-concurrency", metavar="N", help="Held by one worker at once.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="COUNT/SECONDS", help="How many may begin within how long.")
    ] = None,
    partition_concurrency: Annotated[
        str | None, typer.Option("--partition-concurrency", metavar="N", help="As --concurrency, of each partition.")
    ] = None,
    partition_worker_concurrency: Annotated[
        str | None, typer.Option("--partition-worker-concurrency", metavar="N", help="As --worker-concurrency.")
    ] = None,
    partition_rate: Annotated[
        str | None, typer.Option("--partition-rate", metavar="COUNT/SECONDS", help="As --rate, of each partition.")
    ] = None,
    partition: Partition = None,
    weight: Annotated[
        int | None, typer.Option("--weight", min=1, max=1000, help="With --partition: its share beside the others.")
    ] = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Set limits of a queue, or of one partition of it; what is not given stays."""
    given = {
        "concurrency": concurrency, "worker_concurrency": worker_concurrency, "rate": rate,
        "partition_concurrency": partition_concurrency, "partition_worker_concurrency": partition_worker_concurrency,
        "partition_rate": partition_rate,
    }  # fmt: skip
    limits: dict[str, Any] = {
        what: _limit(text, what.endswith("rate")) for what, text in given.items() if text is not None
    }
    if weight is not None:
        limits["weight"] = weight
    if not limits:
        raise typer.BadParameter("say what to set, for example --concurrency 10")
    of_each = [f"--{what.replace('_', '-')}" for what in limits if what.startswith("partition")]
    if partition is not None and of_each:
        raise typer.BadParameter("is for the queue, not for one partition", param_hint=of_each[0])
    if partition is None and weight is not None:
        raise typer.BadParameter("goes with --partition", param_hint="--weight")
    _set(target(ctx, dsn, schema), name, partition, limits)


@app.command()
def pause(ctx: typer.Context, name: Name, partition: Partition = None, dsn: Dsn = None, schema: Schema = None) -> None:
    """Let nothing of a queue begin or go on; what runs goes on to its next wait."""
    _set(target(ctx, dsn, schema), name, partition, {"paused": True})


@app.command()
def resume(ctx: typer.Context, name: Name, partition: Partition = None, dsn: Dsn = None, schema: Schema = None) -> None:
    """Let a paused queue go on."""
    _set(target(ctx, dsn, schema), name, partition, {"paused": False})


def _set(where: Target, name: str, partition: str | None, what: dict[str, Any]) -> None:
    with where.client() as client:
        if partition is None:
            client.queues.set(name, **what)
        else:
            client.queues.set_partition(name, partition, **what)
    said = {key: "no limit" if value is None else _shown(value) for key, value in what.items()}
    of = f"partition {clean(partition)} of " if partition is not None else ""
    screen().print(f"{of}queue {clean(name)}: " + ", ".join(f"{key} {value}" for key, value in said.items()))


def _shown(value: Any) -> str:
    return f"{value[0]}/{value[1]:g}s" if isinstance(value, tuple) else str(value)


def _plain(info: QueueInfo) -> dict[str, Any]:
    found = {name: value for name, value in vars(info).items() if name not in ("partitions", "oldest_due")}
    found["oldest_due"] = info.oldest_due and info.oldest_due.isoformat()
    found["partitions"] = [vars(partition) for partition in info.partitions]
    return found


def _print(found: list[QueueInfo], where: Target) -> None:
    out = screen()
    if not found:
        out.print(
            f"nothing stands in any queue, and none has limits. Set some: {where.command('queues', 'set', 'QUEUE')}"
        )
        return
    table, now = Table(box=None, pad_edge=False), datetime.now().astimezone()
    for name, right in (
        ("QUEUE", False), ("DUE", True), ("LATER", True), ("RUNNING", True), ("LISTENERS", True),
        ("WAITS SINCE", False), ("LIMITS", False),
    ):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "LIMITS")
    for info in found:
        table.add_row(
            Text(clean(info.name)), str(info.due), str(info.later), str(info.running),
            Text(str(info.listeners), style="red" if info.due and not info.listeners else ""),
            "" if info.oldest_due is None else short_clock(info.oldest_due, now), Text(clean(_limits(info))),
        )  # fmt: skip
    out.print(table)


def _limits(info: QueueInfo | PartitionInfo) -> str:
    """In one line: what is limited, and how."""
    parts = ["paused"] if info.paused else []
    for name in ("concurrency", "worker_concurrency", "rate", "partition_concurrency", "partition_worker_concurrency",
                 "partition_rate", "weight"):  # fmt: skip
        value = getattr(info, name, None)
        if value is not None and not (name == "weight" and value == 1):
            parts.append(f"{name.replace('_', ' ')} {_shown(value)}")
    for partition in getattr(info, "partitions", ()):
        parts.append(f"{partition.partition} ({_limits(partition) or 'as the others'})")
    return ", ".join(parts)
