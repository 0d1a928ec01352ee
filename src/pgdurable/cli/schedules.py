"""`schedules` and `schedule ...`: what the clock starts, from a shell."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any

import typer
from rich.table import Table

from pgdurable._client.schedules import Schedule
from pgdurable.cli.options import Dsn, Schema, json_argument, remember, target
from pgdurable.cli.text import clean, clock, one_line_json, print_block, screen, span
from pgdurable.errors import InvalidInput

__all__ = ["schedule", "schedules"]


class Overlap(str, Enum):
    """What becomes of a tick while an instance of before still runs."""

    SKIP = "skip"
    BUFFER_ONE = "buffer_one"
    BUFFER_ALL = "buffer_all"
    CANCEL_OTHER = "cancel_other"
    ALLOW = "allow"


class BackfillOverlap(str, Enum):
    """How the ticks of a backfill run."""

    BUFFER_ALL = "buffer_all"
    ALLOW = "allow"


Name = Annotated[str, typer.Argument(help="The schedule's name.", show_default=False)]
Cron = Annotated[str | None, typer.Option("--cron", help="Five fields (six with seconds), or @daily and the like.")]
Tz = Annotated[str | None, typer.Option("--tz", help="The zone of --cron, for example Europe/Berlin. Default: UTC.")]
Every = Annotated[float | None, typer.Option("--every", min=0.1, help="Seconds from one tick to the next.")]
At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="Once, at this time (ISO 8601; local to --tz).")]
How = Annotated[Overlap | None, typer.Option("--overlap", help="While an instance of before runs. Default: skip.")]
CatchUp = Annotated[
    float | None,
    typer.Option(
        "--catch-up", min=0, help="How old missed ticks are made good, in seconds. Default: only the last one."
    ),
]
Jitter = Annotated[float | None, typer.Option("--jitter", min=0, help="Seconds by which a tick may be put off.")]
OnFailure = Annotated[
    bool | None, typer.Option("--pause-on-failure/--go-on", help="Pause when an instance fails.", show_default=False)
]

schedule = typer.Typer(
    help="Make a schedule, and do things to it.", no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


@schedule.callback()
def common(ctx: typer.Context, dsn: Dsn = None, schema: Schema = None) -> None:
    if dsn is not None or schema is not None:
        remember(ctx, dsn, schema)


def _time(text: str, option: str) -> datetime:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time like 2026-03-29T03:00:00+02:00", param_hint=option) from None


def _aware(text: str, option: str) -> datetime:
    found = _time(text, option)
    if found.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no offset: add Z or +02:00", param_hint=option)
    return found


def _said(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


@schedule.command("put")
def put(
    ctx: typer.Context,
    name: Name,
    workflow: Annotated[str, typer.Argument(help="The workflow's name.", show_default=False)],
    input: Annotated[
        str, typer.Argument(metavar="[INPUT_JSON]", help="A JSON object or array of its arguments.")
    ] = "{}",
    cron: Cron = None,
    tz: Tz = None,
    every: Every = None,
    at: At = None,
    overlap: How = None,
    catch_up: CatchUp = None,
    jitter: Jitter = None,
    pause_on_failure: OnFailure = None,
    queue: Annotated[str, typer.Option("--queue", help="Of its instances.")] = "default",
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Make a schedule, or change the one of this name into this."""
    value = json_argument(input, "INPUT_JSON")
    if not isinstance(value, (dict, list)):
        raise InvalidInput("INPUT_JSON is neither an object nor an array", hint="Arguments by name, or by position.")
    args, kwargs = (value, None) if isinstance(value, list) else ([], value)
    options = _said(
        cron=cron, tz=tz, every=every, at=None if at is None else _time(at, "--at"),
        overlap=None if overlap is None else overlap.value, catch_up=catch_up, jitter=jitter,
        pause_on_failure=pause_on_failure,
    )  # fmt: skip
    with target(ctx, dsn, schema).client() as client:
        _print(client.schedule(name, workflow, *args, kwargs=kwargs, queue=queue, **options))


@schedule.command("edit")
def edit(
    ctx: typer.Context,
    name: Name,
    input: Annotated[str | None, typer.Option("--input", metavar="JSON", help="Its arguments.")] = None,
    cron: Cron = None,
    tz: Tz = None,
    every: Every = None,
    at: At = None,
    overlap: How = None,
    catch_up: CatchUp = None,
    jitter: Jitter = None,
    pause_on_failure: OnFailure = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Change some things of a schedule and leave the others."""
    changes = _said(
        cron=cron, tz=tz, every=every, at=None if at is None else _time(at, "--at"),
        overlap=None if overlap is None else overlap.value, catch_up=catch_up, jitter=jitter,
        pause_on_failure=pause_on_failure,
    )  # fmt: skip
    if input is not None:
        value = json_argument(input, "--input")
        changes["args" if isinstance(value, list) else "kwargs"] = value
    with target(ctx, dsn, schema).client() as client:
        client.schedules.edit(name, **changes)
        _print(client.schedules.get(name))


@schedule.command("show")
def show(ctx: typer.Context, name: Name, dsn: Dsn = None, schema: Schema = None) -> None:
    """Everything about a schedule, and its next ticks."""
    with target(ctx, dsn, schema).client() as client:
        _print(client.schedules.get(name))
        for tick in client.schedules.next(name, 5):
            screen().print(f"  next: {tick.isoformat()}")


@schedule.command("pause")
def pause(
    ctx: typer.Context,
    name: Name,
    note: Annotated[str | None, typer.Argument(help="Why, for people.", show_default=False)] = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """It starts nothing until it is resumed. What runs goes on."""
    with target(ctx, dsn, schema).client() as client:
        changed = client.schedules.pause(name, note)
    screen().print(f"schedule {clean(name)} {'is paused' if changed else 'was paused already'}")


@schedule.command("resume")
def resume(ctx: typer.Context, name: Name, dsn: Dsn = None, schema: Schema = None) -> None:
    """It goes on with its ticks from now on."""
    with target(ctx, dsn, schema).client() as client:
        changed = client.schedules.resume(name)
    screen().print(f"schedule {clean(name)} {'goes on' if changed else 'was not paused'}")


@schedule.command("trigger")
def trigger(
    ctx: typer.Context,
    name: Name,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for a worker.")] = 10.0,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Start one instance now and print its id."""
    with target(ctx, dsn, schema).client() as client:
        try:
            typer.echo(client.schedules.trigger(name, timeout=timeout).id)
        except TimeoutError as error:
            raise InvalidInput(str(error), hint="It is started when a worker that has the workflow comes.") from None


@schedule.command("backfill")
def backfill(
    ctx: typer.Context,
    name: Name,
    since: Annotated[str, typer.Argument(metavar="SINCE", help="ISO 8601 with an offset.", show_default=False)],
    until: Annotated[str | None, typer.Argument(metavar="[UNTIL]", help="Default: now.", show_default=False)] = None,
    overlap: Annotated[BackfillOverlap | None, typer.Option("--overlap", help="In turn, or all at once.")] = None,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Start the ticks of a past range that have no instance yet."""
    with target(ctx, dsn, schema).client() as client:
        client.schedules.backfill(
            name, _aware(since, "SINCE"), None if until is None else _aware(until, "UNTIL"),
            overlap=None if overlap is None else overlap.value,
        )  # fmt: skip
    screen().print(f"asked for the ticks of schedule {clean(name)} since {clean(since)}")


@schedule.command("delete")
def delete(ctx: typer.Context, name: Name, dsn: Dsn = None, schema: Schema = None) -> None:
    """Remove a schedule. The instances it started go on."""
    with target(ctx, dsn, schema).client() as client:
        there = client.schedules.delete(name)
    screen().print(f"schedule {clean(name)} {'is removed' if there else 'was not there'}")


@schedule.command("next")
def next_(
    ctx: typer.Context,
    name: Name,
    n: Annotated[int, typer.Argument(metavar="[N]", min=1, max=10_000, help="How many.")] = 5,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """Print its next ticks, in its zone, one per line."""
    with target(ctx, dsn, schema).client() as client:
        for tick in client.schedules.next(name, n):
            typer.echo(tick.isoformat())


def schedules(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    dsn: Dsn = None,
    schema: Schema = None,
) -> None:
    """List the schedules."""
    with target(ctx, dsn, schema).client() as client:
        found = client.schedules.list()
    if json:
        for one in found:
            typer.echo(one_line_json(vars(one)))
        return
    if not found:
        screen().print("no schedules")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("NAME", "WORKFLOW", "WHEN", "STATE", "NEXT", "LAST"):
        table.add_column(title, no_wrap=True)
    for one in found:
        table.add_row(
            clean(one.name), clean(one.workflow), clean(_when(one)), one.state, clock(one.next_at), clock(one.last_at)
        )  # fmt: skip
    print_block(screen(wide=True), table)


def _when(one: Schedule) -> str:
    if one.cron is not None:
        return f"{one.cron} {one.tz}"
    return f"every {span(one.every)}" if one.every is not None else f"at {clock(one.at)}"


def _print(one: Schedule) -> None:
    out = screen()
    out.print(f"schedule {clean(one.name)}: {clean(one.workflow)}, {clean(_when(one))}, {one.state}")
    if one.note is not None:
        out.print(f"  note: {clean(one.note)}")
    for word, value in (
        ("overlap", one.overlap), ("catch up", one.catch_up), ("jitter", one.jitter),
        ("next tick", one.next_at and clock(one.next_at)), ("last", one.last_id),
        ("waiting", ", ".join(map(clock, one.buffered[:10]))),
        ("pauses on failure", "yes" if one.pause_on_failure else None), ("input", one_line_json(one.input)),
    ):  # fmt: skip
        if value:
            out.print(f"  {word}: {clean(span(value) if isinstance(value, timedelta) else str(value))}")
    out.print(f"  started {one.started}, skipped {one.skipped}, missed {one.missed}")
